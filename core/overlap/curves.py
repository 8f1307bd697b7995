"""overlap(M, V_k) = ‖MᵀV_k‖²_F / k for every k = 1 … n in one pass.

M holds the k coordinates of a mask as unit vectors, V_k the top-k eigenvectors. The overlap is the mean
squared entry mass of V_k on the masked rows, in [0, 1]; for a mask that knows nothing of V it is k/D on
average, the chance level (Fernandez et al., TMLR 2025, §3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.overlap.masks import random_order

# The best mask is looked for among all coordinates once in so many sizes.
_STEPS = 64


def overlap_curve(masked_rows: Tensor) -> Tensor:
    """overlap(M, V_k), k = 1 … n, from V's rows in mask order: (n, n) → (n,) fp64.

    Row i of ``masked_rows`` is the row of V at the mask's i-th coordinate. ‖MᵀV_k‖² is the sum of squares
    of the leading k×k block, so two cumulative sums give all of them.

    Example:
        >>> overlap_curve(torch.tensor([[1.0, 0.0], [0.0, 0.5]])).tolist()
        [1.0, 0.625]
    """
    if masked_rows.ndim != 2 or masked_rows.shape[0] != masked_rows.shape[1]:
        raise ValueError(f"Needs as many masked rows as eigenvectors; got {tuple(masked_rows.shape)}.")
    mass = masked_rows.double().square().cumsum(0).cumsum(1).diagonal()
    return mass / _sizes(mass)


def chance_curve(dimension: int, n: int) -> Tensor:
    """k/D for k = 1 … n: (n,) fp64."""
    return torch.arange(1, n + 1, dtype=torch.float64) / dimension


def random_curve(vectors: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n−1 in the denominator) of the overlap over random masks: 2 × (n,) fp64.

    Args:
        vectors: Vᵀ, (n, D): an eigenvector in each row.
        draws: Number of random masks, at least 2.
        seed: Seeds the masks.
    """
    generator = torch.Generator().manual_seed(seed)
    n, dimension = vectors.shape
    curves = torch.stack(
        [
            overlap_curve(vectors[:, random_order(dimension, n, generator).to(vectors.device)].T)
            for _ in range(draws)
        ]
    )
    return curves.mean(0), curves.std(0)


def best_curve(vectors: Tensor) -> Tensor:
    """Overlap with the best mask, the k rows of V_k with the largest norms, for k = 1 … n, from Vᵀ (n, D):
    (n,) fp64."""
    n, dimension = vectors.shape
    norms = torch.zeros(dimension, dtype=vectors.dtype, device=vectors.device)
    mass = torch.empty(n, dtype=torch.float64, device=vectors.device)
    for k, vector in enumerate(vectors, start=1):
        norms.addcmul_(vector, vector)
        if k % _STEPS == 1:
            # Norms only grow, so enough of them for the next steps will be at least this.
            least = norms.topk(min(k + _STEPS, dimension), sorted=False).values.min()
        mass[k - 1] = norms[norms >= least].topk(k, sorted=False).values.double().sum()
    return mass / _sizes(mass)


def _sizes(mass: Tensor) -> Tensor:
    return torch.arange(1, len(mass) + 1, dtype=torch.float64, device=mass.device)
