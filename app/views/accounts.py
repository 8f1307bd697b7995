"""Accounts: who can sign in, what they may do, where they are signed in, and who did what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
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
    st.markdown(
        "Who can sign in to this lab: a **reader** looks at everything, a **member** also uploads and "
        "analyses, and an **admin** also changes the work of others and manages accounts."
    )
    identity.current().check_admin()
    with database()() as s:
        known = list(accounts.every(s))
        open_now = [(each.account.name, each.address, each.created_at) for each in accounts.sign_ins(s)]
        done = audit.latest(s, SHOWN)
    add()
    for account in known:
        show(account, [each for each in open_now if each[0] == account.name])
    st.header("Who did what", anchor=False)
    number = done["number"].map(lambda each: "" if pd.isna(each) else f" {each:.0f}")
    done["thing"] = (done["kind"].fillna("") + number + " " + done["about"].fillna("")).str.strip()
    st.dataframe(
        done[["at", "who", "what", "thing", "address"]],
        hide_index=True,
        key="accounts_audit",
        column_config={
            "at": st.column_config.DatetimeColumn("when", format="YYYY-MM-DD HH:mm"),
            "thing": st.column_config.TextColumn("which"),
            "address": st.column_config.TextColumn("from where"),
        },
    )


def add() -> None:
    added = st.session_state.setdefault("accounts_added", 0)
    with st.expander("Add an account", icon=":material/person_add:"), st.form("accounts_add", border=False):
        # Other keys after each account make empty fields: Streamlit does not take back a password.
        name = st.text_input("Name", max_chars=100, key=f"accounts_name_{added}")
        password = st.text_input(
            "Password", type="password", max_chars=1000, key=f"accounts_password_{added}"
        )
        role = st.selectbox("Role", list(Role), index=1, key="accounts_role")
        if (
            st.form_submit_button("Add")
            and role is not None
            and is_changed(accounts.add, name, Role(role), password)
        ):
            st.session_state["accounts_added"] = added + 1
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
            f"Role of {plain(account.name)}", list(Role), key=key, label_visibility="collapsed", width=140,
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
    """Do something to an account, as a callback."""
    is_changed(action, *what)


def is_changed(action: Callable[..., object], *what: object) -> bool:
    """Do something to an account, if whoever asks may; say what is wrong, and return whether it is done."""
    try:
        actor = identity.current()
        actor.check_admin()
        with database().begin() as s:
            action(s, actor, *what)
    except UserError as error:
        st.toast(plain(str(error)), icon=":material/error:")
        return False
    return True
