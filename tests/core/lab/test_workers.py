"""Workers in the database, and the numbers for monitoring, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import queries, store, workers
from seigh.core.lab.clock import present
from seigh.core.lab.load import load
from seigh.core.lab.models import WORK, Analysis, State, Worker
from tests.core.lab import lab

Maker = sessionmaker[Session]


def facts(name: str = "host:1", **changes: Any) -> workers.Facts:
    return workers.Facts(
        **(
            {
                "name": name,
                "host": "host",
                "pid": 1,
                "device": "cpu",
                "device_name": "a processor",
                "memory": 2**36,
                "torch": "2.9.0",
                "threads": 4,
                "concurrency": 2,
                "queues": ["seigh", "seigh.cpu"],
                "artifacts": "0" * 32,
            }
            | changes
        )
    )


def silence(maker: Maker, name: str, seconds: float) -> None:
    with maker.begin() as s:
        s.execute(
            update(Worker)
            .where(Worker.name == name)
            .values(heartbeat_at=present(s) - timedelta(seconds=seconds))
        )


def test_a_worker_is_alive_from_its_first_report_to_its_leave(maker: Maker) -> None:
    with maker.begin() as s:
        workers.report(s, facts())
        workers.report(s, facts("other:2", device="cuda", memory=80 * 2**30))
    with maker() as s:
        first, other = workers.alive(s)
        assert (first.name, first.queues, first.memory) == ("host:1", ["seigh", "seigh.cpu"], 2**36)
        assert (other.device, other.memory) == ("cuda", 80 * 2**30)
        started = first.started_at
    with maker.begin() as s:
        workers.report(s, facts(threads=1))
    with maker() as s:
        (first, _) = workers.alive(s)
        assert (first.threads, first.started_at) == (1, started)
        assert first.heartbeat_at > started
    with maker.begin() as s:
        workers.leave(s, "host:1")
    with maker() as s:
        assert [each.name for each in workers.alive(s)] == ["other:2"]


def test_a_silent_worker_is_dead_and_later_forgotten(maker: Maker) -> None:
    with maker.begin() as s:
        for name in ("a", "b", "c"):
            workers.report(s, facts(name))
    silence(maker, "a", 31)
    silence(maker, "b", 3700)
    with maker.begin() as s:
        assert [each.name for each in workers.alive(s)] == ["c"]
        workers.report(s, facts("c"))
    with maker() as s:
        frame = queries.workers(s)
    assert list(frame["name"]) == ["a", "c"]
    assert list(frame["alive"]) == [False, True]


def test_the_table_of_workers_says_what_they_do(maker: Maker) -> None:
    with maker() as s:
        empty = queries.workers(s)
    assert empty.empty
    with maker.begin() as s:
        workers.report(s, facts())
        workers.report(s, facts("idle:2"))
        number = lab.queue(s).id
        assert lab.claim(s, number, worker="host:1")
    with maker() as s:
        frame = queries.workers(s)
    assert list(frame.columns) == list(empty.columns)
    assert list(frame.dtypes) == list(empty.dtypes)
    assert list(frame["work"]) == [f"analysis {number}", ""]
    first = frame.iloc[0]
    assert (first["device"], first["queues"], first["threads"]) == ("cpu", "seigh, seigh.cpu", 4)


def test_the_load_counts_what_waits_runs_and_has_ended(maker: Maker) -> None:
    with maker() as s:
        nothing = load(s)
    assert set(nothing.counts) == {(kind, state) for kind in WORK for state in State}
    assert set(nothing.counts.values()) | set(nothing.ended.values()) | set(nothing.oldest.values()) == {0}
    assert (nothing.hvps, nothing.hvps_per_second, nothing.workers) == (0, 0.0, [])

    with maker.begin() as s:
        lab.finished(s, step=1)
        lab.finished(s, step=2)
        running = lab.queue(s, step=3).id
        assert lab.claim(s, running)
        store.report(s, Analysis, running, "mine", stage="eigenpairs", progress=0.5, hvps=300)
        old = lab.queue(s, step=4)
        lab.queue(s, step=5)
        failed = lab.queue(s, step=6).id
        assert lab.claim(s, failed, token="other")
        store.fail(s, Analysis, failed, "other", "Because.")
        old.submitted_at = present(s) - timedelta(hours=2)
        s.execute(
            update(Analysis)
            .where(Analysis.id == running)
            .values(started_at=Analysis.heartbeat_at)
            .execution_options(synchronize_session=False)
        )
    with maker.begin() as s:
        row = s.get_one(Analysis, running)
        assert row.heartbeat_at is not None
        row.started_at = row.heartbeat_at - timedelta(seconds=60)
        s.execute(
            update(Analysis)
            .where(Analysis.state == State.finished, Analysis.checkpoint.has(step=1))
            .values(finished_at=present(s) - timedelta(hours=3))
        )
        workers.report(s, facts())
    silence(maker, "host:1", 100)
    with maker() as s:
        found = load(s)
    analyses = {state: number for (kind, state), number in found.counts.items() if kind == "analysis"}
    assert analyses == {"queued": 2, "running": 1, "finished": 2, "failed": 1, "cancelled": 0}
    assert found.ended[("analysis", "finished")] == found.ended[("analysis", "failed")] == 1
    assert found.oldest["analysis"] == pytest.approx(7200, abs=60)
    assert found.hvps == 2 * 10 + 300
    assert found.hvps_per_second == pytest.approx(5)
    (worker,) = found.workers
    assert worker.silent == pytest.approx(100, abs=30)
    assert not worker.alive
