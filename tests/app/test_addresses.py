"""Addresses: what is gone is said, and what a page shows stands in its address."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from seigh.app.navigation import PAGES
from tests.opening import go_to

Open = Callable[..., AppTest]
Add = Callable[..., int]


def said(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(each.value) for kind in kinds for each in app.get(kind)).replace("\\", "")


@pytest.fixture
def study(add: Add) -> list[int]:
    return [add(step=step, results={"eigenvectors": f"eigenvectors/{step}"}) for step in (0, 100)]


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("page", ["compare", "stabilisation", "metrics", "runs"])
def test_a_model_that_is_gone_is_said_and_no_other_is_shown(open_page: Open, page: str) -> None:
    app = open_page(page, model="gone")
    assert "The address asks for model **gone**, which is not there" in said(app, "warning")
    assert not app.get("vega_lite_chart")
    assert "**mlp**" not in said(app, "markdown")
    assert app.query_params["model"] in ("gone", ["gone"])  # and the address is still what was asked for
    assert not app.exception
    assert not app.error


@pytest.mark.usefixtures("study")
def test_of_several_models_those_that_are_there_are_shown(open_page: Open) -> None:
    app = open_page("compare", model=["gone", "mlp"])
    assert "model **gone**" in said(app, "warning")
    assert app.get("vega_lite_chart")
    assert app.query_params["model"] in ("mlp", ["mlp"])


@pytest.mark.usefixtures("study")
def test_another_model_can_be_chosen_after_one_that_is_gone(open_page: Open) -> None:
    app = open_page("stabilisation", model="gone")
    app.selectbox(key="stabilisation_model").select("mlp").run()
    assert "gone" not in said(app, "warning")
    assert app.query_params["model"] in ("mlp", ["mlp"])
    app = open_page("compare", model="gone")
    app.pills(key="compare_model").set_value(["mlp"]).run()
    assert app.get("vega_lite_chart")


def test_analyses_that_are_gone_are_said(open_page: Open, study: list[int]) -> None:
    app = open_page("metrics", view="pair", first="999", second=str(study[0]))
    assert "The address asks for analysis **999**" in said(app, "warning")
    assert not app.get("vega_lite_chart")
    app = open_page("result", analysis="999")
    assert "There is no analysis 999" in said(app, "info")
    app.selectbox(key="result_analysis").select(study[0]).run()
    assert app.get("vega_lite_chart")
    app = open_page("stabilisation", set="999")
    assert "set of analyses **999**" in said(app, "warning")


def test_the_filters_of_runs_stand_in_the_address(open_page: Open, add: Add) -> None:
    add("failed", model="one")
    add("finished", model="one", step=1)
    add("finished", model="two")
    app = open_page("runs")
    assert not app.query_params
    app.pills(key="runs_states").select("finished").run()
    app.selectbox(key="runs_model").select("one").run()
    assert app.query_params["state"] in ("finished", ["finished"])
    assert app.query_params["model"] in ("one", ["one"])
    copied = open_page("runs", state=["finished"], model="one")
    shown = said(copied, "markdown")
    assert shown.count("**one** · step 1") == 1
    assert "failed]" not in shown
    assert "**two**" not in shown
    assert not open_page("runs", state=["nonsense", "running"], kind="x").exception


HEADINGS = {"title": 1, "header": 2, "subheader": 3}


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("page", [name for name in PAGES if name != "accounts"])
def test_headings_come_in_order(open_page: Open, page: str) -> None:
    app = open_page(page)
    levels = [int(each.tag[1]) for each in walk(app.main) if each.type in ("heading", *HEADINGS)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def walk(block: object) -> list:
    """All elements of a page in their order."""
    children = getattr(block, "children", None)
    if children is None:
        return [block]
    return [element for child in children.values() for element in walk(child)]


def test_numbers_are_never_cut() -> None:
    """Streamlit cuts what does not fit a card; our style wraps it, and no card has a width of its own."""
    app = Path(__file__).resolve().parents[2] / "app"
    style = (app / "style.css").read_text()
    for part in ("stMetricValue", "stMetricDelta", "stMetricLabel"):
        assert f'[data-testid="{part}"] *' in style
    assert re.search(r"text-overflow: clip;\s+white-space: normal;", style)
    for view in (app / "views").glob("*.py"):
        for call in ast.walk(ast.parse(view.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "st.metric":
                width = next((each.value for each in call.keywords if each.arg == "width"), None)
                assert width is None or ast.unparse(width) == "'content'", f"{view}:{call.lineno}"


@pytest.mark.usefixtures("study")
def test_a_selection_outlasts_a_visit_to_another_page(open_page: Open) -> None:
    app = open_page("compare")
    app.slider(key="compare_k").set_value(2).run()
    go_to(app, "overview")
    app.query_params.clear()
    go_to(app, "compare")
    assert app.slider(key="compare_k").value == 2
