"""What a running attempt hears from the database."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from sqlalchemy import text

from seigh.core.lab import store
from seigh.core.lab.models import Analysis, Training
from seigh.core.lab.session import sessions
from seigh.core.problems.data import DataError
from seigh.core.settings import Settings
from seigh.tasks import progress
from seigh.tasks.progress import Cancelled, ClaimLost, Lifeline, WorkLog
from seigh.tasks.work import sentence
from tests.core.lab import lab

LOG = WorkLog(logging.getLogger(__name__), Analysis, 1)


@pytest.fixture
def lifeline(home: Settings) -> Iterator[Lifeline]:
    """Of analysis 1, which runs under the claim ``mine``."""
    maker = sessions(home.database)
    with maker.begin() as s:
        lab.queue(s)
        assert lab.claim(s, 1)
    with Lifeline(maker, Analysis, 1, "mine", LOG) as lifeline:
        yield lifeline


def analysis(home: Settings) -> Analysis:
    with sessions(home.database)() as s:
        return s.get_one(Analysis, 1)


def test_a_stage_is_written_at_most_five_times_a_second(home: Settings, lifeline: Lifeline) -> None:
    lifeline("eigenpairs", 0.5, hvps=70)
    assert (analysis(home).stage, analysis(home).progress, analysis(home).hvps) == ("eigenpairs", 0.5, 70)
    with sessions(home.database).begin() as s:
        s.execute(text("UPDATE analysis SET progress = 0"))
    start = time.monotonic()
    while time.monotonic() - start < 0.15:
        lifeline("eigenpairs", 0.5, hvps=70)
    assert analysis(home).progress == 0
    time.sleep(0.1)
    lifeline("eigenpairs", 0.5, hvps=70)
    assert analysis(home).progress == 0.5


def test_every_new_stage_is_written(home: Settings, lifeline: Lifeline) -> None:
    for stage in ("load", "eigenpairs", "overlap"):
        lifeline(stage, 0.5, hvps=70)
        assert analysis(home).stage == stage


def test_a_cancellation_is_heard_at_the_next_report(home: Settings, lifeline: Lifeline) -> None:
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, 1)
    with pytest.raises(Cancelled):
        lifeline("eigenpairs", 0.5, hvps=70)


def test_a_lost_claim_is_heard_at_the_next_report(home: Settings, lifeline: Lifeline) -> None:
    with sessions(home.database).begin() as s:
        store.delete(s, Analysis, 1)
    with pytest.raises(ClaimLost):
        lifeline("eigenpairs", 0.5, hvps=70)


def test_the_heart_beats_while_there_is_nothing_to_report(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(progress, "_REPORT_SECONDS", 3600.0)
    maker = sessions(home.database)
    with maker.begin() as s:
        lab.queue(s)
        assert lab.claim(s, 1)
    with Lifeline(maker, Analysis, 1, "mine", LOG) as lifeline:
        lifeline("eigenpairs", 0.5, hvps=70)
        started = analysis(home).heartbeat_at
        assert started is not None
        time.sleep(0.3)
        beaten = analysis(home).heartbeat_at
        assert beaten is not None
        assert beaten > started
        with maker.begin() as s:
            store.request_cancel(s, Analysis, 1)
        time.sleep(0.3)
        with pytest.raises(Cancelled):  # no report is due: a heartbeat has heard it
            lifeline("eigenpairs", 0.5, hvps=70)


def test_work_without_any_sign_of_progress_is_interrupted_where_it_may_be(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(progress, "_TIDYING_SECONDS", 0.2)
    maker = sessions(home.database)
    with maker.begin() as s:
        lab.queue(s)
        assert lab.claim(s, 1)
    matrix = torch.eye(300)

    def products(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(RuntimeError):  # what the work itself catches is not in the way
                torch.mm(matrix, matrix)

    with Lifeline(maker, Analysis, 1, "mine", LOG) as lifeline:
        with maker.begin() as s:
            store.request_cancel(s, Analysis, 1)
        products(0.5)  # nothing happens to what is not to be interrupted
        start = time.monotonic()
        with pytest.raises(Cancelled), lifeline.interruptible():
            products(30)
        assert time.monotonic() - start < 5
        products(0.5)


def test_a_database_that_is_away_does_not_end_the_analysis(
    home: Settings, lifeline: Lifeline, caplog: pytest.LogCaptureFixture
) -> None:
    with sessions(home.database).begin() as s:
        s.execute(text("ALTER TABLE analysis RENAME TO elsewhere"))
    lifeline("eigenpairs", 0.5, hvps=70)
    assert "analysis 1: the database did not answer" in caplog.text
    with sessions(home.database).begin() as s:
        s.execute(text("ALTER TABLE elsewhere RENAME TO analysis"))
    time.sleep(0.25)
    lifeline("eigenpairs", 0.5, hvps=70)
    assert analysis(home).progress == 0.5


def test_a_failure_is_told_in_one_sentence() -> None:
    assert sentence(DataError("The file is empty."), Analysis) == "The file is empty."
    assert sentence(RuntimeError("shapes differ\n  in line 3\n"), Analysis) == (
        "Unexpected error (RuntimeError: shapes differ); the worker's log has the details."
    )
    assert sentence(ZeroDivisionError(), Analysis) == (
        "Unexpected error (ZeroDivisionError); the worker's log has the details."
    )
    with pytest.raises(RuntimeError) as too_large:
        torch.empty(2**50)
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory.\nTried to"), too_large.value):
        assert sentence(error, Analysis) == (
            "The analysis needs more memory than there is; choose a smaller k or N."
        )
    assert sentence(MemoryError(), Training) == (
        "The training needs more memory than there is; choose a smaller problem."
    )
