"""Streamlit's own scripts, styles and fonts, kept in memory.

A page asks for sixty of them before it paints anything. Streamlit reads each from the disk in threads, which
takes several times as long as to send it.
"""

from __future__ import annotations

import functools
import hashlib
import mimetypes
from pathlib import Path
from typing import Any

from starlette.responses import Response
from streamlit import file_util

from seigh.app.gate import turns

PATH = "/static/"
FOLDER = Path(file_util.get_static_dir()) / "static"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2"}
# Their names carry the hash of their content.
_FOR_GOOD = {"cache-control": "public, immutable, max-age=31536000"}


class Kept:
    """The middleware that answers for these files, behind the gate.

    Args:
        app: What is asked for all else.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        name = path.removeprefix(PATH)
        if scope["type"] != "http" or scope["method"] != "GET" or name == path or name not in _names():
            await self.app(scope, receive, send)
            return
        headers = _FOR_GOOD
        if turns.concerns(name):  # what we make of it may change, and its name does not
            headers = {"cache-control": "no-cache", "etag": _mark(name)}
            if (b"if-none-match", headers["etag"].encode()) in scope["headers"]:
                await Response(status_code=304, headers=headers)(scope, receive, send)
                return
        await Response(_content(name), media_type=_kind(name), headers=headers)(scope, receive, send)


@functools.cache
def _names() -> frozenset[str]:
    """What there is, so that no other file can be asked for."""
    return frozenset(file.relative_to(FOLDER).as_posix() for file in FOLDER.rglob("*") if file.is_file())


@functools.cache
def _content(name: str) -> bytes:
    """A file. All of them together are 25 MB, those of our pages less than half of it."""
    content = (FOLDER / name).read_bytes()
    return turns.in_turn(content.decode("utf-8")).encode() if turns.concerns(name) else content


@functools.cache
def _mark(name: str) -> str:
    return f'"{hashlib.sha256(_content(name)).hexdigest()}"'


def _kind(name: str) -> str:
    """The type of a file. A browser runs no script of another type, whatever this machine calls scripts."""
    return _KINDS.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
