"""The gate: every request passes it, whatever route it is for.

In this order: by which name the server is called, from which page the request comes, who sends it, and for
uploads what is brought and how much. What passes has headers that can be relied on: the gate's own name the
visitor, and an Origin is the one that the page was loaded from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from starlette.responses import RedirectResponse

from seigh.app.gate import headers, pages, uploads
from seigh.app.gate.origins import Hosts
from seigh.app.gate.refusals import Refusal
from seigh.app.gate.requests import address_of, host_of, only, scheme_of
from seigh.app.gate.uploads import Uploads
from seigh.app.gate.visitors import ADDRESS, HEADER, OURS, SIGN_IN, Access, Visitor

HEALTH = "/_stcore/health"

# These read only, as long as the application keeps to the meaning of HTTP's methods.
_SAFE = ("GET", "HEAD", "OPTIONS")
_LARGEST_FORM = 64 * 1024
# How long an open page of somebody who has signed out elsewhere, or was shut out, may still show news.
_RECHECK = 5.0

Messages = Callable[[], Awaitable[Any]]
Sender = Callable[[Any], Awaitable[None]]


class Gate:
    """The middleware.

    Args:
        app: What is behind it.
        hosts: The names that the server is called by.
        access: How visitors are known.
        limits: What may be uploaded.
    """

    def __init__(self, app: Any, hosts: Hosts, access: Access, limits: Uploads) -> None:
        self.app = app
        self.hosts = hosts
        self.access = access
        self.uploads = limits

    async def __call__(self, scope: Any, receive: Messages, send: Sender) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        host = host_of(scope)

        async def protected(message: Any) -> None:
            if message["type"] == "http.response.start":
                known = host if self.hosts.knows(host, _arrived_at(scope)) else ""
                found = headers.protect(list(message["headers"]), scope["path"], known)
                message = message | {"headers": found}
            await send(message)

        try:
            await self._pass(scope, receive, protected, host)
        except Refusal as refusal:
            await refusal(scope, receive, protected)

    async def _pass(self, scope: Any, receive: Messages, send: Sender, host: str) -> None:
        if not self.hosts.knows(host, _arrived_at(scope)):
            raise Refusal(421, "This server is not called so; SEIGH_HOSTS says how else it may be called.")
        self._check_origin(scope, host)
        visitor = await self.access.visitor(scope)
        if visitor is None:
            await self._outside(scope, receive, send)
            return
        inside = _inside(scope, host, visitor)
        if scope["type"] == "websocket":
            await self.app(inside, self._while_welcome(scope, receive, visitor), send)
        elif uploads.concerns(scope["path"]):
            await self._upload(inside, receive, send, visitor)
        else:
            await self.app(inside, uploads.limited(receive, _LARGEST_FORM), send)

    def _check_origin(self, scope: Any, host: str) -> None:
        """Refuse what a page of somebody else makes a browser send."""
        given = [value for name, value in scope["headers"] if name == b"origin"]
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE
        if not given and not changes:
            return
        origin = only(scope, b"origin")
        if not self.hosts.is_ours(origin, scheme_of(scope), host):
            raise Refusal(403, "Only this server's own pages may ask for this.")

    async def _outside(self, scope: Any, receive: Messages, send: Sender) -> None:
        """What somebody gets who has not signed in: the way in, or nothing."""
        path = scope["path"]
        if scope["type"] == "http":
            if path == SIGN_IN or path.startswith(f"{SIGN_IN}/"):
                outside = scope | {"headers": _without_ours(scope["headers"])}
                await self.app(outside, uploads.limited(receive, _LARGEST_FORM), send)
                return
            accept = only(scope, b"accept")
            if scope["method"] == "GET" and "text/html" in accept and not path.startswith("/_stcore"):
                query = scope.get("query_string", b"").decode("latin-1")
                wanted = quote(path + (f"?{query}" if query else ""), safe="/")
                await RedirectResponse(f"{SIGN_IN}?next={wanted}", 303)(scope, receive, send)
                return
            if path == HEALTH and scope["method"] == "GET":
                await self._check_health(scope)
        raise Refusal(401, "Sign in first.")

    async def _check_health(self, scope: Any) -> None:
        """Tell those who watch the server, and have no account, if it is not well: else they get the 401 of
        everybody.

        Raises:
            Refusal: If it is not well.
        """
        found: list[int] = []

        async def nothing() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def note(message: Any) -> None:
            if message["type"] == "http.response.start":
                found.append(message["status"])

        await self.app(scope | {"headers": []}, nothing, note)
        if found != [200]:
            raise Refusal(503, "The server is not well.")

    async def _upload(self, scope: Any, receive: Messages, send: Sender, visitor: Visitor) -> None:
        if not visitor.role.may_work:
            raise Refusal(403, "Readers upload nothing.")
        self.uploads.check(scope, visitor.key)
        if scope["method"] != "PUT":
            await self.app(scope, uploads.limited(receive, _LARGEST_FORM), send)
            return
        with self.uploads.room(scope, visitor.key) as most:
            await self.app(scope, uploads.limited(receive, most), send)

    def _while_welcome(self, scope: Any, receive: Messages, visitor: Visitor) -> Messages:
        """``receive`` of a WebSocket, which ends when the visitor is no longer welcome or another role is
        theirs."""
        checked = time.monotonic()
        coming: asyncio.Task[Any] | None = None

        async def next_message() -> Any:
            nonlocal checked, coming
            while True:
                coming = coming or asyncio.ensure_future(receive())
                done, _ = await asyncio.wait({coming}, timeout=_RECHECK)
                if time.monotonic() - checked > _RECHECK / 2:
                    checked = time.monotonic()
                    if await self.access.visitor(scope) != visitor:
                        coming.cancel()
                        return {"type": "websocket.disconnect", "code": 1008}
                if done:
                    message, coming = coming.result(), None
                    return message

        return next_message


def _inside(scope: Any, host: str, visitor: Visitor) -> Any:
    """The request as what is behind the gate gets it."""
    rewritten = []
    for name, value in _without_ours(scope["headers"]):
        if name == b"origin":
            # Streamlit compares it with Host, letter by letter, and asks the internet where they differ.
            value = f"{scheme_of(scope)}://{host}".encode("latin-1")
        if name == b"sec-websocket-protocol":
            value = _without_sessions_of_others(value, visitor)
        rewritten.append((name, value))
    rewritten.append((HEADER.encode(), visitor.key.encode()))
    rewritten.append((ADDRESS.encode(), address_of(scope).encode()))
    state = scope.get("state") or {}
    return scope | {"headers": rewritten, "state": state | {"visitor": visitor}}


def _without_sessions_of_others(protocols: bytes, visitor: Visitor) -> bytes:
    """Streamlit's third "protocol" names the session of a page that a browser comes back to."""
    parts = [part.strip() for part in protocols.decode("latin-1").split(",")]
    if len(parts) > 2 and not pages.owns(parts[2], visitor.key):
        parts = parts[:2]
    return ", ".join(parts).encode("latin-1")


def _without_ours(found: Any) -> list[tuple[bytes, bytes]]:
    """Headers without those that only the gate may write; underscores and hyphens are the same to some."""
    return [(name, value) for name, value in found if not name.replace(b"_", b"-").startswith(OURS)]


def _arrived_at(scope: Any) -> str | None:
    server = scope.get("server")
    return server[0] if server else None
