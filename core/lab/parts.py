"""Parts of analyses that several workers share: who performs which, and what is done.

A part is performed by whoever claims it. A part whose owner has fallen silent is released, and performed by
another one, so it may be performed twice; the first result counts. As in ``seigh.core.lab.store``, every
function works in the transaction of the session that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, select, update
from sqlalchemy.orm import Session

from seigh.core.lab.clock import present
from seigh.core.lab.models import WORK, Analysis, Part, State, Worker
from seigh.core.lab.store import Sign, Standing
from seigh.core.lab.workers import is_alive


@dataclass(frozen=True)
class Claimed:
    """A part to perform.

    Attributes:
        number: Number of the part in its round.
        spec: What is to be done; JSON.
        folder: Where its files are, below the shared folder.
        attempts: Which attempt at it this is, from 1.
    """

    number: int
    spec: Mapping[str, Any]
    folder: str
    attempts: int


@dataclass(frozen=True)
class Done:
    """A part that is done.

    Attributes:
        checksum: Checksum of its result.
        worker: Who has done it.
    """

    checksum: str
    worker: str


def keep_plan(s: Session, analysis_id: int, token: str, plan: Mapping[str, Any]) -> Standing:
    """Record how an attempt computes products, for the attempts after it."""
    kept = s.execute(
        update(Analysis)
        .where(Analysis.id == analysis_id, Analysis.claim == token, Analysis.state == State.running)
        .values(plan=dict(plan))
        .returning(Analysis.cancel_requested)
    ).scalar()
    return _standing(kept)


def begin(
    s: Session, analysis_id: int, token: str, name: str, specs: Sequence[Mapping[str, Any]], folder: str
) -> Standing:
    """Begin a round, or go on with it if an earlier attempt has begun it, and end all earlier ones.

    Args:
        s: A writing session.
        analysis_id: The analysis.
        token: The claim of the attempt at it.
        name: Name of the round.
        specs: What is to be done, a part each; JSON.
        folder: Where the files are, below the shared folder.

    Nothing changes if the claim is gone.
    """
    analysis = s.get(Analysis, analysis_id, with_for_update=True, populate_existing=True)
    if analysis is None or analysis.claim != token or analysis.state is not State.running:
        return Standing.lost
    s.execute(delete(Part).where(Part.analysis_id == analysis_id, Part.round != name))
    there = set(s.scalars(select(Part.number).where(*_of(analysis_id, name))))
    rows = [
        {
            "analysis_id": analysis_id,
            "round": name,
            "number": number,
            "spec": dict(spec),
            "folder": folder,
            "attempts": 0,
        }
        for number, spec in enumerate(specs)
        if number not in there
    ]
    if rows:
        s.execute(insert(Part), rows)
    if there:  # files of an attempt that had another folder are not in this one
        moved = and_(*_of(analysis_id, name), Part.folder != folder)
        s.execute(update(Part).where(moved).values(folder=folder, claim=None, checksum=None))
    return _standing(analysis.cancel_requested)


def claim(s: Session, analysis_id: int, name: str, token: str, worker: str) -> Claimed | None:
    """Make ``token`` the owner of the first part of a round that is neither done nor being performed."""
    part = s.scalars(
        select(Part)
        .where(*_of(analysis_id, name), Part.checksum.is_(None), Part.claim.is_(None))
        .order_by(Part.number)
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if part is None:
        return None
    part.claim, part.worker, part.heartbeat_at = token, worker[:255], present(s)
    part.attempts += 1
    return Claimed(part.number, part.spec, part.folder, part.attempts)


def signs_of_life(s: Session, analysis_id: int, name: str) -> dict[int, Sign]:
    """The last sign of life of whoever performs each part of a round, by the parts' numbers."""
    rows = s.execute(
        select(Part.number, Part.claim, Part.heartbeat_at).where(
            *_of(analysis_id, name), Part.claim.is_not(None), Part.checksum.is_(None)
        )
    )
    return {number: (claim, beat) for number, claim, beat in rows}


def release_silent(s: Session, analysis_id: int, name: str, silent: Mapping[int, Sign]) -> None:
    """Leave to others the parts of a round whose last signs of life, ``silent``, are too old."""
    for number, (token, beat) in silent.items():
        s.execute(
            update(Part)
            .where(
                *_of(analysis_id, name),
                Part.number == number,
                Part.claim == token,
                Part.heartbeat_at == beat,
                Part.checksum.is_(None),
            )
            .values(claim=None)
            .execution_options(synchronize_session=False)
        )


