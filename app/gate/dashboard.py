"""The dashboard as one ASGI application: Streamlit's pages behind the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route
from streamlit import App
from streamlit.runtime import get_instance

from seigh.app.gate import static
from seigh.app.gate.middleware import Gate
from seigh.app.gate.origins import Hosts
from seigh.app.gate.sign_in import Desk
from seigh.app.gate.uploads import Uploads
from seigh.app.gate.visitors import BehindProxy, SignedIn, access
from seigh.core.lab.session import migrate
from seigh.core.settings import Settings

MAIN = Path(__file__).resolve().parents[1] / "main.py"
SCRIPT = "/page.js"  # of every page, see app/page.js


def application(env: Settings, host: str, behind_proxy: bool = False) -> App:
    """The dashboard for an installation, of a server that listens on ``host``.

    Raises:
        SettingsError: If a setting is not usable, or the dashboard would be open to everybody.
    """
    migrate(env.database)
    limits = Uploads(env.max_upload_mb * 2**20, env.max_uploads_mb * 2**20)
    hosts, known = Hosts.of(host, env.known_hosts), access(env, host, behind_proxy)

    @asynccontextmanager
    async def lifespan(_: App) -> AsyncIterator[dict[str, Any]]:
        limits.watch(get_instance())
        yield {}

    gate = Middleware(Gate, hosts=hosts, access=known, limits=limits)
    before = [Middleware(BehindProxy, proxies=env.proxies)] if behind_proxy else []
    signing_in = Desk(env, hosts).routes() if isinstance(known, SignedIn) else []
    routes = [Route(SCRIPT, _script), *signing_in]
    return App(MAIN, middleware=[*before, gate, Middleware(static.Kept)], routes=routes, lifespan=lifespan)


async def _script(_: Request) -> FileResponse:
    return FileResponse(MAIN.with_name("page.js"), media_type="text/javascript")


def options(env: Settings, host: str, port: int) -> dict[str, Any]:
    """Streamlit's options for it."""
    return {
        "server.headless": True,
        "server.address": host,
        "server.port": port,
        "server.maxUploadSize": env.max_upload_mb,
        "server.fileWatcherType": "none",
        # Python collects garbage by itself; a full collection after every interaction would hold up its last
        # messages, and all other visitors, for a tenth of a second or more.
        "runner.postScriptGC": False,
        # Where a page of Streamlit asks for its own address, this is the answer, and no service is asked.
        "browser.serverAddress": host,
        "browser.gatherUsageStats": False,
        "logger.hideWelcomeMessage": True,
    }
