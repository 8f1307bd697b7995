"""How alike two analyses are: their eigenspaces, from stored eigenvectors, and their checkpoints' masks.

Nothing but blocks of the eigenvectors is in memory, and k×k matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from seigh.core.names import Metric
from seigh.core.overlap.metrics import Rows, align, metrics


class StoredVectors:
    """The eigenvectors of an analysis in their file, of which only what is asked for is read.

    Attributes:
        shape: (n, D).
    """

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self.shape: tuple[int, int] = tuple(stored.get_shape())

    def __getitem__(self, part: tuple[slice, slice], /) -> Tensor:
        rows: Tensor = self._stored[part]
        return rows


@contextmanager
def stored_vectors(path: Path) -> Iterator[StoredVectors]:
    """The eigenvectors in a file of an analysis, open for reading.

    Raises:
        OSError, safetensors.SafetensorError: There is no such file, or it is damaged.
    """
    with safetensors.safe_open(path, "pt") as file:
        yield StoredVectors(file.get_slice("eigenvectors"))


def eigenspaces(
    first: Rows,
    second: Rows,
    ks: Sequence[int],
    *,
    factors: tuple[Tensor, Tensor] | None = None,
    device: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[int, dict[Metric, float]]:
    """Every metric between the spans of the first k vectors of either, for each k that both have.

    One product of all vectors with all serves every k: it has the smaller ones in its corner.

    Args:
        first: An eigenvector in each of (m, D) rows.
        second: The same, (n, D).
        ks: Sizes; those above min(m, n) are left out of the answer.
        factors: ``seigh.core.overlap.metrics.factor`` of both, where they are known.
        device: Where blocks are multiplied; the CPU when not given.
        progress: As for ``seigh.core.overlap.metrics.align``.

    Raises:
        ValueError: The vectors have different lengths, or are dependent.
    """
    shared = min(first.shape[0], second.shape[0])
    reached = [k for k in ks if 1 <= k <= shared]
    if not reached:
        return {}
    alignment = align(first, second, most=max(reached), factors=factors, device=device, progress=progress)
    return {k: metrics(alignment.angles(k)) for k in reached}


def mask_iou(first: Tensor, second: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Intersection over union of the masks of the first k coordinates of two orders, for each k they reach.

    Orders break ties by index, alike in both checkpoints: coordinates that are equal in either of them, as
    before training, make the masks look more alike than if ties were broken at random.

    Args:
        first: (m,) int64, coordinates, largest |θ| first.
        second: (n,), the same of another checkpoint.
        ks: Sizes; those above min(m, n) are left out of the answer.

    Example:
        >>> mask_iou(torch.tensor([4, 2, 0]), torch.tensor([2, 1, 4]), [1, 2, 3])
        {1: 0.0, 2: 0.3333333333333333, 3: 0.5}
    """
    shared = min(len(first), len(second))
    first, second = first[:shared], second[:shared]
    ranks = torch.full((int(torch.maximum(first, second).max()) + 1,), shared)
    ranks[second] = torch.arange(shared)
    # A coordinate is in both masks from the larger of its ranks on.
    common = torch.bincount(torch.maximum(torch.arange(shared), ranks[first]), minlength=shared).cumsum(0)
    return {k: _iou(int(common[k - 1]), k) for k in ks if 1 <= k <= shared}


def _iou(common: int, k: int) -> float:
    return common / (2 * k - common)
