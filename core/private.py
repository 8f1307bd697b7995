"""Make files and folders readable by their owner alone, unless a lab shares a folder on purpose."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from seigh.core.settings import Settings

_OWNER_ALONE = 0o077
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH | stat.S_ISGID

# As it was before; what a user asks for by name, such as an export, is made with it.
_before: int | None = None


def begin(env: Settings) -> None:
    """From now on, what this process and its children make is readable by its owner alone.

    A folder that the environment names and that others may write to is shared on purpose: then all stays as
    it is. The home that nobody has named is closed, whichever version has made it.
    """
    global _before
    if _is_shared(env):
        return
    before = os.umask(_OWNER_ALONE)
    _before = before if _before is None else _before
    if "home" not in env.model_fields_set and env.root.is_dir() and env.root.stat().st_uid == os.getuid():
        env.root.chmod(0o700)


def open_to_others(file: Path) -> None:
    """Give a file that a user has asked for by name the permissions that it would have had anyway."""
    if _before is not None:
        file.chmod(0o666 & ~_before)


def _is_shared(env: Settings) -> bool:
    named = {"home": env.root, "artifacts": env.artifact_folder, "scratch": env.scratch_folder}
    return any(
        folder.is_dir() and folder.stat().st_mode & _OTHERS_WRITE
        for name, folder in named.items()
        if name in env.model_fields_set
    )
