"""Folders for what a running analysis may go on from when its process dies: ``<scratch>/<analysis>``."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = "lock"


@contextmanager
def scratch(root: Path, analysis_id: int, token: str) -> Iterator[Path]:
    """The folder of an analysis below ``root``, with what an attempt that died left there.

    It is removed at the end of the block; but if an exception ends the block, or the process dies, it stays
    for the next attempt. An attempt that finds the folder in use, by one that was given up for dead and is
    not, gets a folder of its own.
    """
    folder = root / str(analysis_id)
    with _locked(folder) as ours:
        if ours:
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
            return
    folder = root / f"{analysis_id}-{token}"
    with _locked(folder):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path, wanted: Callable[[list[int]], set[int]]) -> list[str]:
    """Remove the folders of analyses that are not ``wanted(ids)`` and in no process's use; their names."""
    folders = {path: number for path in root.glob("*") if (number := _analysis(path)) is not None}
    if not folders:
        return []
    keep = wanted(sorted(set(folders.values())))
    removed = []
    for folder, number in folders.items():
        if number in keep:
            continue
        with _locked(folder) as ours:
            if ours:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder.name)
    return removed


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Make the folder and hold its lock, at most as long as the process lives; False if another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _analysis(folder: Path) -> int | None:
    number = folder.name.partition("-")[0]
    return int(number) if number.isdecimal() and folder.is_dir() else None
