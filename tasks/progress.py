"""An attempt's life line to the database: its progress, its heartbeat, and whether it is still wanted."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import store
from seigh.core.lab.models import Work
from seigh.core.lab.store import Standing
from seigh.tasks import ending
from seigh.tasks.ending import HandedBack

# What SQLAlchemy raises when the database, or the connection to it, is away.
DATABASE_AWAY = (OperationalError, InterfaceError)

_HEARTBEAT_SECONDS = 2.0
_REPORT_SECONDS = 0.2

# What has not heeded a cancellation for so long is interrupted.
_PATIENCE_SECONDS = 1.0

# What has been interrupted may tidy up for so long before it is interrupted again.
_TIDYING_SECONDS = 10.0


class WorkLog(logging.LoggerAdapter[logging.Logger]):
    """Log lines that begin with the piece of work that they are about."""

    def __init__(self, logger: logging.Logger, kind: type[Work], number: int) -> None:
        super().__init__(logger)
        self._about = f"{kind.__tablename__} {number}"

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        return f"{self._about}: {msg}", kwargs


class Cancelled(BaseException):
    """Somebody asked for the work to be cancelled.

    It is no ``Exception``: it may be raised anywhere, and code that tries something else after any exception
    would take it for a failure of its own.
    """


class ClaimLost(Exception):
    """The work belongs to another attempt by now, or has been deleted."""


def heed(standing: Standing) -> None:
    """Raise ``Cancelled`` or ``ClaimLost`` unless the attempt is still wanted."""
    if standing is Standing.cancel_requested:
        raise Cancelled
    if standing is Standing.lost:
        raise ClaimLost


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread at its next step of Python; None takes back what has not been raised."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


class Line:
    """Tells the database that work is being done as long as the ``with`` block lasts, every few seconds.

    Work that is cancelled stops at its next sign of progress. Within ``interruptible`` it is also interrupted
    between two steps of Python, as a product of a slow network makes no progress for minutes.

    Args:
        maker: Sessions of the database.
        beat: Says that it is; the answer is whether the work is still wanted.
        log: For when the database does not answer.
        seconds: Between two beats; two when not given.
    """

    def __init__(
        self,
        maker: sessionmaker[Session],
        beat: Callable[[Session], Standing],
        log: WorkLog,
        seconds: float | None = None,
    ) -> None:
        self._maker = maker
        self._beat = beat
        self._log = log
        self._seconds = _HEARTBEAT_SECONDS if seconds is None else seconds
        self._standing = Standing.owned
        self._told = time.monotonic()
        self._unheeded: float | None = None  # since when nobody has heeded a cancellation
        self._interruptible: int | None = None  # the thread that may be interrupted
        self._guard = threading.Lock()  # of the attribute above, and of what the thread writes
        self._was_interrupted = False
        self._over = threading.Event()
        # A thread, as single steps (a dense eigendecomposition) take minutes without any progress to report.
        self._heart = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._heart.join()

    def check(self) -> None:
        """Ask the database, at most five times a second, whether the work is still wanted.

        Raises:
            Cancelled: It is not.
            ClaimLost: It belongs to another attempt by now, or has been deleted.
            HandedBack: The worker is to end.
        """
        if time.monotonic() - self._told >= _REPORT_SECONDS:
            with self._guard:
                self._tell(self._beat)
        self._heed()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has asked for the work to be cancelled, as far as this has been heard."""
        return self._standing is Standing.cancel_requested

    @property
    def was_interrupted(self) -> bool:
        """Whether the work has been interrupted between two steps of Python."""
        return self._was_interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the work in the block be interrupted by ``Cancelled`` wherever it is, once it is cancelled.

        A step that is not Python's, such as one call of PyTorch or a file that is being read, is ended first.
        """
        thread = threading.get_ident()
        with self._guard:
            self._interruptible = thread
        try:
            yield
        finally:
            with self._guard:
                self._interruptible = None
                _raise_in(thread, None)  # what has not been raised yet comes too late

    def _interrupt(self) -> None:
        """Interrupt work that does not heed its cancellation, unless it writes to the database right now."""
        if not self.is_cancelled:
            return
        if self._unheeded is None:
            self._unheeded = time.monotonic()
        if time.monotonic() - self._unheeded < _PATIENCE_SECONDS or not self._guard.acquire(blocking=False):
            return
        try:
            if self._interruptible is not None:
                self._was_interrupted = True
                # It tidies up now; if other code has caught the interruption, the next one comes later.
                self._unheeded = time.monotonic() + _TIDYING_SECONDS
                _raise_in(self._interruptible, Cancelled)
        finally:
            self._guard.release()

    def _heed(self) -> None:
        if self._standing is not Standing.owned:
            with self._guard:
                self._interruptible = None  # it ends by itself now, and tidies up on the way
        heed(self._standing)
        if ending.is_near():
            raise HandedBack

    def _beat_on(self) -> None:
        while not self._over.wait(self._seconds if self._unheeded is None else _PATIENCE_SECONDS):
            self._tell(self._beat)
            self._interrupt()

    def _tell(self, message: Callable[[Session], Standing]) -> None:
        try:
            with self._maker.begin() as s:
                self._standing = message(s)
        except DATABASE_AWAY as error:
            # A database that is away for a moment is no reason to throw hours of work away.
            self._log.warning("the database did not answer: %s", error)
        self._told = time.monotonic()


class Lifeline(Line):
    """Reports about an attempt at a piece of work as long as the ``with`` block lasts.

    Call it with each progress: what the work is at, the part that is done, in [0, 1], and the counts of
    ``store.report``. It writes every new stage, and else at most five times a second; it raises what
    ``check`` raises as soon as the attempt has no reason to go on.
    """

    def __init__(
        self, maker: sessionmaker[Session], kind: type[Work], number: int, token: str, log: WorkLog
    ) -> None:
        super().__init__(maker, lambda s: store.heartbeat(s, kind, number, token), log)
        self._kind, self._number, self._token = kind, number, token
        self._stage = ""
        self._reported = 0.0

    def __call__(self, stage: str, fraction: float, **counts: int) -> None:
        if stage != self._stage or time.monotonic() - self._reported >= _REPORT_SECONDS:
            with self._guard:
                self._tell(
                    lambda s: store.report(
                        s, self._kind, self._number, self._token, stage=stage, progress=fraction, **counts
                    )
                )
            self._stage, self._reported = stage, time.monotonic()
        self._heed()
