"""Random data are for trials: wherever an analysis of them appears, it is marked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from tests.app.conftest import made_up_results

Open = Callable[..., AppTest]
Add = Callable[..., int]

RANDOM = {"data": "random(1x16x16,classes=7)"}
RECORD = made_up_results(5)["record"] | {"data": {"indices": [0], "samples": 50, "synthetic": True}}


def texts(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind))


@pytest.mark.parametrize("name", ["runs", "overview"])
def test_lists_mark_what_is_of_random_data(open_page: Open, add: Add, name: str) -> None:
    add(step=1)
    assert "synthetic" not in texts(open_page(name), "markdown", "caption")
    add(step=2, settings=RANDOM)
    marked = [line for line in texts(open_page(name), "markdown").splitlines() if "synthetic" in line]
    assert len(marked) == 1
    assert "step 2 " in marked[0]
    assert ":orange-badge[synthetic]" in marked[0]


def test_runs_mark_what_only_waits(open_page: Open, add: Add) -> None:
    add("queued", settings=RANDOM)
    app = open_page("runs")
    assert ":orange-badge[synthetic]" in texts(app, "markdown")
    assert "random(1x16x16,classes=7)" in texts(app, "caption").replace("\\", "")


def test_a_result_says_that_its_data_are_random(open_page: Open, add: Add) -> None:
    number = add(step=1)
    app = open_page("result", analysis=str(number))
    assert "random data" not in texts(app, "warning")
    number = add(step=2, settings=RANDOM, results={"record": RECORD})
    app = open_page("result", analysis=str(number))
    assert "This analysis is of random data, for trials" in texts(app, "warning")
    assert ["synthetic data" in option for option in app.selectbox(key="result_analysis").options] == [
        True,
        False,
    ]


@pytest.mark.parametrize("name", ["compare", "metrics"])
def test_comparisons_name_the_random_data_among_what_they_show(open_page: Open, add: Add, name: str) -> None:
    for step in (1, 2):
        add(step=step)
    assert "random data" not in texts(open_page(name), "warning")
    for step in (1, 2):
        add(step=step, model="other", settings=RANDOM)
    app = open_page(name)
    assert not app.exception
    assert "random(1x16x16,classes=7)" in texts(app, "warning").replace("\\", "")
