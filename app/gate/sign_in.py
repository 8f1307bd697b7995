"""The gate's own pages: sign in, sign out, and one's own account. Plain HTML, without scripts."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from seigh.app.gate.oidc import Provider, ProviderError
from seigh.app.gate.origins import Hosts
from seigh.app.gate.requests import address_of, host_of, scheme_of
from seigh.app.gate.visitors import ACCOUNT, COOKIE, SECURE_COOKIE, SIGN_IN, SIGN_OUT, Visitor, token_of
from seigh.core.access import Actor
from seigh.core.lab import accounts
from seigh.core.lab.accounts import AccountError, TooManyAttempts
from seigh.core.lab.models import Account
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings

OIDC = f"{SIGN_IN}/oidc"
CALLBACK = f"{OIDC}/callback"

_WRONG = "The name or the password is wrong."


@dataclass
class Desk:
    """Where people sign in.

    Attributes:
        env: The installation.
        hosts: The names that the server is called by.
    """

    env: Settings
    hosts: Hosts
    # Argon2 takes 64 MiB each time, on purpose.
    _hashing: CapacityLimiter | None = None
    _provider: Provider | None = field(init=False)

    def __post_init__(self) -> None:
        self._provider = Provider(self.env) if self.env.oidc_issuer else None

    def routes(self) -> list[Route]:
        """The routes of these pages."""
        found = [
            Route(SIGN_IN, self.ask, methods=["GET"]),
            Route(SIGN_IN, self.sign_in, methods=["POST"]),
            Route(SIGN_OUT, self.sign_out, methods=["POST"]),
            Route(ACCOUNT, self.account, methods=["GET"]),
            Route(ACCOUNT, self.change_password, methods=["POST"]),
        ]
        if self._provider is not None:
            state = self._provider.middleware()
            found += [
                Route(OIDC, self.ask_provider, methods=["GET"], middleware=state),
                Route(CALLBACK, self.hear_provider, methods=["GET"], middleware=state),
            ]
        return found

    # --- Signing in ---------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Response:
        return self._form(_inner(request.query_params.get("next", "")))

    async def sign_in(self, request: Request) -> Response:
        given = await request.form()
        name, password, wanted = (str(given.get(each, "")) for each in ("name", "password", "next"))
        name, before = name.strip()[:100], token_of(request.scope)
        address = address_of(request.scope)

        def let_in(attempted: int) -> str:
            with sessions(self.env.database).begin() as s:
                accounts.succeeded(s, attempted)
                return self._open(s, accounts.find(s, name), address, before)

        try:
            attempted = await self._check(name, password, address)
            token = await to_thread.run_sync(let_in, attempted)
        except AccountError as error:
            status = 429 if isinstance(error, TooManyAttempts) else 401
            return self._form(_inner(wanted), str(error), status)
        return self._let_in(request, token, wanted)

    async def _check(self, name: str, password: str, address: str) -> int:
        """The number of the attempt of somebody whose password is right.

        Raises:
            AccountError: If it is not.
        """
        self._hashing = self._hashing or CapacityLimiter(2)

        def begin() -> tuple[int, str | None]:
            with sessions(self.env.database).begin() as s:
                number = accounts.attempt(s, name, address)
            with sessions(self.env.database)() as s:
                return number, accounts.password_of(s, name)

        number, hashed = await to_thread.run_sync(begin)
        if not await to_thread.run_sync(accounts.is_password, hashed, password, limiter=self._hashing):
            raise AccountError(_WRONG)
        return number

    def _open(self, s: Session, account: Account, address: str, before: str) -> str:
        """Let somebody in, with a token that nobody could have known before; an earlier one ends."""
        if before and (earlier := accounts.sign_in_of(s, before)) is not None:
            accounts.close_sign_in(s, earlier.id, address)
        return accounts.open_sign_in(s, account, address, timedelta(hours=self.env.session_hours))

    def _let_in(self, request: Request, token: str, wanted: str) -> Response:
        answer = RedirectResponse(_inner(wanted), 303)
        secure = self._public(request).startswith("https://")
        answer.set_cookie(
            SECURE_COOKIE if secure else COOKIE,
            token,
            max_age=int(self.env.session_hours * 3600),
            secure=secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    def _public(self, request: Request) -> str:
        return self.hosts.public(scheme_of(request.scope), host_of(request.scope))

    # --- OpenID Connect -----------------------------------------------------------------------------------

    async def ask_provider(self, request: Request) -> Response:
        assert self._provider is not None
        request.session["next"] = _inner(request.query_params.get("next", ""))
        try:
            return await self._provider.redirect(request, self._public(request) + CALLBACK)
        except ProviderError as error:
            return self._form("/", str(error), 502)

    async def hear_provider(self, request: Request) -> Response:
        assert self._provider is not None
        address, before = address_of(request.scope), token_of(request.scope)
        wanted = str(request.session.pop("next", "/"))
        try:
            person = await self._provider.person(request)

            def let_in() -> str:
                with sessions(self.env.database).begin() as s:
                    account = accounts.known_elsewhere(
                        s, self.env.oidc_issuer, person.subject, person.name, self.env.new_role
                    )
                    return self._open(s, account, address, before)

            token = await to_thread.run_sync(let_in)
        except (ProviderError, AccountError) as error:
            return self._form(wanted, str(error), 401)
        return self._let_in(request, token, wanted)

    # --- Inside -------------------------------------------------------------------------------------------

    async def sign_out(self, request: Request) -> Response:
        visitor: Visitor = request.state.visitor
        address = address_of(request.scope)

        def end() -> None:
            with sessions(self.env.database).begin() as s:
                accounts.close_sign_in(s, _number(visitor), address)

        await to_thread.run_sync(end)
        answer = RedirectResponse(SIGN_IN, 303, headers={"clear-site-data": '"cache"'})
        answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
        answer.delete_cookie(SECURE_COOKIE, secure=True, httponly=True, samesite="lax")
        return answer

    async def account(self, request: Request) -> Response:
        return self._own(request.state.visitor)

    async def change_password(self, request: Request) -> Response:
        visitor: Visitor = request.state.visitor
        given = await request.form()
        address = address_of(request.scope)
        actor = Actor(visitor.name, visitor.role, address)
        try:
            attempted = await self._check(visitor.name, str(given.get("old", "")), address)

            def change() -> None:
                with sessions(self.env.database).begin() as s:
                    accounts.set_password(s, actor, visitor.name, str(given.get("new", "")))
                    accounts.succeeded(s, attempted)

            await to_thread.run_sync(change)
        except AccountError as error:
            return self._own(visitor, str(error), 400)
        return RedirectResponse(SIGN_IN, 303)

    # --- HTML ---------------------------------------------------------------------------------------------

    def _form(self, wanted: str, sentence: str = "", status: int = 200) -> Response:
        other = ""
        if self._provider is not None:
            other = (
                f'<p><a class="button" href="{OIDC}?next={quote(wanted)}">Sign in with your provider</a></p>'
            )
        return _page(
            "Sign in",
            f"""{_alert(sentence)}
            <form method="post" action="{SIGN_IN}">
              <input type="hidden" name="next" value="{html.escape(wanted)}">
              <label>Name <input name="name" autocomplete="username" required autofocus></label>
              <label>Password
                <input name="password" type="password" autocomplete="current-password" required></label>
              <button>Sign in</button>
            </form>{other}""",
            status,
        )

    def _own(self, visitor: Visitor, sentence: str = "", status: int = 200) -> Response:
        return _page(
            "Your account",
            f"""<p>{html.escape(visitor.name)}, {visitor.role}. <a href="/">Back to the dashboard</a></p>
            {_alert(sentence)}
            <form method="post" action="{ACCOUNT}">
              <label>Present password
                <input name="old" type="password" autocomplete="current-password" required></label>
              <label>New password, {accounts.SHORTEST} characters at least
                <input name="new" type="password" autocomplete="new-password" required></label>
              <button>Change the password</button>
            </form>
            <form method="post" action="{SIGN_OUT}"><button>Sign out</button></form>""",
            status,
        )


def _number(visitor: Visitor) -> int:
    return int(visitor.key.removeprefix("session "))


def _inner(wanted: str) -> str:
    """A path of ours, whatever somebody else may have put into a link."""
    plain = wanted.isprintable() and "\\" not in wanted
    inner = plain and wanted.startswith("/") and not wanted.startswith("//")
    return wanted if inner and not wanted.startswith(SIGN_IN) else "/"


def _alert(sentence: str) -> str:
    return f'<p role="alert">{html.escape(sentence)}</p>' if sentence else ""


def _page(title: str, body: str, status: int) -> Response:
    return HTMLResponse(
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} · SEIGH Lab</title><style>
  :root {{ color-scheme: light dark; font-family: system-ui, sans-serif;
           background: light-dark(#ffffff, #0e1117); color: light-dark(#16181d, #fafafa); }}
  main {{ max-width: 22rem; margin: 15vh auto 0; padding: 0 1rem; }}
  label, button, .button {{ display: block; margin: 1rem 0; }}
  input {{ display: block; box-sizing: border-box; width: 100%; padding: .5rem; font: inherit; }}
  button {{ padding: .5rem 1rem; font: inherit; }}
  a {{ color: light-dark(#0072b2, #8cc8f0); }}
  :focus-visible {{ outline: 3px solid light-dark(#0072b2, #8cc8f0); outline-offset: 2px; }}
  [role=alert] {{ color: light-dark(#b00020, #ff8a80); }}
</style></head><body><main><h1>{title}</h1>{body}</main></body></html>""",
        status,
    )
