"""The result of every method: eigenvalues, and eigenvectors that are formed only on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from seigh.core.linalg.tiles import form
from seigh.core.spectra.completeness import Completeness


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
        # Which is several times as fast as indexing.
        part = self.basis.index_select(1, index.to(self.basis.device)).to(self.coefficients.device)
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
        projected: BHBᵀ of the basis B, (m, m) fp64, where it is known: all that the products told of H.
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
    projected: Tensor | None = None

    def formed(self, out: Tensor) -> Eigenpairs:
        """The same pairs with Vᵀ itself as their basis, written to ``out`` (at least n × D).

        ``out`` may be the basis: then this object, and ``coarser``, must not be used any more.
        """
        vectors = form(self.basis, self.coefficients, out)
        unit = torch.eye(len(self.values), dtype=self.coefficients.dtype, device=self.coefficients.device)
        return replace(self, basis=vectors, coefficients=unit, coarser=None, projected=None)

    def turned(self, k: int) -> Eigenpairs:
        """The same pairs in a basis whose first k rows are the first k vectors, written over the old one.

        Everything stays available, ``coarser`` included, in the memory of one basis, but of what is returned
        alone: this object must not be used any more.
        """
        leading = self.coefficients[:, :k]
        rotation = torch.linalg.qr(leading, mode="complete").Q
        rotation[:, :k] = leading  # instead of ±
        coarser = self.coarser
        if coarser is not None and coarser.basis.data_ptr() == self.basis.data_ptr():  # its leading rows
            coarser = replace(
                coarser,
                basis=self.basis,
                coefficients=rotation[: len(coarser.coefficients)].T @ coarser.coefficients,
            )
        form(self.basis, rotation, self.basis)
        projected = None if self.projected is None else rotation.T @ self.projected @ rotation
        return replace(
            self, coefficients=rotation.T @ self.coefficients, coarser=coarser, projected=projected
        )

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
            projected=None,
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
