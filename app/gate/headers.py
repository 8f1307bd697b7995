"""Security headers of every answer."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path

import streamlit

# Streamlit's own files carry the hash of their content in their names.
_KEPT = "/static/"


def protect(headers: list[tuple[bytes, bytes]], path: str, host: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with ours beside them.

    Args:
        headers: Headers of the answer.
        path: What was asked for.
        host: The Host header of the request, where the page's WebSocket goes.
    """
    ours = _fixed() | {b"content-security-policy": _policy(host).encode()}
    if not path.startswith(_KEPT):
        ours[b"cache-control"] = b"no-store"  # nothing of it is there when somebody has signed out
    return [(name, value) for name, value in headers if name.lower() not in ours] + list(ours.items())


@functools.cache
def _fixed() -> dict[bytes, bytes]:
    return {
        b"x-frame-options": b"DENY",
        b"x-content-type-options": b"nosniff",
        # Not no-referrer: with that a browser keeps the origin of our own forms to itself.
        b"referrer-policy": b"same-origin",
        b"cross-origin-opener-policy": b"same-origin",
        b"cross-origin-resource-policy": b"same-origin",
        b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    }


@functools.lru_cache(maxsize=64)
def _policy(host: str) -> str:
    """What Streamlit's page needs, and no more: its styles and fonts are made by scripts, charts are drawn by
    an interpreter and need no eval."""
    return "; ".join(
        (
            "default-src 'none'",
            "base-uri 'none'",
            "connect-src 'self'" + (f" ws://{host} wss://{host}" if host else ""),
            "font-src 'self' data:",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "img-src 'self' blob: data:",
            "manifest-src 'self'",
            "media-src 'self' blob:",
            f"script-src 'self' {' '.join(_inline_scripts())}",
            "style-src 'self' 'unsafe-inline'",
            "worker-src 'self' blob:",
        )
    )


@functools.cache
def _inline_scripts() -> tuple[str, ...]:
    """The hashes of the scripts in Streamlit's page."""
    page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    return tuple(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
