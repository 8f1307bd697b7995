"""What every method returns: eigenvalues, and eigenvectors that are formed only where they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from seigh.core.spectra.completeness import Completeness

# Part of a basis that is held in fp64 at once, in bytes: bounds the memory of streamed products, and blocks
# of this size the allocator hands out again, where it maps larger ones anew.
CHUNK_BYTES = 16 * 2**20

# The same where a CPU multiplies what it has just copied: it is in the caches still.
_CACHED_BYTES = 4 * 2**20

# Columns of long rows that one thread multiplies at once, at most; strips of fewer than the least are not
# worth it. Eight of them keep as many threads busy. A width that vector registers divide is faster by a
# quarter.
_STRIP, _LEAST_STRIP, _STRIPS, _LANES = 2**12, 2**9, 8, 2**6


def chunks(length: int, width: int, itemsize: int = 8, *, cached: torch.device | None = None) -> list[slice]:
    """Slices of ``range(length)`` such that ``width`` rows of a slice stay below ``CHUNK_BYTES``.

    ``cached`` is the device that works on them one after the other: in a CPU's caches they then stay, and all
    but the last have a length that suits ``strips``.
    """
    on_cpu = cached is not None and cached.type == "cpu"
    step = min(CHUNK_BYTES, _CACHED_BYTES if on_cpu else CHUNK_BYTES) // max(1, width * itemsize)
    even = _STRIPS * _LANES
    if on_cpu and step > even:
        step -= step % even
    step = max(1, min(length, step))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def strips(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (m, L) as a batch of strips of equal width w, (s, m, w), and the columns left over, both views.

    On a CPU one thread computes the product of few long rows, and packs them most of the time; the products
    of a batch are computed by all threads, each from its own cache. There are no strips where rows are short,
    or on another device.
    """
    width = min(_STRIP, rows.shape[1] // _STRIPS // _LANES * _LANES)
    count = rows.shape[1] // width if rows.device.type == "cpu" and width >= _LEAST_STRIP else 0
    batch = rows[:, : count * width].view(len(rows), count, width if count else 0).transpose(0, 1)
    return batch, rows[:, count * width :]


def form(basis: Tensor, coefficients: Tensor, out: Tensor, *, in_double: bool = False) -> Tensor:
    """``out[:n] = coefficientsᵀ @ basis`` for coefficients (m, n), in one pass; returns that part of ``out``.

    ``out`` may be the basis itself if n ≤ m. The products are in the basis's precision, or ``in_double``.
    """
    wanted = coefficients.shape[1]
    dtype = torch.float64 if in_double else basis.dtype
    factor = coefficients.T.to(dtype)
    for part in chunks(basis.shape[1], len(basis), dtype.itemsize, cached=coefficients.device):
        batch, rest = strips(basis[:, part].to(coefficients.device))
        target = out[:wanted, part]
        if len(batch):
            targets, target = strips(target)
            # Rows of a long matrix are far apart in memory: side by side they are multiplied faster.
            beside = batch.to(dtype, memory_format=torch.contiguous_format)
            targets.copy_(torch.bmm(factor.expand(len(batch), *factor.shape), beside))
        target.copy_(factor @ rest.to(dtype))
    return out[:wanted]


@dataclass(frozen=True)
class Vectors:
    """V = Bᵀ · coefficients, D × n, formed only where it is asked for.

    Attributes:
        basis: B, (m, D), orthonormal rows that span the columns of V (so that products in its precision lose
            no digits); stored once, never copied to form V.
        coefficients: (m, n) fp64.
    """

    basis: Tensor
    coefficients: Tensor

    def rows(self, index: Tensor) -> Tensor:
        """V[index]: (len(index), n), in the basis's precision."""
        part = self.basis[:, index.to(self.basis.device)].to(self.coefficients.device)
        return part.T @ self.coefficients.to(part.dtype)

    def vectors(self) -> Tensor:
        """V: (D, n), in the basis's precision."""
        return self.columns(slice(None))

    def columns(self, columns: slice | Tensor) -> Tensor:
        """V[:, columns]: (D, …), in the basis's precision, in one pass over the basis."""
        coefficients = self.coefficients[:, columns]
        out = torch.empty(
            coefficients.shape[1], self.basis.shape[1], dtype=self.basis.dtype, device=coefficients.device
        )
        return form(self.basis, coefficients, out).T


@dataclass(frozen=True)
class Eigenpairs(Vectors):
    """H ≈ V diag(values) Vᵀ.

    Attributes:
        values: (n,) fp64, by descending |λ|.
        residuals: (n,) fp64, ‖Hv − λv‖₂ per pair, or None where the method does not give them.
        hvps: Hessian-vector products spent.
        rounding: (n,) fp64, what rounding makes wrong in Hv; it is in the residuals. None where it is
            unknown.
        outside: The largest |eigenvalue| that vectors which look for missed pairs found outside the basis;
            None where none looked. It is no bound.
        completeness: What they say in all; None likewise.
        ritz: Whether they are the Ritz pairs of a subspace; a sketch's are not, and may be off by all of a
            residual.
        precision: Unit of rounding error of the products, where it is not that of the basis.
        coarser: What the same run would have returned from a smaller subspace, or None: the distance between
            the two says how far the computation has converged.
        record: How they were computed; JSON.
    """

    values: Tensor
    residuals: Tensor | None
    hvps: int
    coarser: Eigenpairs | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    rounding: Tensor | None = None
    outside: float | None = None
    completeness: Completeness | None = None
    precision: float | None = None
    ritz: bool = True

    def formed(self, out: Tensor) -> Eigenpairs:
        """The same pairs with Vᵀ itself as their basis, written to ``out`` (at least n × D).

        ``out`` may be the basis: then this object, and ``coarser``, must not be used any more.
        """
        vectors = form(self.basis, self.coefficients, out)
        unit = torch.eye(len(self.values), dtype=self.coefficients.dtype, device=self.coefficients.device)
        return replace(self, basis=vectors, coefficients=unit, coarser=None)

    def shifted(self, shift: float) -> Eigenpairs:
        """The same pairs as those of H + ``shift``·I, in their order; ``coarser`` is dropped.

        Where H is zero, H + ``shift``·I has eigenvalues of size |``shift``|: of those that lie outside, any
        may take the place of a pair that is no larger.
        """
        values = self.values + shift
        order = values.abs().argsort(descending=True, stable=True)
        residuals = None if self.residuals is None else self.residuals[order]
        return replace(
            self,
            rounding=None if self.rounding is None else self.rounding[order],
            values=values[order],
            coefficients=self.coefficients[:, order],
            residuals=residuals,
            coarser=None,
            outside=(self.outside or 0.0) + abs(shift) if shift else self.outside,
        )

    def top(self, k: int) -> Eigenpairs:
        """The first k pairs."""
        return replace(
            self,
            values=self.values[:k],
            coefficients=self.coefficients[:, :k],
            residuals=None if self.residuals is None else self.residuals[:k],
            rounding=None if self.rounding is None else self.rounding[:k],
            coarser=None if self.coarser is None else self.coarser.top(k),
        )


@dataclass(frozen=True)
class SingularTriplets(Vectors):
    """A ≈ U diag(values) Vᵀ; ``rows``, ``vectors`` and ``columns`` are those of U.

    Attributes:
        right: The right singular vectors V.
        values: (n,) fp64, descending.
        hvps: Products spent.
        record: How they were computed; JSON.
    """

    right: Vectors
    values: Tensor
    hvps: int
    record: Mapping[str, Any] = field(default_factory=dict)


def by_magnitude(values: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Sort eigenvalues (n,) and the columns of ``vectors`` (m, n) by descending |λ|."""
    order = values.abs().argsort(descending=True, stable=True)
    return values[order], vectors[:, order]
