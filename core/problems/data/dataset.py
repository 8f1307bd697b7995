"""Labelled samples that need not be in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seigh.core.errors import UserError

# A compressed file may unpack to a thousand times its size; N = 5,000 ImageNet samples in float32 are 3 GiB.
LARGEST_ARRAY = 4 * 2**30  # bytes


class DataError(UserError):
    """Data that cannot be used; the message is one sentence for the person who chose it."""


class Samples(Protocol):
    """N samples: a tensor, or what decodes those that are asked for."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, …)."""

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """The samples of an (n,) index: (n, …), float32, float64 or integers."""


@dataclass(frozen=True)
class Dataset:
    """Samples and their targets.

    Attributes:
        name: The data set's name, or the name of the file.
        samples: (N, …), in memory or decoded on demand.
        y: Class labels, (N,) int64, or what else a loss compares outputs with: labels of positions, (N, …)
            int64, or numbers, (N, …) float32 or float64.
        synthetic: Whether the samples are made up, so that results on them are trials only.
        class_names: What the labels stand for, where that is known.
    """

    name: str
    samples: Samples
    y: Tensor
    synthetic: bool = False
    class_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.samples.shape[1:])

    def take(self, index: Tensor) -> Tensor:
        """The samples of an (n,) index: (n, …), float32, float64 or integers. No others are
        decoded.

        Raises:
            DataError: If a sample's file is damaged.
        """
        return self.samples[index]

    @property
    def x(self) -> Tensor:
        """All samples, (N, …); unless they are in memory already, they are decoded at every call.

        Raises:
            DataError: If they are too many for that.
        """
        if isinstance(self.samples, Tensor):
            return self.samples
        if 4 * math.prod(self.samples.shape) > LARGEST_ARRAY:
            raise DataError(
                f"The {len(self.y):,} samples of {self.name} together are more than "
                f"{LARGEST_ARRAY // 2**30} GiB; choose a subset."
            )
        return self.take(torch.arange(len(self.y)))
