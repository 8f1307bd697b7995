"""SEIGH and SSVD: low-rank decompositions from random measurements made in one pass.

Fernandez et al., "Connecting Parameter Magnitudes and Hessian Eigenspaces at Scale using Sketched
Methods", TMLR 2025 (arXiv 2504.14701), Algorithms 1 and 2; Tropp, Yurtsever, Udell, Cevher (TYUC),
arXiv 1902.08651, §2.

Memory is that of the outer sketches, D · n_O each, and a few blocks of vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.spectra.eigenpairs import (
    CHUNK_BYTES,
    Eigenpairs,
    SingularTriplets,
    Vectors,
    by_magnitude,
    chunks,
)
from core.spectra.measurements import TestMatrix, TestMatrixName, draw_test_matrix
from core.spectra.operators import Operator, check_square, multiply
from core.spectra.orthogonal import orthonormaliser

# Measurements that are made at once, at least.
BLOCK = 32


def seigh(
    operator: Operator,
    outer: int,
    inner: int,
    *,
    k: int | None = None,
    seed: int = 0,
    test_matrix: TestMatrixName = "ssrft",
) -> Eigenpairs:
    """Sketched eigendecomposition of a symmetric operator (the paper's Alg. 2), from ``inner`` products.

    W = Ω_L H Ω_Rᵀ (n_I × n_I), Y = the first n_O columns of H Ω_Rᵀ, Q = orth(Y),
    C = (Ω_L Q)⁺ W ((Ω_R Q)⁺)ᵀ, eigh(C) = U diag(λ) Uᵀ, H ≈ Q U diag(λ) Uᵀ Qᵀ. The paper's test matrices
    are SSRFTs.

    C is not symmetric as computed; it is replaced by its symmetric part before eigh, which reads one
    triangle only and would throw away half of what was measured.

    Args:
        operator: Symmetric, D × D.
        outer: n_O, columns of the outer sketch and so the rank of the approximation; at most n_I.
        inner: n_I, size of the inner sketch; at most D.
        k: Number of eigenpairs to return, by descending |λ|; all n_O when not given.
        seed: Seeds Ω_L and Ω_R.
        test_matrix: Kind of Ω_L and Ω_R.

    Returns:
        Eigenpairs without residuals: one pass does not give them (see ``residuals``). Fewer than k where
        the sketch's numerical rank is smaller.

    Raises:
        ValueError: Not k ≤ n_O ≤ n_I ≤ D, or there is no such test matrix.
        SpectrumError: A product is not finite.
    """
    k = outer if k is None else k
    _check_sketch(operator, k, outer, inner)
    right, left = (_draw(operator, test_matrix, inner, seed, stream) for stream in (0, 1))
    sketch, measured = _measure(operator, right, left, outer)
    basis = _orthonormal(sketch)
    core = _solve_core(left, basis, measured, right, basis)
    values, rotation = by_magnitude(*torch.linalg.eigh((core + core.T) / 2))
    return Eigenpairs(basis, rotation, values, residuals=None, hvps=inner).top(k)


def ssvd(
    operator: Operator,
    outer: int,
    inner: int,
    *,
    k: int | None = None,
    seed: int = 0,
    test_matrix: TestMatrixName = "ssrft",
) -> SingularTriplets:
    """Sketched SVD of a symmetric operator (the paper's Alg. 1), from 2·``outer`` + ``inner`` products.

    Y = H Ω₁ᵀ and Z = H Ω₂ᵀ are the outer sketches (n_O columns each; H is its own transpose),
    W = Ω_L H Ω_Rᵀ the inner one, P = orth(Y), Q = orth(Z), C = (Ω_L P)⁺ W ((Ω_R Q)⁺)ᵀ = A Σ Bᵀ,
    H ≈ (P A) Σ (Q B)ᵀ. The paper's test matrices are SSRFTs.

    Args:
        operator: Symmetric, D × D.
        outer: n_O, the rank of the approximation; at most n_I.
        inner: n_I, size of the inner sketch; at most D.
        k: Number of triplets to return; all n_O when not given.
        seed: Seeds the four test matrices.
        test_matrix: Their kind.

    Raises:
        ValueError: Not k ≤ n_O ≤ n_I ≤ D, or there is no such test matrix.
        SpectrumError: A product is not finite.
    """
    k = outer if k is None else k
    _check_sketch(operator, k, outer, inner)
    right, left = (_draw(operator, test_matrix, inner, seed, stream) for stream in (0, 1))
    _, measured = _measure(operator, right, left, 0)
    bases = []
    for stream in (2, 3):
        sketch, _ = _measure(operator, _draw(operator, test_matrix, outer, seed, stream), None, outer)
        bases.append(_orthonormal(sketch))
    columns, rows = bases
    u, values, vh = torch.linalg.svd(_solve_core(left, columns, measured, right, rows), full_matrices=False)
    return SingularTriplets(
        columns,
        u[:, :k],
        right=Vectors(rows, vh[:k].T),
        values=values[:k],
        hvps=2 * outer + inner,
    )


def eigenpairs_of(triplets: SingularTriplets) -> Eigenpairs:
    """Singular triplets of a symmetric operator as eigenpairs: v = u, λ = ±σ with the sign of ⟨u, v⟩.

    For a symmetric H the left and right singular vectors agree up to that sign, exactly where σ is simple.
    """
    left, right = triplets.basis, triplets.right.basis
    products = triplets.coefficients.new_zeros(len(left), len(right))
    for part in chunks(left.shape[1], len(left) + len(right)):
        products += left[:, part].double() @ right[:, part].double().T
    aligned = (triplets.coefficients * (products @ triplets.right.coefficients)).sum(0)
    values = torch.where(aligned < 0, -triplets.values, triplets.values)
    return Eigenpairs(left, triplets.coefficients, values, residuals=None, hvps=triplets.hvps)


def _check_sketch(operator: Operator, k: int, outer: int, inner: int) -> None:
    check_square(operator, k, outer)
    check_square(operator, outer, inner)


def _draw(operator: Operator, name: TestMatrixName, n: int, seed: int, stream: int) -> TestMatrix:
    return draw_test_matrix(name, n, operator.shape[0], (seed, stream), operator.dtype, operator.device)


def _measure(
    operator: Operator, right: TestMatrix, left: TestMatrix | None, outer: int
) -> tuple[Tensor, Tensor]:
    """The first n_O columns of H Ω_Rᵀ as rows (n_O, D), and W = Ω_L H Ω_Rᵀ in fp64 (0 × n without Ω_L)."""
    n, dimension = right.shape
    sketch = torch.empty(outer, dimension, dtype=operator.dtype, device=operator.device)
    height = 0 if left is None else left.shape[0]
    measured = torch.empty(height, n, dtype=torch.float64, device=operator.device)
    # Wide blocks: a matrix that is not stored is drawn again for each.
    block = max(BLOCK, CHUNK_BYTES // (dimension * operator.dtype.itemsize))
    for start in range(0, n, block):
        stop = min(start + block, n)
        products = multiply(operator, right.columns(start, stop))
        kept = max(0, min(stop, outer) - start)
        sketch[start : start + kept] = products[:, :kept].T
        if left is not None:
            measured[:, start:stop] = left.apply(products)
    return sketch, measured


def _orthonormal(sketch: Tensor) -> Tensor:
    """Qᵀ with Q = orth(sketchᵀ), in place of the sketch: (r, D), r ≤ n_O its numerical rank.

    The core needs all of Q: Ω applied to the raw sketch and orthonormalised afterwards would amplify the
    rounding errors of the transform by the sketch's condition number.
    """
    whitening = orthonormaliser(sketch)
    rank = whitening.shape[1]
    for part in chunks(sketch.shape[1], len(sketch)):
        sketch[:rank, part] = (whitening.T @ sketch[:, part].double()).to(sketch.dtype)
    return sketch[:rank]


def _solve_core(
    left: TestMatrix, columns: Tensor, measured: Tensor, right: TestMatrix, rows: Tensor
) -> Tensor:
    """C = (Ω_L P)⁺ W ((Ω_R Q)⁺)ᵀ for orthonormal Pᵀ = ``columns`` and Qᵀ = ``rows``, in fp64."""
    half = torch.linalg.lstsq(left.apply(columns.T), measured).solution
    core: Tensor = torch.linalg.lstsq(right.apply(rows.T), half.T).solution.T
    return core
