"""The life of an analysis, on both databases: every transition, and those that must not happen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import queries, store
from seigh.core.lab.models import (
    WORK,
    Analysis,
    Checkpoint,
    Comparison,
    Eigenvalue,
    Environment,
    Model,
    OverlapPoint,
    PairValue,
    StageTiming,
    State,
    Training,
    Work,
    now,
)
from seigh.core.lab.store import Standing, StoreError
from tests.core.lab import lab

Maker = sessionmaker[Session]


W = TypeVar("W", bound=Work)


@pytest.fixture(params=list(WORK))
def kind(request: pytest.FixtureRequest) -> type[Work]:
    """Every kind of work."""
    return WORK[request.param]


def row(maker: Maker, number: int, kind: type[W] = Analysis) -> W:
    with maker() as s:
        return s.get_one(kind, number)


def count(maker: Maker, table: Any) -> int:
    with maker() as s:
        return s.execute(select(func.count()).select_from(table)).scalar_one()


def queued(maker: Maker, kind: type[Work] = Analysis) -> int:
    with maker.begin() as s:
        return lab.queue_any(s, kind)


def running(maker: Maker, token: str = "mine", kind: type[Work] = Analysis) -> int:
    number = queued(maker, kind)
    with maker.begin() as s:
        assert lab.claim(s, number, token, kind=kind)
    return number


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
def test_retry_is_for_what_ended_without_results(maker: Maker, kind: type[Work], state: State) -> None:
    number = queued(maker, kind)
    with maker.begin() as s:
        s.execute(update(kind).values(state=state))
    with maker.begin() as s:
        if state in (State.failed, State.cancelled):
            store.retry(s, kind, number)
        else:
            with pytest.raises(StoreError, match=f"is {state}; only a failed or cancelled one"):
                store.retry(s, kind, number)
    assert row(maker, number, kind).state == (
        State.queued if state in (State.failed, State.cancelled) else state
    )


def test_what_is_gone_is_said_to_be_gone(maker: Maker, kind: type[Work]) -> None:
    for change in (store.retry, store.request_cancel, store.delete):
        with (
            maker.begin() as s,
            pytest.raises(StoreError, match=f"{kind.__tablename__.capitalize()} 7 no longer exists"),
        ):
            change(s, kind, 7)


# --- Trainings and comparisons ----------------------------------------------------------------------------


def recorded(s: Session, number: int, token: str = "mine", **changes: Any) -> list[int] | None:
    facts: dict[str, Any] = {
        "step": 100,
        "sha256": "c" * 64,
        "filename": "step_000100.safetensors",
        "size": 1000,
        "parameters": 7030,
        "metrics": {"test_loss": 0.5},
    }
    return store.record_checkpoint(s, number, token, **(facts | changes))


def test_equal_trainings_are_one(maker: Maker) -> None:
    with maker.begin() as s:
        first, queued_now, _ = lab.queue_training(s, record=(0, 100))
        assert queued_now
        again, queued_now, _ = lab.queue_training(s, record=(100, 0, 0))
        assert (again.id, queued_now) == (first.id, False)
        other, queued_now, _ = lab.queue_training(s, model="another", record=(0, 100))
        assert queued_now
        assert other.id != first.id
        assert (first.problem, first.steps, first.submitted_by) == ("digits-mlp", 100, "ada")
        number = first.id
    with maker.begin() as s:
        store.request_cancel(s, Training, number)
        revived, queued_now, _ = lab.queue_training(s, record=(0, 100))
        assert (revived.id, queued_now, revived.state) == (number, True, State.queued)


def test_a_training_needs_steps_that_its_model_has_not(maker: Maker) -> None:
    with maker.begin() as s:
        lab.add_checkpoint(s, model="net", step=100)
    with (
        pytest.raises(StoreError, match="'net' already has a checkpoint at step 100, which this training"),
        maker.begin() as s,
    ):
        lab.queue_training(s, record=(0, 100))
    assert count(maker, Training) == 0
    with maker.begin() as s:
        assert lab.queue_training(s, record=(0, 50))[1]
    with (
        pytest.raises(StoreError, match=r"Training \d+ records the same steps of the model 'net'"),
        maker.begin() as s,
    ):
        lab.queue_training(s, record=(50,), seed=1)
    assert count(maker, Training) == 1


def test_of_simultaneous_trainings_of_the_same_steps_one_is_queued(maker: Maker) -> None:
    def queue(i: int) -> int:
        with maker.begin() as s:
            return lab.queue_training(s, seed=i)[0].id

    outcomes = all_at_once(queue)
    assert sum(isinstance(each, int) for each in outcomes) == 1
    assert sum(isinstance(each, StoreError) for each in outcomes) == 5
    assert count(maker, Training) == 1


def test_what_a_training_records_is_added_once_with_its_analyses(maker: Maker) -> None:
    with maker.begin() as s:
        wanted = (lab.settings(seed=1), lab.settings(seed=2))
        number = lab.queue_training(s, analyses=wanted)[0].id
        assert lab.claim(s, number, kind=Training)
    with maker.begin() as s:
        first = recorded(s, number)
        assert first is not None
        assert len(first) == 2
    with maker.begin() as s:
        store.request_cancel(s, Analysis, first[0])  # which a next attempt must respect
        assert recorded(s, number) == []
        with pytest.raises(StoreError, match="already has other weights at step 100"):
            recorded(s, number, sha256="d" * 64)
    with maker() as s:
        checkpoint = s.scalars(select(Checkpoint)).one()
        assert (checkpoint.model.name, checkpoint.step, checkpoint.test_loss) == ("net", 100, 0.5)
        assert checkpoint.uploaded_by == "ada"
        analyses = s.scalars(select(Analysis).order_by(Analysis.id)).all()
        assert [each.settings for each in analyses] == [each.model_dump(mode="json") for each in wanted]
        assert [each.state for each in analyses] == [State.cancelled, State.queued]
        assert {each.parameters for each in analyses} == {7030}


def test_analyses_may_be_added_to_a_training(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.queue_training(s, record=(0, 100), analyses=(lab.settings(seed=1),))[0].id
        assert lab.claim(s, number, kind=Training)
        assert recorded(s, number, step=0)
        lab.add_checkpoint(s, model="net", step=7)  # not of this training
    with maker.begin() as s:
        both = (lab.settings(seed=1), lab.settings(seed=2))
        _, queued_now, more = lab.queue_training(s, record=(0, 100), analyses=both)
        assert not queued_now
        assert [s.get_one(Analysis, each).seed for each in more] == [2]
        assert s.get_one(Analysis, more[0]).checkpoint.step == 0
    with maker.begin() as s:
        later = recorded(s, number, step=100)
        assert later is not None
        assert [s.get_one(Analysis, each).seed for each in later] == [1, 2]


@pytest.mark.parametrize("end", ["lost", "deleted", "finished"])
def test_without_a_claim_nothing_is_recorded(maker: Maker, end: str) -> None:
    number = running(maker, kind=Training)
    with maker.begin() as s:
        if end == "deleted":
            store.delete(s, Training, number)
        if end == "finished":
            store.finished(s, Training, number, "mine")
    with maker.begin() as s:
        assert recorded(s, number, "yours" if end == "lost" else "mine") is None
    assert count(maker, Checkpoint) == 0


def test_equal_comparisons_are_one(maker: Maker) -> None:
    with maker.begin() as s:
        one, two, three = (lab.finished(s, step=step) for step in (1, 2, 3))
        first, created = store.queue_comparison(s, [two, one, two], [3, 1], "ada")
        assert (first.analyses, first.ks, created) == ([one, two], [1, 3], True)
        assert store.queue_comparison(s, [one, two], [1, 3], "bob") == (first, False)
        assert store.queue_comparison(s, [one, three], [1, 3], "bob")[1]
        assert store.queue_comparison(s, [one, two], [1], "bob")[1]


def test_without_eigenvectors_nothing_new_is_compared(maker: Maker) -> None:
    with maker.begin() as s:
        one, two = (lab.finished(s, step=step) for step in (1, 2))
        known = store.queue_comparison(s, [one, two], [1], "ada")[0].id
        assert lab.claim(s, known, kind=Comparison)
        assert store.finished(s, Comparison, known, "mine")
        s.get_one(Analysis, two).eigenvectors = None
    with maker.begin() as s:
        assert store.queue_comparison(s, [one, two], [1], "ada")[0].id == known
    with (
        pytest.raises(StoreError, match=f"eigenvectors of analysis {two} are no longer kept"),
        maker.begin() as s,
    ):
        store.queue_comparison(s, [one, two], [1, 2], "ada")
    assert count(maker, Comparison) == 1


def test_what_cannot_be_compared_is_refused(maker: Maker) -> None:
    with maker.begin() as s:
        one, two = (lab.finished(s, step=step) for step in (1, 2))
        waiting = lab.queue(s, step=3).id
        layer = lab.finished(s, step=1, parameters=("linear6.*",))
        refused: list[tuple[list[int], list[int], str]] = [
            ([one], [1], "at least two analyses"),
            ([one, two], [], "at least two analyses and one k"),
            ([one, two, 99], [1], "Analysis 99 no longer exists"),
            ([one, waiting], [1], f"Analysis {waiting} is queued; only finished ones"),
            ([one, layer], [1], "not of the same parameters"),
            ([one, two], [0, 1], "k = 0 is no size"),
            ([one, two], [1, 7031], "k = 7,031 is no size"),
        ]
        for ids, ks, sentence in refused:
            with pytest.raises(StoreError, match=sentence):
                store.queue_comparison(s, ids, ks, "ada")
    assert count(maker, Comparison) == 0


# --- An attempt -------------------------------------------------------------------------------------------


def test_a_claim_starts_an_attempt(maker: Maker, kind: type[Work]) -> None:
    number = queued(maker, kind)
    with maker.begin() as s:
        claimed = store.claim(s, kind, number, "mine", "host:1")
        assert claimed is not None
        assert (type(claimed), claimed.id) == (kind, number)
    work = row(maker, number, kind)
    assert (work.state, work.attempts, work.worker) == (State.running, 1, "host:1")
    assert work.started_at == work.heartbeat_at
    assert abs(work.started_at - now()) < timedelta(seconds=10)


def test_work_of_another_kind_is_left_alone(maker: Maker, kind: type[Work]) -> None:
    """Kinds count their ids each by itself: the same number means other work."""
    with maker.begin() as s:
        for each in WORK.values():
            s.execute(update(each).values(attempts=0))
            lab.queue_any(s, each)
        claimed = lab.queue_any(s, kind, 2)
        assert lab.claim(s, claimed, kind=kind)
        for each in set(WORK.values()) - {kind}:
            assert lab.requeue_silent(s, each) == []
            assert store.hand_back(s, each, "host:1") == []
        assert lab.requeue_silent(s, kind) == [claimed]


def test_of_many_simultaneous_claims_one_succeeds(maker: Maker, kind: type[Work]) -> None:
    number = queued(maker, kind)

    def claim(i: int) -> bool:
        with maker.begin() as s:
            return lab.claim(s, number, f"token {i}", kind=kind) is not None

    assert sorted(all_at_once(claim)) == [False] * 5 + [True]
    assert row(maker, number, kind).attempts == 1


@pytest.mark.parametrize("state", [State.finished, State.failed, State.cancelled])
def test_what_has_ended_cannot_be_claimed(maker: Maker, kind: type[Work], state: State) -> None:
    number = queued(maker, kind)
    with maker.begin() as s:
        s.execute(update(kind).values(state=state, heartbeat_at=now() - timedelta(days=1)))
    with maker.begin() as s:
        assert lab.claim(s, number, kind=kind) is None
    assert row(maker, number, kind).attempts == 0


@pytest.mark.parametrize("wrong", [timedelta(hours=-2), timedelta(hours=2)])
def test_running_work_is_nobody_elses_whatever_the_clocks_say(
    maker: Maker, kind: type[Work], wrong: timedelta
) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        s.execute(update(kind).where(kind.id == number).values(heartbeat_at=now() + wrong))
    with maker.begin() as s:
        assert lab.claim(s, number, "yours", kind=kind) is None
        assert store.requeue_silent(s, kind, {}) == []
        assert store.heartbeat(s, kind, number, "mine") is Standing.owned


def test_an_attempt_that_was_given_up_is_fenced_off(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        assert lab.requeue_silent(s, kind) == [number]
        assert lab.claim(s, number, "yours", kind=kind) is not None
        assert store.heartbeat(s, kind, number, "mine") is Standing.lost
        assert store.heartbeat(s, kind, number, "yours") is Standing.owned
    assert row(maker, number, kind).attempts == 2


def test_a_report_tells_the_progress_and_is_a_sign_of_life(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        signs = store.signs_of_life(s, kind)
        assert (
            store.report(
                s, kind, number, "mine", stage="eigenpairs", progress=0.5, **dict.fromkeys(kind.counts, 35)
            )
            is Standing.owned
        )
        assert store.requeue_silent(s, kind, signs) == []
    work = row(maker, number, kind)
    assert (work.stage, work.progress) == ("eigenpairs", 0.5)
    assert [getattr(work, name) for name in kind.counts] == [35] * len(kind.counts)
    with maker.begin() as s:
        signs = store.signs_of_life(s, kind)
        assert store.heartbeat(s, kind, number, "mine") is Standing.owned
        assert store.requeue_silent(s, kind, signs) == []


def test_a_report_with_a_lost_claim_changes_nothing(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        assert (
            store.report(
                s, kind, number, "yours", stage="overlap", progress=1.0, **dict.fromkeys(kind.counts, 1)
            )
            is Standing.lost
        )
        assert (
            store.report(s, kind, 99, "mine", stage="overlap", progress=1.0, **dict.fromkeys(kind.counts, 1))
            is Standing.lost
        )
    assert row(maker, number, kind).stage is None


def test_the_next_attempt_learns_which_file_a_dead_one_left(maker: Maker) -> None:
    number = running(maker, "first")
    with maker.begin() as s:
        assert store.reserve_eigenvectors(s, number, "first", "eigenvectors/first") is Standing.owned
    with maker.begin() as s:
        assert lab.requeue_silent(s, Analysis) == [number]
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
    with maker.begin() as s:
        assert lab.requeue_silent(s, Analysis) == [number]
        assert lab.claim(s, number, "second")
        assert store.finish(s, number, "second", **lab.results())
    late = lab.results(eigenvalues=np.array([9.0, 8.0, 7.0]), eigenvectors="eigenvectors/late")
    with maker.begin() as s:
        assert not store.finish(s, number, "first", **late)
        assert not store.fail(s, Analysis, number, "first", "too late")
        assert not store.cancelled(s, Analysis, number, "first")
        assert lab.claim(s, number, "third") is None
        assert lab.requeue_silent(s, Analysis) == []
        with pytest.raises(StoreError, match="already finished"):
            store.request_cancel(s, Analysis, number)
    analysis = row(maker, number)
    assert (analysis.state, analysis.attempts) == (State.finished, 2)
    assert analysis.eigenvectors == "eigenvectors/1-x.safetensors"
    assert count(maker, Eigenvalue) == 3
    assert count(maker, OverlapPoint) == 9


def test_finishing_may_be_repeated_when_the_answer_was_not_heard(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    before = count(maker, Eigenvalue)
    for _ in range(2):
        with maker.begin() as s:
            assert lab.finish(s, kind, number)
    assert row(maker, number, kind).state is State.finished
    assert count(maker, Eigenvalue) - before == (3 if kind is Analysis else 0)


def test_work_without_results_of_its_own_ends_with_its_counts(maker: Maker) -> None:
    number = running(maker, kind=Training)
    with maker.begin() as s:
        assert not store.finished(s, Training, number, "yours", steps_done=100)
        assert store.finished(s, Training, number, "mine", steps_done=100)
    training = row(maker, number, Training)
    assert (training.state, training.steps_done, training.progress) == (State.finished, 100, 1.0)
    assert training.finished_at is not None


def test_of_two_simultaneous_attempts_one_finishes(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)

    def finish(i: int) -> bool:
        with maker.begin() as s:
            return lab.finish(s, kind, number, "mine" if i == 3 else f"other {i}")

    assert all_at_once(finish) == [False, False, False, True, False, False]
    if kind is Analysis:
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


def test_failing_keeps_the_sentence(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        assert not store.fail(s, kind, number, "yours", "Not mine to say.")
        assert store.fail(s, kind, number, "mine", "The data do not fit.")
    work = row(maker, number, kind)
    assert (work.state, work.message) == (State.failed, "The data do not fit.")
    with maker.begin() as s:
        assert not lab.finish(s, kind, number)


@pytest.mark.parametrize("end", ["finish", "fail", "cancelled"])
def test_an_attempt_that_has_ended_has_nothing_more_to_report(
    maker: Maker, kind: type[Work], end: str
) -> None:
    number = running(maker, kind=kind)
    ends: dict[str, Callable[[Session], bool]] = {
        "finish": lambda s: lab.finish(s, kind, number),
        "fail": lambda s: store.fail(s, kind, number, "mine", "No."),
        "cancelled": lambda s: store.cancelled(s, kind, number, "mine"),
    }
    with maker.begin() as s:
        assert ends[end](s)
    before = row(maker, number, kind).progress
    with maker.begin() as s:
        assert store.heartbeat(s, kind, number, "mine") is Standing.lost
        assert (
            store.report(
                s, kind, number, "mine", stage="overlap", progress=0.5, **dict.fromkeys(kind.counts, 1)
            )
            is Standing.lost
        )
    assert row(maker, number, kind).progress == before


# --- Cancelling and deleting ------------------------------------------------------------------------------


def test_queued_work_is_cancelled_at_once(maker: Maker, kind: type[Work]) -> None:
    number = queued(maker, kind)
    with maker.begin() as s:
        store.request_cancel(s, kind, number)
        assert lab.claim(s, number, kind=kind) is None
    assert row(maker, number, kind).state is State.cancelled


def test_running_work_is_cancelled_by_its_worker(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        store.request_cancel(s, kind, number)
    assert row(maker, number, kind).state is State.running
    with maker.begin() as s:
        assert store.heartbeat(s, kind, number, "mine") is Standing.cancel_requested
        assert store.cancelled(s, kind, number, "mine")
    assert row(maker, number, kind).state is State.cancelled


def test_results_that_come_before_the_cancellation_count(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        store.request_cancel(s, kind, number)
        assert lab.finish(s, kind, number)
        assert not store.cancelled(s, kind, number, "mine")
    work = row(maker, number, kind)
    assert (work.state, work.cancel_requested) == (State.finished, False)


def test_a_cancellation_survives_the_worker(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        store.request_cancel(s, kind, number)
        assert lab.claim(s, number, "yours", kind=kind) is None
        assert lab.requeue_silent(s, kind) == []
    assert row(maker, number, kind).state is State.cancelled


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


def test_a_deleted_training_leaves_what_it_recorded(maker: Maker) -> None:
    number = running(maker, kind=Training)
    with maker.begin() as s:
        assert recorded(s, number, step=0) == []
        assert store.delete(s, Training, number) == []
    assert [count(maker, table) for table in (Training, Model, Checkpoint)] == [0, 1, 1]

    with maker.begin() as s:  # one that has recorded nothing leaves no empty model
        empty = lab.queue_training(s, model="empty")[0].id
        store.delete(s, Training, empty)
    assert count(maker, Model) == 1


def test_values_of_pairs_go_with_their_analyses(maker: Maker) -> None:
    with maker.begin() as s:
        first, second = lab.finished(s, step=1), lab.finished(s, step=2)
        comparison = store.queue_comparison(s, [first, second], [1], "ada")[0].id
        for pair in ((first, first), (first, second), (second, second)):
            s.add(PairValue(first_id=pair[0], second_id=pair[1], k=1, measure="overlap", value=0.5))
    with maker.begin() as s:
        assert store.delete(s, Comparison, comparison) == []
    assert count(maker, PairValue) == 3
    with maker.begin() as s:
        store.delete(s, Analysis, second)
    assert count(maker, PairValue) == 1


def test_a_deleted_model_takes_along_what_nothing_else_has(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s, step=1, changes={"eigenvectors": "eigenvectors/of-one"})
        kept = lab.finished(s, model="other", step=1)
        lab.add_checkpoint(s, step=2, sha256="b" * 64)
        store.queue_comparison(s, [number, kept], [1], "ada")
        s.add(PairValue(first_id=number, second_id=kept, k=1, measure="overlap", value=0.5))
        training = lab.queue_training(s, model="mlp", record=(50,))[0]
        model_id, trained = training.model_id, training.id
        assert lab.claim(s, trained, kind=Training)
    with maker.begin() as s:
        # The first checkpoint's file is also that of the other model.
        assert store.delete_model(s, model_id) == [f"checkpoints/{'b' * 64}.pt", "eigenvectors/of-one"]
        assert store.heartbeat(s, Training, trained, "mine") is Standing.lost
    tables = (Model, Checkpoint, Analysis, Training, PairValue)
    assert [count(maker, table) for table in tables] == [1, 1, 1, 0, 0]
    with maker.begin() as s, pytest.raises(StoreError, match="no longer exists"):
        store.delete_model(s, model_id)


def test_a_worker_loses_what_is_deleted(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker.begin() as s:
        store.delete(s, kind, number)
        assert store.heartbeat(s, kind, number, "mine") is Standing.lost
        assert not lab.finish(s, kind, number)


# --- When workers die -------------------------------------------------------------------------------------


def test_ids_are_never_given_twice(maker: Maker, kind: type[Work]) -> None:
    """A link to what was deleted must not show something else, nor its folder be another's."""
    first = queued(maker, kind)
    with maker.begin() as s:
        store.delete(s, kind, first)
        assert lab.queue_any(s, kind, 2) > first


