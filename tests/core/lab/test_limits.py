"""The limits of an installation that the database keeps, on both databases."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import store
from seigh.core.lab.clock import present
from seigh.core.lab.models import Analysis, Comparison, State, Training
from seigh.core.lab.session import engine
from seigh.core.lab.store import StoreError
from tests.core.lab import lab

Maker = sessionmaker[Session]
LONG = timedelta(days=30)


def queue(maker: Maker, user: str, steps: range, **changes: object) -> list[int]:
    with maker.begin() as s:
        ids = [lab.queue(s, model=user, step=step, **changes).id for step in steps]
        s.execute(update(Analysis).where(Analysis.id.in_(ids)).values(submitted_by=user))
    return ids


def claim(maker: Maker, number: int, most: int | None) -> bool:
    with maker.begin() as s:
        return store.claim(s, Analysis, number, f"token {number}", "host:1", most) is not None


def test_a_user_has_no_more_running_than_the_limit(maker: Maker) -> None:
    ada, bob = queue(maker, "ada", range(3)), queue(maker, "bob", range(1))
    assert claim(maker, ada[0], 2)
    assert claim(maker, ada[1], 2)
    assert not claim(maker, ada[2], 2)
    assert claim(maker, bob[0], 2)
    with maker.begin() as s:
        assert store.fail(s, Analysis, ada[0], f"token {ada[0]}", "Because.")
    assert claim(maker, ada[2], 2)


def test_without_a_limit_all_run(maker: Maker) -> None:
    assert all(claim(maker, number, None) for number in queue(maker, "ada", range(4)))


def test_a_dead_attempt_is_taken_over_whatever_the_limit(maker: Maker) -> None:
    (number,) = queue(maker, "ada", range(1))
    assert claim(maker, number, 1)
    with maker.begin() as s:
        assert lab.requeue_silent(s, Analysis) == [number]
    assert claim(maker, number, 1)


def test_what_has_to_wait_for_room_is_not_sent_again(maker: Maker) -> None:
    ada, bob = queue(maker, "ada", range(2)), queue(maker, "bob", range(1))
    assert claim(maker, ada[0], 1)
    with maker() as s:
        assert store.waiting(s, Analysis, timedelta(0), most_per_user=1) == bob
        assert store.waiting(s, Analysis, timedelta(0)) == [ada[1], *bob]


def test_claims_at_the_same_time_do_not_share_the_last_room(maker: Maker) -> None:
    numbers = queue(maker, "ada", range(8))
    barrier = threading.Barrier(len(numbers))
    taken: list[bool] = []

    def run(number: int) -> None:
        bind = engine(maker.kw["bind"].url.render_as_string(hide_password=False))
        try:
            own = sessionmaker(bind)
            with own.begin() as s:
                if bind.dialect.name == "sqlite":
                    barrier.wait()
                    s.connection().exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    s.connection()
                    barrier.wait()
                claimed = store.claim(s, Analysis, number, f"token {number}", "host:1", 3)
                taken.append(claimed is not None)
        finally:
            bind.dispose()

    threads = [threading.Thread(target=run, args=[number]) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 5 + [True] * 3


def test_work_waits_for_the_place_it_was_submitted_for(maker: Maker) -> None:
    with maker.begin() as s:
        checkpoint = lab.add_checkpoint(s)
        ids = {
            place: store.queue_analysis(
                s, checkpoint, lab.settings(seed=seed), "ada", parameters=9, place=place
            )[0].id
            for seed, place in enumerate(("any", "cpu", "gpu"))
        }
    with maker() as s:
        for place, number in ids.items():
            assert store.waiting(s, Analysis, timedelta(0), place) == [number]
        assert store.places(s, Analysis, [*ids.values(), 999]) == {n: place for place, n in ids.items()}
    # Submitted again, it stays where it is; after a failure, it goes where it is wanted now.
    for state, place, queued in ((State.queued, "gpu", False), (State.failed, "any", True)):
        with maker.begin() as s:
            s.execute(update(Analysis).values(state=state))
        with maker.begin() as s:
            checkpoint = lab.add_checkpoint(s)
            again = store.queue_analysis(s, checkpoint, lab.settings(seed=2), "ada", parameters=9)
            assert (again[0].place, again[1]) == (place, queued)


def age(maker: Maker, number: int, days: float) -> None:
    with maker.begin() as s:
        finished = present(s) - timedelta(days=days)
        s.execute(update(Analysis).where(Analysis.id == number).values(finished_at=finished))


def eigenvectors(maker: Maker, number: int) -> str | None:
    with maker() as s:
        return s.get_one(Analysis, number).eigenvectors


def test_eigenvectors_expire_unless_they_are_pinned_young_or_needed(maker: Maker) -> None:
    with maker.begin() as s:
        old, young, pinned, first, second = (
            lab.finished(s, step=step, changes={"eigenvectors": f"eigenvectors/{step}.safetensors"})
            for step in range(5)
        )
        store.pin(s, pinned, True)
        comparison = store.queue_comparison(s, [first, second], [1], "ada")[0].id
    for number in (old, pinned, first, second):
        age(maker, number, 31)
    age(maker, young, 29)
    with maker.begin() as s:
        assert store.expire(s, LONG) == ["eigenvectors/0.safetensors"]
    assert eigenvectors(maker, old) is None
    with maker() as s:
        kept = s.get_one(Analysis, old)
        assert (kept.state, kept.resolved_k) == (State.finished, 1)
    with maker.begin() as s:
        assert store.expire(s, LONG) == []
        store.pin(s, pinned, False)
        assert store.claim(s, Comparison, comparison, "mine", "host:1") is not None
        assert store.finished(s, Comparison, comparison, "mine")
    with maker.begin() as s:
        assert sorted(store.expire(s, LONG)) == [f"eigenvectors/{i}.safetensors" for i in (2, 3, 4)]
    assert eigenvectors(maker, young) == "eigenvectors/1.safetensors"


def test_what_is_gone_cannot_be_pinned(maker: Maker) -> None:
    with maker.begin() as s, pytest.raises(StoreError, match="no longer exists"):
        store.pin(s, 7, True)


def test_other_kinds_of_work_know_no_limit(maker: Maker) -> None:
    with maker.begin() as s:
        ids = [lab.queue_any(s, Training, number) for number in range(2)]
    for number in ids:
        with maker.begin() as s:
            assert store.claim(s, Training, number, f"token {number}", "host:1", 1) is not None
