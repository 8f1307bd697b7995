"""The masks of an analysis, as its record has them, and how alike two of them are at every size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Standard deviations from the mean beyond which numbers of common coordinates do not count.
_SPREADS = 12.0


@dataclass(frozen=True)
class Mask:
    """The masks of size 1 … K: that of size k has the first k coordinates.

    Attributes:
        coordinates: (K,), counted in θ from 0, by descending score, equal ones by index.
        tied: (K,), among how many coordinates of equal score the mask of size k has to choose; 0 where it is
            determined.
        open: (K,), how many of its k coordinates may be others instead, as scores tie or are estimated.
    """

    coordinates: Integers
    tied: Integers
    open: Integers

    def to_json(self) -> dict[str, list[int]]:
        """Return the counts as JSON types; lists of zeros alone are left out."""
        told = {"coordinates": self.coordinates.tolist()}
        return told | {
            name: each.tolist() for name, each in (("tied", self.tied), ("open", self.open)) if each.any()
        }


def of_record(record: Mapping[str, Any]) -> dict[str, Mask]:
    """The masks in a record by name, that of the largest |θ| first; none where none were asked for."""
    found = {}
    for name, told in record.get("masks", {}).items():
        coordinates = np.array(told["coordinates"], dtype=np.int64)
        tied, open_ = (
            np.array(told.get(each) or np.zeros(len(coordinates)), dtype=np.int64)
            for each in ("tied", "open")
        )
        found[name] = Mask(coordinates, tied, open_)
    return found


def open_places(tied: Integers) -> Integers:
    """How many coordinates of the mask of each size equal scores may replace by others: (K,).

    If t of g equal ones are in the mask, that is min(t, g − t).

    Example:
        >>> open_places(np.array([0, 4, 4, 4, 0, 9])).tolist()
        [0, 1, 2, 1, 0, 1]
    """
    found, taken = np.zeros_like(tied), 0
    for row, group in enumerate(tied.tolist()):
        taken = taken + 1 if group else 0
        found[row] = min(taken, group - taken) if group else 0
    return found


def iou(first: Mask, second: Mask, parameters: int) -> tuple[Floats, Floats, Floats]:
    """Intersection over union of two masks of size 1 … K, how far it may be off, and by chance: 3 × (K,).

    The masks break ties by index. Any open coordinate of either may be in the other mask or not, which moves
    the intersection by at most one each. By chance it is ``chance_iou``.

    Args:
        first: Mask of an analysis.
        second: Mask of the same analysis, or of one with the same θ.
        parameters: D.
    """
    length = min(len(first.coordinates), len(second.coordinates))
    ranks = {int(each): rank for rank, each in enumerate(second.coordinates[:length])}
    later = [max(rank, ranks.get(int(each), length)) for rank, each in enumerate(first.coordinates[:length])]
    common = np.bincount(later, minlength=length + 1)[:length].cumsum()
    sizes = np.arange(1, length + 1)
    unsure = first.open[:length] + second.open[:length]
    value, error = _of_common(common, unsure, sizes, parameters)
    return value, error, np.array([chance_iou(int(k), parameters) for k in sizes])


def iou_at(first: Mask, second: Mask, k: int, parameters: int) -> tuple[float, float] | None:
    """Intersection over union at one size, and how far it may be off; None where a mask ends before."""
    if k > min(len(first.coordinates), len(second.coordinates)):
        return None
    common = np.intersect1d(first.coordinates[:k], second.coordinates[:k], assume_unique=True)
    unsure = first.open[k - 1] + second.open[k - 1]
    value, error = _of_common(np.array([len(common)]), np.array([unsure]), np.array([k]), parameters)
    return float(value[0]), float(error[0])


def _of_common(common: Integers, unsure: Integers, sizes: Integers, parameters: int) -> tuple[Floats, Floats]:
    """The intersection over union of masks with so many coordinates in common, which as many as are unsure
    may change, and how far it may be off."""
    least = np.maximum(np.maximum(0, 2 * sizes - parameters), common - unsure)
    most = np.minimum(sizes, common + unsure)
    value, low, high = (each / (2 * sizes - each) for each in (common, least, most))
    return value, np.maximum(high - value, value - low)


@cache
def chance_iou(k: int, parameters: int) -> float:
    """The mean intersection over union of two masks of k of D coordinates that are drawn at random.

    The c coordinates in common are hypergeometric, with the mean k²/D. c/(2k − c) is convex in c, so that its
    mean is more than its value at that mean: of single coordinates, 1/D and not 1/(2D − 1).

    Example:
        >>> chance_iou(1, 100)
        0.01
    """
    mean = k * k / parameters
    reach = _SPREADS * math.sqrt(mean + 1) + _SPREADS**2
    fewest, most = max(0, 2 * k - parameters, math.floor(mean - reach)), min(k, math.ceil(mean + reach))
    common = np.arange(fewest, most + 1)
    c = common[1:]
    steps = 2 * np.log(k - c + 1) - np.log(c) - np.log(parameters - 2 * k + c)  # log P(c) − log P(c − 1)
    log = np.concatenate([[0.0], steps.cumsum()])
    weights = np.exp(log - log.max())
    return float((weights * common / (2 * k - common)).sum() / weights.sum())
