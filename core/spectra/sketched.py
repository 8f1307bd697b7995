"""SEIGH and SSVD: low-rank decompositions from random measurements made in one pass.

Fernandez et al., "Connecting Parameter Magnitudes and Hessian Eigenspaces at Scale using Sketched
Methods", TMLR 2025 (arXiv 2504.14701), Algorithms 1 and 2; Tropp, Yurtsever, Udell, Cevher (TYUC),
arXiv 1902.08651, §2.

Memory is that of the outer sketches, D · n_O each, and a few blocks of vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seigh.core.linalg.orthogonal import orthonormaliser
from seigh.core.linalg.tiles import CHUNK_BYTES, chunks
from seigh.core.names import TestMatrixName
from seigh.core.spectra.basis import Storage
from seigh.core.spectra.eigenpairs import Eigenpairs, SingularTriplets, Vectors, by_magnitude
from seigh.core.spectra.measurements import TestMatrix, draw_test_matrix
from seigh.core.spectra.operators import Operator, SpectrumError, check_square, multiply, typed

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
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
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
        storage: Where the outer sketch lives; in memory without a limit when not given.
        resumed: Told how many products an earlier process has made, if the measuring goes on from them.

    Returns:
        Eigenpairs without residuals: one pass does not give them (see ``residuals``). Fewer than k where
        the sketch's numerical rank is smaller.

    Raises:
        ValueError: Not k ≤ n_O ≤ n_I ≤ D, or there is no such test matrix.
        SpectrumError: A product is not finite, or the storage is too small.
    """
    k = outer if k is None else k
    operator = typed(operator)
    _check_sketch(operator, k, outer, inner)
    right, left = (_draw(operator, test_matrix, inner, seed, stream) for stream in (0, 1))
    sketch = _Sketch(operator, left, [(right, outer)], storage, (outer, inner, seed, test_matrix))
    measured = sketch.measure(resumed)
    (basis,) = sketch.orthonormal()
    core = _solve_core(left, basis, measured, right, basis)
    values, rotation = by_magnitude(*torch.linalg.eigh((core + core.T) / 2))
    return Eigenpairs(
        basis, rotation, values, residuals=None, hvps=inner, record=sketch.record(), ritz=False
    ).top(k)


