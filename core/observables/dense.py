"""The matrix of a small network, multiplied out once for all observables that look at the whole of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seigh.core.methods import Request
from seigh.core.overlap.observables import Scene
from seigh.core.spectra import Operator
from seigh.core.spectra.operators import multiply

EXACT_UP_TO = 512
"""D up to which matrices are multiplied out."""

# Columns that are multiplied at once.
_BLOCK = 32


def is_small(dimension: int) -> bool:
    """Whether matrices of this D are multiplied out."""
    return dimension <= EXACT_UP_TO


def columns(operator: Operator, block: Tensor) -> Tensor:
    """operator @ block, some columns at once: (D, b) → (D, b) float64."""
    parts = [multiply(operator, each.to(operator.dtype)).double() for each in torch.split(block, _BLOCK, 1)]
    return torch.cat(parts, 1).to(block.device)


def multiplied_out(operator: Operator, device: torch.device) -> Tensor:
    """(D, D) float64, by D products; not symmetric to the last digit."""
    return columns(operator, torch.eye(operator.shape[0], dtype=torch.float64, device=device))


def hessian(scene: Scene) -> Tensor:
    """``multiplied_out`` of the scene's H, once for all who ask."""
    return scene.once("H, multiplied out", lambda: multiplied_out(scene.hessian, scene.vectors.device))


def cost(request: Request) -> Mapping[str, float]:
    """What ``hessian`` takes, in products with one vector."""
    return {"H, multiplied out": float(request.dimension)}
