"""Room for artefacts: what they take, and whether more of them have room."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seigh.core.lab.store import StoreError

# The ending of files that are being written, or were when their process was killed.
TEMPORARY = ".tmp"

# Where work that runs keeps what it goes on from when its process dies; cleared when the work ends.
WORK = "work"

_MARK = ".seigh-artifacts"

# What is said of a folder that cannot be written.
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

_GIB = 2**30


def used(folder: Path) -> int:
    """Bytes of all artefacts below ``folder``, without temporary files and what running work keeps there."""
    return sum(_sizes(folder))


def room(folder: Path, quota: int | None) -> int:
    """Bytes that further artefacts may take: what the disk has left, and the quota if there is one."""
    free = shutil.disk_usage(_existing(folder)).free
    return free if quota is None else max(0, min(free, quota - used(folder)))


def check_room(folder: Path, size: int, quota: int | None) -> None:
    """Refuse ``size`` bytes that the quota or the disk has no room for.

    Raises:
        StoreError: If there is no room.
    """
    if quota is not None and (taken := used(folder)) + size > quota:
        raise StoreError(
            f"The artefacts may take {quota / _GIB:.3g} GiB and take {taken / _GIB:.3g}, so {_amount(size)} "
            "more have no room; delete results that are no longer needed, or raise SEIGH_ARTIFACTS_QUOTA_GB."
        )
    free = shutil.disk_usage(_existing(folder)).free
    if size > free:
        raise StoreError(
            f"The disk of the artefacts has {_amount(free)} left, and {_amount(size)} are needed; "
            "make room on it, or delete results that are no longer needed."
        )


@contextmanager
def said_if_full() -> Iterator[None]:
    """Turn a disk, or a quota of the system's, that is full in the middle of a write into a sentence.

    So for a folder that cannot be written at all.

    Raises:
        StoreError: If it is.
    """
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise StoreError(
                "The disk of the artefacts is full; make room on it, or delete results that are no longer "
                "needed."
            ) from error
        if isinstance(error, OSError) and error.errno in _CLOSED:
            raise StoreError(
                f"{error.filename or 'The folder of the artefacts'} cannot be written ({error.strerror}); "
                "make it writable for the user of the app and the workers, or set SEIGH_ARTIFACTS to another."
            ) from error
        raise


def _is_full(error: Exception) -> bool:
    codes = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in codes
    # What is written by Rust, as safetensors is, brings the number in its text.
    return any(f"(os error {code})" in str(error) for code in codes)


def mark(folder: Path) -> str:
    """The mark of an artefact folder: the same for whoever sees the same folder; made if there is none.

    Raises:
        OSError: If there is none and none can be made.
    """
    file = folder / _MARK
    with suppress(FileNotFoundError):
        if found := file.read_text().strip():
            return found
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{_MARK}.{uuid.uuid4().hex}.tmp"
    new.write_text(uuid.uuid4().hex)
    try:
        os.link(new, file)  # unless somebody was faster
    except FileExistsError:
        pass
    finally:
        new.unlink()
    return file.read_text().strip()


def _sizes(folder: Path) -> Iterator[int]:
    for path, folders, names in os.walk(folder):
        if path == str(folder) and WORK in folders:
            folders.remove(WORK)
        for name in names:
            if name.endswith(TEMPORARY):
                continue
            with suppress(FileNotFoundError):  # it was a temporary one
                yield os.lstat(os.path.join(path, name)).st_size


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _amount(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.1f} MiB"
