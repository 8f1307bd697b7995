"""Who stands before the gate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from seigh.app.gate.origins import is_loopback
from seigh.core.access import Role
from seigh.core.lab import accounts
from seigh.core.lab.accounts import AccountError
from seigh.core.lab.models import Account
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings, SettingsError

# The gate writes them and nobody else: what comes from outside under such a name is removed.
HEADER = "x-seigh-visitor"
ADDRESS = "x-seigh-address"
OURS = b"x-seigh-"

# The addresses of the gate's own pages.
SIGN_IN, SIGN_OUT, ACCOUNT = "/sign-in", "/sign-out", "/account"

# A cookie of the first name is only taken from, and sent to, this very host by HTTPS.
SECURE_COOKIE, COOKIE = "__Host-seigh", "seigh"

T = TypeVar("T")


@dataclass(frozen=True)
class Visitor:
    """Somebody who may come in.

    Attributes:
        key: Names the sign-in, for the pages to look it up: ``local``, ``proxy``, ``session 17`` or
            ``account 3``.
        name: Name of the person.
        role: What the person may do.
    """

    key: str
    name: str
    role: Role


class Access(Protocol):
    """How visitors are known."""

    async def visitor(self, scope: Any, /) -> Visitor | None:
        """Who has sent a request; None if that is not known."""


class Local:
    """Take every visitor for the person at this machine."""

    async def visitor(self, _: Any, /) -> Visitor | None:
        return Visitor("local", "local", Role.admin)


@dataclass
class SignedIn:
    """Identify a visitor by the cookie of a sign-in."""

    env: Settings

    async def visitor(self, scope: Any) -> Visitor | None:
        if not (token := token_of(scope)):
            return None

        def look() -> Visitor | None:
            with sessions(self.env.database)() as s:
                found = accounts.sign_in_of(s, token)
                if found is None:
                    return None
                return Visitor(f"session {found.id}", found.account.name, found.account.role)

        return await to_thread.run_sync(look)


@dataclass
class NamedByProxy:
    """Identify a visitor by the name in the header that a proxy sets."""

    env: Settings

    async def visitor(self, scope: Any) -> Visitor | None:
        name = Headers(scope=scope).getlist(self.env.proxy_user_header)
        if not comes_from_proxy(scope) or len(name) != 1 or not name[0].strip():
            return None

        def look() -> Visitor | None:
            with suppress(AccountError), sessions(self.env.database)() as s:
                return _visitor(accounts.find(s, name[0].strip()))
            try:
                with sessions(self.env.database).begin() as s:
                    return _visitor(accounts.named_elsewhere(s, name[0], self.env.new_role))
            except AccountError:
                return None

        return await to_thread.run_sync(look)


class LetInByProxy:
    """Admit every visitor whom a proxy lets pass without naming."""

    async def visitor(self, scope: Any) -> Visitor | None:
        return Visitor("proxy", "somebody", Role.member) if comes_from_proxy(scope) else None


def _visitor(account: Account) -> Visitor | None:
    return None if account.disabled else Visitor(f"account {account.id}", account.name, account.role)


def token_of(scope: Any) -> str:
    """The token in a request's cookie; empty without one."""
    for line in Headers(scope=scope).getlist("cookie"):
        cookies = cookie_parser(line)
        if found := cookies.get(SECURE_COOKIE) or cookies.get(COOKIE):
            return found
    return ""


def access(env: Settings, host: str, behind_proxy: bool) -> Access:
    """How visitors of a server that listens on ``host`` are known.

    Raises:
        SettingsError: If it would be open to whoever reaches it.
    """
    if is_loopback(host) and not behind_proxy:
        return Local()
    if env.proxy_user_header and behind_proxy:
        return NamedByProxy(env)
    with sessions(env.database)() as s:
        known = accounts.exist(s)
    if known or env.oidc_issuer:
        return SignedIn(env)
    if behind_proxy:
        return LetInByProxy()
    raise SettingsError(
        f"Everybody who reaches {host} could use the dashboard, as it has no accounts: make the first with "
        "'seigh user add NAME --role admin', or give --behind-proxy if a proxy before it signs people in."
    )


class BehindProxy:
    """Middleware that believes proxies, and nobody else, where a request comes from and by which scheme.

    Args:
        app: What is behind it.
        proxies: Their addresses and networks, with commas between.
    """

    def __init__(self, app: Any, proxies: str) -> None:
        self.app = ProxyHeadersMiddleware(app, trusted_hosts=proxies)

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        client = scope.get("client")
        known = client is not None and client[0] in self.app.trusted_hosts
        await self.app(scope | {"seigh.proxy": known}, receive, send)


def comes_from_proxy(scope: Any) -> bool:
    """Whether a request has come through a proxy that we stand behind."""
    return bool(scope.get("seigh.proxy"))
