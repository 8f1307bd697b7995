"""Folders for what running work may go on from when its process dies: ``<root>/<kind>-<number>``."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seigh.core.lab.models import Work
from seigh.core.lab.space import WORK
from seigh.core.settings import Settings, SettingsError

_LOCK = "lock"


def root(env: Settings, kind: type[Work]) -> Path:
    """Where the folders of a kind of work are: in the scratch, or beside the artefacts if it is shared."""
    return shared_root(env) if kind.shared else env.scratch_folder


def shared_root(env: Settings) -> Path:
    """Where the folders of shared work are, of whatever kind."""
    return env.artifact_folder / WORK


@contextmanager
def scratch(root: Path, kind: str, number: int, token: str) -> Iterator[Path]:
    """The folder of a piece of work below ``root``, with what an attempt that died left there.

    It is removed at the end of the block; but if an exception ends the block, or the process dies, it stays
    for the next attempt. An attempt that finds the folder in use, by one that was given up for dead and is
    not, gets a folder of its own.
    """
    folder = root / f"{kind}-{number}"
    with _locked(folder) as ours:
        if ours:
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
            return
    folder = root / f"{kind}-{number}-{token}"
    with _locked(folder):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path, kind: str, wanted: Callable[[list[int]], set[int]]) -> list[str]:
    """Remove the folders of work of a kind that is not ``wanted(numbers)``, if no process uses them.

    Returns the names of those removed.
    """
    found = {path: _number(path, kind) for path in root.glob(f"{kind}-*")}
    folders = {path: number for path, number in found.items() if number is not None}
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
    """Make the folder and hold its lock, at most as long as the process lives; False if another has it.

    Raises:
        SettingsError: If the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / _LOCK).open("w")
    except OSError as error:
        raise SettingsError(
            f"{folder} cannot be written ({error.strerror}); make it writable for the workers, or set "
            "SEIGH_SCRATCH and SEIGH_ARTIFACTS to folders that are."
        ) from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _number(folder: Path, kind: str) -> int | None:
    number = folder.name.removeprefix(f"{kind}-").partition("-")[0]
    return int(number) if number.isdecimal() and folder.is_dir() else None
