"""Find and remove the temporary files that killed processes left beside the artefacts.

Whoever writes a temporary file holds its lock, so one that can be locked is nobody's any more. Locks do not
reach across every network file system, therefore it must also be old, by the clock of that file system.
"""

from __future__ import annotations

import fcntl
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seigh.core.lab.space import TEMPORARY

logger = logging.getLogger(__name__)

_OLD = 600.0  # seconds since something was last written to it

_WRITTEN_IN = ("", "checkpoints", "data", "eigenvectors", "graphs", "masks")


def temporary_files(folder: Path) -> list[Path]:
    """The temporary files of the artefacts below ``folder``, whether or not somebody writes to them."""
    return sorted(file for name in _WRITTEN_IN for file in (folder / name).glob(f"*{TEMPORARY}"))


def sweep(folder: Path, old: float = _OLD) -> list[Path]:
    """Remove the temporary files that nobody writes to any more; those that were removed.

    Args:
        folder: Folder of the artefacts.
        old: Seconds for which nothing has been written to them.
    """
    found = temporary_files(folder)
    if not found:
        return []
    try:
        now = _present(folder)
    except OSError as error:
        logger.warning("nothing is tidied up in %s: %s", folder, error)
        return []
    removed = []
    for file in found:
        with suppress(OSError):  # somebody was faster
            if now - file.stat().st_mtime >= old and is_abandoned(file):
                file.unlink()
                removed.append(file)
    return removed


def is_abandoned(file: Path) -> bool:
    """Whether no process holds the lock of a file."""
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def in_use(file: Path) -> Iterator[None]:
    """Make a file that is nobody else's, and hold its lock for the block."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _present(folder: Path) -> float:
    """The present by the clock of a folder's file system."""
    probe = folder / f"{uuid.uuid4().hex}{TEMPORARY}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
