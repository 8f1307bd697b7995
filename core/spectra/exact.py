"""All eigenpairs of a small operator from its dense matrix: the truth that the other methods are held to."""

from __future__ import annotations

import torch

from seigh.core.spectra.eigenpairs import Eigenpairs, by_magnitude
from seigh.core.spectra.operators import Operator, check_square, multiply, typed

# Columns of the identity that are multiplied at once.
BLOCK = 64

# Eigenvalues that differ by no more than this many units of rounding error of |λ₁| are taken for one.
_ALIKE = 64


def exact(operator: Operator, k: int, *, further: int = 0) -> Eigenpairs:
    """The k eigenpairs of largest |λ| from D products and a dense fp64 eigendecomposition.

    Needs 8·D² bytes several times over. The residuals are those of the matrix as multiplied, so they show
    how asymmetric rounding made it (fp32 products are symmetric only to about 1e-7·‖H‖), but not errors that
    are the same in both triangles.

    Args:
        operator: Symmetric, D × D.
        k: Number of wanted pairs.
        further: Pairs beyond them that are returned as well, and all that cannot be told apart from number k.

    Raises:
        ValueError: k is not in 1 … D.
        SpectrumError: A product is not finite.
    """
    operator = typed(operator)
    dimension = check_square(operator, k, operator.shape[0])
    dense = torch.empty(dimension, dimension, dtype=torch.float64, device=operator.device)
    for start in range(0, dimension, BLOCK):
        stop = min(start + BLOCK, dimension)
        unit = torch.zeros(stop - start, dimension, dtype=operator.dtype, device=operator.device)
        unit[torch.arange(stop - start), torch.arange(start, stop)] = 1
        dense[:, start:stop] = multiply(operator, unit.T)
    values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
    values, vectors = by_magnitude(values, vectors)
    precision = torch.finfo(operator.dtype).eps
    # What rounding leaves together is one eigenspace, however many vectors it has.
    alike = values.abs() >= values[k - 1].abs() - _ALIKE * precision * values[0].abs()
    count = min(dimension, max(k + further, int(alike.sum()))) if further else k
    values, vectors = values[:count], vectors[:, :count].contiguous()
    residuals = (dense @ vectors - vectors * values).norm(dim=0)
    return Eigenpairs(
        basis=vectors.T.contiguous(),
        coefficients=torch.eye(count, dtype=torch.float64, device=operator.device),
        values=values,
        residuals=residuals,
        hvps=dimension,
        precision=precision,
    )
