"""Analyses that several real workers share, on a real Redis and both databases."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis
from sqlalchemy import func, select

from core.analysis import analyse
from core.results import queries, store
from core.results.models import Analysis, Part, State
from core.results.session import sessions
from core.settings import AnalysisSettings, Settings
from tasks.submit import Upload
from tests.conftest import Worker, wait_until
from tests.tasks.test_worker import detail, submitted, wait_for, wait_until_under_way

pytestmark = pytest.mark.stack

Make = Callable[..., Upload]
Start = Callable[[int], list[Worker]]

# Each product is made on its own, so that whoever makes it rounds it the same way.
QUICK = AnalysisSettings(
    architecture="tanh-mlp", data="digits", samples=100, k=40, hvp_path="double-backward", hvp_columns=1
)
SLOW = QUICK.model_copy(update={"samples": 500, "k": 200})


@pytest.fixture
def shared(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEIGH_SHARE", "always")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def nothing_is_left(home: Settings) -> bool:
    with sessions(home.database)() as s:
        rows = s.execute(select(func.count()).select_from(Part)).scalar_one()
    folders = [home.scratch_folder, home.artifact_folder / "work"]
    return rows == 0 and not any(list(folder.glob("*")) for folder in folders)


def eigenvalues(home: Settings, number: int) -> np.ndarray:
    with sessions(home.database)() as s:
        return queries.spectrum(s, number)["value"].to_numpy()


def known(home: Settings, number: int) -> bool:
    """Whether so many workers have told of themselves."""
    with sessions(home.database)() as s:
        return len(queries.workers(s)) >= number


def helpers(workers: list[Worker]) -> list[Worker]:
    return [worker for worker in workers if "Task seigh.part" in worker.output]


@pytest.mark.usefixtures("shared")
def test_two_workers_share_an_analysis_and_find_what_one_finds(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    file = checkpoint()
    workers = start_workers(2)
    wait_until(lambda: known(home, 2), 20, "both workers are known")
    number = submitted(home, file, QUICK)
    finished = wait_for(home, number, State.finished)
    shared = finished.record["shared"]
    assert len(shared["workers"]) == 2
    assert shared["parts"] > 50
    assert shared["reused"] == 0
    assert len(helpers(workers)) == 1
    alone = analyse(file.path, QUICK)
    np.testing.assert_array_equal(eigenvalues(home, number), alone.eigenvalues)
    assert finished.hvps == alone.hvps
    assert nothing_is_left(home)
