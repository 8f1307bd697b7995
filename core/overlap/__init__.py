"""Masks, how much of an eigenspace lies on them, and where."""

from seigh.core.overlap.curves import MaskCurves, chance_curve, mask_curves, overlap_curve
from seigh.core.overlap.error import (
    FURTHER,
    RESOLVED,
    StatedOverlap,
    resolved,
    stated_extremes,
    stated_overlap,
)
from seigh.core.overlap.layers import LayerShares, layer_shares
from seigh.core.overlap.magnitudes import MagnitudeBins, magnitude_bins
from seigh.core.overlap.masks import largest_first
from seigh.core.overlap.metrics import MaskMetric, mask_metrics, sizes
from seigh.core.overlap.ties import TieBreaks, Ties, find_ties

__all__ = [
    "FURTHER",
    "RESOLVED",
    "LayerShares",
    "MagnitudeBins",
    "MaskCurves",
    "MaskMetric",
    "StatedOverlap",
    "TieBreaks",
    "Ties",
    "chance_curve",
    "find_ties",
    "largest_first",
    "layer_shares",
    "magnitude_bins",
    "mask_curves",
    "mask_metrics",
    "overlap_curve",
    "resolved",
    "sizes",
    "stated_extremes",
    "stated_overlap",
]
