"""Masks as orders of coordinates: the mask of size k is the first k entries of an order."""

from __future__ import annotations

from torch import Tensor


def largest_first(parameters: Tensor, n: int) -> Tensor:
    """Indices of the n largest |θ|, descending; equal ones by index: (D,) → (n,) int64.

    Where magnitudes are equal this is one of several orders (``seigh.core.overlap.ties``).
    """
    magnitudes = parameters.abs()
    least = magnitudes.topk(n, sorted=False).values.min()
    candidates = (~(magnitudes < least)).nonzero().flatten()  # far fewer to sort; ties are all among them
    return candidates[magnitudes[candidates].argsort(descending=True, stable=True)[:n]]
