"""Where the vectors of a basis live: in memory, or in a file that may exceed it and survives the process."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from seigh.core.linalg.orthogonal import gram, inner, subtract
from seigh.core.linalg.tiles import form
from seigh.core.spectra.operators import SpectrumError

# Bytes of a basis in a file that are worked on at once: large enough for the speed of a matrix product, small
# enough to keep what is resident, or on its way to a GPU, small.
_PIECE = 512 * 2**20

# Below this a basis is recomputed sooner than it is read back.
_WORTH_KEEPING = 2**20

# Part of a disk's free space that a basis may take; others need room as well.
_DISK_SHARE = 0.5

_STATE = "state.safetensors"
_SAME_LENGTH = 1e-4


@dataclass(frozen=True)
class Storage:
    """How much of a basis is held in memory, and where the rest goes.

    Attributes:
        memory: Bytes of a basis that may be in memory; no limit when not given. The few blocks that are being
            worked on come on top.
        folder: A folder of this computation alone. With it a basis worth keeping is written to a file there,
            block by block, so that it may exceed ``memory`` and a killed computation goes on from its last
            finished block.
    """

    memory: int | None = None
    folder: Path | None = None

    def columns(self, dimension: int, dtype: torch.dtype) -> int | None:
        """How many vectors of D = ``dimension`` fit; None for any number."""
        if self.memory is None:
            return None
        return max(self.memory, self._disk()) // (dimension * dtype.itemsize)

    def basis(self, capacity: int, dimension: int, dtype: torch.dtype, device: torch.device) -> Basis:
        """An empty basis of at most ``capacity`` vectors.

        Raises:
            SpectrumError: It has to go to the folder, whose disk has no room for it.
        """
        size = capacity * dimension * dtype.itemsize
        fits = self.memory is None or size <= self.memory
        if self.folder is None or (fits and not _WORTH_KEEPING <= size <= self._disk()):
            return Basis(torch.empty(capacity, dimension, dtype=dtype, device=device), device)
        return FileBasis(self.folder, capacity, dimension, dtype, device, resident=fits)

    def room(self, name: str, count: int, dimension: int, dtype: torch.dtype) -> Tensor:
        """A file for vectors formed from a basis that is kept in the folder: (count, D).

        Raises:
            SpectrumError: The disk has no room for it.
        """
        if self.folder is None:
            raise ValueError("There is no folder for a file.")
        return _mapped(self.folder / name, (count, dimension), dtype)[1]

    def note(self, name: str, about: Tensor, value: Tensor) -> None:
        """Keep a small result in the folder, for the next process that comes to the same one."""
        if self.folder is not None:
            self._write_note(f"noted-{name}", {"value": value.cpu().contiguous()}, {"about": _hash(about)})

    def noted(self, name: str, about: Tensor) -> Tensor | None:
        """A result that was kept by this name, if it is ``about`` the same numbers, to the last bit."""
        if self.folder is None:
            return None
        tensors, facts = self._read_note(f"noted-{name}") or ({}, {})
        return tensors["value"] if facts.get("about") == _hash(about) else None

    def _write_note(self, name: str, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{name}.tmp"
        safetensors.torch.save_file(tensors, temporary, facts)
        os.replace(temporary, self.folder / name)

    def _read_note(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        assert self.folder is not None
        return _read(self.folder / name)

    def _disk(self) -> int:
        """Bytes that the folder can take; what an earlier attempt left is read back or overwritten."""
        if self.folder is None:
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        left = sum(file.stat().st_blocks * 512 for file in self.folder.iterdir())
        return int(_DISK_SHARE * (shutil.disk_usage(self.folder).free + left))


class Basis:
    """Vectors as the rows of an (m, D) tensor, filled from the top.

    Attributes:
        rows: (capacity, D); in memory, or a view of a file.
        device: Where products with it are computed.
        kept_in: ``memory`` or ``file``.
        survives: Whether another process can go on from what ``save`` has been told.
    """

    kept_in = "memory"
    survives = False

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        self.rows = rows
        self.device = device

    def pieces(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """The first ``size`` rows, on the device: all at once where they are there already."""
        step = size if self.rows.device == self.device and self.kept_in == "memory" else self._step()
        for start in range(0, size, max(1, step)):
            part = slice(start, min(start + step, size))
            yield part, self.rows[part].to(self.device)

    def _step(self) -> int:
        return max(1, _PIECE // (self.rows.shape[1] * self.rows.itemsize))

    def place(self, start: int, count: int) -> Tensor:
        """Room on the device to compute the vectors in that are put as rows ``start`` and following.

        It is those rows themselves where that saves the time to be given fresh memory.
        """
        rows = self.rows[start : start + count]
        if rows.device == self.device and self.kept_in == "memory":
            return rows
        return torch.empty(rows.shape, dtype=rows.dtype, device=self.device)

    def put(self, start: int, vectors: Tensor) -> None:
        """Write vectors (b, D) as rows ``start`` and following."""
        rows = self.rows[start : start + len(vectors)]
        if rows.data_ptr() != vectors.data_ptr():  # they were not computed in their place
            rows.copy_(vectors)

    def remove(self, vectors: Tensor, size: int) -> Tensor:
        """Take their parts along the first ``size`` rows out of vectors (b, D), in place: one pass over them.

        Returns:
            What was taken out, (b, size) fp64.
        """
        parts = torch.zeros(len(vectors), size, dtype=torch.float64, device=vectors.device)
        for part, piece in self.pieces(size):
            parts[:, part] = inner(vectors, piece)
            subtract(vectors, parts[:, part], piece)
        return parts

    def rotate(self, rotation: Tensor) -> None:
        """Replace the first p rows by ``rotationᵀ @ rows[:m]``, for rotation (m, p) with p ≤ m."""
        form(self.rows[: len(rotation)], rotation, self.rows)

    def gram(self, part: slice) -> Tensor:
        """``rows[part] @ rows[part]ᵀ``, formed in fp64: (m, m)."""
        return gram(self.rows[part])

    def form(self, coefficients: Tensor, part: slice, out: Tensor) -> Tensor:
        """``out[:n] = coefficientsᵀ @ rows[part]``, formed in fp64; returns that part of ``out``.

        ``out`` may be these rows if n ≤ m.
        """
        return form(self.rows[part], coefficients.to(self.device), out, in_double=True)

    def save(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Make what was written so far findable by ``load``; in memory there is nothing to do."""

    def load(self, facts: dict[str, Any]) -> dict[str, Tensor] | None:  # noqa: ARG002  # FileBasis compares them
        """The state saved last by a computation of the same ``facts`` (JSON), if its rows are intact."""
        return None


