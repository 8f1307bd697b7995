"""How much work there is, how fast it goes and who does it: numbers for monitoring."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from seigh.core.lab.clock import present
from seigh.core.lab.models import WORK, Analysis, State, Work, Worker
from seigh.core.lab.workers import SILENT_AFTER

_ENDED = (State.finished, State.failed, State.cancelled)


@dataclass(frozen=True)
class WorkerLoad:
    """A worker and the seconds since it was last heard of."""

    name: str
    device: str
    device_name: str
    memory: int
    silent: float

    @property
    def alive(self) -> bool:
        """Whether it has been heard of lately."""
        return self.silent <= SILENT_AFTER.total_seconds()


@dataclass(frozen=True)
class Load:
    """The numbers at one moment, by the database's clock.

    Attributes:
        counts: Pieces of work by kind and state; every kind and state is there.
        oldest: Seconds that the oldest queued work of each kind has waited; 0 if none waits.
        ended: What has ended in the last hour, by kind and state.
        hvps: Hessian-vector products of all analyses so far.
        hvps_per_second: Products per second of all running analyses, each since its start.
        workers: The workers in the database, by name.
    """

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    oldest: dict[str, float] = field(default_factory=dict)
    ended: dict[tuple[str, str], int] = field(default_factory=dict)
    hvps: int = 0
    hvps_per_second: float = 0.0
    workers: list[WorkerLoad] = field(default_factory=list)


def load(s: Session) -> Load:
    """The numbers now."""
    time = present(s)
    counts: dict[tuple[str, str], int] = {}
    oldest: dict[str, float] = {}
    ended: dict[tuple[str, str], int] = {}
    for name, kind in WORK.items():
        found = _by_state(s, kind)
        recent = _by_state(s, kind, kind.finished_at >= time - timedelta(hours=1))
        counts |= {(name, state): found.get(state, 0) for state in State}
        ended |= {(name, state): recent.get(state, 0) for state in _ENDED}
        first = s.scalar(select(func.min(kind.submitted_at)).where(kind.state == State.queued))
        oldest[name] = _seconds(first, time)
    return Load(
        counts,
        oldest,
        ended,
        hvps=s.scalar(select(func.coalesce(func.sum(Analysis.hvps), 0))) or 0,
        hvps_per_second=_hvps_per_second(s),
        workers=[
            WorkerLoad(
                each.name, each.device, each.device_name, each.memory, _seconds(each.heartbeat_at, time)
            )
            for each in s.scalars(select(Worker).order_by(Worker.name))
        ],
    )


def _load_of(worker: Worker, time: datetime) -> WorkerLoad:
    silent = _seconds(worker.heartbeat_at, time)
    return WorkerLoad(worker.name, worker.device, worker.device_name, worker.memory, silent)


def _by_state(s: Session, kind: type[Work], *where: Any) -> dict[str, int]:
    rows = s.execute(select(kind.state, func.count()).where(*where).group_by(kind.state))
    return {row[0]: row[1] for row in rows}


def _hvps_per_second(s: Session) -> float:
    running = select(Analysis.hvps, Analysis.started_at, Analysis.heartbeat_at).where(
        Analysis.state == State.running, Analysis.hvps > 0
    )
    rate = 0.0
    for hvps, start, beat in s.execute(running):
        if hvps is not None and beat is not None and (seconds := _seconds(start, beat)) > 0:
            rate += hvps / seconds
    return rate


def _seconds(start: datetime | None, end: datetime) -> float:
    return 0.0 if start is None else max(0.0, (end - start).total_seconds())
