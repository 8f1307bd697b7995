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

from core.results import store
from core.results.models import Analysis, State, now
from core.results.session import sessions
from core.settings import Settings
from tasks.recovery import sweep
from tests.core.results import lab


def queued(home: Settings, *, seconds_ago: float, step: int = 100) -> int:
    with sessions(home.database).begin() as s:
        analysis = lab.queue(s, step=step)
        analysis.submitted_at = now() - timedelta(seconds=seconds_ago)
        return analysis.id


def test_messages_are_sent_again_only_when_there_are_none(home: Settings, redis_server: redis.Redis) -> None:
    queued(home, seconds_ago=1, step=1)
    sweep()
    assert redis_server.llen("seigh") == 0  # its message may be on its way
    for step in (2, 3):
        queued(home, seconds_ago=60, step=step)
    sweep()
    assert redis_server.llen("seigh") == 2
    sweep()
    assert redis_server.llen("seigh") == 2


def test_what_a_dead_worker_ran_is_queued_and_sent(home: Settings, redis_server: redis.Redis) -> None:
    number = queued(home, seconds_ago=60)
    with sessions(home.database).begin() as s:
        assert lab.claim(s, number)
        s.execute(update(Analysis).values(heartbeat_at=now() - timedelta(minutes=1)))
    sweep()
    with sessions(home.database)() as s:
        assert s.get_one(Analysis, number).state is State.queued
    assert redis_server.llen("seigh") == 1


def test_a_broker_that_is_away_keeps_nobody_waiting(home: Settings) -> None:
    queued(home, seconds_ago=60)
    start = time.monotonic()
    with pytest.raises(kombu.exceptions.OperationalError):
        sweep()
    assert time.monotonic() - start < 10


def test_a_fork_waits_for_the_sweep(home: Settings) -> None:
    """Else the child would inherit a database connection in use, and with it SQLite's locks."""
    maker = sessions(home.database)
    child = multiprocessing.get_context("fork").Process(target=sweep)
    sweeping, forking = threading.Thread(target=sweep), threading.Thread(target=child.start)
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
