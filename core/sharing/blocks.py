"""Tensors in files that several processes, on one machine or many, read and write."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

# Coordinates that are written, checked and worked on at once.
SLICE = 2**17


class Block(NamedTuple):
    """A tensor that was written.

    Attributes:
        name: Name of its file.
        checksum: Checksum of its content; whoever reads it gets this content or an error.
    """

    name: str
    checksum: str


class BlockError(RuntimeError):
    """A block is gone, damaged, or has no place any more: what it was for is over, or is to be done again."""


class Blocks:
    """Matrices (n, D) under names in a folder. One appears there complete or not at all, and never changes.

    A matrix is written in slices of ``SLICE`` coordinates, each with a checksum of its own: a reader of one
    slice need not read the others. A store of objects, read in ranges, could take the folder's place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, label: str, rows: Tensor) -> Block:
        """Write a matrix; its name is the label and its content's checksum.

        Raises:
            BlockError: The folder of the label is gone.
        """
        parts = {
            str(number): part.cpu().contiguous()
            for number, part in enumerate(torch.split(rows, SLICE, dim=1))
        }
        digests = {number: _digest(part) for number, part in parts.items()}
        checksum = _checksum(digests)
        name = f"{label}-{checksum[:32]}"
        self.write(name, parts, digests)
        return Block(name, checksum)

    def get(self, block: Block) -> Tensor:
        """The matrix.

        Raises:
            BlockError: It is gone or damaged.
        """
        tensors, digests = self.read(block.name)
        if _checksum(digests) != block.checksum:
            raise BlockError(f"{block.name} is not what was written")
        parts = [_checked(tensors, digests, str(number), block.name) for number in range(len(tensors))]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def slices(self, blocks: Iterable[Block], number: int) -> Tensor:
        """Slice ``number`` of some matrices, one below the other.

        Raises:
            BlockError: One of them is gone or damaged.
        """
        return torch.cat([self._slice(block, str(number)) for block in blocks])

    def _slice(self, block: Block, number: str) -> Tensor:
        try:
            with safetensors.safe_open(self.folder / block.name, "pt") as file:
                digests = file.metadata()
                tensors = {number: file.get_tensor(number)}
        except (OSError, safetensors.SafetensorError) as error:
            raise BlockError(f"{block.name} cannot be read: {error}") from error
        if _checksum(digests) != block.checksum:
            raise BlockError(f"{block.name} is not what was written")
        return _checked(tensors, digests, number, block.name)

    def write(self, name: str, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        """Write tensors and facts as one file, in the place of an older one.

        Raises:
            BlockError: Its folder is gone.
        """
        target = self.folder / name
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            safetensors.torch.save_file(tensors, temporary, facts)
            os.replace(temporary, target)
        except (OSError, safetensors.SafetensorError) as error:
            if target.parent.is_dir():
                raise
            raise BlockError(f"the folder of {name} is gone") from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Read back a block of ``write``.

        Raises:
            BlockError: There is no such file, or it is no complete one.
        """
        try:
            with safetensors.safe_open(self.folder / name, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise BlockError(f"{name} cannot be read: {error}") from error

    def keep(self, prefix: str, names: Iterable[str]) -> None:
        """Delete all files of which the names begin with ``prefix``, a folder's, but these."""
        wanted = set(names)
        with suppress(FileNotFoundError):
            for file in (self.folder / prefix).iterdir():
                if f"{prefix}{file.name}" not in wanted:
                    file.unlink(missing_ok=True)


def digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """A checksum of several tensors and what belongs to them."""
    return _checksum({name: _digest(each) for name, each in tensors.items()} | {"facts": facts})


def _digest(tensor: Tensor) -> str:
    content = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(content.data).hexdigest()


def _checksum(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _checked(tensors: Mapping[str, Tensor], digests: Mapping[str, str], number: str, name: str) -> Tensor:
    tensor = tensors[number]
    if _digest(tensor) != digests[number]:
        raise BlockError(f"{name} is damaged")
    return tensor
