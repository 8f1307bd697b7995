"""The dashboard's entry: ``streamlit run app/main.py``. Pages lie in ``app/views``: a folder named ``pages``
beside this file would make Streamlit take them over by itself, past the navigation below."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Literal

import streamlit as st
from altair.utils import schemapi

from seigh.app import identity
from seigh.app.common import guarded, plain, sentence_for_errors
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

actor = None
with sentence_for_errors():
    actor = identity.enter()
if actor is None:
    st.stop()


def only_if(allowed: bool) -> Literal["visible", "hidden"]:
    """Whether a page is in the list: it refuses by itself those whom it is not for."""
    return "visible" if allowed else "hidden"


works, keeps = only_if(actor.role.may_work), only_if(actor.role is Role.admin and not identity.is_local())
new_analysis = st.Page(
    "views/new_analysis.py", title="New analysis", icon=":material/add_circle:", visibility=works
)
train = st.Page("views/train.py", title="Train", icon=":material/model_training:", visibility=works)
page = st.navigation(
    {
        "SEIGH Lab": [
            st.Page("views/overview.py", title="Overview", icon=":material/home:", default=True),
            new_analysis,
            train,
            st.Page("views/runs.py", title="Runs", icon=":material/list:"),
        ],
        "Results": [
            st.Page("views/result.py", title="Result", icon=":material/insights:"),
            st.Page("views/compare.py", title="Compare", icon=":material/stacked_line_chart:"),
            st.Page("views/stabilisation.py", title="Stabilisation", icon=":material/grid_on:"),
            st.Page("views/metrics.py", title="Metrics", icon=":material/square_foot:"),
        ],
        "Lab": [
            st.Page("views/accounts.py", title="Accounts", icon=":material/group:", visibility=keeps),
        ],
    }
)
if identity.has_account_page():
    with st.sidebar:
        st.caption(f"{plain(actor.name)}, {actor.role}")
        st.html(
            f'<a href="{ACCOUNT}" target="_self">Your account</a>'
            f'<form method="post" action="{SIGN_OUT}"><button>Sign out</button></form>'
        )
if actor.role.may_work and page in (new_analysis, train):
    load_pytorch()
guarded(page.run)()
