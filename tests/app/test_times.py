"""Lengths of time as pages say them."""

from __future__ import annotations

from typing import Any

import pytest

from seigh.app.common import between, left


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
    assert left(Run()) == " · time left not known yet"
    assert left(Run(remaining_low=120.0, remaining_high=300.0)) == " · 2 to 5 min left"
    assert left(Run(remaining_low=0.0, remaining_high=0.0, late=True)) == " · longer than expected"
