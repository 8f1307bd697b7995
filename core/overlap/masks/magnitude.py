"""The mask of the largest weights of every tensor; an analysis begins with that of the largest of all."""

from __future__ import annotations

import torch
from torch import Tensor

from seigh.core.overlap.observables import Scene, ScoredMask


def flat(scene: Scene) -> Tensor:
    """θ: (D,)."""
    return torch.cat([tensor.detach().flatten() for tensor in scene.tensors.values()])


def _layerwise(scene: Scene) -> Tensor:
    """For each coordinate, which share of its own tensor has no larger magnitude; equal ones share a rank.

    Half a rank less lets a tensor's first weight into the mask when the mask has half a weight for it.
    """
    ranks = []
    for tensor in scene.tensors.values():
        magnitudes, order = tensor.detach().flatten().abs().sort()
        _, group, counts = torch.unique_consecutive(magnitudes, return_inverse=True, return_counts=True)
        rank = torch.empty(len(order), dtype=torch.float64, device=order.device)
        rank[order] = counts.cumsum(0).double()[group]
        ranks.append((rank - 0.5) / len(order))
    return torch.cat(ranks)


LAYERWISE = ScoredMask(
    "layerwise",
    "the largest |θ| of each tensor",
    "the mask takes the largest weights of every parameter tensor, the same share of each.",
    _layerwise,
)
