"""An attempt at a piece of work: what the code that is particular to its kind needs of the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from kombu.utils.functional import retry_over_time
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab.models import Work
from seigh.core.lab.session import DatabaseFull, is_full
from seigh.core.settings import Settings
from seigh.tasks.progress import DATABASE_AWAY, Lifeline, WorkLog

T = TypeVar("T")
W = TypeVar("W", bound=Work)

_DATABASE_PATIENCE = 600.0  # seconds
# A full disk is not full for a moment: somebody has to make room.
_FULL_PATIENCE = 30.0
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True)
class Attempt(Generic[W]):
    """An attempt at a piece of work, from its claim to its end.

    Attributes:
        work: The row as it was claimed; its columns only, no relationships.
        token: The claim, which everything that is written depends on.
        env: Where database, artefacts and broker are.
        maker: Sessions of the database.
        folder: Where to put what a next attempt may go on from, and where an earlier one, which died, has.
            Whatever is there when the attempt ends is removed.
        lifeline: To be called with every progress; raises ``Cancelled`` or ``ClaimLost``.
        log: Lines that begin with what they are about.
    """

    work: W
    token: str
    env: Settings
    maker: sessionmaker[Session]
    folder: Path
    lifeline: Lifeline
    log: WorkLog

    def read(self, question: Callable[[Session], T]) -> T:
        """Ask a reading session a question (``read``)."""
        return read(self.maker, question)

    def write(self, change: Callable[[Session], T]) -> T:
        """Make a change in a transaction of its own (``write``)."""
        return write(self.maker, change)


def read(maker: sessionmaker[Session], question: Callable[[Session], T]) -> T:
    """Ask a reading session a question, again and again for a while if the database is away."""

    def attempt() -> T:
        with maker() as s:
            return question(s)

    return _patiently(attempt)


def write(maker: sessionmaker[Session], change: Callable[[Session], T]) -> T:
    """Make a change in a transaction of its own; again and again for a while if the database is away.

    Raises:
        DatabaseFull: If its disk is full, and stays so.
    """

    def attempt() -> T:
        with maker.begin() as s:
            return change(s)

    return _patiently(attempt)


def _patiently(attempt: Callable[[], T]) -> T:
    full_since: float | None = None

    def unless_full() -> T:
        nonlocal full_since
        try:
            return attempt()
        except DATABASE_AWAY as error:
            if not is_full(error):
                full_since = None
                raise
            full_since = full_since or time.monotonic()
            if time.monotonic() - full_since < _FULL_PATIENCE:
                raise
            raise DatabaseFull(
                "The disk of the database is full, so nothing can be written down; make room on it, and the "
                "work goes on by itself."
            ) from error

    done: T = retry_over_time(
        unless_full, DATABASE_AWAY, interval_start=1, interval_max=_LONGEST_PAUSE, timeout=_DATABASE_PATIENCE
    )
    return done
