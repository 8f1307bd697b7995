"""The block Lanczos recurrence H Q = Q T + R: the basis Q, the projected matrix T, and what is known of R."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seigh.core.linalg.orthogonal import gram, inner, resolution, subtract
from seigh.core.linalg.tiles import form
from seigh.core.spectra.basis import Basis
from seigh.core.spectra.eigenpairs import Eigenpairs, by_magnitude
from seigh.core.spectra.operators import Operator, multiply

# A unit row of which this many units of rounding error are left was a combination of others.
_NOTHING = 1.0

# A pass that leaves this share of each squared length has cancelled nothing.
_KEPT = 0.5
_MOST_PASSES = 5

# Squared lengths of a block that differ from 1 by no more units of rounding error are left as they are.
_ORTHONORMAL = 8.0


@dataclass
class _Open:
    """Products of a block whose part R outside the basis was not followed.

    Attributes:
        tail: (b, m): R is multiplied with ``tail @ y`` for coefficients y in the basis's first m vectors.
        gram: (b, b), RᵀR less what later vectors of the basis have of it.
        whole: (b, b), RᵀR when the block was left open.
        at: The block's place in the basis, where it is still there as it was.
    """

    tail: Tensor
    gram: Tensor
    whole: Tensor
    at: slice | None

    def lengths(self, rotation: Tensor) -> Tensor:
        """‖R tail y‖ for each column y of ``rotation``."""
        return _lengths(self.tail @ rotation[: self.tail.shape[1]], self.gram)


class Recurrence:
    """A basis that grows by blocks, T = QᵀHQ, and residuals of its Ritz pairs at no product.

    Calls alternate between ``multiply``, which makes the products of the last block, and either ``extend``,
    which appends what they have outside the basis, or ``begin``, which appends a random block instead. After
    ``multiply``, ‖R y‖ = ‖H Q y − Q T y‖ is known for every y.

    Attributes:
        operator: Symmetric, D × D.
        basis: Q, as rows.
        projected: T, fp64, as large as the basis may become.
        last: The rows of the last block.
        spent: Products made.
        broken_down: Whether a block had to be filled up with random vectors.
        restarted: How many times the basis was replaced.
        asymmetry: Largest entry of (XᵀHX − XᵀHᵀX)/2 of all blocks X.
        outside: RᵀR of the last block's products, (b, b) fp64, R being their part outside the basis.
        generator: Draws random vectors, on the CPU so that they do not depend on the device.
    """

    def __init__(self, operator: Operator, basis: Basis, seed: int) -> None:
        total = len(basis.rows)
        self.operator, self.basis = operator, basis
        self.projected = torch.zeros(total, total, dtype=torch.float64, device=operator.device)
        self.generator = torch.Generator().manual_seed(seed)
        self.last = slice(0, 0)
        self.spent = self.restarted = 0
        self.broken_down = False
        self.asymmetry = 0.0
        self.outside = torch.empty(0, 0, dtype=torch.float64, device=operator.device)
        self._images: Tensor | None = None  # H X less its part in the basis, (b, D)
        self._scale = 0.0  # length of the longest row of H X
        self._left_open: list[_Open] = []
        self._decomposed: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def size(self) -> int:
        """Vectors in the basis."""
        return self.last.stop

    def begin(self, width: int) -> None:
        """Append a random block of ``width``, which no product so far says anything about."""
        for each in self._left_open:
            each.whole = each.gram.clone()
        self._append(_fresh(self.basis, self.size, width, self.generator), None)

    def multiply(self, *, coupled_to_all: bool) -> None:
        """Make the products of the last block, and split them in their parts along the basis and outside.

        Args:
            coupled_to_all: Whether the block was random, or came out of one that was: its products have parts
                along all of the basis. Otherwise only along the block before, or all that a restart has kept.
        """
        block = self.basis.rows[self.last].to(self.operator.device)
        images = multiply(self.operator, block.T).T.contiguous()
        self.spent += len(block)
        self._scale = float(torch.linalg.vector_norm(images, dim=1).max())
        if coupled_to_all:
            self._project(images)
        else:
            self._recur(images, block)
        self._images, self.outside = images, gram(images)

    def _recur(self, images: Tensor, block: Tensor) -> None:
        """Take the parts out of the products that T knows of, and those along the block itself."""
        known = self.projected[self.last, : self.last.start]
        own = inner(images, block)
        # Only neighbouring blocks, or all after a restart; the rest of T is zero up to rounding.
        coupled = known.abs().amax(0).nonzero().flatten()
        first = int(coupled[0]) if len(coupled) else self.last.start
        parts = torch.cat([known[:, first:], own], dim=1)
        subtract(images, parts, self.basis.rows[first : self.last.stop].to(images.device))
        self._put_own(own)

    def _project(self, images: Tensor) -> None:
        """Take the whole basis's part out of the products, and note it in T."""
        parts = self.basis.remove(images, self.last.stop)
        before = slice(0, self.last.start)
        self.projected[self.last, before] = parts[:, before]
        self.projected[before, self.last] = parts[:, before].T
        self._put_own(parts[:, self.last])
        for each in self._left_open:
            if each.at is not None:
                coupling = parts[:, each.at]
                each.gram = each.gram - coupling.T @ coupling

    def _put_own(self, own: Tensor) -> None:
        self.projected[self.last, self.last] = (own + own.T) / 2
        self.asymmetry = max(self.asymmetry, float((own - own.T).abs().max()) / 2)

    def extend(self, width: int, tail: Tensor | None = None) -> None:
        """Append the next block: what the last products have outside the basis, orthonormal.

        Args:
            width: Its vectors; those that the products do not give are random.
            tail: What ``restart`` returned, if it was called since the products were made.
        """
        assert self._images is not None
        images, small, size = self._images, self.outside, self.size
        self._images = None
        squared, directions = torch.linalg.eigh(small)
        lengths = squared.clamp_min(0).sqrt().flip(0)
        directions = directions.flip(1)
        # Directions below the rounding error of the products are noise.
        eps = torch.finfo(images.dtype).eps
        noise = max(eps * size**0.5 * self._scale, resolution(images.dtype) * float(lengths[0]))
        rank = min(width, int((lengths > noise).sum()))
        coupling = torch.zeros(width, len(images), dtype=torch.float64, device=images.device)
        new = self.basis.place(size, rank)
        if rank:
            rows = form(images, directions[:, :rank] / lengths[:rank], new)
            new = _orthonormal(rows, self.basis, size, self.generator)
            coupling[:rank] = inner(new, images)
        if width < len(images):
            # What a narrower last block leaves out of these products stays in the residuals.
            self._leave_open(small - coupling.T @ coupling)
        if rank < width:
            # The Krylov space is (numerically) invariant in these directions: go on from random ones, which
            # the products so far say nothing about.
            self.broken_down = True
            new = torch.cat([new, _fresh(self.basis, size, width - rank, self.generator, new)])
        self._append(new, coupling if tail is None else coupling @ tail)

    def leave_open(self) -> None:
        """Do not follow the last products: what they have outside the basis stays in the residuals."""
        self._leave_open(self.outside)

    def _leave_open(self, outside: Tensor) -> None:
        tail = torch.zeros(len(outside), self.size, dtype=torch.float64, device=outside.device)
        tail[:, self.last] = torch.eye(len(outside), dtype=torch.float64, device=outside.device)
        self._left_open.append(_Open(tail, outside, outside.clone(), self.last))

    def restart(self, kept: int) -> Tensor:
        """Keep the ``kept`` leading Ritz vectors only.

        The next block is made orthogonal to those that are kept: along the others the products have nothing.

        Returns:
            The parts of the last block along them, (b, kept), for ``extend``.
        """
        values, rotation = self.ritz(self.size, kept)
        self.basis.rotate(rotation)
        self.restarted += 1
        self.projected.zero_()
        self.projected.diagonal()[:kept] = values
        tail = rotation[self.last]
        self.last = slice(0, kept)
        self._decomposed.clear()
        return tail

    def compress(self, kept: int) -> None:
        """Keep the ``kept`` leading Ritz vectors only, with what was left open, before a random block."""
        for each in self._left_open:
            padded = each.tail.new_zeros(len(each.tail), self.size)
            padded[:, : each.tail.shape[1]] = each.tail
            each.tail = padded @ self.ritz(self.size, kept)[1]
            each.at = None
        self.restart(kept)

    def _append(self, new: Tensor, coupling: Tensor | None) -> None:
        size = self.size
        self._decomposed = {known: pairs for known, pairs in self._decomposed.items() if known <= size}
        part = slice(size, size + len(new))
        self.basis.put(size, new)
        if coupling is not None:
            self.projected[part, self.last] = coupling
            self.projected[self.last, part] = coupling.T
        self.last = part

    def ritz(self, size: int, count: int) -> tuple[Tensor, Tensor]:
        """Eigenvalues of T's leading block by |λ|, and its eigenvectors, for the ``count`` first."""
        if size not in self._decomposed:
            self._decomposed[size] = by_magnitude(*torch.linalg.eigh(self.projected[:size, :size]))
        values, rotation = self._decomposed[size]
        return values[:count], rotation[:, :count]

    def residuals(self, rotation: Tensor) -> Tensor:
        """‖R y‖ of each column y of ``rotation`` (m, n), which are coefficients in the whole basis: (n,)."""
        lengths = _lengths(rotation[self.last], self.outside)
        for each in self._left_open:
            lengths = lengths + each.lengths(rotation)
        return lengths

    def pairs(self, part: int, count: int) -> Eigenpairs:
        """The ``count`` leading Ritz pairs of the first ``part`` vectors; residuals lack rounding."""
        values, rotation = self.ritz(part, count)
        outside = self.projected[part : self.size, :part] @ rotation
        padded = torch.cat([rotation, torch.zeros_like(outside)])
        lengths = torch.hypot(outside.norm(dim=0), self.residuals(padded))
        return Eigenpairs(
            *(self.basis.rows[:part], rotation, values, lengths, self.spent),
            projected=self.projected[:part, :part],
        )

    def couplings(self, start: int) -> list[tuple[Tensor, Tensor]]:
        """How the space outside is coupled to the Ritz vectors of the first ``start`` vectors.

        Returns:
            Of each open block its parts along these Ritz vectors, (b, start), and RᵀR, (b, b), times the
            number of open blocks; together they bound ‖R y‖² (``completeness.bound_outside``).
        """
        rotation = self.ritz(start, start)[1]
        count = len(self._left_open)
        return [
            (each.tail @ rotation[: each.tail.shape[1]], count * each.whole)
            for each in self._left_open
            if each.tail.shape[1] <= start
        ]

    def state(self) -> dict[str, Tensor]:
        """What ``restore`` needs beside the basis and the numbers in ``saved.Saved``."""
        state = {
            "projected": self.projected[: self.size, : self.size],
            "generator": self.generator.get_state(),
        }
        for number, each in enumerate(self._left_open):
            at = (-1, -1) if each.at is None else (each.at.start, each.at.stop)
            state |= {
                f"open-{number}-tail": each.tail,
                f"open-{number}-gram": each.gram,
                f"open-{number}-whole": each.whole,
                f"open-{number}-at": torch.tensor(at),
            }
        return state

    @property
    def left_open(self) -> int:
        """How many blocks have products that were not followed."""
        return len(self._left_open)

    def restore(self, state: Mapping[str, Tensor], last: slice, left_open: int) -> None:
        """Take up ``state()`` of an earlier process, whose last block was ``last``."""
        for number in range(left_open):
            tail, gramian, whole = (state[f"open-{number}-{name}"] for name in ("tail", "gram", "whole"))
            first, after = state[f"open-{number}-at"].tolist()
            self._left_open.append(_Open(tail, gramian, whole, slice(first, after) if first >= 0 else None))
        self.last = last
        self.projected[: last.stop, : last.stop] = state["projected"]
        self.generator.set_state(state["generator"].cpu())


