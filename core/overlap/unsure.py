"""The overlaps of all masks that uncertain scores admit.

If score i lies in [l_i, u_i], a coordinate is in every mask of the k largest scores if its l_i is above the
(k + 1)-th largest u, and in none if its u_i is below the k-th largest l. What is between may be in or not:
the overlap lies between those with the rest of the mask filled up by the smallest and by the largest masses.
"""

from __future__ import annotations

import torch
from torch import Tensor


def extreme_overlaps(vectors: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least and greatest overlap with V_1 … V_n over all masks that the intervals admit, 2 × (n,) fp64; and
    how many coordinates of each mask are not certain, (n,) int64.

    Args:
        vectors: Vᵀ, (n, D): an eigenvector in each row.
        lower: (D,), l of each score.
        upper: (D,), u ≥ l.
    """
    n, dimension = vectors.shape
    least_in = lower.topk(n).values  # the k-th largest l is at k − 1
    above = upper.topk(min(n + 1, dimension)).values
    if n == dimension:
        above = torch.cat([above, above.new_full((1,), -torch.inf)])
    candidates = (upper >= least_in[-1]).nonzero().flatten()
    low, high = lower[candidates], upper[candidates]
    masses = torch.zeros(len(candidates), dtype=torch.float64, device=vectors.device)
    found = torch.empty(2, n, dtype=torch.float64)
    undecided = torch.zeros(n, dtype=torch.int64)
    for row in range(n):
        k = row + 1
        masses += vectors[row, candidates].double().square()
        certain = low > above[k]
        open_ = ~certain & (high >= least_in[row])
        base = float(masses[certain].sum())
        wanted = k - int(certain.sum())
        undecided[row] = wanted
        free = masses[open_]
        for place, largest in enumerate((False, True)):
            found[place, row] = (
                base + float(free.topk(wanted, largest=largest).values.sum()) if wanted else base
            )
        found[:, row] /= k
    return found[0], found[1], undecided


def with_eigenspace(greatest: Tensor, overlap: Tensor, error: Tensor, most: Tensor) -> Tensor:
    """How large the overlap of a mask may be with the true eigenspace, if with the computed one it is
    ``greatest``: (n,) fp64.

    A tilt of the eigenspace by s changes the overlap o of a mask by up to 2s√o + s²: the error of a mask that
    has more of the eigenspace is larger as the root of its overlap is. *Estimated*, as the tilt is not the
    same for all masks.

    Args:
        greatest: (n,), of ``extreme_overlaps``.
        overlap: (n,), of the mask whose error is known.
        error: (n,), how far that may be off.
        most: (n,), what no mask has more of.
    """
    grown = error * (greatest / overlap.clamp_min(torch.finfo(torch.float64).tiny)).clamp_min(1).sqrt()
    return torch.maximum(torch.minimum(greatest + grown, most), greatest + error)
