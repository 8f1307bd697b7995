"""One computation that several processes share: what is worth it, cut into parts, and put together again.

A part is described by JSON and the names of blocks, and whoever performs it gets the same result: how a
computation is cut depends on its sizes alone, never on who is there to help, and sums are formed in a fixed
order. Who performs which part when is a crew's affair (``seigh.tasks.parts``).

Shared are products with the operator, by the columns; and passes over a basis that do much with each number
that they read, by slices of the coordinates: Gram matrices of whole sketches, and vectors formed from a basis
(thick restarts, orthonormal sketches). The passes that make a block orthogonal to the basis are not: they do
two operations per vector and number of the basis, less than it costs to read the number from a file and to
check it, and take some per cent of the time of the products, if that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from seigh.core.linalg.orthogonal import gram
from seigh.core.linalg.tiles import form
from seigh.core.sharing.blocks import SLICE, Block, BlockError, Blocks, digest
from seigh.core.spectra.basis import Basis, Storage
from seigh.core.spectra.operators import Operator

# Where in the shared folder things are: what a computation goes on from, and what parts are told and answer.
KEPT, EXCHANGED = "kept/", "exchanged/"
_STATE = f"{KEPT}state"

# Multiplications below which a pass over a basis is not worth sharing: some seconds of one core.
_WORTH_SHARING = 2**37

# With fewer numbers on the other side, a pass is reading more than computing.
_BUSY = 64

# Vectors in one block of a basis that was rotated.
_PUBLISHED = 16

# Parts that the products of one block are cut into, at most.
_PARTS = 8


@dataclass(frozen=True)
class Part:
    """A part of a computation.

    Attributes:
        kind: ``product`` of the operator with some vectors, ``gram`` of a slice of vectors, or vectors that
            are ``form``-ed in a slice.
        spec: What it needs; JSON.
    """

    kind: Literal["product", "gram", "form"]
    spec: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.spec}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Part:
        return cls(stored["kind"], {name: value for name, value in stored.items() if name != "kind"})


class Crew(Protocol):
    """The workers that share a computation."""

    @property
    def blocks(self) -> Blocks:
        """Return the storage that all of them can read and write."""

    @property
    def least(self) -> int:
        """Return the least number of vectors, at least 2, for which sharing the products pays."""

    def run(self, parts: Sequence[Part], perform: Callable[[Part], Tensor]) -> Iterator[Tensor]:
        """The results of all parts, in their order.

        ``perform`` is how this process performs a part itself.
        """


def perform(part: Part, blocks: Blocks, operator: Operator) -> Tensor:
    """The result of a part: a matrix on the CPU.

    Raises:
        BlockError: What it needs is gone.
    """
    if part.kind == "product":
        rows = blocks.get(Block(*part.spec["rows"])).to(operator.device)
        return (operator @ rows.T).T.contiguous().cpu()
    basis = [Block(*each) for each in part.spec["basis"]]
    rows = blocks.slices(basis, part.spec["slice"]).to(operator.device)
    if part.kind == "gram":
        return gram(rows).cpu()
    coefficients = blocks.get(Block(*part.spec["coefficients"])).to(operator.device)
    out = rows.new_empty(coefficients.shape[1], rows.shape[1])
    return form(rows, coefficients, out, in_double=part.spec["in_double"]).cpu()


def width(block: int, columns: int) -> int:
    """Columns of a part of the products of ``block`` vectors, of which ``columns`` are multiplied at once.

    Whole calls, so that a part computes what the whole would, unless that made a block one part.
    """
    wanted = -(-block // _PARTS)
    whole = -(-wanted // columns) * columns
    return max(1, min(whole, -(-block // 2)))


class SharedOperator:
    """An operator of which the products of several vectors are shared, by columns.

    Args:
        operator: Multiplies ``columns`` vectors at once.
        crew: The workers that share them.
        columns: As above.
    """

    def __init__(self, operator: Operator, crew: Crew, columns: int) -> None:
        self.shape = operator.shape
        self.dtype = operator.dtype
        self.device = operator.device
        self._operator = operator
        self._crew = crew
        self._columns = columns

    def __matmul__(self, block: Tensor) -> Tensor:
        """(D, b) → (D, b)."""
        if block.ndim == 1 or block.shape[1] < self._crew.least:
            return self._operator @ block
        blocks = self._crew.blocks
        parts = [
            Part("product", {"rows": list(blocks.put(f"{EXCHANGED}rows", rows)), "columns": len(rows)})
            for rows in torch.split(block.T, width(block.shape[1], self._columns))
        ]
        results = self._crew.run(parts, lambda part: perform(part, blocks, self._operator))
        return torch.cat(list(results)).to(self.device).T


@dataclass(frozen=True)
class SharedStorage(Storage):
    """A basis in memory, or in a file of the folder, that is in the crew's blocks as well.

    Attributes:
        crew: The workers that share the computation. Its blocks hold the state from which others go on.
        operator: On whose device passes are computed.
        worth: Multiplications from which a pass is shared.
    """

    crew: Crew | None = None
    operator: Operator | None = None
    worth: int = _WORTH_SHARING

    def basis(self, capacity: int, dimension: int, dtype: torch.dtype, device: torch.device) -> Basis:
        if self.crew is None or self.operator is None:
            raise ValueError("A shared basis needs a crew and its operator.")
        if self.memory is None or capacity * dimension * dtype.itemsize <= self.memory:
            own = Basis(torch.empty(capacity, dimension, dtype=dtype, device=device), device)
        else:
            own = super().basis(capacity, dimension, dtype, device)
        return SharedBasis(own, self.crew, self.operator, self.worth)

    def _write_note(self, name: str, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        assert self.crew is not None
        self.crew.blocks.write(f"{KEPT}{name}", tensors, facts)

    def _read_note(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        assert self.crew is not None
        try:
            return self.crew.blocks.read(f"{KEPT}{name}")
        except BlockError:
            return None


class SharedBasis(Basis):
    """A basis of which every block of vectors that is put is in the crew's blocks too."""

    survives = True

    def __init__(self, own: Basis, crew: Crew, operator: Operator, worth: int) -> None:
        super().__init__(own.rows, own.device)
        self.kept_in = own.kept_in
        self._own = own
        self._crew = crew
        self._operator = operator
        self._worth = worth
        self._named: list[tuple[int, int, Block]] = []  # first and last row, and where they are

    def pieces(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        return self._own.pieces(size)

    def put(self, start: int, vectors: Tensor) -> None:
        self._own.put(start, vectors)
        self._publish(start, vectors)

    def rotate(self, rotation: Tensor) -> None:
        size, kept = rotation.shape
        if self._is_worth(size, kept):
            for where, rows in self._formed(rotation, slice(0, size), in_double=False):
                self._own.rows[:kept, where] = rows.to(self._own.rows.device)
        else:
            self._own.rotate(rotation)
            self.rows = self._own.rows
        self._named.clear()
        for start in range(0, kept, _PUBLISHED):
            self._publish(start, self.rows[start : min(start + _PUBLISHED, kept)])

    def gram(self, part: slice) -> Tensor:
        size = part.stop - part.start
        if not self._is_worth(size, size):
            return super().gram(part)
        basis = self._blocks_of(part)
        total = torch.zeros(size, size, dtype=torch.float64)
        for each in self._run([Part("gram", {"basis": basis, "slice": n}) for n in self._slices()]):
            total += each
        return total.to(self.device)

    def form(self, coefficients: Tensor, part: slice, out: Tensor) -> Tensor:
        if not self._is_worth(*coefficients.shape):
            return super().form(coefficients, part, out)
        wanted = coefficients.shape[1]
        for where, rows in self._formed(coefficients, part, in_double=True):
            out[:wanted, where] = rows.to(out.device)
        return out[:wanted]

    def save(self, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
        stored = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        about = json.dumps([facts, self._named], sort_keys=True)
        blocks = self._crew.blocks
        blocks.write(_STATE, stored, {"about": about, "checksum": digest(stored, about)})
        blocks.keep(KEPT, {_STATE, *(block.name for _, _, block in self._named)})

    def load(self, facts: dict[str, Any]) -> dict[str, Tensor] | None:
        blocks = self._crew.blocks
        try:
            state, described = blocks.read(_STATE)
            about = described["about"]
            before, named = json.loads(about)
            if described["checksum"] != digest(state, about) or before != json.loads(json.dumps(facts)):
                return None
            for start, _, block in named:
                self._own.put(start, blocks.get(Block(*block)).to(self.device))
        except BlockError:
            return None
        self._named = [(start, stop, Block(*block)) for start, stop, block in named]
        return {name: tensor.to(self.device) for name, tensor in state.items()}

    def _publish(self, start: int, vectors: Tensor) -> None:
        block = self._crew.blocks.put(f"{KEPT}basis", vectors)
        self._named.append((start, start + len(vectors), block))

    def _formed(
        self, coefficients: Tensor, part: slice, *, in_double: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        told = self._crew.blocks.put(f"{EXCHANGED}coefficients", coefficients)
        spec = {"basis": self._blocks_of(part), "coefficients": list(told), "in_double": in_double}
        results = self._run([Part("form", spec | {"slice": number}) for number in self._slices()])
        for number, rows in zip(self._slices(), results, strict=True):
            yield slice(number * SLICE, number * SLICE + rows.shape[1]), rows

    def _run(self, parts: Sequence[Part]) -> Iterator[Tensor]:
        return self._crew.run(parts, lambda part: perform(part, self._crew.blocks, self._operator))

    def _slices(self) -> range:
        return range(-(-self.rows.shape[1] // SLICE))

    def _blocks_of(self, part: slice) -> list[list[str]]:
        return [
            list(block) for start, stop, block in self._named if part.start <= start and stop <= part.stop
        ]

    def _is_worth(self, size: int, others: int) -> bool:
        return min(size, others) >= _BUSY and size * others * self.rows.shape[1] >= self._worth
