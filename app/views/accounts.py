"""Accounts: who can sign in, what they may do, where they are signed in, and who did what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from seigh.app import identity
from seigh.app.common import counted, database, plain
from seigh.core.access import Role
from seigh.core.errors import UserError
from seigh.core.lab import accounts, audit
from seigh.core.lab.models import Account

SHOWN = 500  # lines of the audit


def page() -> None:
    st.title("Accounts")
    identity.current().check_admin()
    with database()() as s:
        known = list(accounts.every(s))
        open_now = [(each.account.name, each.address, each.created_at) for each in accounts.sign_ins(s)]
        done = audit.latest(s, SHOWN)
    add()
    for account in known:
        show(account, [each for each in open_now if each[0] == account.name])
    st.header("Who did what", anchor=False)
    st.dataframe(
        done,
        hide_index=True,
        key="accounts_audit",
        column_config={
            "at": st.column_config.DatetimeColumn("when"),
            "address": st.column_config.TextColumn("from where"),
        },
    )


def add() -> None:
    with st.expander("Add an account", icon=":material/person_add:"), st.form("accounts_add", border=False):
        name = st.text_input("Name", max_chars=100, key="accounts_name")
        password = st.text_input("Password", type="password", max_chars=1000, key="accounts_password")
        role = st.selectbox("Role", list(Role), index=1, key="accounts_role")
        if st.form_submit_button("Add") and role is not None:
            change(accounts.add, name, Role(role), password)
            st.rerun()


def show(account: Account, open_now: list[Any]) -> None:
    """One account, and what can be done about it."""
    with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"account_{account.id}"):
        how = "" if account.password else " · signs in elsewhere"
        state = " · :red-badge[disabled]" if account.disabled else ""
        where = f" · {counted(len(open_now), 'sign-in', 'sign-ins')}"
        st.markdown(f"**{plain(account.name)}**{how}{where}{state}")
        key = f"account_role_{account.id}"
        st.session_state[key] = account.role  # somebody else may have changed it
        st.selectbox(
            "Role", list(Role), key=key, label_visibility="collapsed", width=140,
            on_change=lambda: change(accounts.set_role, account.name, Role(st.session_state[key])),
        )  # fmt: skip
        st.button(
            "Let in again" if account.disabled else "Disable",
            key=f"account_disable_{account.id}",
            on_click=change,
            args=(accounts.set_disabled, account.name, not account.disabled),
        )
        st.button(
            "Sign out everywhere",
            key=f"account_revoke_{account.id}",
            disabled=not open_now,
            on_click=change,
            args=(accounts.revoke, account.name),
        )


def change(action: Callable[..., object], *what: object) -> None:
    """Do something to an account, if whoever asks may; what is wrong is said."""
    try:
        actor = identity.current()
        actor.check_admin()
        with database().begin() as s:
            action(s, actor, *what)
    except UserError as error:
        st.toast(plain(str(error)), icon=":material/error:")
