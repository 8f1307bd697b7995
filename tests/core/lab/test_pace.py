"""How far work has come, and how long it will go on: learnt, honest, and never growing by mere waiting."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from seigh.core.lab.pace import Pace, Remaining, StageTime, remaining

START = datetime(2026, 1, 1, tzinfo=UTC)
STAGES = (
    StageTime("load", 2.0, 0),
    StageTime("operator", 8.0, 10),
    StageTime("eigenpairs", 60.0, 100),
    StageTime("masks", 30.0, 0),
)


def after(seconds: float | None) -> datetime | None:
    return None if seconds is None else START + timedelta(seconds=seconds)


def left_of(
    progress: float,
    *,
    at: float | None,
    now: float,
    seconds: float | None = None,
    spread: float | None = None,
    even: bool = True,
) -> Remaining | None:
    return remaining(
        progress=progress,
        started_at=START,
        progress_at=after(at),
        heartbeat_at=after(now),
        seconds=seconds,
        spread=spread,
        even=even,
    )


def test_the_share_that_is_done_is_that_of_the_time_an_earlier_run_took() -> None:
    pace = Pace(STAGES)
    seen = [pace("load", 0, 0.0), pace("operator", 0, 0.0), pace("operator", 10, 0.08)]
    seen += [pace("eigenpairs", 10, 0.08), pace("eigenpairs", 60, 0.5), pace("eigenpairs", 110, 0.9)]
    seen += [pace("masks", 110, 0.9)]
    assert seen == pytest.approx([0, 0.02, 0.1, 0.1, 0.4, 0.7, 0.7])


def test_more_products_than_an_earlier_run_had_have_more_of_the_time() -> None:
    pace = Pace(STAGES, products=2.0)  # 2, 16, 120 and 30 s
    pace("operator", 0, 0.0)
    assert pace("eigenpairs", 20, 0.1) == pytest.approx(18 / 168)
    assert pace("eigenpairs", 120, 0.5) == pytest.approx(78 / 168)


def test_the_share_never_falls_and_stages_without_an_earlier_run_have_their_own() -> None:
    pace = Pace(STAGES)
    assert pace("curves", 0, 0.8) == 0.8
    assert pace("eigenpairs", 5, 0.1) == 0.8
    assert Pace(())("load", 0, 0.25) == 0.25


@pytest.mark.parametrize("seed", range(4))
def test_the_range_contains_the_truth_where_the_course_is_even(seed: int) -> None:
    draw = random.Random(seed)
    whole = draw.uniform(20, 20_000)
    for progress in (0.05, 0.3, 0.6, 0.95):
        at = progress * whole
        guess = whole * draw.uniform(0.5, 2.0)
        for known in ({}, {"seconds": guess, "spread": 2.0}):
            found = left_of(progress, at=at, now=at + 1, **known)
            assert found is not None
            assert not found.late
            assert found.low <= whole - at - 1 + 1e-6
            assert found.high >= whole - at - 1 - 1e-6
            assert found.high <= 4.1 * max(found.low + 1, 0.1)


def test_waiting_counts_down_and_then_says_so_instead_of_growing() -> None:
    highs = []
    for now in range(50, 200, 5):
        found = left_of(0.5, at=50, now=now)
        assert found is not None
        highs.append((found.high, found.late))
    assert highs == sorted(highs, key=lambda each: (each[1], -each[0]))
    assert highs[0] == (pytest.approx(50 * 1.4), False)
    assert highs[-1] == (0.0, True)


@pytest.mark.parametrize("products", [0.75, 0.9, 1.0])
def test_what_comes_after_the_products_of_a_first_run_is_within_the_range(products: float) -> None:
    whole, share = 1000.0, 0.9  # the bar ends at 0.9 when all products are done, whenever that is
    for done in (0.3, 0.6, 0.9):
        at = done / share * products * whole
        found = left_of(done, at=at, now=at + 1, even=False)
        assert found is not None
        assert found.high >= whole - at - 1
    waiting = left_of(share, at=500.0, now=900.0, even=False)
    assert waiting == Remaining(0.0, 0.0, late=True)  # longer than the range: none is made up anew


def test_nothing_is_said_where_nothing_tells() -> None:
    assert left_of(0.0, at=None, now=60) is None
    assert left_of(0.01, at=1, now=60) is None  # too little to go by
    assert left_of(0.0, at=None, now=60, seconds=100.0, spread=50.0) is None  # a forecast that is none
    found = left_of(0.0, at=None, now=60, seconds=100.0, spread=2.0)
    assert found == Remaining(0.0, pytest.approx(140.0))
    assert left_of(0.0, at=None, now=201, seconds=100.0, spread=2.0) == Remaining(0.0, 0.0, late=True)