def test_what_falls_silent_is_queued_again_until_it_is_too_often(maker: Maker, kind: type[Work]) -> None:
    number = queued(maker, kind)
    for attempt in (1, 2):
        with maker.begin() as s:
            assert lab.claim(s, number, f"attempt {attempt}", kind=kind)
        with maker.begin() as s:
            assert lab.requeue_silent(s, kind) == [number]
            assert store.heartbeat(s, kind, number, f"attempt {attempt}") is Standing.lost
        work = row(maker, number, kind)
        assert (work.state, work.worker, work.progress) == (State.queued, None, 0.0)
    with maker.begin() as s:
        assert lab.claim(s, number, "attempt 3", kind=kind)
    with maker.begin() as s:
        assert lab.requeue_silent(s, kind) == []
    work = row(maker, number, kind)
    assert work.state is State.failed
    assert work.message is not None
    what = f"The worker stopped 3 times while running this {kind.__tablename__}, perhaps for want of memory; "
    assert work.message.startswith(what + kind.relief)
    assert work.message.count(".") == 1
    with maker.begin() as s:
        store.retry(s, kind, number)
        assert lab.claim(s, number, "by hand", kind=kind)
    assert row(maker, number, kind).attempts == 1


def test_simultaneous_sweeps_requeue_once(maker: Maker, kind: type[Work]) -> None:
    number = running(maker, kind=kind)
    with maker() as s:
        signs = store.signs_of_life(s, kind)

    def sweep(_: int) -> list[int]:
        with maker.begin() as s:
            return store.requeue_silent(s, kind, signs)

    assert sorted(all_at_once(sweep)) == [[], [], [], [], [], [number]]