class FileBasis(Basis):
    """A basis in a memory-mapped file. Its pages are given back after each pass if they exceed the budget."""

    kept_in = "file"
    survives = True

    def __init__(
        self,
        folder: Path,
        capacity: int,
        dimension: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        resident: bool,
    ) -> None:
        self._folder = folder
        self._resident = resident
        self._shape = (capacity, dimension)
        self._dtype = dtype
        self._generation = 0
        self._lengths = torch.zeros(capacity, dtype=torch.float64)
        state = self._read_state()
        if state is not None:
            self._generation = int(state[1]["generation"])
        super().__init__(self._map(), device)

    def pieces(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        for part, piece in super().pieces(size):
            yield part, piece
            if not self._resident:
                self._release()

    def put(self, start: int, vectors: Tensor) -> None:
        super().put(start, vectors)
        self._lengths[start : start + len(vectors)] = torch.linalg.vector_norm(vectors, dim=1).double().cpu()
        if not self._resident:
            self._release()

    def rotate(self, rotation: Tensor) -> None:
        # Into a new file: a killed computation goes on from the old one until the next state is saved.
        old = self.rows
        self._generation += 1
        self.rows = self._map()
        form(old[: len(rotation)], rotation, self.rows)
        self._lengths.zero_()
        self._lengths[: rotation.shape[1]] = self._measured(rotation.shape[1])

    def save(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        # The kernel keeps what was written to the map whatever becomes of the process, so nothing is flushed.
        temporary = self._folder / f"{_STATE}.tmp"
        stored = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        stored["lengths"] = self._lengths
        described = {"facts": json.dumps(facts, sort_keys=True), "generation": str(self._generation)}
        safetensors.torch.save_file(stored, temporary, described)
        os.replace(temporary, self._folder / _STATE)
        for file in self._folder.glob("basis-*"):
            if file != self._file():
                file.unlink(missing_ok=True)

    def load(self, facts: dict[str, Any]) -> dict[str, Tensor] | None:
        read = self._read_state()
        if read is None or read[1]["facts"] != json.dumps(facts, sort_keys=True):
            return None
        state = {name: tensor.to(self.device) for name, tensor in read[0].items()}
        lengths = state.pop("lengths").cpu()
        # A power cut may have kept the state and lost rows: they would be zeros or rubbish.
        written = int(lengths.count_nonzero())
        off = (self._measured(written) - lengths[:written]).abs() / lengths[:written]
        if not bool((off <= _SAME_LENGTH).all()):
            return None
        self._lengths = lengths
        return state

    def _measured(self, size: int) -> Tensor:
        """Lengths of the first ``size`` rows: (size,) fp64."""
        pieces = [torch.linalg.vector_norm(piece, dim=1).double().cpu() for _, piece in self.pieces(size)]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *pieces])

    def _file(self) -> Path:
        return self._folder / f"basis-{self._generation}"

    def _map(self) -> Tensor:
        self._mmap, rows = _mapped(self._file(), self._shape, self._dtype)
        return rows

    def _release(self) -> None:
        self._mmap.madvise(mmap.MADV_DONTNEED)  # of a shared map: what was written stays in the file

    def _read_state(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return _read(self._folder / _STATE)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The tensors and facts of a file; None if there is none, or it is no complete one."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        return None


def _hash(numbers: Tensor) -> str:
    return hashlib.sha256(numbers.cpu().contiguous().numpy().data).hexdigest()


def _mapped(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> tuple[mmap.mmap, Tensor]:
    """A file as a tensor, with what it holds already."""
    size = shape[0] * shape[1] * dtype.itemsize
    path.touch()
    with path.open("r+b") as file:
        try:
            # A hole in the file that the disk cannot fill later would kill the process.
            _reserve(file.fileno(), size)
        except OSError as error:
            raise SpectrumError(
                f"A basis needs {size / 2**30:,.1f} GiB in '{path.parent}', which its disk does not have; "
                "free some space, or choose a smaller k."
            ) from error
        mapped = mmap.mmap(file.fileno(), size)
    return mapped, torch.frombuffer(mapped, dtype=dtype).view(shape)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.truncate(descriptor, size)
