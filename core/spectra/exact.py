"""All eigenpairs of a small operator from its dense matrix: the truth that the other methods are held to."""

from __future__ import annotations

import torch

from core.spectra.eigenpairs import Eigenpairs, by_magnitude
from core.spectra.operators import Operator, check_square, multiply

# Columns of the identity that are multiplied at once.
BLOCK = 64


def exact(operator: Operator, k: int) -> Eigenpairs:
    """The k eigenpairs of largest |λ| from D products and a dense fp64 eigendecomposition.

    Needs 8·D² bytes several times over. The residuals are those of the matrix as multiplied, so they show
    its rounding errors (fp32 products are symmetric only to about 1e-7·‖H‖).

    Raises:
        ValueError: k is not in 1 … D.
        SpectrumError: A product is not finite.
    """
    dimension = check_square(operator, k, operator.shape[0])
    dense = torch.empty(dimension, dimension, dtype=torch.float64, device=operator.device)
    for start in range(0, dimension, BLOCK):
        stop = min(start + BLOCK, dimension)
        unit = torch.zeros(stop - start, dimension, dtype=operator.dtype, device=operator.device)
        unit[torch.arange(stop - start), torch.arange(start, stop)] = 1
        dense[:, start:stop] = multiply(operator, unit.T)
    values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
    values, vectors = by_magnitude(values, vectors)
    values, vectors = values[:k], vectors[:, :k].contiguous()
    residuals = (dense @ vectors - vectors * values).norm(dim=0)
    return Eigenpairs(
        basis=vectors.T.contiguous(),
        coefficients=torch.eye(k, dtype=torch.float64, device=operator.device),
        values=values,
        residuals=residuals,
        hvps=dimension,
    )