def beat(s: Session, analysis_id: int, name: str, number: int, token: str) -> Standing:
    """Record that whoever performs a part is alive; whether it is still wanted."""
    owned = s.execute(
        update(Part)
        .where(*_of(analysis_id, name), Part.number == number, Part.claim == token, Part.checksum.is_(None))
        .values(heartbeat_at=present(s))
        .returning(Part.number)
        .execution_options(synchronize_session=False)
    ).scalar()
    if owned is None:
        return Standing.lost
    return _standing(s.execute(select(Analysis.cancel_requested).where(Analysis.id == analysis_id)).scalar())


def finish(s: Session, analysis_id: int, name: str, number: int, checksum: str, worker: str) -> bool:
    """Record the result of a part, if it has none yet and is still wanted; whether it is this one.

    Whose claim it is does not matter: every result is the right one.
    """
    recorded = s.execute(
        update(Part)
        .where(*_of(analysis_id, name), Part.number == number, Part.checksum.is_(None))
        .values(checksum=checksum, worker=worker[:255])
        .returning(Part.number)
        .execution_options(synchronize_session=False)
    ).scalar()
    return recorded is not None


def release(s: Session, analysis_id: int, name: str, number: int, token: str) -> None:
    """Leave a part to others."""
    s.execute(
        update(Part)
        .where(*_of(analysis_id, name), Part.number == number, Part.claim == token, Part.checksum.is_(None))
        .values(claim=None)
        .execution_options(synchronize_session=False)
    )


def release_all(s: Session, worker: str) -> None:
    """Leave to others what a worker that ends was performing."""
    s.execute(
        update(Part)
        .where(Part.worker == worker, Part.claim.is_not(None), Part.checksum.is_(None))
        .values(claim=None)
        .execution_options(synchronize_session=False)
    )


def reopen(s: Session, analysis_id: int, name: str, number: int, checksum: str) -> None:
    """Forget a result that cannot be read."""
    s.execute(
        update(Part)
        .where(*_of(analysis_id, name), Part.number == number, Part.checksum == checksum)
        .values(checksum=None, claim=None)
        .execution_options(synchronize_session=False)
    )


def done(s: Session, analysis_id: int, name: str) -> dict[int, Done]:
    """Return the finished parts of a round, by number."""
    rows = s.execute(
        select(Part.number, Part.checksum, Part.worker).where(
            *_of(analysis_id, name), Part.checksum.is_not(None)
        )
    )
    return {number: Done(checksum or "", worker or "") for number, checksum, worker in rows}


def clear(s: Session, analysis_id: int, token: str) -> None:
    """End all rounds of an analysis, unless it belongs to another attempt than ``token`` by now."""
    owned = select(Analysis.id).where(Analysis.id == analysis_id, Analysis.claim == token)
    s.execute(delete(Part).where(Part.analysis_id.in_(owned)).execution_options(synchronize_session=False))


@dataclass(frozen=True)
class Hands:
    """Processes that can perform parts of an analysis.

    Attributes:
        all: How many there are.
        idle: How many of them have nothing to do.
    """

    all: int
    idle: int


def hands(s: Session, device: str, queue: str, artifacts: str | None) -> Hands:
    """The processes of workers on such a device that serve a queue and see the same artefacts."""
    there = s.execute(
        select(Worker.name, Worker.concurrency, Worker.queues).where(
            is_alive(s), Worker.device == device, Worker.artifacts == artifacts
        )
    )
    serving = {name: concurrency for name, concurrency, queues in there if queue in queues}
    if not serving:
        return Hands(0, 0)
    busy = sum(
        s.execute(
            select(func.count()).where(kind.state == State.running, kind.worker.in_(serving))
        ).scalar_one()
        for kind in WORK.values()
    )
    conductor = select(Analysis.worker).where(Analysis.id == Part.analysis_id).scalar_subquery()
    helping = s.execute(
        select(func.count()).where(
            Part.worker.in_(serving),
            Part.claim.is_not(None),
            Part.checksum.is_(None),
            Part.worker != conductor,
        )
    ).scalar_one()
    every = sum(serving.values())
    return Hands(every, max(0, every - busy - helping))


def _of(analysis_id: int, name: str) -> tuple[ColumnElement[bool], ...]:
    return Part.analysis_id == analysis_id, Part.round == name


def _standing(cancel_requested: bool | None) -> Standing:
    if cancel_requested is None:
        return Standing.lost
    return Standing.cancel_requested if cancel_requested else Standing.owned