def _lengths(tail: Tensor, gramian: Tensor) -> Tensor:
    """‖R y‖ for each column y of ``tail``, from RᵀR."""
    return (tail * (gramian @ tail)).sum(0).clamp_min(0).sqrt()


def _random(basis: Basis, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random rows of about unit length: (count, D)."""
    dimension = basis.rows.shape[1]
    # Uniform numbers are drawn faster than normal ones, and any spread over all coordinates will do.
    random = torch.rand(count, dimension, generator=generator, dtype=torch.float32).sub_(0.5)
    return random.mul_((12 / dimension) ** 0.5).to(basis.device, basis.rows.dtype)


def _fresh(
    basis: Basis, size: int, count: int, generator: torch.Generator, new: Tensor | None = None
) -> Tensor:
    """``count`` random orthonormal vectors orthogonal to the basis and to ``new``: (count, D)."""
    return _orthonormal(_random(basis, count, generator), basis, size, generator, new)


def _orthonormal(
    rows: Tensor, basis: Basis, size: int, generator: torch.Generator, beside: Tensor | None = None
) -> Tensor:
    """Rows made orthogonal to the basis, to ``beside`` and to each other, each staying close to itself.

    A direction of which nothing but rounding errors is left is replaced by a random one.
    """
    for _ in range(_MOST_PASSES):
        basis.remove(rows, size)
        if beside is not None and len(beside):
            subtract(rows, inner(rows, beside), beside)
        squared, vectors = torch.linalg.eigh(inner(rows, rows))
        lost = squared <= (_NOTHING * torch.finfo(rows.dtype).eps) ** 2
        if bool(lost.any()):
            kept = form(
                rows, (vectors / torch.where(lost, 1.0, squared.clamp_min(0).sqrt()))[:, ~lost], rows.clone()
            )
            rows[: len(kept)] = kept[: len(kept)]
            rows[len(kept) :] = _random(basis, len(rows) - len(kept), generator)
            continue
        if float((squared - 1).abs().max()) > _ORTHONORMAL * torch.finfo(rows.dtype).eps:
            rows = form(rows, (vectors / squared.sqrt()) @ vectors.T, rows)
        # Nothing was lost to cancellation, so what is left along the basis is rounding ("twice is enough").
        if squared[0] > _KEPT * squared[-1] and squared[0] > _KEPT:
            break
    return rows
