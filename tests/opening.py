"""Pages of the dashboard, run in this process by Streamlit's own test runner."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.scriptrunner import script_runner
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from seigh.app import identity

MAIN = Path(__file__).resolve().parents[1] / "app" / "main.py"

# Every session of AppTest looks through all installed packages for components, which takes longer than
# most pages.
manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)
# Once another test has imported Keras, whose files people bring, Streamlit has it collect the whole process's
# garbage after every run, which takes four times as long as the run.
script_runner._clean_problem_modules = lambda: None


def open_page(name: str, **query: str | list[str]) -> AppTest:
    """A page with query parameters in a new session, as whoever sits at this machine sees it."""
    app = AppTest.from_file(MAIN, default_timeout=60)
    for parameter, value in query.items():
        app.query_params[parameter] = value
    return go_to(app, name)


def go_to(app: AppTest, name: str) -> AppTest:
    """Another page in the same session. AppTest's own way there knows only pages that are files."""
    app._page_hash = calc_hash(name)
    with identity.assumed("local"):  # no gate stands before the page
        return app.run()


def forget_caches() -> None:
    """Streamlit's caches live as long as the process; the database of another test must not be in them."""
    st.cache_data.clear()
    st.cache_resource.clear()
