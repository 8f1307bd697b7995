"""By which names the dashboard may be called, and from which origins.

A page of another site can make a browser send requests here, and by DNS rebinding even under a name of its
own. It cannot choose the headers Host and Origin, so these two tell.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from seigh.core.settings import SettingsError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?P<name>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Hosts:
    """The names that the dashboard answers to.

    Attributes:
        names: Host names and addresses, at any port.
        origins: What a browser shows before the path, such as ``https://lab.example.org``, where a proxy
            makes that differ from what arrives here.
    """

    names: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, bound: str, more: Sequence[str] = ()) -> Hosts:
        """The loopback names, the address that the server listens on, and more.

        Args:
            bound: The address.
            more: Names (``lab.example.org``) or origins (``https://lab.example.org``).

        Raises:
            SettingsError: If one of them is neither.
        """
        names, origins = {*LOOPBACK, _bracketed(bound.lower())}, set()
        for text in more:
            scheme, _, rest = text.lower().rstrip("/").rpartition("://")
            found = _HOST.fullmatch(rest)
            if found is None or scheme not in ("", "http", "https"):
                raise SettingsError(
                    f"SEIGH_HOSTS names '{text}', which is no host name; give names such as lab.example.org, "
                    "or https://lab.example.org where a proxy speaks HTTPS for it, with commas between."
                )
            names.add(found["name"])
            if scheme:
                origins.add(_origin(scheme, rest))
        return cls(frozenset(names), frozenset(origins))

    def knows(self, host: str, arrived_at: str | None) -> bool:
        """Whether a Host header is one of ours.

        Args:
            host: The header.
            arrived_at: The address of this machine that the connection came to. To call it by that number
                is no DNS rebinding, which needs a name.
        """
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        return found["name"] in self.names or found["name"] == _bracketed(arrived_at or "")

    def is_ours(self, origin: str, scheme: str, host: str) -> bool:
        """Whether a page of ``origin`` is one of those that are served at this ``scheme`` and ``host``."""
        parts = urlsplit(origin)
        if parts.scheme not in _PORTS or origin != f"{parts.scheme}://{parts.netloc}":
            return False
        asked = _origin(parts.scheme, parts.netloc.lower())
        return asked == _origin(scheme, host.lower()) or asked in self.origins

    def public(self, scheme: str, host: str) -> str:
        """The origin of a request as the browser shows it: one of ``origins`` where a proxy stands before."""
        found = _HOST.fullmatch(host.lower())
        secure = _origin("https", host.lower())
        if secure in self.origins:
            return secure
        if len(self.origins) == 1 and found is not None and found["name"] in LOOPBACK:
            return next(iter(self.origins))  # of a proxy that calls us by our address
        return _origin(scheme, host.lower())


def _bracketed(address: str) -> str:
    """An address as a Host header writes it."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def _origin(scheme: str, host: str) -> str:
    """The origin in the one way that browsers write it: without the scheme's usual port."""
    return f"{scheme}://{host.removesuffix(f':{_PORTS[scheme]}')}"
