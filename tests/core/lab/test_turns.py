"""Whose turn it is: short work first, a fair share for everybody, priorities, and nothing starves."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.access import AccessError, Actor, Role
from seigh.core.lab import actions, store, turns
from seigh.core.lab.models import WORK, Analysis, State
from seigh.core.lab.store import StoreError
from seigh.core.lab.turns import LONGEST_SLACK, SHIFTS, Served, Waiting, bound, in_turn
from seigh.core.names import PRIORITIES, Priority
from tests.core.lab import lab

Maker = sessionmaker[Session]
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600.0


def waits(
    number: int,
    seconds: float | None,
    *,
    user: str = "ada",
    after: float = 0.0,
    priority: Priority = "normal",
) -> Waiting:
    return Waiting("analysis", number, user, START + timedelta(seconds=after), seconds, priority)


def order(*waiting: Waiting, served: dict[str, Served] | None = None) -> list[int]:
    return [each.number for each in in_turn(waiting, served or {})]


def test_short_work_comes_first_though_it_came_later() -> None:
    assert order(waits(1, 6 * HOUR), waits(2, HOUR), waits(3, 5.0, after=600.0)) == [3, 2, 1]
    assert order(waits(1, 6 * HOUR), waits(2, 5.0, user="bob", after=HOUR)) == [2, 1]


def test_equal_work_comes_in_the_order_of_its_submission() -> None:
    assert order(waits(2, 60.0, after=2), waits(3, 60.0, after=3), waits(1, 60.0, after=1)) == [1, 2, 3]


def test_work_of_unknown_length_is_neither_first_nor_last() -> None:
    assert order(waits(1, HOUR), waits(2, None), waits(3, 5.0)) == [3, 2, 1]


def test_who_asks_for_much_does_not_keep_others_waiting() -> None:
    many = [waits(number, 60.0, after=number / 1000) for number in range(100)]
    assert order(*many, waits(100, 60.0, user="bob", after=60.0)).index(100) == 1
    # As many seconds for both: ten short ones of one go before a long one of another, not a hundred.
    assert 8 <= order(*many, waits(100, 600.0, user="bob")).index(100) <= 10


def test_who_has_just_been_served_lets_others_go_first() -> None:
    both = waits(1, 60.0), waits(2, 60.0, user="bob", after=60.0)
    assert order(*both) == [1, 2]
    assert order(*both, served={"ada": Served(0, START + timedelta(seconds=90))}) == [2, 1]
    assert order(*both, served={"ada": Served(3, None)}) == [2, 1]


def test_a_priority_goes_before_and_behind_what_is_normal() -> None:
    assert order(
        waits(1, 5.0), waits(2, HOUR, user="bob", priority="high"), waits(3, 1.0, user="cy", priority="low")
    ) == [2, 1, 3]
    assert order(waits(1, 5.0), waits(2, HOUR, priority="high")) == [2, 1]  # also among one's own


@pytest.mark.parametrize("seed", range(5))
def test_nothing_starves(seed: int) -> None:
    """Workers that never catch up: short work of three users arrives faster than it can be done, for days."""
    draw = random.Random(seed)
    priority: Priority = draw.choice(PRIORITIES)
    waiting = [waits(0, 6 * HOUR, user="long", priority=priority)]
    served: dict[str, Served] = {}
    latest = START + bound(waiting[0].slack, priority, 0)
    now, number = START, 1
    while any(each.number == 0 for each in waiting):
        assert now <= latest + timedelta(hours=1)  # what was submitted before that may still come before it
        for _ in range(draw.choice((1, 2))):
            new: Priority = draw.choice(PRIORITIES)
            after = (now - START).total_seconds()
            waiting.append(
                waits(number, draw.uniform(1, 900), user=draw.choice("abc"), after=after, priority=new)
            )
            number += 1
        # Only the first hundred can matter for the turn, but for the age of the others.
        first = in_turn(waiting, served)[0]
        assert first.number == 0 or first.submitted_at <= latest
        waiting.remove(first)
        served[first.user] = Served(0, now)
        now += timedelta(seconds=first.seconds or 0.0)


def test_long_work_of_one_user_does_not_starve_behind_their_own_short_work() -> None:
    old = waits(1, 6 * HOUR)
    just_before = LONGEST_SLACK.total_seconds() - 60
    assert order(old, waits(2, 5.0, after=just_before)) == [2, 1]
    assert order(old, waits(2, 5.0, after=just_before + 120)) == [1, 2]
    assert order(replace(old, priority="low"), waits(2, 5.0, after=just_before + 120)) == [2, 1]


# --- In the database --------------------------------------------------------------------------------------


def test_the_queue_has_work_of_all_kinds_in_turn(maker: Maker) -> None:
    with maker.begin() as s:
        numbers = {name: lab.queue_any(s, kind) for name, kind in WORK.items()}
        for seconds, name in ((300.0, "analysis"), (10.0, "training"), (60.0, "comparison")):
            kind = WORK[name]
            s.execute(update(kind).where(kind.id == numbers[name]).values(expected_seconds=seconds))
    with maker() as s:
        found = [(each.kind, each.number) for each in turns.queue(s)]
    assert found == [(name, numbers[name]) for name in ("training", "comparison", "analysis")]


def test_what_runs_or_has_ended_or_belongs_elsewhere_is_no_part_of_a_queue(maker: Maker) -> None:
    with maker.begin() as s:
        here, there, runs = (lab.queue(s, step=step).id for step in (1, 2, 3))
        s.execute(update(Analysis).where(Analysis.id == there).values(place="gpu"))
        lab.claim(s, runs)
        lab.finished(s, step=4)
    with maker() as s:
        assert [each.number for each in turns.queue(s, "any")] == [here]
        assert [each.number for each in turns.queue(s, "gpu")] == [there]
        assert {each.number for each in turns.queue(s)} == {here, there}
        assert turns.queue(s, most_per_user=1) == []  # one of ada's runs
        assert len(turns.queue(s, most_per_user=2)) == 2


def test_priorities_are_set_by_those_who_may_and_only_of_what_waits(maker: Maker) -> None:
    ada, bob = Actor("ada", Role.member, ""), Actor("bob", Role.member, "")
    with maker.begin() as s:
        number = lab.queue(s).id
        with pytest.raises(AccessError):
            actions.prioritise(s, bob, Analysis, number, "high")
        actions.prioritise(s, ada, Analysis, number, "high")
    with maker.begin() as s:
        (waiting,) = turns.queue(s)
        assert waiting.priority == "high"
        assert waiting.submitted_at + SHIFTS["high"] < waiting.submitted_at
        lab.claim(s, number)
        with pytest.raises(StoreError, match=r"is running; only queued work has a priority\.$"):
            store.prioritise(s, Analysis, number, "low")


def test_a_training_hands_its_priority_and_times_to_its_analyses(maker: Maker) -> None:
    wanted = lab.settings()
    with maker.begin() as s:
        model = store.add_model(s, "net", "tanh-mlp")
        training, _, _ = store.queue_training(
            s,
            model,
            lab.TrainingSettings(problem="digits-mlp", steps=100, record=(0,), seed=0),
            {wanted: lab.PARAMETERS},
            "ada",
            priority="low",
            expected=store.Expected(7.0, 2.0),
            expected_each={wanted: store.Expected(3.0, 2.0)},
        )
        assert (training.priority, training.expected_seconds) == ("low", 7.0)
        lab.claim(s, training.id, kind=type(training))
        queued = store.record_checkpoint(
            s, training.id, "mine", step=0, sha256="b" * 64, filename="step_0.pt", size=1,
            parameters=lab.PARAMETERS, metrics={},
        )  # fmt: skip
        assert queued is not None
        analysis = s.get_one(Analysis, queued[0])
        assert (analysis.priority, analysis.expected_seconds, analysis.state) == ("low", 3.0, State.queued)
