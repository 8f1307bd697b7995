"""Who looks at a page.

The gate says which sign-in it is; what that may do is looked up anew whenever it is asked, so that somebody
who is shut out, or has another role, is so at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from seigh.app.common import database, typed_name
from seigh.app.gate import pages
from seigh.app.gate.visitors import ADDRESS, HEADER
from seigh.core.access import AccessError, Actor, Role
from seigh.core.lab import accounts
from seigh.core.lab.models import Account

_assumed: list[str] = []


@contextmanager
def assumed(key: str) -> Iterator[None]:
    """Whom pages are shown to that run without the gate, as in tests: the key of a ``Visitor``."""
    _assumed.append(key)
    try:
        yield
    finally:
        _assumed.pop()


def enter() -> Actor:
    """Who is there; and that this session is theirs. Every page asks before it shows anything.

    Raises:
        AccessError: If nobody is.
    """
    actor, context = current(), get_script_run_ctx()
    if context is not None:
        pages.belongs(context.session_id, _key())
    return actor


def current() -> Actor:
    """Who is there.

    Raises:
        AccessError: If nobody is, or is any more.
    """
    kind, _, number = _key().partition(" ")
    match kind:
        case "local":
            return Actor(typed_name(), Role.admin, "this machine")
        case "proxy":
            return Actor("somebody", Role.member, _address())
        case "session" | "account":
            with database()() as s:
                found = accounts.sign_in(s, int(number)) if kind == "session" else None
                account = found.account if found else None
                if kind == "account":
                    account = s.get(Account, int(number))
                if account is not None and not account.disabled:
                    return Actor(account.name, account.role, _address())
            raise AccessError("You are no longer signed in; reload the page.")
    raise AccessError("Nobody says who you are; the dashboard is started by 'seigh app' or 'seigh up'.")


def is_local() -> bool:
    """Whether no sign-in is needed here."""
    return _key() == "local"


def has_account_page() -> bool:
    """Whether one signs in, and out, here."""
    return _key().startswith("session ")


def _key() -> str:
    return _assumed[-1] if _assumed else st.context.headers.get(HEADER) or ""


def _address() -> str:
    return "" if _assumed else st.context.headers.get(ADDRESS) or ""
