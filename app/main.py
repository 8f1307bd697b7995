"""The dashboard's entry: ``streamlit run app/main.py``. Pages lie in ``app/views``: a folder named ``pages``
beside this file would make Streamlit take them over by itself, past the navigation below."""

from __future__ import annotations

import importlib
from pathlib import Path

import streamlit as st

from app.common import database, guarded
from core.results import queries


def home() -> None:
    """Lead to the results, or to the way of getting the first."""
    with database()() as s:
        empty = queries.comparable(s).empty
    st.switch_page(new_analysis if empty else compare)


@st.cache_resource(show_spinner="Loading PyTorch …")
def load_pytorch() -> None:
    """Import once, with a word about it, what takes seconds; else the first page would stay blank as long."""
    importlib.import_module("tasks.submit")


# A file of ours: Streamlit fetches named icons for the browser's tab from a server on the internet.
st.set_page_config(page_title="SEIGH Lab", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")

new_analysis = st.Page("views/new_analysis.py", title="New analysis", icon=":material/add_circle:")
compare = st.Page("views/compare.py", title="Compare", icon=":material/stacked_line_chart:")
page = st.navigation(
    {
        "SEIGH Lab": [
            st.Page(home, title="SEIGH Lab", default=True, visibility="hidden"),
            new_analysis,
            st.Page("views/runs.py", title="Runs", icon=":material/list:"),
            st.Page("views/result.py", title="Result", icon=":material/insights:"),
            compare,
        ]
    }
)
if page == new_analysis:
    load_pytorch()
guarded(page.run)()
