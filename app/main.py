"""The dashboard's entry: ``streamlit run app/main.py``. Pages lie in ``app/views``: a folder named ``pages``
beside this file would make Streamlit take them over by itself, past the navigation below."""

from __future__ import annotations

import importlib
from pathlib import Path

import streamlit as st
from altair.utils import schemapi

from app.common import guarded


@st.cache_resource(show_spinner="Loading PyTorch …")
def load_pytorch() -> None:
    """Import once, with a word about it, what takes seconds; else the first page would stay blank as long."""
    importlib.import_module("tasks.submit")


# The tests look for mistakes in charts; for every reader that would take longer than to make them.
schemapi.disable_debug_mode()

# A file of ours: Streamlit fetches named icons for the browser's tab from a server on the internet.
st.set_page_config(page_title="SEIGH Lab", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")

new_analysis = st.Page("views/new_analysis.py", title="New analysis", icon=":material/add_circle:")
train = st.Page("views/train.py", title="Train", icon=":material/model_training:")
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
    }
)
if page in (new_analysis, train):
    load_pytorch()
guarded(page.run)()
