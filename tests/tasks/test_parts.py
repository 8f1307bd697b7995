"""Analyses that several real workers share, on a real Redis and both databases."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sqlalchemy import func, select

from seigh.core.analysis import analyse
from seigh.core.lab import queries, store
from seigh.core.lab.models import Analysis, Part, State
from seigh.core.lab.session import sessions
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks.submit import Upload
from tests.conftest import Worker, wait_until
from tests.tasks.test_worker import detail, submitted, wait_for, wait_until_under_way

pytestmark = pytest.mark.stack

Make = Callable[..., Upload]
Start = Callable[..., list[Worker]]

# Each product is made on its own, so that whoever makes it rounds it the same way.
QUICK = AnalysisSettings(
    architecture="tanh-mlp", data="digits", samples=100, k=40, hvp_path="double-backward", hvp_columns=1
)
SLOW = QUICK.model_copy(update={"samples": 500, "k": 140})


@pytest.fixture
def shared(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Analyses are shared; workers and this process compute with one thread each, to round alike."""
    monkeypatch.setenv("SEIGH_SHARE", "always")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def nothing_is_left(home: Settings) -> bool:
    """Neither rows nor files in the shared folder."""
    with sessions(home.database)() as s:
        rows = s.execute(select(func.count()).select_from(Part)).scalar_one()
    return rows == 0 and list((home.artifact_folder / "work").glob("*")) == []


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


@pytest.mark.usefixtures("shared")
def test_neither_helper_nor_conductor_is_missed(
    postgres_home: Settings, start_workers: Start, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, file = postgres_home, checkpoint()
    workers = start_workers(2)
    wait_until(lambda: known(home, 2), 20, "both workers are known")
    number = submitted(home, file, SLOW)
    wait_until_under_way(home, number)
    wait_until(lambda: bool(helpers(workers)), 20, "one helps")
    (helper,) = helpers(workers)
    (conductor,) = [worker for worker in workers if worker is not helper]
    helper.kill()
    before = detail(home, number).hvps or 0
    # What it was at is performed by the conductor, soon.
    wait_until(lambda: (detail(home, number).hvps or 0) > before + 8, 30, "it goes on")
    conductor.kill()
    at_least = detail(home, number).hvps or 0

    # On another machine, which has nothing but the shared folder.
    monkeypatch.setenv("SEIGH_SCRATCH", str(home.root / "another machine's"))
    (third,) = start_workers(1)
    finished = wait_for(home, number, State.finished, seconds=120)
    assert (finished.attempts, finished.record["basis"]["kept_in"]) == (2, "memory")
    assert finished.record["basis"]["resumed"] >= at_least - 8
    assert f"analysis {number}: goes on after" in third.output
    alone = analyse(file.path, SLOW)
    np.testing.assert_array_equal(eigenvalues(home, number), alone.eigenvalues)
    assert finished.hvps == alone.hvps
    assert nothing_is_left(home)


@pytest.mark.usefixtures("shared")
def test_a_shared_analysis_is_cancelled_as_quickly_as_another(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    workers = start_workers(2)
    wait_until(lambda: known(home, 2), 20, "both workers are known")
    number = submitted(home, checkpoint(), SLOW)
    wait_until(lambda: "(2 workers)" in (detail(home, number).stage or ""), 60, "both are at it")
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, number)
    start = time.monotonic()
    wait_for(home, number, State.cancelled, seconds=10)
    assert time.monotonic() - start < 3
    wait_until(lambda: nothing_is_left(home), 15, "nothing is left")
    assert not any("Traceback" in worker.output for worker in workers)


@pytest.mark.usefixtures("shared")
def test_a_conductor_told_to_end_leaves_its_analysis_to_its_helper(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    workers = start_workers(2)
    wait_until(lambda: known(home, 2), 20, "both workers are known")
    number = submitted(home, checkpoint(), SLOW)
    wait_until_under_way(home, number)
    wait_until(lambda: bool(helpers(workers)), 20, "one helps")
    (helper,) = helpers(workers)
    (conductor,) = [worker for worker in workers if worker is not helper]
    conductor.process.send_signal(signal.SIGTERM)
    assert conductor.process.wait(15) == 0
    finished = wait_for(home, number, State.finished, seconds=120)
    assert finished.attempts == 1
    assert finished.record["basis"]["resumed"] > 0
    assert "goes on after" in helper.output
    assert nothing_is_left(home)


def test_a_message_delivered_again_while_the_analysis_runs_starts_nothing(
    home: Settings, start_workers: Start, checkpoint: Make
) -> None:
    impatient = "app.conf.broker_transport_options['visibility_timeout'] = 2"
    (first,) = start_workers(1, impatient)
    long = QUICK.model_copy(update={"data": "random(1x16x16,classes=10)", "samples": 10_000, "k": 300})
    number = submitted(home, checkpoint(), long)
    wait_until_under_way(home, number)
    # A worker looks for messages to deliver again ten seconds after its start, and then seldom.
    (second,) = start_workers(1, impatient)
    wait_until(lambda: "nothing to do" in second.output, 60, "the message comes again")
    assert (detail(home, number).state, detail(home, number).attempts) == (State.running, 1)
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, number)
    wait_for(home, number, State.cancelled)
    output = first.output + second.output
    assert output.count(f"analysis {number}: attempt") == output.count(f"analysis {number}: cancelled") == 1
