"""The order in which real workers on a real Redis take what waits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from seigh.core.lab.models import Analysis, State, now
from seigh.core.lab.session import sessions
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks.submit import Upload, submit
from tests.conftest import Worker, wait_until

pytestmark = pytest.mark.stack

QUICK = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=50, k=5)


def test_workers_take_what_is_due_and_nothing_twice(
    postgres_home: Settings, start_workers: Callable[[int], list[Worker]], checkpoint: Callable[..., Upload]
) -> None:
    home = postgres_home

    def queue(seed: int, user: str, expected: float, waited: float = 0.0) -> int:
        (number,) = submit(
            [checkpoint()], model_name="mlp", settings=[QUICK.model_copy(update={"seed": seed})], user=user,
            env=home,
        ).analysis_ids  # fmt: skip
        with sessions(home.database).begin() as s:
            assert s.get_one(Analysis, number).expected_seconds  # the submission has told something
            s.execute(
                update(Analysis)
                .where(Analysis.id == number)
                .values(expected_seconds=expected, submitted_at=now() - timedelta(hours=waited))
            )
        return number

    def ended() -> bool:
        with sessions(home.database)() as s:
            states = s.scalars(select(Analysis.state)).all()
        return all(state is State.finished for state in states)

    long = queue(0, "ada", 6 * 3600.0)
    first, second = queue(1, "ada", 1.0), queue(2, "ada", 1.0)
    other = queue(3, "bob", 1.0)
    starved = queue(4, "ada", 6 * 3600.0, waited=48.0)
    start_workers(1)
    wait_until(ended, 90, "all are finished")
    with sessions(home.database)() as s:
        begun = s.scalars(select(Analysis.id).order_by(Analysis.started_at)).all()
    assert list(begun) == [starved, other, first, second, long]

    start_workers(1)
    for seed in range(5, 9):
        queue(seed, "ada", 1.0)
    wait_until(ended, 90, "all are finished")
    with sessions(home.database)() as s:
        assert set(s.scalars(select(Analysis.attempts))) == {1}
        assert len(set(s.scalars(select(Analysis.worker).where(Analysis.seed > 4)))) == 2