def ssvd(
    operator: Operator,
    outer: int,
    inner: int,
    *,
    k: int | None = None,
    seed: int = 0,
    test_matrix: TestMatrixName = "ssrft",
    storage: Storage | None = None,
    resumed: Callable[[int], None] | None = None,
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
        storage: Where the outer sketches live; in memory without a limit when not given.
        resumed: Told how many products an earlier process has made, if the measuring goes on from them.

    Raises:
        ValueError: Not k ≤ n_O ≤ n_I ≤ D, or there is no such test matrix.
        SpectrumError: A product is not finite, or the storage is too small.
    """
    k = outer if k is None else k
    operator = typed(operator)
    _check_sketch(operator, k, outer, inner)
    right, left = (_draw(operator, test_matrix, inner, seed, stream) for stream in (0, 1))
    outers = [_draw(operator, test_matrix, outer, seed, stream) for stream in (2, 3)]
    parts = [(right, 0), *((matrix, outer) for matrix in outers)]
    sketch = _Sketch(operator, left, parts, storage, (outer, inner, seed, test_matrix))
    measured = sketch.measure(resumed)
    columns, rows = sketch.orthonormal()
    u, values, vh = torch.linalg.svd(_solve_core(left, columns, measured, right, rows), full_matrices=False)
    return SingularTriplets(
        columns,
        u[:, :k],
        right=Vectors(rows, vh[:k].T),
        values=values[:k],
        hvps=2 * outer + inner,
        record=sketch.record(),
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
    return Eigenpairs(
        left,
        triplets.coefficients,
        values,
        residuals=None,
        hvps=triplets.hvps,
        record=triplets.record,
        ritz=False,
    )


def _check_sketch(operator: Operator, k: int, outer: int, inner: int) -> None:
    check_square(operator, k, outer)
    check_square(operator, outer, inner)


def _draw(operator: Operator, name: TestMatrixName, n: int, seed: int, stream: int) -> TestMatrix:
    return draw_test_matrix(name, n, operator.shape[0], (seed, stream), operator.dtype, operator.device)


class _Sketch:
    """Measurements of an operator in blocks, those kept whole in a basis.

    ``parts`` are pairs of a test matrix Ω and how many of the columns of H Ωᵀ are kept as rows of the basis,
    one part's after the other's; the first part is measured by the left test matrix as well.
    """

    def __init__(
        self,
        operator: Operator,
        left: TestMatrix,
        parts: list[tuple[TestMatrix, int]],
        storage: Storage | None,
        facts: tuple[int, int, int, str],
    ) -> None:
        dimension = operator.shape[0]
        self._operator, self._left, self._parts = operator, left, parts
        self._storage = storage or Storage()
        self._facts = {"sketch": list(facts), "dimension": dimension, "dtype": str(operator.dtype)}
        rows = sum(kept for _, kept in parts)
        fitting = self._storage.columns(dimension, operator.dtype)
        if fitting is not None and rows > fitting:
            raise SpectrumError(
                f"The sketches are {rows:,} vectors of D = {dimension:,}, and {fitting:,} fit into the "
                "memory for them; allow more memory, choose a smaller n_O, or krylov, which restarts."
            )
        self._basis = self._storage.basis(rows, dimension, operator.dtype, operator.device)
        self._resumed = 0

    def measure(self, resumed: Callable[[int], None] | None) -> Tensor:
        """Make all products; W = Ω_L H Ω_Rᵀ of the first part, in fp64."""
        height, width = self._left.shape[0], self._parts[0][0].shape[0]
        measured = torch.zeros(height, width, dtype=torch.float64, device=self._operator.device)
        state = self._basis.load(self._facts)
        if state is not None:
            measured, self._resumed = state["measured"], int(state["done"])
            if resumed is not None:
                resumed(self._resumed)
        # Wide blocks: a matrix that is not stored is drawn again for each.
        block = max(BLOCK, CHUNK_BYTES // (self._operator.shape[0] * self._operator.dtype.itemsize))
        done = row = 0
        for number, (matrix, kept) in enumerate(self._parts):
            for start in range(0, matrix.shape[0], block):
                stop = min(start + block, matrix.shape[0])
                done += stop - start
                if done <= self._resumed:
                    continue
                products = multiply(self._operator, matrix.columns(start, stop))
                if stay := max(0, min(stop, kept) - start):
                    self._basis.put(row + start, products[:, :stay].T)
                if number == 0:
                    measured[:, start:stop] = self._left.apply(products)
                self._basis.save({"measured": measured, "done": torch.tensor(done)}, self._facts)
            row += kept
        return measured

    def orthonormal(self) -> list[Tensor]:
        """Qᵀ with Q = orth(sketchᵀ) for each part that is kept: (r, D), r ≤ n_O its numerical rank.

        The core needs all of Q: Ω applied to the raw sketch and orthonormalised afterwards would amplify the
        rounding errors of the transform by the sketch's condition number.
        """
        found, row = [], 0
        for _, kept in self._parts:
            if kept:
                part = slice(row, row + kept)
                sketch = self._basis.rows[part]
                out = sketch
                if self._basis.kept_in == "file":  # what a killed computation goes on from stays as it is
                    out = self._storage.room(f"orthonormal-{row}", kept, sketch.shape[1], sketch.dtype)
                whitening = orthonormaliser(sketch, self._basis.gram(part))
                found.append(self._basis.form(whitening, part, out))
            row += kept
        return found

    def record(self) -> dict[str, str | int]:
        return {"kept_in": self._basis.kept_in, "columns": len(self._basis.rows), "resumed": self._resumed}


def _solve_core(
    left: TestMatrix, columns: Tensor, measured: Tensor, right: TestMatrix, rows: Tensor
) -> Tensor:
    """C = (Ω_L P)⁺ W ((Ω_R Q)⁺)ᵀ for orthonormal Pᵀ = ``columns`` and Qᵀ = ``rows``, in fp64."""
    half = torch.linalg.lstsq(left.apply(columns.T), measured).solution
    core: Tensor = torch.linalg.lstsq(right.apply(rows.T), half.T).solution.T
    return core
