"""Whether coordinates of large |θ| have more of the eigenspaces' mass than those of small |θ|."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

# Bins at most, and the quantiles told of each.
BINS = 60
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class MagnitudeBins:
    """Coordinates by rank of |θ|, in B bins of which each next one goes down by the same factor in rank.

    Mass means ‖row of V_k‖² / k, whose sum over all coordinates is 1 and whose mean is 1/D.

    Attributes:
        sizes: The G sizes k.
        counts: (B,), coordinates in each bin, the one of the largest |θ| first.
        largest: (B,), the largest |θ| in each.
        smallest: (B,), the smallest.
        mean: (G, B), of the mass.
        quantiles: (G, B, 3), those of ``QUANTILES`` of it, each the mass of one coordinate.
    """

    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    largest: Floats
    smallest: Floats
    mean: Floats
    quantiles: Floats

    def rows(self) -> list[dict[str, Any]]:
        """A row for every size and bin."""
        return [
            {
                "k": k,
                "position": b,
                "count": count,
                "largest": float(self.largest[b]),
                "smallest": float(self.smallest[b]),
                "mean": float(self.mean[g, b]),
                **dict(zip(("low", "median", "high"), self.quantiles[g, b].tolist(), strict=True)),
            }
            for g, k in enumerate(self.sizes)
            for b, count in enumerate(self.counts)
        ]


def magnitude_bins(theta: Tensor, masses: Tensor, sizes: Sequence[int], bins: int = BINS) -> MagnitudeBins:
    """Mass of the eigenspaces on coordinates of about the same |θ|.

    Args:
        theta: (D,).
        masses: (G, D), ‖row i of V_k‖² of every coordinate i at ``sizes``.
        sizes: The G sizes k.
        bins: How many at most; fewer where those of the first ranks would be empty.
    """
    dimension = len(theta)
    magnitudes, rank = theta.abs().sort(descending=True)
    edges = np.unique(np.round(np.geomspace(1, dimension + 1, bins + 1)).astype(int)) - 1
    counts = tuple(int(count) for count in np.diff(edges))
    first, last = torch.from_numpy(edges[:-1]), torch.from_numpy(edges[1:] - 1)
    by_rank = masses[:, rank.to(masses.device)].cpu()
    binned = [by_rank[:, start:end] for start, end in pairwise(edges.tolist())]
    mean = torch.stack([each.mean(1, dtype=torch.float64) for each in binned], 1)
    quantiles = torch.stack([_quantiles(each) for each in binned], 1)
    k = torch.tensor(sizes, dtype=torch.float64)
    return MagnitudeBins(
        tuple(sizes),
        counts,
        magnitudes[first.to(theta.device)].double().cpu().numpy(),
        magnitudes[last.to(theta.device)].double().cpu().numpy(),
        (mean / k[:, None]).numpy(),
        (quantiles / k[:, None, None]).numpy(),
    )


def _quantiles(values: Tensor) -> Tensor:
    """The quantiles of each row, (G, n) → (G, 3) fp64: those of the values that are the places' by size."""
    places = [math.ceil(quantile * values.shape[1]) - 1 for quantile in QUANTILES]
    # Linear in n; rows may be millions long, and need no order otherwise.
    return torch.from_numpy(np.partition(values.numpy(), places, axis=1)[:, places]).double()
