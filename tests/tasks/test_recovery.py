"""The sweep by itself; with workers, it is in ``test_worker``."""

from __future__ import annotations

import multiprocessing
import threading
import time
from datetime import timedelta

import kombu.exceptions
import pytest
import redis
from sqlalchemy import update

from seigh.core.lab import store
from seigh.core.lab.models import Analysis, State, now
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings
from seigh.tasks.recovery import Sweeper
from tests.core.lab import lab


def watched_for(seconds: int) -> None:
    """Let a new sweeper sweep every second for so long, by a clock of its own."""
    clock = [0.0]
    sweeper = Sweeper(lambda: clock[0])
    for second in range(seconds + 1):
        clock[0] = float(second)
        sweeper.sweep()


def queued(home: Settings, *, seconds_ago: float, step: int = 100) -> int:
    with sessions(home.database).begin() as s:
        analysis = lab.queue(s, step=step)
        analysis.submitted_at = now() - timedelta(seconds=seconds_ago)
        return analysis.id


def test_messages_are_sent_again_only_when_there_are_none(home: Settings, redis_server: redis.Redis) -> None:
    queued(home, seconds_ago=1, step=1)
    Sweeper().sweep()
    assert redis_server.llen("seigh") == 0  # its message may be on its way
    for step in (2, 3):
        queued(home, seconds_ago=60, step=step)
    Sweeper().sweep()
    assert redis_server.llen("seigh") == 2
    Sweeper().sweep()
    assert redis_server.llen("seigh") == 2


def test_what_a_dead_worker_ran_is_queued_and_sent(home: Settings, redis_server: redis.Redis) -> None:
    number = queued(home, seconds_ago=60)
    with sessions(home.database).begin() as s:
        assert lab.claim(s, number)
    watched_for(30)
    with sessions(home.database)() as s:
        assert s.get_one(Analysis, number).state is State.queued
    assert redis_server.llen("seigh") == 1


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_wrong_takes_nobodys_work_and_saves_nobody(
    home: Settings, redis_server: redis.Redis, hours: int
) -> None:
    number = queued(home, seconds_ago=60)
    wrong = now() + timedelta(hours=hours)
    with sessions(home.database).begin() as s:
        assert lab.claim(s, number)
        s.execute(update(Analysis).values(heartbeat_at=wrong, submitted_at=wrong))

    def state() -> State:
        with sessions(home.database)() as s:
            return s.get_one(Analysis, number).state

    watched_for(29)
    assert state() is State.running
    watched_for(30)
    assert state() is State.queued
    assert redis_server.llen("seigh") == 1


def test_a_broker_that_is_away_keeps_nobody_waiting(home: Settings) -> None:
    queued(home, seconds_ago=60)
    start = time.monotonic()
    with pytest.raises(kombu.exceptions.OperationalError):
        Sweeper().sweep()
    assert time.monotonic() - start < 10


def test_a_fork_waits_for_the_sweep(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the child would inherit a database connection in use, and with it SQLite's locks."""
    monkeypatch.setenv("SEIGH_RETENTION_DAYS", "1")  # so that a sweep writes
    maker = sessions(home.database)
    child = multiprocessing.get_context("fork").Process(target=Sweeper().sweep)
    sweeping, forking = threading.Thread(target=Sweeper().sweep), threading.Thread(target=child.start)
    with maker.begin() as s:
        store.add_model(s, "mlp", "tanh-mlp")  # the sweep needs the write lock, and waits
        sweeping.start()
        time.sleep(0.3)
        forking.start()
        time.sleep(0.3)
        assert child.pid is None
    sweeping.join()
    forking.join()
    child.join(30)
    assert child.exitcode == 0
