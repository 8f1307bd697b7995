"""Helpers with which the gate and its own pages read a request."""

from __future__ import annotations

from starlette.types import Scope


def only(scope: Scope, name: bytes) -> str:
    """The value of a header that may be there once; empty if it is missing or there twice."""
    found: list[bytes] = [value for each, value in scope["headers"] if each == name]
    return found[0].decode("latin-1") if len(found) == 1 else ""


def host_of(scope: Scope) -> str:
    """By which name the server was called."""
    return only(scope, b"host")


def scheme_of(scope: Scope) -> str:
    """``http`` or ``https``, of a WebSocket too."""
    scheme: str = scope["scheme"]
    return {"ws": "http", "wss": "https"}.get(scheme, scheme)


def address_of(scope: Scope) -> str:
    """The address of the browser's machine."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else ""
