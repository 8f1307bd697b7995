"""Masks, and how much of an eigenspace lies on them."""

from core.overlap.curves import best_curve, chance_curve, overlap_curve, random_curve
from core.overlap.error import FURTHER, overlap_error, resolved
from core.overlap.masks import largest_first, random_order

__all__ = [
    "FURTHER",
    "best_curve",
    "chance_curve",
    "largest_first",
    "overlap_curve",
    "overlap_error",
    "random_curve",
    "random_order",
    "resolved",
]