def test_a_worker_hands_back_its_own(maker: Maker, kind: type[Work]) -> None:
    with maker.begin() as s:
        numbers = [lab.queue_any(s, kind, step) for step in (1, 2, 3)]
        for number, worker in zip(numbers, ("a:1", "b:2", "a:1"), strict=True):
            assert lab.claim(s, number, worker=worker, kind=kind)
        store.request_cancel(s, kind, numbers[2])
    with maker.begin() as s:
        assert store.hand_back(s, kind, "a:1") == numbers[:1]
    first = row(maker, numbers[0], kind)
    assert (first.state, first.attempts) == (State.queued, 0)
    assert row(maker, numbers[1], kind).state is State.running
    assert row(maker, numbers[2], kind).state is State.cancelled


def test_waiting_is_what_has_been_queued_for_a_while(maker: Maker, kind: type[Work]) -> None:
    with maker.begin() as s:
        numbers = [lab.queue_any(s, kind, each) for each in (1, 2, 3)]
        for number, seconds in zip(numbers, (60, 120, 5), strict=True):
            s.get_one(kind, number).submitted_at = now() - timedelta(seconds=seconds)
        working = lab.queue_any(s, kind, 4)
        s.get_one(kind, working).submitted_at = now() - timedelta(days=1)
        s.flush()
        assert lab.claim(s, working, kind=kind)
    with maker.begin() as s:
        assert store.waiting(s, kind, timedelta(seconds=15)) == [numbers[1], numbers[0]]
        # Submitted before somebody set the clock back by two hours.
        s.get_one(kind, numbers[2]).submitted_at = now() + timedelta(hours=2)
        s.flush()
        assert store.waiting(s, kind, timedelta(seconds=15)) == [numbers[1], numbers[0], numbers[2]]
    with maker() as s:
        states = queries.runs(s).query("kind == @kind.__tablename__")["state"]
        assert (states == "queued").sum() == 3
        assert (states == "running").sum() == 1
        assert store.under_way(s, kind, [numbers[0], working, 99]) == {numbers[0], working}
    with maker.begin() as s:
        assert lab.finish(s, kind, working)
        store.request_cancel(s, kind, numbers[0])
        assert store.under_way(s, kind, [*numbers, working]) == set(numbers[1:])
