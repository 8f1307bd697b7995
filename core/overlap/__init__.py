"""Masks, how much of an eigenspace lies on them, and where."""

from core.overlap.curves import best_curve, chance_curve, overlap_curve, random_curve
from core.overlap.error import FURTHER, overlap_error, resolved
from core.overlap.layers import LayerShares, layer_shares, row_masses
from core.overlap.magnitudes import MagnitudeBins, magnitude_bins
from core.overlap.masks import largest_first, random_order
from core.overlap.metrics import MaskMetric, mask_metrics, sizes

__all__ = [
    "FURTHER",
    "LayerShares",
    "MagnitudeBins",
    "MaskMetric",
    "best_curve",
    "chance_curve",
    "largest_first",
    "layer_shares",
    "magnitude_bins",
    "mask_metrics",
    "overlap_curve",
    "overlap_error",
    "random_curve",
    "random_order",
    "resolved",
    "row_masses",
    "sizes",
]
