"""What a data set holds, for people: numbers of samples, classes and targets, and a look at some samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from seigh.core.problems.data.dataset import Dataset

Look = Literal["images", "tokens", "rows"]

_CHANNELS = (1, 3)
_FEWEST_PIXELS = 3  # of each side: what is smaller is no image to look at


@dataclass(frozen=True)
class Summary:
    """What a data set, or one split of it, holds.

    Attributes:
        samples: N.
        shape: Of one sample.
        look: How a sample is best shown.
        dtype: Of the samples, as PyTorch calls it.
        counts: Samples of each class by its label, where every sample has one label.
        class_names: What labels stand for, where that is known.
        target_shape: Of one sample's target; () of a label or number.
        lowest, highest: Of the targets; labels that are ignored (negative ones) are left out of both.
    """

    samples: int
    shape: tuple[int, ...]
    look: Look
    dtype: str
    counts: Mapping[int, int] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    target_shape: tuple[int, ...] = ()
    lowest: float | None = None
    highest: float | None = None

    @property
    def classes(self) -> int:
        """Number of classes that have samples."""
        return len(self.counts)


def summarise(dataset: Dataset) -> Summary:
    """Count what a data set holds; of the samples only the first is read.

    Example:
        >>> whole = summarise(Dataset("mine", torch.zeros(5, 1, 4, 4), torch.tensor([0, 2, 2, 0, 2])))
        >>> whole.samples, whole.look, whole.counts
        (5, 'images', {0: 2, 2: 3})
    """
    first = dataset.take(torch.zeros(1, dtype=torch.int64))
    y = dataset.y
    whole = not y.is_floating_point()
    counts: dict[int, int] = {}
    if whole and y.ndim == 1:
        labels, numbers = torch.unique(y, return_counts=True)
        counts = dict(zip(labels.tolist(), numbers.tolist(), strict=True))
    meant = y[y >= 0] if whole else y
    return Summary(
        samples=len(y),
        shape=dataset.shape,
        look=_look(first[0]),
        dtype=str(first.dtype).removeprefix("torch."),
        counts=counts,
        class_names=dataset.class_names,
        target_shape=tuple(y.shape[1:]),
        lowest=float(meant.min()) if meant.numel() else None,
        highest=float(meant.max()) if meant.numel() else None,
    )


def examples(dataset: Dataset, most: int) -> Tensor:
    """The places of some samples, (n,) int64, n ≤ ``most``: the first of each class, else evenly spread.

    Example:
        >>> examples(Dataset("mine", torch.zeros(5, 2), torch.tensor([1, 1, 0, 1, 2])), 3).tolist()
        [2, 0, 4]
        >>> examples(Dataset("mine", torch.zeros(5, 2), torch.zeros(5, 3)), 3).tolist()
        [0, 2, 4]
    """
    y = dataset.y
    if y.ndim == 1 and not y.is_floating_point():
        labels = torch.unique(y)
        if 1 < len(labels) <= most:
            return torch.stack([(y == label).nonzero()[0, 0] for label in labels])
    return torch.linspace(0, len(y) - 1, min(most, len(y))).round().long()


def as_image(sample: Tensor) -> Tensor:
    """A sample (H, W), (C, H, W) or (H, W, C) as (H, W) or (H, W, 3), from 0 for its smallest number to 1."""
    low, high = sample.min(), sample.max()
    scaled = (sample - low) / (high - low) if high > low else torch.zeros_like(sample)
    if scaled.ndim == 3 and scaled.shape[0] in _CHANNELS:
        scaled = scaled.movedim(0, -1)
    return scaled[..., 0] if scaled.ndim == 3 and scaled.shape[-1] == 1 else scaled


def _look(sample: Tensor) -> Look:
    if not sample.is_floating_point():
        return "tokens"
    shape = sample.shape
    if len(shape) == 3 and shape[0] in _CHANNELS:
        sides = shape[1:]
    elif len(shape) == 3 and shape[-1] in _CHANNELS:
        sides = shape[:-1]
    elif len(shape) == 2:
        sides = shape
    else:
        return "rows"
    return "images" if min(sides) >= _FEWEST_PIXELS and math.prod(sides) > 1 else "rows"
