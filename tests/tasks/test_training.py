"""Trainings on real workers: what they record, and what happens when something dies."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
from sqlalchemy import select

from seigh.core.lab import queries, store
from seigh.core.lab.models import Analysis, Checkpoint, State, Training
from seigh.core.lab.session import sessions
from seigh.core.problems import training
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks.submit import delete, retry, train
from tests.conftest import Worker, wait_until

pytestmark = pytest.mark.stack

Start = Callable[[int], list[Worker]]

QUICK = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=50, k=5)


def trained(home: Settings, steps: int, record: list[int], **changes: Any) -> int:
    return train("digits-mlp", "net", steps, record, seed=3, user="ada", env=home, **changes)[0]


def expected(folder: Path, steps: int, record: list[int]) -> dict[int, str]:
    """Hashes of what an undisturbed training in this process records."""
    files = training.train("digits-mlp", steps, record, folder, seed=3)
    return {
        step: hashlib.sha256(file.read_bytes()).hexdigest() for step, file in zip(record, files, strict=True)
    }


def recorded(home: Settings) -> dict[int, str]:
    with sessions(home.database)() as s:
        return {each.step: each.sha256 for each in s.scalars(select(Checkpoint))}


def row(home: Settings, number: int) -> Training:
    with sessions(home.database)() as s:
        return s.get_one(Training, number)


def wait_for(home: Settings, number: int, state: State, seconds: float = 120) -> Training:
    wait_until(lambda: row(home, number).state is state, seconds, f"training {number} is {state}")
    return row(home, number)


def runs(home: Settings) -> pd.DataFrame:
    with sessions(home.database)() as s:
        return queries.runs(s)


def left(home: Settings) -> list[str]:
    """What the artefacts hold of trainings that are under way."""
    return [path.name for path in (home.artifact_folder / "work").glob("*")]


def test_a_training_becomes_checkpoints_and_their_analyses(
    home: Settings, worker: Worker, tmp_path: Path
) -> None:
    number = trained(home, 20, [0, 10, 20], analyses=[QUICK, QUICK.model_copy(update={"split": "train"})])
    finished = wait_for(home, number, State.finished)
    assert (finished.attempts, finished.progress, finished.steps_done) == (1, 1.0, 20)
    assert recorded(home) == expected(tmp_path / "apart", 20, [0, 10, 20])
    for step, sha256 in recorded(home).items():
        stored = home.artifact_folder / "checkpoints" / f"{sha256}.safetensors"
        assert training.checkpoint_name(step) == f"step_{step:06d}.safetensors"
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == sha256
    with sessions(home.database)() as s:
        last = s.scalars(select(Checkpoint).where(Checkpoint.step == 20)).one()
        assert (last.model.name, last.parameters, last.uploaded_by) == ("net", 7030, "ada")
        assert last.test_accuracy is not None
        assert last.train_loss is not None

    def ended() -> bool:
        return (runs(home)["state"] == State.finished).all()

    wait_until(ended, 60, "its analyses are finished")
    analyses = runs(home).query("kind == 'analysis'").sort_values(["step", "split"])
    assert analyses[["step", "split"]].values.tolist() == [
        [step, split] for step in (0, 10, 20) for split in ("test", "train")
    ]
    assert left(home) == []


def test_a_killed_training_goes_on_to_the_same_weights(
    home: Settings, start_workers: Start, tmp_path: Path
) -> None:
    record = list(range(0, 501, 50))
    (first,) = start_workers(1)
    number = trained(home, 500, record, analyses=[QUICK])
    wait_until(lambda: len(recorded(home)) >= 3, 120, "some checkpoints are recorded")
    first.kill()
    before = recorded(home)
    assert row(home, number).state is State.running
    assert len(before) < len(record)
    assert left(home) == [f"training-{number}"]
    with sessions(home.database).begin() as s:
        (one, *_) = s.scalars(select(Analysis.id).order_by(Analysis.id)).all()
        store.request_cancel(s, Analysis, one)  # which the next attempt has to leave alone

    (second,) = start_workers(1)
    wait_until(lambda: row(home, number).attempts == 2, 60, "there is another attempt")
    wait_until(lambda: row(home, number).steps_done is not None, 60, "it is under way")
    gone_on = row(home, number).steps_done
    assert gone_on is not None
    assert gone_on >= sorted(before)[-2]  # the last one may have been recorded, and the state not yet saved
    finished = wait_for(home, number, State.finished)
    assert finished.attempts == 2
    assert recorded(home) == expected(tmp_path / "apart", 500, record)
    assert before.items() <= recorded(home).items()
    analyses = runs(home).query("kind == 'analysis'").set_index("id")
    assert sorted(analyses["step"]) == record
    assert analyses.loc[one, "state"] == State.cancelled
    wait_until(lambda: left(home) == [], 20, "its folder is removed")
    assert "Traceback" not in second.output


def test_a_running_training_is_cancelled_quickly_and_can_be_had_after_all(
    home: Settings, worker: Worker, tmp_path: Path
) -> None:
    record = [0, 50, 1000]
    number = trained(home, 1000, record)
    wait_until(lambda: len(recorded(home)) == 2, 60, "step 50 is recorded")
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Training, number)
    start = time.monotonic()
    wait_for(home, number, State.cancelled, seconds=10)
    assert time.monotonic() - start < 3
    assert sorted(recorded(home)) == [0, 50]
    assert retry(Training, number, home) is None
    wait_for(home, number, State.finished)
    assert recorded(home) == expected(tmp_path / "apart", 1000, record)


def test_a_deleted_training_stops_and_leaves_its_checkpoints(
    home: Settings, worker: Worker, redis_server: redis.Redis
) -> None:
    number = trained(home, 5000, [0, 100, 5000])
    wait_until(lambda: len(recorded(home)) == 2, 60, "step 100 is recorded")
    delete(Training, number, home)
    wait_until(lambda: f"training {number}: given up" in worker.output, 10, "the worker stops")
    assert sorted(recorded(home)) == [0, 100]
    assert runs(home).empty
    wait_until(lambda: left(home) == [], 20, "its folder is removed")


def test_weights_that_came_in_between_fail_the_training_in_one_sentence(
    home: Settings, start_workers: Start
) -> None:
    number = trained(home, 20, [0, 20])
    with sessions(home.database).begin() as s:
        store.add_checkpoint(
            s,
            store.add_model(s, "net", "tanh-mlp"),
            step=20,
            sha256="a" * 64,
            filename="step_20.pt",
            size=1,
            parameters=7030,
            metrics={},
            user="bob",
        )
    (worker,) = start_workers(1)
    failed = wait_for(home, number, State.failed)
    assert failed.message is not None
    assert failed.message.startswith("The model 'net' already has other weights at step 20")
    assert "Traceback" not in worker.output
