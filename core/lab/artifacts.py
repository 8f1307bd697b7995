"""Files too large for SQL: checkpoints and data files under the hash of their content, and eigenvectors.

The folder is shared by the app and all workers. A file appears there complete or not at all.
"""

from __future__ import annotations

import glob
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from seigh.core.checksum import sha256_of
from seigh.core.lab.keys import Kind, content_key
from seigh.core.lab.leftovers import in_use
from seigh.core.lab.space import TEMPORARY, check_room, said_if_full
from seigh.core.lab.store import StoreError


class Missing(StoreError):
    """A file is gone from the artefact store."""


class Damaged(StoreError):
    """A file in the artefact store is not what was stored."""


class ArtifactStore:
    """The files below ``folder``, each known by its key: its path from there, with forward slashes.

    Args:
        folder: Shared by the app and all workers.
        quota: Bytes that all files together may take; no more are stored then.
    """

    def __init__(self, folder: Path, quota: int | None = None) -> None:
        self.folder = folder
        self._quota = quota

    def check_room(self, size: int) -> None:
        """Refuse ``size`` bytes that have no room.

        Raises:
            StoreError: If the quota or the disk is too small for them.
        """
        check_room(self.folder, size, self._quota)

    def put_file(self, kind: Kind, source: Path, sha256: str, suffix: str) -> str:
        """Store a copy of ``source``, once however often it comes, and return its key.

        A copy that is there already but damaged is replaced.

        Raises:
            StoreError: If the file's content has no longer the hash that it was checked with, or it has no
                room.
        """
        key = content_key(kind, sha256, suffix)
        if self.path(key).exists() and sha256_of(self.path(key)) == sha256:
            return key
        self.check_room(source.stat().st_size)
        digest = hashlib.sha256()
        with source.open("rb") as file, self._appearing(key) as temporary, temporary.open("wb") as copy:
            while block := file.read(2**20):
                digest.update(block)
                copy.write(block)
            if digest.hexdigest() != sha256:
                raise StoreError(
                    f"The file '{source.name}' changed while it was being stored; submit it again."
                )
        return key

    def put_arrays(
        self, key: str, arrays: Mapping[str, NDArray[np.generic] | Tensor], metadata: dict[str, str]
    ) -> str:
        """Store arrays as the safetensors file of ``key``; contiguous ones are written without a copy.

        Returns:
            The SHA-256 of the file.

        Raises:
            StoreError: If they have no room.
        """
        self.check_room(sum(array.nbytes for array in arrays.values()))
        with self._appearing(key) as temporary:
            save_file({name: _tensor(array) for name, array in arrays.items()}, temporary, metadata)
            return sha256_of(temporary)

    def check(self, key: str, sha256: str | None, what: str) -> Path:
        """Where the file of ``key`` lies, if it is the one that was stored.

        Args:
            key: Key of the file.
            sha256: The checksum that it was stored with; None, of older versions, stands for any.
            what: The beginning of the sentence that says what is wrong: "The file of …".

        Raises:
            Missing: If there is no such file.
            Damaged: If its content is another one.
        """
        path = self.path(key)
        if not path.is_file():
            raise Missing(f"{what} is no longer in the artefact store.")
        try:
            damaged = sha256 is not None and sha256_of(path) != sha256
        except OSError as error:
            raise Damaged(f"{what} cannot be read in the artefact store: {error.strerror}.") from error
        if damaged:
            raise Damaged(f"{what} is damaged in the artefact store.")
        return path

    def path(self, key: str) -> Path:
        """Where the file of ``key`` lies, whether or not it exists.

        Raises:
            StoreError: If the key would lead out of the folder.
        """
        parts = PurePosixPath(key).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in key or "\0" in key:
            raise StoreError(f"{key!r} is not the key of a stored file.")
        return self.folder.joinpath(*parts)

    def delete(self, key: str) -> None:
        """Remove a file and what a killed process left of it; no error if there is neither."""
        target = self.path(key)
        for file in (target, *target.parent.glob(f"{glob.escape(target.name)}.*.tmp")):
            file.unlink(missing_ok=True)

    @contextmanager
    def _appearing(self, key: str) -> Iterator[Path]:
        """A temporary file beside the place of ``key``, moved there at the end if nothing went wrong."""
        target = self.path(key)
        with said_if_full():
            target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            with said_if_full(), in_use(temporary):
                yield temporary
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())  # else a power cut could leave the name without the content
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _tensor(array: NDArray[np.generic] | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().contiguous()
    return torch.from_numpy(np.require(array, requirements=("C", "W")))
