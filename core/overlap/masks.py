"""Masks as orders of coordinates: the mask of size k is the first k entries of an order."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_first(parameters: Tensor, n: int) -> Tensor:
    """Indices of the n largest |θ|, descending; equal ones by index: (D,) → (n,) int64."""
    return parameters.abs().argsort(descending=True, stable=True)[:n]


def random_order(dimension: int, n: int, generator: torch.Generator) -> Tensor:
    """n distinct indices of 0 … D−1, uniformly drawn: (n,) int64 on the CPU."""
    return torch.randperm(dimension, generator=generator)[:n]
