"""Pages are functions: importing one runs nothing, and it can be shown without the rest of the dashboard."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from seigh.app.navigation import PAGES
from seigh.core.settings import Settings

APP = Path(__file__).resolve().parents[2] / "app"


def test_every_view_is_a_page_and_importing_it_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = {file.stem for file in (APP / "views").glob("*.py")} - {"__init__"}
    assert views == PAGES.keys()
    monkeypatch.setenv("SEIGH_HOME", str(tmp_path / "home"))
    for name in views:
        assert callable(runpy.run_module(f"seigh.app.views.{name}", alter_sys=True)["page"])
    assert not (tmp_path / "home").exists()  # no page has opened its database


def test_a_page_can_be_shown_alone(home: Settings) -> None:
    def show() -> None:
        from seigh.app.views import metrics

        metrics.page()

    app = AppTest.from_function(show, default_timeout=60)
    for name, value in {"view": "random", "d": "100", "k": "3"}.items():
        app.query_params[name] = value
    app.run()
    assert [each.value for each in app.title] == ["Metrics"]
    assert not app.exception
    assert len(app.get("vega_lite_chart")) == 1


def test_links_name_pages_and_not_files() -> None:
    for file in APP.rglob("*.py"):
        assert not re.search(r"page_link\(\s*\"|views/\w+\.py\"", file.read_text()), file
