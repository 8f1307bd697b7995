"""Masks as orders of coordinates: the mask of size k is the first k entries of an order."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_first(parameters: Tensor, n: int) -> Tensor:
    """Indices of the n largest |θ|, descending; equal ones by index: (D,) → (n,) int64."""
    return parameters.abs().argsort(descending=True, stable=True)[:n]


def random_order(dimension: int, n: int, generator: torch.Generator) -> Tensor:
    """n distinct indices of 0 … D−1, uniformly drawn: (n,) int64 on the CPU."""
    if 4 * n > dimension:
        return torch.randperm(dimension, generator=generator)[:n]
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < n:
        drawn = torch.unique(torch.randint(dimension, (2 * n,), generator=generator))
    return drawn[torch.randperm(len(drawn), generator=generator)[:n]]
