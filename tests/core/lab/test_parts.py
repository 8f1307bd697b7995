"""Who performs which part of a shared analysis, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import parts, store, workers
from seigh.core.lab.models import Analysis, Part, now
from seigh.core.lab.store import Standing
from tests.core.lab import lab

SPECS: list[dict[str, Any]] = [{"kind": "product", "rows": [f"rows-{i}", "0"]} for i in range(3)]


@pytest.fixture
def number(maker: sessionmaker[Session]) -> int:
    """A running analysis, of the claim ``mine``, whose round ``one`` has begun."""
    with maker.begin() as s:
        number = lab.queue(s).id
        assert lab.claim(s, number)
        assert begin(s, number) is Standing.owned
    return number


def begin(s: Session, number: int, name: str = "one", token: str = "mine", folder: str = "f") -> Standing:
    return parts.begin(s, number, token, name, SPECS, folder)


def claim(s: Session, number: int, token: str, name: str = "one", worker: str = "host:2") -> int | None:
    claimed = parts.claim(s, number, name, token, worker)
    return None if claimed is None else claimed.number


def test_every_part_is_claimed_once_in_order(maker: sessionmaker[Session], number: int) -> None:
    with maker.begin() as s:
        first = parts.claim(s, number, "one", "a", "host:2")
        assert first == parts.Claimed(0, SPECS[0], "f", 1)
        assert [claim(s, number, token) for token in "bcd"] == [1, 2, None]
        assert claim(s, number, "a", name="another") is None


def test_two_sessions_at_once_claim_different_parts(maker: sessionmaker[Session], number: int) -> None:
    if maker.kw["bind"].dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    with maker.begin() as s, maker.begin() as t:
        assert (claim(s, number, "a"), claim(t, number, "b")) == (0, 1)


def test_a_part_without_a_sign_of_life_is_performed_by_another(
    maker: sessionmaker[Session], number: int
) -> None:
    with maker.begin() as s:
        assert [claim(s, number, token) for token in "abc"] == [0, 1, 2]
        signs = parts.signs_of_life(s, number, "one")
        s.execute(update(Part).where(Part.number == 0).values(heartbeat_at=now()))  # it is alive after all
        parts.release_silent(s, number, "one", {part: signs[part] for part in (0, 1)})
        assert claim(s, number, "d") == 1
        assert claim(s, number, "e") is None
        assert parts.beat(s, number, "one", 1, "b") is Standing.lost
        assert parts.beat(s, number, "one", 1, "d") is Standing.owned
        # The first result counts, whoever has it; there is no second one.
        assert parts.finish(s, number, "one", 1, "f" * 64, "host:2")
        assert not parts.finish(s, number, "one", 1, "e" * 64, "host:3")
        assert parts.done(s, number, "one") == {1: parts.Done("f" * 64, "host:2")}
        assert parts.beat(s, number, "one", 1, "d") is Standing.lost
        assert claim(s, number, "e") is None


def test_what_is_left_or_cannot_be_read_is_performed_again(maker: sessionmaker[Session], number: int) -> None:
    with maker.begin() as s:
        assert claim(s, number, "a") == 0
        parts.release(s, number, "one", 0, "b")  # not its own
        assert claim(s, number, "b") == 1
        parts.release(s, number, "one", 0, "a")
        assert claim(s, number, "c") == 0
        parts.release_all(s, "host:2")
        assert [claim(s, number, token, worker="host:3") for token in "de"] == [0, 1]
        assert parts.finish(s, number, "one", 0, "f" * 64, "host:3")
        parts.reopen(s, number, "one", 0, "e" * 64)  # another result
        assert 0 in parts.done(s, number, "one")
        parts.reopen(s, number, "one", 0, "f" * 64)
        assert claim(s, number, "g") == 0
        assert s.scalars(select(Part.attempts).where(Part.number == 0)).one() == 4


def test_the_next_attempt_finds_what_was_done_of_its_round(maker: sessionmaker[Session], number: int) -> None:
    with maker.begin() as s:
        assert claim(s, number, "a") == 0
        assert parts.finish(s, number, "one", 0, "f" * 64, "host:2")
        assert lab.requeue_silent(s, Analysis) == [number]
        assert begin(s, number) is Standing.lost  # the dead attempt's claim
        assert lab.claim(s, number, "next")
        assert begin(s, number, token="next") is Standing.owned
        assert set(parts.done(s, number, "one")) == {0}
        # In another folder there is nothing.
        assert begin(s, number, token="next", folder="g") is Standing.owned
        assert parts.done(s, number, "one") == {}
        assert parts.claim(s, number, "one", "b", "host:2") == parts.Claimed(0, SPECS[0], "g", 2)


def test_a_round_ends_the_one_before_and_an_analysis_all(maker: sessionmaker[Session], number: int) -> None:
    with maker.begin() as s:
        assert begin(s, number, "two") is Standing.owned
        assert claim(s, number, "a") is None
        assert claim(s, number, "a", name="two") == 0
        parts.clear(s, number, "another attempt")
        assert parts.beat(s, number, "two", 0, "a") is Standing.owned
        parts.clear(s, number, "mine")
        assert parts.beat(s, number, "two", 0, "a") is Standing.lost
        assert begin(s, number, "three") is Standing.owned
        store.delete(s, Analysis, number)
        assert s.scalars(select(Part)).all() == []
        assert begin(s, number, "four") is Standing.lost


def test_a_cancelled_analysis_is_not_helped(maker: sessionmaker[Session], number: int) -> None:
    with maker.begin() as s:
        assert claim(s, number, "a") == 0
        store.request_cancel(s, Analysis, number)
        assert parts.beat(s, number, "one", 0, "a") is Standing.cancel_requested
        assert begin(s, number, "two") is Standing.cancel_requested


def test_a_plan_is_kept_for_later_attempts(maker: sessionmaker[Session], number: int) -> None:
    plan = {"path": "linearize", "columns": 4}
    with maker.begin() as s:
        assert parts.keep_plan(s, number, "another", {}) is Standing.lost
        assert parts.keep_plan(s, number, "mine", plan) is Standing.owned
        assert lab.requeue_silent(s, Analysis) == [number]
        claimed = lab.claim(s, number, "next")
        assert claimed is not None
        assert claimed.plan == plan


def report(s: Session, name: str, **changes: Any) -> None:
    facts = {
        "name": name, "host": "host", "pid": 1, "device": "cpu", "device_name": "EPYC", "memory": 2**34,
        "torch": "2.14", "threads": 2, "concurrency": 1, "queues": ["seigh", "seigh.cpu"],
        "artifacts": "mark",
    }  # fmt: skip
    workers.report(s, workers.Facts(**(facts | changes)))


def test_hands_are_processes_that_could_help(maker: sessionmaker[Session], number: int) -> None:
    def hands() -> tuple[int, int]:
        with maker() as s:
            found = parts.hands(s, "cpu", "seigh", "mark")
        return found.all, found.idle

    assert hands() == (0, 0)
    with maker.begin() as s:
        report(s, "host:1")  # which conducts the analysis
        report(s, "host:2", concurrency=3)
        report(s, "host:3", device="cuda")
        report(s, "host:4", queues=["seigh.cpu"])
        report(s, "host:5", artifacts="another folder")
    assert hands() == (4, 3)
    with maker.begin() as s:
        assert claim(s, number, "a", worker="host:1") == 0  # the conductor's own part
        assert claim(s, number, "b", worker="host:2") == 1
        assert lab.claim(s, lab.queue(s, step=200).id, "other", worker="host:2")
    assert hands() == (4, 1)
    with maker.begin() as s:
        assert parts.finish(s, number, "one", 1, "f" * 64, "host:2")
    assert hands() == (4, 2)
