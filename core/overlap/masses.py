"""Row masses, ‖row i of V_k‖² of coordinate i for every size k, and their extremes, in one pass over V.

A mask's overlap is the sum of the masses of its k coordinates, divided by k. All D·n masses are too many to
keep, so blocks of coordinates are visited once, and everything that needs all masses is fed in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from seigh.core.linalg.tiles import chunks

# Successive sizes at which candidates for extreme masses are looked for at once.
_TOGETHER = 16


def cumulative_masses(vectors: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of coordinates, each with its masses (n, block): row k − 1 has ‖row i of V_k‖².

    Args:
        vectors: Vᵀ, (n, D): an eigenvector in each row. The masses have its precision.
    """
    n, dimension = vectors.shape
    for part in chunks(dimension, n, vectors.itemsize, cached=vectors.device):
        masses = vectors[:, part].square()
        # A cumulative sum along the first dimension is slower: it works on one column after the other.
        for before, row in pairwise(masses.unbind(0)):
            row.add_(before)
        yield part, masses


class Extremes:
    """Sums of the largest, or smallest, masses at K successive sizes, over coordinates that are told in turn.

    Args:
        counts: (K,) int64, how many masses are summed at each size, at least 1.
        smallest: Whether the smallest are wanted rather than the largest.
    """

    def __init__(self, counts: Tensor, *, smallest: bool = False) -> None:
        self._counts, self._most = counts, int(counts.max())
        self._sign = -1 if smallest else 1
        self._kept: Tensor | None = None  # (K, most) at least, signed, the largest so far, ascending
        # Masses grow with k, so one size of a few shows which coordinates may matter at any of them.
        starts = torch.arange(0, len(counts), _TOGETHER)
        self._shown = starts if smallest else (starts + _TOGETHER - 1).clamp_max(len(counts) - 1)

    def add(self, masses: Tensor) -> None:
        """Masses of further coordinates: (K, m)."""
        if self._kept is None:
            # Those that are extreme at the last size are likely so at others: then few of the rest matter.
            some = min(masses.shape[1], 2 * self._most)
            likely = (masses[-1] * self._sign).topk(some, sorted=False).indices
            self._keep(masses[:, likely])
            candidates = self._candidates(masses)
            candidates[likely] = False
        else:
            candidates = self._candidates(masses)
        self._keep(masses[:, candidates.nonzero().flatten()])

    def sums(self) -> Tensor:
        """(K,) fp64 on the CPU."""
        assert self._kept is not None
        from_largest = self._kept.cpu().double().flip(1).cumsum(1)
        return self._sign * from_largest.gather(1, self._counts[:, None] - 1)[:, 0]

    def _candidates(self, masses: Tensor) -> Tensor:
        """Mark the coordinates that may be more extreme than a counted one at some size: (m,) bool."""
        assert self._kept is not None
        if self._kept.shape[1] < self._most:
            return torch.ones(masses.shape[1], dtype=torch.bool, device=masses.device)
        least = self._kept.gather(1, self._most - self._counts.to(masses.device)[:, None])[:, 0]
        missing = -len(least) % _TOGETHER
        least = torch.cat([least, least.new_full((missing,), torch.inf)]).view(-1, _TOGETHER).amin(1)
        return (masses[self._shown.to(masses.device)] * self._sign > least[:, None]).any(0)

    def _keep(self, masses: Tensor) -> None:
        if masses.shape[1]:
            signed = masses * self._sign
            both = signed if self._kept is None else torch.cat([self._kept, signed], 1)
            self._kept = _ascending(both)[:, -self._most :]


class Spread:
    """Standard deviation of the overlap of a mask of k uniformly drawn coordinates, for k = 1 … n.

    Its mean is exactly k/D. With m_i the mass of coordinate i, Σ m_i = k, drawing k of D without replacement
    gives the variance (D − k) / (k D (D − 1)) · Σ (m_i − k/D)² (Cochran, Sampling Techniques, 1977, §2.6).
    """

    def __init__(self, n: int, dimension: int) -> None:
        self._sizes = torch.arange(1, n + 1, dtype=torch.float64)
        self._dimension = dimension
        self._squares = torch.zeros(n, dtype=torch.float64)

    def add(self, masses: Tensor) -> None:
        """Masses of further coordinates: (n, m)."""
        mean = (self._sizes / self._dimension).to(masses)
        self._squares += torch.linalg.vector_norm(masses - mean[:, None], dim=1).double().cpu().square()

    def deviations(self) -> Tensor:
        """(n,) fp64 on the CPU."""
        k, dimension = self._sizes, self._dimension
        return ((dimension - k) / (k * dimension * max(1, dimension - 1)) * self._squares).sqrt()


def _ascending(values: Tensor) -> Tensor:
    """Each row sorted."""
    if values.device.type == "cpu":  # NumPy's sort uses vector registers and is ten times as fast
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(1).values
