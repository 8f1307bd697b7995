"""Who is there to work: each worker's row in the database, kept fresh by its main process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from seigh.core.lab.clock import present
from seigh.core.lab.models import Worker

# A worker that has not been heard of for this long is taken for dead.
SILENT_AFTER = timedelta(seconds=30)

# How long its row is kept after that, for people to see that it was there.
_FORGOTTEN_AFTER = timedelta(hours=1)


@dataclass(frozen=True)
class Facts:
    """Facts that a worker reports about itself.

    Attributes:
        name: As in the column ``worker`` of its work.
        host: Name of its machine or container.
        pid: Its main process there.
        device: ``cpu`` or ``cuda``.
        device_name: What the device's maker calls it.
        memory: Bytes of the device.
        torch: Version of PyTorch.
        threads: Threads of each of its children.
        concurrency: How much work it does at a time.
        queues: Where it takes work from.
        artifacts: The mark of the artefact folder that it sees.
    """

    name: str
    host: str
    pid: int
    device: str
    device_name: str
    memory: int
    torch: str
    threads: int
    concurrency: int
    queues: Sequence[str]
    artifacts: str | None


def report(s: Session, facts: Facts) -> None:
    """Record that a worker is alive, and what it is; forget those that died long ago."""
    time = present(s)
    worker = s.get(Worker, facts.name)
    if worker is None:
        worker = Worker(name=facts.name[:255], started_at=time)
        s.add(worker)
    worker.host, worker.pid = facts.host[:255], facts.pid
    worker.device, worker.device_name, worker.memory = facts.device, facts.device_name[:255], facts.memory
    worker.torch, worker.threads, worker.concurrency = facts.torch[:64], facts.threads, facts.concurrency
    worker.queues, worker.artifacts = list(facts.queues), facts.artifacts
    worker.heartbeat_at = time
    s.execute(delete(Worker).where(Worker.heartbeat_at < time - SILENT_AFTER - _FORGOTTEN_AFTER))


def leave(s: Session, name: str) -> None:
    """Record that a worker has ended."""
    s.execute(delete(Worker).where(Worker.name == name))


def alive(s: Session) -> list[Worker]:
    """The workers that have been heard of lately, by name."""
    return list(s.scalars(select(Worker).where(is_alive(s)).order_by(Worker.name)))


def is_alive(s: Session) -> ColumnElement[bool]:
    """The condition that a worker has been heard of lately, by the database's clock."""
    return Worker.heartbeat_at >= present(s) - SILENT_AFTER
