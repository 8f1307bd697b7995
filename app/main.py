"""The dashboard's entry: ``streamlit run app/main.py``. Pages are functions in ``app/views``, declared in
``app/navigation.py``: from a folder named ``pages`` beside this file Streamlit would take them by itself."""

from __future__ import annotations

import importlib
from pathlib import Path

import streamlit as st
from altair.utils import schemapi
from streamlit.navigation.page import StreamlitPage

from seigh.app import identity, navigation
from seigh.app.common import guarded, keep_modules, plain, sentence_for_errors
from seigh.app.gate.dashboard import SCRIPT
from seigh.app.gate.visitors import ACCOUNT, SIGN_OUT
from seigh.core.access import Role
from seigh.core.reading import parent


@st.cache_resource(show_spinner="Loading PyTorch …")
def load_pytorch() -> None:
    """Import once, with a word about it, what takes seconds; else the first page would stay blank as long."""
    parent.warm()
    importlib.import_module("seigh.tasks.submit")


# The tests look for mistakes in charts; for every reader that would take longer than to make them.
schemapi.disable_debug_mode()

# A file of ours: Streamlit fetches named icons for the browser's tab from a server on the internet.
st.set_page_config(page_title="SEIGH Lab", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")

st.html(Path(__file__).with_name("style.css"))
st.html(f'<script src="{SCRIPT}"></script>', unsafe_allow_javascript=True)

actor = None
with sentence_for_errors():
    actor = identity.enter()
if actor is None:
    st.stop()


def only_if(allowed: bool) -> navigation.Visibility:
    """Whether a page is in the list: it refuses by itself those whom it is not for."""
    return "visible" if allowed else "hidden"


shown = dict.fromkeys(("new_analysis", "train"), only_if(actor.role.may_work))
shown["accounts"] = only_if(actor.role is Role.admin and not identity.is_local())
sections: dict[str, list[StreamlitPage]] = {}
for each in navigation.PAGES.values():
    sections.setdefault(each.section, []).append(each.registered(shown.get(each.name, "visible")))
page = st.navigation(sections)
if identity.has_account_page():
    with st.sidebar:
        st.caption(f"{plain(actor.name)}, {actor.role}")
        st.html(
            f'<a href="{ACCOUNT}" target="_self">Your account</a>'
            f'<form method="post" action="{SIGN_OUT}"><button>Sign out</button></form>'
        )
if page.url_path == "data" or (actor.role.may_work and page.url_path in ("new_analysis", "train")):
    load_pytorch()
guarded(page.run)()
keep_modules()
