"""SEIGH and SSVD: low-rank decompositions from random measurements made in one pass.

Fernandez et al., "Connecting Parameter Magnitudes and Hessian Eigenspaces at Scale using Sketched
Methods", TMLR 2025 (arXiv 2504.14701), Algorithms 1 and 2; Tropp, Yurtsever, Udell, Cevher (TYUC),
arXiv 1902.08651, §2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.spectra.eigenpairs import Eigenpairs, SingularTriplets, Vectors, by_magnitude, chunks
from core.spectra.measurements import SSRFT
from core.spectra.operators import Operator, check_square, multiply
from core.spectra.orthogonal import orthonormaliser

# Measurements that are made at once.
BLOCK = 32


def seigh(operator: Operator, outer: int, inner: int, *, k: int | None = None, seed: int = 0) -> Eigenpairs:
    """Sketched eigendecomposition of a symmetric operator (the paper's Alg. 2), from ``inner`` products.

    W = Ω_L H Ω_Rᵀ (n_I × n_I), Y = the first n_O columns of H Ω_Rᵀ, Q = orth(Y),
    C = (Ω_L Q)⁺ W ((Ω_R Q)⁺)ᵀ, eigh(C) = U diag(λ) Uᵀ, H ≈ Q U diag(λ) Uᵀ Qᵀ, with SSRFT test matrices.

    C is not symmetric as computed; it is replaced by its symmetric part before eigh, which reads one
    triangle only and would throw away half of what was measured.

    Args:
        operator: Symmetric, D × D.
        outer: n_O, columns of the outer sketch and so the rank of the approximation; at most n_I.
        inner: n_I, size of the inner sketch; at most D.
        k: Number of eigenpairs to return, by descending |λ|; all n_O when not given.
        seed: Seeds Ω_L and Ω_R.

    Returns:
        Eigenpairs without residuals: one pass does not give them (see ``residuals``). Fewer than k where
        the sketch's numerical rank is smaller.

    Raises:
        ValueError: Not k ≤ n_O ≤ n_I ≤ D.
        SpectrumError: A product is not finite.
    """
    k = outer if k is None else k
    _check_sketch(operator, k, outer, inner)
    right = _test_matrix(operator, inner, seed, 0)
    left = _test_matrix(operator, inner, seed, 1)
    sketch, measured = _measure(operator, right, left, outer)
    basis = Vectors(sketch, orthonormaliser(sketch))
    core = _solve_core(left, basis, measured, right, basis)
    values, rotation = by_magnitude(*torch.linalg.eigh((core + core.T) / 2))
    return Eigenpairs(sketch, basis.coefficients @ rotation, values, residuals=None, hvps=inner).top(k)


def ssvd(
    operator: Operator, outer: int, inner: int, *, k: int | None = None, seed: int = 0
) -> SingularTriplets:
    """Sketched SVD of a symmetric operator (the paper's Alg. 1), from 2·``outer`` + ``inner`` products.

    Y = H Ω₁ᵀ and Z = H Ω₂ᵀ are the outer sketches (n_O columns each; H is its own transpose),
    W = Ω_L H Ω_Rᵀ the inner one, P = orth(Y), Q = orth(Z), C = (Ω_L P)⁺ W ((Ω_R Q)⁺)ᵀ = A Σ Bᵀ,
    H ≈ (P A) Σ (Q B)ᵀ, with SSRFT test matrices.

    Args:
        operator: Symmetric, D × D.
        outer: n_O, the rank of the approximation; at most n_I.
        inner: n_I, size of the inner sketch; at most D.
        k: Number of triplets to return; all n_O when not given.
        seed: Seeds the four test matrices.

    Raises:
        ValueError: Not k ≤ n_O ≤ n_I ≤ D.
        SpectrumError: A product is not finite.
    """
    k = outer if k is None else k
    _check_sketch(operator, k, outer, inner)
    right, left = (_test_matrix(operator, inner, seed, stream) for stream in (0, 1))
    _, measured = _measure(operator, right, left, 0)
    sketches = []
    for stream in (2, 3):
        sketch, _ = _measure(operator, _test_matrix(operator, outer, seed, stream), None, outer)
        sketches.append(Vectors(sketch, orthonormaliser(sketch)))
    column_basis, row_basis = sketches
    core = _solve_core(left, column_basis, measured, right, row_basis)
    u, values, vh = torch.linalg.svd(core, full_matrices=False)
    return SingularTriplets(
        column_basis.basis,
        column_basis.coefficients @ u[:, :k],
        right=Vectors(row_basis.basis, row_basis.coefficients @ vh[:k].T),
        values=values[:k],
        hvps=2 * outer + inner,
    )


def eigenpairs_of(triplets: SingularTriplets) -> Eigenpairs:
    """Singular triplets of a symmetric operator as eigenpairs: v = u, λ = ±σ with the sign of ⟨u, v⟩.

    For a symmetric H the left and right singular vectors agree up to that sign, exactly where σ is simple.
    """
    products = torch.zeros_like(triplets.values)
    for part in chunks(triplets.basis.shape[1], len(triplets.basis)):
        index = torch.arange(part.start, part.stop, device=triplets.basis.device)
        products += (triplets.rows(index).double() * triplets.right.rows(index).double()).sum(0)
    signs = torch.where(products < 0, -1.0, 1.0).to(products.dtype)
    return Eigenpairs(
        triplets.basis, triplets.coefficients, triplets.values * signs, residuals=None, hvps=triplets.hvps
    )


def _check_sketch(operator: Operator, k: int, outer: int, inner: int) -> None:
    check_square(operator, k, outer)
    check_square(operator, outer, inner)


def _test_matrix(operator: Operator, n: int, seed: int, stream: int) -> SSRFT:
    # Streams of one seed must never coincide with those of another seed.
    return SSRFT(n, operator.shape[0], 4 * seed + stream, operator.dtype, operator.device)


def _measure(operator: Operator, right: SSRFT, left: SSRFT | None, outer: int) -> tuple[Tensor, Tensor]:
    """The first n_O columns of H Ω_Rᵀ as rows (n_O, D), and W = Ω_L H Ω_Rᵀ in fp64 (0 × n without Ω_L)."""
    n, dimension = right.shape
    sketch = torch.empty(outer, dimension, dtype=operator.dtype, device=operator.device)
    height = 0 if left is None else left.shape[0]
    measured = torch.empty(height, n, dtype=torch.float64, device=operator.device)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        products = multiply(operator, right.columns(start, stop))
        kept = max(0, min(stop, outer) - start)
        sketch[start : start + kept] = products[:, :kept].T
        if left is not None:
            measured[:, start:stop] = left.apply(products)
    return sketch, measured


def _solve_core(left: SSRFT, columns: Vectors, measured: Tensor, right: SSRFT, rows: Vectors) -> Tensor:
    """C = (Ω_L P)⁺ W ((Ω_R Q)⁺)ᵀ for orthonormal P = ``columns`` and Q = ``rows``, in fp64."""
    half = torch.linalg.lstsq(_project(left, columns), measured).solution
    core: Tensor = torch.linalg.lstsq(_project(right, rows), half.T).solution.T
    return core


def _project(test_matrix: SSRFT, basis: Vectors) -> Tensor:
    """Ω Q: (n, r) fp64.

    Q is formed, in blocks: Ω applied to the raw sketch and orthonormalised afterwards would amplify the
    rounding errors of the transform by the sketch's condition number.
    """
    rank = basis.coefficients.shape[1]
    projected = basis.coefficients.new_empty(test_matrix.shape[0], rank)
    for start in range(0, rank, BLOCK):
        part = slice(start, min(start + BLOCK, rank))
        projected[:, part] = test_matrix.apply(basis.columns(part)).double()
    return projected
