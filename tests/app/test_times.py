"""Lengths of time as pages say them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from seigh.app.common import between, left
from seigh.core.lab.models import Analysis
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.2, 5.0, "0.2 to 5 s"), (31.0, 58.0, "31 to 58 s"), (45.0, 130.0, "45 s to 2 min"),
        (100.0, 110.0, "about 2 min"), (120.0, 310.0, "2 to 5 min"), (146.0, 24_300.0, "2 min to 6.8 h"),
        (90_000.0, 400_000.0, "25 h to 5 days"), (0.0, 0.05, "about 0.1 s"),
    ],
)  # fmt: skip
def test_a_range_of_times_is_said_no_more_exactly_than_it_is_known(
    low: float, high: float, said: str
) -> None:
    assert between(low, high) == said


def test_what_is_said_of_the_time_left() -> None:
    class Run:
        def __init__(self, **given: Any) -> None:
            self.state, self.late = "running", False
            self.remaining_low, self.remaining_high = None, None
            self.__dict__ |= given

    assert left(Run(state="queued")) == ""
    assert left(Run()) == " · time left unknown yet: no earlier run like it to tell the time by"
    assert left(Run(remaining_low=120.0, remaining_high=300.0)) == " · 2 to 5 min left"
    assert left(Run(remaining_low=0.0, remaining_high=0.0, late=True)) == " · longer than expected"


@pytest.mark.parametrize("page", ["overview", "runs", "result"])
def test_the_very_first_run_says_that_its_time_is_unknown_then_a_range_then_that_it_is_late(
    open_page: Callable[..., AppTest], add: Callable[..., int], home: Settings, page: str
) -> None:
    number = add("running")  # a quarter of its products are made

    def said(*, behind: float, waited: float) -> str:
        with sessions(home.database).begin() as s:
            row = s.get_one(Analysis, number)
            assert row.started_at is not None
            row.progress_at = row.started_at + timedelta(seconds=behind)
            row.heartbeat_at = row.progress_at + timedelta(seconds=waited)
        query = {"analysis": str(number)} if page == "result" else {}
        (bar,) = open_page(page, **query).get("progress")
        return str(bar.proto.text)

    unknown = " · time left unknown yet: no earlier run like it to tell the time by"
    assert unknown in said(behind=1, waited=0)
    assert " · 3 to 8 min left" in said(behind=100, waited=0)
    assert " · longer than expected" in said(behind=100, waited=5000)
