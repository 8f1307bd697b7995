"""overlap(M, V_k) = ‖MᵀV_k‖²_F / k for every k = 1 … n in one pass.

M holds the k coordinates of a mask as unit vectors, V_k the top-k eigenvectors. The overlap is the mean
squared entry mass of V_k on the masked rows, in [0, 1]; for a mask that knows nothing of V it is k/D on
average, the chance level (Fernandez et al., TMLR 2025, §3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seigh.core.overlap.masses import Extremes, Spread, cumulative_masses
from seigh.core.overlap.ties import Breaking, TieBreaks, Ties


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
    return mass / torch.arange(1, len(mass) + 1, dtype=torch.float64, device=mass.device)


def chance_curve(dimension: int, n: int) -> Tensor:
    """k/D for k = 1 … n, exactly the mean overlap over uniformly drawn masks: (n,) fp64."""
    return torch.arange(1, n + 1, dtype=torch.float64) / dimension


@dataclass(frozen=True)
class MaskCurves:
    """What masks have of the eigenspaces V_1 … V_n.

    Attributes:
        ties: The overlap of the magnitude mask, over all ways to break ties.
        random_std: (n,) fp64, standard deviation of the overlap over uniformly drawn masks, whose mean is
            ``chance_curve``.
        best: (n,) fp64, the overlap of the best mask: the k rows of V_k with the largest norms.
        largest: (n,) fp64, the largest ‖row i of V_k‖² over all coordinates i.
        masses: (G, D), ‖row i of V_k‖² of every coordinate i at the G sizes that were asked for, in the
            precision of V.
    """

    ties: TieBreaks
    random_std: Tensor
    best: Tensor
    largest: Tensor
    masses: Tensor


def mask_curves(vectors: Tensor, ties: Ties, overlap: Tensor, sizes: Sequence[int]) -> MaskCurves:
    """Overlaps of the magnitude mask, random masks and the best mask, in one pass over V.

    Args:
        vectors: Vᵀ, (n, D): an eigenvector in each row; read once, in blocks of coordinates.
        ties: Ties of the magnitude mask.
        overlap: (n,) fp64, of the magnitude mask that breaks ties by index.
        sizes: G sizes k, ascending, up to n.
    """
    n, dimension = vectors.shape
    at = torch.tensor(sizes) - 1
    masses = torch.empty(len(sizes), dimension, dtype=vectors.dtype, device=vectors.device)
    best, spread = Extremes(torch.arange(1, n + 1)), Spread(n, dimension)
    largest = torch.zeros(n, dtype=torch.float64)
    breaking = Breaking(ties, vectors[:, ties.order.to(vectors.device)].T, overlap.cpu())
    for part, found in cumulative_masses(vectors):
        masses[:, part] = found[at.to(found.device)]
        best.add(found)
        largest = torch.maximum(largest, found.amax(1).double().cpu())
        spread.add(found)
        breaking.add(part, found)
    return MaskCurves(
        breaking.found(),
        spread.deviations(),
        best.sums() / torch.arange(1, n + 1, dtype=torch.float64),
        largest,
        masses,
    )
