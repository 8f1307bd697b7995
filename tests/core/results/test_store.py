"""The life of an analysis, on both databases: every transition, and those that must not happen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from core.results import queries, store
from core.results.models import (
    Analysis,
    Checkpoint,
    Eigenvalue,
    Environment,
    Model,
    OverlapPoint,
    StageTiming,
    State,
    now,
)
from core.results.store import Standing, StoreError
from tests.core.results import lab
from tests.core.results.lab import STALE_AFTER

Maker = sessionmaker[Session]


def row(maker: Maker, number: int) -> Analysis:
    with maker() as s:
        return s.get_one(Analysis, number)


def count(maker: Maker, table: Any) -> int:
    with maker() as s:
        return s.execute(select(func.count()).select_from(table)).scalar_one()


def queued(maker: Maker, **changes: Any) -> int:
    with maker.begin() as s:
        return lab.queue(s, **changes).id


def running(maker: Maker, token: str = "mine") -> int:
    number = queued(maker)
    with maker.begin() as s:
        assert lab.claim(s, number, token)
    return number


def silence(maker: Maker, number: int) -> None:
    """Let the last sign of life be a minute old."""
    with maker.begin() as s:
        s.execute(
            update(Analysis).where(Analysis.id == number).values(heartbeat_at=now() - timedelta(minutes=1))
        )


def all_at_once(action: Callable[[int], Any], times: int = 6) -> list[Any]:
    """What ``action(0)``, ``action(1)``, … return when threads call them at the same moment."""
    barrier = threading.Barrier(times)
    outcomes: list[Any] = [None] * times

    def call(i: int) -> None:
        barrier.wait()
        try:
            outcomes[i] = action(i)
        except Exception as error:
            outcomes[i] = error

    threads = [threading.Thread(target=call, args=(i,)) for i in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


# --- What was uploaded ------------------------------------------------------------------------------------


def test_a_model_is_found_again_by_name(maker: Maker) -> None:
    with maker.begin() as s:
        first = store.add_model(s, "mlp", "tanh-mlp").id
        assert store.add_model(s, "  mlp ", "tanh-mlp").id == first
        assert store.add_model(s, "other", "tanh-mlp").id != first


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "two\nlines", "nul\0"])
def test_names_that_cannot_be_one_are_refused(maker: Maker, name: str) -> None:
    with maker.begin() as s, pytest.raises(StoreError):
        store.add_model(s, name, "tanh-mlp")


def test_a_model_has_one_architecture(maker: Maker) -> None:
    with maker.begin() as s:
        store.add_model(s, "mlp", "tanh-mlp")
        with pytest.raises(StoreError, match="architecture tanh-mlp, not 3c3d; choose another model name"):
            store.add_model(s, "mlp", "3c3d")


def test_a_checkpoint_is_found_again_by_step_and_content(maker: Maker) -> None:
    with maker.begin() as s:
        first = lab.add_checkpoint(s).id
        assert lab.add_checkpoint(s).id == first
        assert lab.add_checkpoint(s, step=200).id != first
        with pytest.raises(StoreError, match=r"already has other weights at step 100 \('step_100.pt'\)"):
            lab.add_checkpoint(s, sha256="b" * 64)
    with maker() as s:
        checkpoint = s.get_one(Checkpoint, first)
        assert (checkpoint.test_accuracy, checkpoint.train_loss) == (0.1, None)


@pytest.mark.parametrize("step", [-1, 2**31])
def test_steps_that_the_column_cannot_hold_are_refused(maker: Maker, step: int) -> None:
    with maker.begin() as s, pytest.raises(StoreError, match="choose one from 0 to"):
        lab.add_checkpoint(s, step=step)


def test_files_beyond_four_gibibytes_have_a_size(maker: Maker) -> None:
    with maker.begin() as s:
        lab.add_checkpoint(s).size = 2**33
    with maker() as s:
        assert s.scalars(select(Checkpoint.size)).one() == 2**33


def test_simultaneous_submissions_share_their_rows(maker: Maker) -> None:
    outcomes = all_at_once(lambda _: queued(maker))
    assert outcomes == [outcomes[0]] * len(outcomes)
    assert [count(maker, table) for table in (Model, Checkpoint, Analysis)] == [1, 1, 1]


# --- The queue --------------------------------------------------------------------------------------------


def test_equal_settings_are_one_analysis(maker: Maker) -> None:
    with maker.begin() as s:
        checkpoint = lab.add_checkpoint(s)
        first, created = store.queue_analysis(s, checkpoint, lab.settings(seed=1), "ada", parameters=9)
        assert created
        again = store.queue_analysis(s, checkpoint, lab.settings(seed=1), "bob", parameters=9)
        assert again == (first, False)
        other, created = store.queue_analysis(s, checkpoint, lab.settings(seed=2), "bob", parameters=9)
        assert created
        assert other.id != first.id
        assert (first.submitted_by, first.seed, first.state) == ("ada", 1, State.queued)


@pytest.mark.parametrize("state", list(State))
def test_queueing_again_revives_only_what_ended_without_results(maker: Maker, state: State) -> None:
    number = queued(maker)
    with maker.begin() as s:
        s.execute(update(Analysis).values(state=state, attempts=3, message="because", cancel_requested=True))
    with maker.begin() as s:
        _, again = store.queue_analysis(s, lab.add_checkpoint(s), lab.settings(), "bob", parameters=9)
    analysis = row(maker, number)
    if state in (State.failed, State.cancelled):
        assert again
        assert (analysis.state, analysis.attempts, analysis.message) == (State.queued, 0, None)
        assert (analysis.submitted_by, analysis.cancel_requested) == ("bob", False)
    else:
        assert not again
        assert (analysis.state, analysis.attempts, analysis.submitted_by) == (state, 3, "ada")


@pytest.mark.parametrize("state", list(State))
def test_retry_is_for_what_ended_without_results(maker: Maker, state: State) -> None:
    number = queued(maker)
    with maker.begin() as s:
        s.execute(update(Analysis).values(state=state))
    with maker.begin() as s:
        if state in (State.failed, State.cancelled):
            store.retry(s, Analysis, number)
        else:
            with pytest.raises(StoreError, match=f"is {state}; only a failed or cancelled one"):
                store.retry(s, Analysis, number)
    assert row(maker, number).state == (State.queued if state in (State.failed, State.cancelled) else state)


def test_what_is_gone_is_said_to_be_gone(maker: Maker) -> None:
    for change in (store.retry, store.request_cancel, store.delete):
        with maker.begin() as s, pytest.raises(StoreError, match="Analysis 7 no longer exists"):
            change(s, Analysis, 7)


# --- An attempt -------------------------------------------------------------------------------------------


def test_a_claim_starts_an_attempt(maker: Maker) -> None:
    number = queued(maker)
    with maker.begin() as s:
        claimed = store.claim(s, Analysis, number, "mine", "host:1", STALE_AFTER)
        assert claimed is not None
        assert claimed.checkpoint.sha256 == "a" * 64
    analysis = row(maker, number)
    assert (analysis.state, analysis.attempts, analysis.worker) == (State.running, 1, "host:1")
    assert analysis.started_at == analysis.heartbeat_at
    assert abs(analysis.started_at - now()) < timedelta(seconds=10)


def test_of_many_simultaneous_claims_one_succeeds(maker: Maker) -> None:
    number = queued(maker)

    def claim(i: int) -> bool:
        with maker.begin() as s:
            return lab.claim(s, number, f"token {i}") is not None

    assert sorted(all_at_once(claim)) == [False] * 5 + [True]
    assert row(maker, number).attempts == 1


@pytest.mark.parametrize("state", [State.finished, State.failed, State.cancelled])
def test_what_has_ended_cannot_be_claimed(maker: Maker, state: State) -> None:
    number = queued(maker)
    with maker.begin() as s:
        s.execute(update(Analysis).values(state=state, heartbeat_at=now() - timedelta(days=1)))
    with maker.begin() as s:
        assert lab.claim(s, number) is None
    assert row(maker, number).attempts == 0


def test_a_running_analysis_can_be_claimed_only_when_it_is_silent(maker: Maker) -> None:
    number = running(maker)
    with maker.begin() as s:
        assert lab.claim(s, number, "yours") is None
    silence(maker, number)
    with maker.begin() as s:
        assert lab.claim(s, number, "yours") is not None
        assert store.heartbeat(s, Analysis, number, "mine") is Standing.lost
        assert store.heartbeat(s, Analysis, number, "yours") is Standing.owned
    assert row(maker, number).attempts == 2


def test_a_report_tells_the_progress_and_is_a_sign_of_life(maker: Maker) -> None:
    number = running(maker)
    silence(maker, number)
    with maker.begin() as s:
        assert (
            store.report(s, Analysis, number, "mine", stage="eigenpairs", progress=0.5, hvps=35)
            is Standing.owned
        )
        assert store.requeue_stale(s, Analysis, STALE_AFTER) == []
    analysis = row(maker, number)
    assert (analysis.stage, analysis.progress, analysis.hvps) == ("eigenpairs", 0.5, 35)
    silence(maker, number)
    with maker.begin() as s:
        assert store.heartbeat(s, Analysis, number, "mine") is Standing.owned
        assert store.requeue_stale(s, Analysis, STALE_AFTER) == []


def test_a_report_with_a_lost_claim_changes_nothing(maker: Maker) -> None:
    number = running(maker)
    with maker.begin() as s:
        assert (
            store.report(s, Analysis, number, "yours", stage="overlap", progress=1.0, hvps=1) is Standing.lost
        )
        assert store.report(s, Analysis, 99, "mine", stage="overlap", progress=1.0, hvps=1) is Standing.lost
    assert row(maker, number).stage is None


def test_the_next_attempt_learns_which_file_a_dead_one_left(maker: Maker) -> None:
    number = running(maker, "first")
    with maker.begin() as s:
        assert store.reserve_eigenvectors(s, number, "first", "eigenvectors/first") is Standing.owned
    silence(maker, number)
    with maker.begin() as s:
        assert store.requeue_stale(s, Analysis, STALE_AFTER) == [number]
    with maker.begin() as s:
        claimed = lab.claim(s, number, "second")
        assert claimed is not None
        assert claimed.eigenvectors == "eigenvectors/first"
        assert store.reserve_eigenvectors(s, number, "first", "eigenvectors/late") is Standing.lost
        assert store.reserve_eigenvectors(s, number, "second", "eigenvectors/second") is Standing.owned
    assert row(maker, number).eigenvectors == "eigenvectors/second"
    with maker() as s:
        detail = queries.analysis(s, number)
    assert detail is not None
    assert detail.eigenvectors is None  # not before it is finished


def test_finishing_writes_everything(maker: Maker) -> None:
    number = running(maker)
    with maker.begin() as s:
        assert store.finish(s, number, "mine", **lab.results())
    analysis = row(maker, number)
    assert (analysis.state, analysis.progress, analysis.stage) == (State.finished, 1.0, None)
    assert (analysis.hvps, analysis.data_sha256) == (10, "d" * 64)
    assert analysis.record == {"subset_loss": 0.25}
    assert analysis.finished_at is not None
    assert analysis.started_at is not None
    assert analysis.finished_at >= analysis.started_at
    with maker() as s:
        values = s.execute(select(Eigenvalue.position, Eigenvalue.value, Eigenvalue.residual)).all()
        points = s.execute(
            select(OverlapPoint.mask, OverlapPoint.overlap, OverlapPoint.std).where(OverlapPoint.k == 2)
        ).all()
        stages = s.execute(select(StageTiming.stage, StageTiming.seconds, StageTiming.hvps)).all()
        environment = s.scalars(select(Environment.details)).one()
    assert values == [(1, -4.0, 0.1), (2, 2.0, None), (3, 1.0, 0.3)]
    assert sorted(points) == [("best", 0.8, None), ("magnitude", 0.4, None), ("random", 0.02, 0.002)]
    assert stages == [("load", 0.5, 0), ("eigenpairs", 2.0, 10)]
    assert environment == {"torch": "2.9", "threads": 2}


def test_an_environment_is_stored_once(maker: Maker) -> None:
    with maker.begin() as s:
        lab.finished(s, step=1)
        lab.finished(s, step=2)
        lab.finished(s, step=3, changes={"environment": {"torch": "3.0"}})
    assert count(maker, Environment) == 2


def test_a_late_duplicate_cannot_touch_a_finished_analysis(maker: Maker) -> None:
    number = running(maker, "first")
    silence(maker, number)
    with maker.begin() as s:
        assert lab.claim(s, number, "second")
        assert store.finish(s, number, "second", **lab.results())
    late = lab.results(eigenvalues=np.array([9.0, 8.0, 7.0]), eigenvectors="eigenvectors/late")
    with maker.begin() as s:
        assert not store.finish(s, number, "first", **late)
        assert not store.fail(s, Analysis, number, "first", "too late")
        assert not store.cancelled(s, Analysis, number, "first")
        assert lab.claim(s, number, "third") is None
        assert store.requeue_stale(s, Analysis, timedelta(0)) == []
        with pytest.raises(StoreError, match="already finished"):
            store.request_cancel(s, Analysis, number)
    analysis = row(maker, number)
    assert (analysis.state, analysis.attempts) == (State.finished, 2)
    assert analysis.eigenvectors == "eigenvectors/1-x.safetensors"
    assert count(maker, Eigenvalue) == 3
    assert count(maker, OverlapPoint) == 9


def test_finishing_may_be_repeated_when_the_answer_was_not_heard(maker: Maker) -> None:
    number = running(maker)
    for _ in range(2):
        with maker.begin() as s:
            assert store.finish(s, number, "mine", **lab.results())
    assert count(maker, Eigenvalue) == 3


def test_of_two_simultaneous_attempts_one_finishes(maker: Maker) -> None:
    number = running(maker)

    def finish(i: int) -> bool:
        with maker.begin() as s:
            return store.finish(s, number, "mine" if i == 3 else f"other {i}", **lab.results())

    assert all_at_once(finish) == [False, False, False, True, False, False]
    assert count(maker, OverlapPoint) == 9


@pytest.mark.parametrize("field", ["eigenvalues", "overlap", "random_mean", "random_std", "best"])
def test_numbers_that_are_none_are_no_result(maker: Maker, field: str) -> None:
    number = running(maker)
    broken = lab.results(**{field: np.array([1.0, np.nan, 0.5])})
    with pytest.raises(StoreError, match="NaN or infinite"), maker.begin() as s:
        store.finish(s, number, "mine", **broken)
    assert row(maker, number).state is State.running
    assert count(maker, Eigenvalue) == 0


def test_what_json_does_not_know_is_none_in_the_record(maker: Maker) -> None:
    number = running(maker)
    record = {"norm": {"upper": np.inf, "all": [1.0, float("nan")]}, "path": None}
    with maker.begin() as s:
        assert store.finish(s, number, "mine", **lab.results(record=record))
    assert row(maker, number).record == {"norm": {"upper": None, "all": [1.0, None]}, "path": None}


def test_failing_keeps_the_sentence(maker: Maker) -> None:
    number = running(maker)
    with maker.begin() as s:
        assert not store.fail(s, Analysis, number, "yours", "Not mine to say.")
        assert store.fail(s, Analysis, number, "mine", "The data do not fit.")
    analysis = row(maker, number)
    assert (analysis.state, analysis.message) == (State.failed, "The data do not fit.")
    with maker.begin() as s:
        assert not store.finish(s, number, "mine", **lab.results())


@pytest.mark.parametrize("end", ["finish", "fail", "cancelled"])
def test_an_attempt_that_has_ended_has_nothing_more_to_report(maker: Maker, end: str) -> None:
    number = running(maker)
    ends: dict[str, Callable[[Session], bool]] = {
        "finish": lambda s: store.finish(s, number, "mine", **lab.results()),
        "fail": lambda s: store.fail(s, Analysis, number, "mine", "No."),
        "cancelled": lambda s: store.cancelled(s, Analysis, number, "mine"),
    }
    with maker.begin() as s:
        assert ends[end](s)
    before = row(maker, number).progress
    with maker.begin() as s:
        assert store.heartbeat(s, Analysis, number, "mine") is Standing.lost
        assert (
            store.report(s, Analysis, number, "mine", stage="overlap", progress=0.5, hvps=1) is Standing.lost
        )
    assert row(maker, number).progress == before


# --- Cancelling and deleting ------------------------------------------------------------------------------


def test_a_queued_analysis_is_cancelled_at_once(maker: Maker) -> None:
    number = queued(maker)
    with maker.begin() as s:
        store.request_cancel(s, Analysis, number)
        assert lab.claim(s, number) is None
    assert row(maker, number).state is State.cancelled


def test_a_running_analysis_is_cancelled_by_its_worker(maker: Maker) -> None:
    number = running(maker)
    with maker.begin() as s:
        store.request_cancel(s, Analysis, number)
    assert row(maker, number).state is State.running
    with maker.begin() as s:
        assert store.heartbeat(s, Analysis, number, "mine") is Standing.cancel_requested
        assert store.cancelled(s, Analysis, number, "mine")
    assert row(maker, number).state is State.cancelled


def test_results_that_come_before_the_cancellation_count(maker: Maker) -> None:
    number = running(maker)
    with maker.begin() as s:
        store.request_cancel(s, Analysis, number)
        assert store.finish(s, number, "mine", **lab.results())
        assert not store.cancelled(s, Analysis, number, "mine")
    analysis = row(maker, number)
    assert (analysis.state, analysis.cancel_requested) == (State.finished, False)


def test_a_cancellation_survives_the_worker(maker: Maker) -> None:
    number = running(maker)
    silence(maker, number)
    with maker.begin() as s:
        store.request_cancel(s, Analysis, number)
        assert lab.claim(s, number, "yours") is None
        assert store.requeue_stale(s, Analysis, STALE_AFTER) == []
    assert row(maker, number).state is State.cancelled


def test_deleting_takes_the_results_along(maker: Maker) -> None:
    with maker.begin() as s:
        number, other = lab.finished(s, step=1), lab.finished(s, step=2)
    with maker.begin() as s:
        assert store.delete(s, Analysis, number) == ["eigenvectors/1-x.safetensors"]
    assert [count(maker, table) for table in (Analysis, Eigenvalue, OverlapPoint, StageTiming)] == [
        1,
        3,
        9,
        2,
    ]
    with maker.begin() as s:
        store.delete(s, Analysis, other)
    assert count(maker, OverlapPoint) == 0


def test_a_worker_loses_an_analysis_that_is_deleted(maker: Maker) -> None:
    number = running(maker)
    with maker.begin() as s:
        store.delete(s, Analysis, number)
        assert store.heartbeat(s, Analysis, number, "mine") is Standing.lost
        assert not store.finish(s, number, "mine", **lab.results())


# --- When workers die -------------------------------------------------------------------------------------


def test_what_falls_silent_is_queued_again_until_it_is_too_often(maker: Maker) -> None:
    number = queued(maker)
    for attempt in (1, 2):
        with maker.begin() as s:
            assert lab.claim(s, number, f"attempt {attempt}")
            assert store.requeue_stale(s, Analysis, STALE_AFTER) == []
        silence(maker, number)
        with maker.begin() as s:
            assert store.requeue_stale(s, Analysis, STALE_AFTER) == [number]
            assert store.heartbeat(s, Analysis, number, f"attempt {attempt}") is Standing.lost
        analysis = row(maker, number)
        assert (analysis.state, analysis.worker, analysis.progress) == (State.queued, None, 0.0)
    with maker.begin() as s:
        assert lab.claim(s, number, "attempt 3")
    silence(maker, number)
    with maker.begin() as s:
        assert store.requeue_stale(s, Analysis, STALE_AFTER) == []
    analysis = row(maker, number)
    assert analysis.state is State.failed
    assert analysis.message is not None
    assert analysis.message.startswith("The worker stopped 3 times while running this analysis")
    assert analysis.message.count(".") == 1
    with maker.begin() as s:
        store.retry(s, Analysis, number)
        assert lab.claim(s, number, "by hand")
    assert row(maker, number).attempts == 1


def test_simultaneous_sweeps_requeue_once(maker: Maker) -> None:
    number = running(maker)
    silence(maker, number)

    def sweep(_: int) -> list[int]:
        with maker.begin() as s:
            return store.requeue_stale(s, Analysis, STALE_AFTER)

    assert sorted(all_at_once(sweep)) == [[], [], [], [], [], [number]]


def test_a_worker_hands_back_its_own(maker: Maker) -> None:
    with maker.begin() as s:
        numbers = [lab.queue(s, step=step).id for step in (1, 2, 3)]
        for number, worker in zip(numbers, ("a:1", "b:2", "a:1"), strict=True):
            assert lab.claim(s, number, worker=worker)
        store.request_cancel(s, Analysis, numbers[2])
    with maker.begin() as s:
        assert store.hand_back(s, Analysis, "a:1") == numbers[:1]
    first = row(maker, numbers[0])
    assert (first.state, first.attempts) == (State.queued, 0)
    assert row(maker, numbers[1]).state is State.running
    assert row(maker, numbers[2]).state is State.cancelled


def test_waiting_is_what_has_been_queued_for_a_while(maker: Maker) -> None:
    with maker.begin() as s:
        numbers = [lab.queue(s, step=step).id for step in (1, 2, 3)]
        for number, seconds in zip(numbers, (60, 120, 5), strict=True):
            s.get_one(Analysis, number).submitted_at = now() - timedelta(seconds=seconds)
        running_one = lab.queue(s, step=4)
        working = running_one.id
        running_one.submitted_at = now() - timedelta(days=1)
        s.flush()
        assert lab.claim(s, running_one.id)
    with maker() as s:
        assert store.waiting(s, Analysis, timedelta(seconds=15)) == [numbers[1], numbers[0]]
        assert queries.runs(s)["state"].value_counts().to_dict() == {"queued": 3, "running": 1}
        assert store.under_way(s, Analysis, [numbers[0], working, 99]) == {numbers[0], working}
    with maker.begin() as s:
        assert store.finish(s, working, "mine", **lab.results())
        store.request_cancel(s, Analysis, numbers[0])
        assert store.under_way(s, Analysis, [*numbers, working]) == set(numbers[1:])
