"""Equal magnitudes: which masks of k largest |θ| there are, and the overlap of all of them.

If the k-th largest magnitude belongs to several coordinates and not all of them are among the first k, the
mask is not determined: any t of the g equal coordinates may be in it. Scales of normalisation layers before
training, biases that start at zero, and quantised or pruned weights are like that. The overlap is linear in
the masses of the chosen coordinates, so its mean over all choices has a closed form, and its least and
greatest value take the t smallest and the t largest masses of the g.

Magnitudes are equal if they are the same number in the precision of the analysis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from seigh.core.overlap.masses import Extremes


@dataclass(frozen=True)
class Ties:
    """The groups of equal magnitudes that the masks of size k = 1 … n cut.

    Attributes:
        order: (n,) int64 on the CPU, the n largest |θ|, equal ones by index.
        larger: (n,) int64, how many coordinates have a larger |θ| than the k-th.
        equal: (n,) int64, how many have the same |θ| as the k-th, itself included.
        beyond: (D,) bool on the device of θ, the group of the n-th coordinate if it goes on beyond n; None
            if it does not.
    """

    order: Tensor
    larger: Tensor
    equal: Tensor
    beyond: Tensor | None

    @cached_property
    def tied(self) -> Tensor:
        """How many equal coordinates the mask of size k has to choose among, (n,) int64.

        This is ``equal`` where only some of them are within k, and 0 where the mask is determined.
        """
        sizes = torch.arange(1, len(self.order) + 1)
        return torch.where(self.larger + self.equal > sizes, self.equal, 0)

    def chosen(self, k: int) -> tuple[Tensor, Tensor]:
        """Coordinates that are in some mask of size k, and the share of all masks that each is in: 2 × (m,).

        Example:
            >>> ties = find_ties(torch.tensor([1.0, -3.0, 1.0]), torch.tensor([1, 0]))
            >>> ties.chosen(2)
            (tensor([1, 0, 2]), tensor([1.0000, 0.5000, 0.5000], dtype=torch.float64))
        """
        if not self.tied[k - 1]:
            return self.order[:k], torch.ones(k, dtype=torch.float64)
        larger, equal = int(self.larger[k - 1]), int(self.equal[k - 1])
        group = self.order[larger : larger + equal]
        if len(group) < equal:
            assert self.beyond is not None
            group = self.beyond.nonzero().flatten().cpu()
        shares = torch.ones(larger + equal, dtype=torch.float64)
        shares[larger:] = (k - larger) / equal
        return torch.cat([self.order[:larger], group]), shares


def find_ties(theta: Tensor, order: Tensor) -> Ties:
    """The ties of the n largest |θ|.

    Args:
        theta: (D,).
        order: (n,), ``seigh.core.overlap.masks.largest_first`` of it.
    """
    magnitudes = theta.abs()
    sorted_ = magnitudes[order.to(theta.device)]
    _, group, counts = torch.unique_consecutive(sorted_, return_inverse=True, return_counts=True)
    group, counts = group.cpu(), counts.cpu()
    larger = counts.cumsum(0) - counts
    beyond = magnitudes == sorted_[-1]
    members = int(beyond.sum())
    last, counts[-1] = int(counts[-1]), members
    return Ties(order.cpu(), larger[group], counts[group], beyond if members > last else None)


@dataclass(frozen=True)
class TieBreaks:
    """The overlap for k = 1 … n over all ways to break ties; all of them are equal where there are none.

    Attributes:
        average: (n,) fp64, the mean over all ways.
        least: (n,) fp64.
        greatest: (n,) fp64.
        by_index: (n,) fp64, the overlap of the mask that takes equal coordinates by their index.
        tied: (n,) int64, how many equal coordinates the mask has to choose among; 0 if it is determined.
    """

    average: Tensor
    least: Tensor
    greatest: Tensor
    by_index: Tensor
    tied: Tensor

    def error(self, numerical: Tensor) -> Tensor:
        """How far the average may be from the overlap of the true eigenspace with any of the masks: (n,).

        Args:
            numerical: (n,), how far the overlap of one mask may be from that with the true eigenspace.
        """
        reach = torch.maximum(self.greatest - self.average, self.average - self.least)
        return torch.minimum(numerical + reach, torch.maximum(self.average, 1 - self.average))

    def error_by_index(self, numerical: Tensor) -> Tensor:
        """The same of ``by_index``."""
        reach = torch.maximum(self.greatest - self.by_index, self.by_index - self.least)
        return torch.minimum(numerical + reach, torch.maximum(self.by_index, 1 - self.by_index))


class Breaking:
    """Finds ``TieBreaks``, being told the row masses of all coordinates in turn.

    Args:
        ties: The ties.
        masked: (n, n), V's rows in mask order.
        overlap: (n,) fp64, of the mask that breaks ties by index.
    """

    def __init__(self, ties: Ties, masked: Tensor, overlap: Tensor) -> None:
        self._ties, self._overlap, self._masked = ties, overlap, masked
        self._first = int(ties.larger[-1])  # sizes above this one cut the last group, if it goes beyond n
        if ties.beyond is not None:
            taken = torch.arange(1, len(ties.order) - self._first + 1)
            self._largest, self._smallest = Extremes(taken), Extremes(taken, smallest=True)
            self._total = torch.zeros(len(taken), dtype=torch.float64)

    def add(self, part: slice, masses: Tensor) -> None:
        """Masses (n, m) of the coordinates of a part."""
        if self._ties.beyond is None:
            return
        inside = self._ties.beyond[part].to(masses.device)
        found = masses[self._first :, inside]
        if found.shape[1]:
            self._largest.add(found)
            self._smallest.add(found)
            self._total += found.sum(1, dtype=torch.float64).cpu()

    def found(self) -> TieBreaks:
        """The answer, once all coordinates have been told."""
        n = len(self._overlap)
        ties, sizes = self._ties, torch.arange(1, n + 1, dtype=torch.float64)
        changes = torch.zeros(3, n, dtype=torch.float64)  # of the masked mass: average, least, greatest
        if bool(ties.tied.any()):
            masses = self._masked.double().square().cumsum(1).cpu()
            starts = torch.unique(ties.larger[ties.tied > 0]).tolist()
            for start in starts:
                within = slice(start, min(n, start + int(ties.equal[start])))
                by_index = masses[within, within].cumsum(0).diagonal()
                if start == self._first and ties.beyond is not None:
                    total = self._total
                    least, greatest = self._smallest.sums(), self._largest.sums()
                else:
                    ascending = masses[within, within].sort(0).values
                    total = ascending.sum(0)
                    least = ascending.cumsum(0).diagonal()
                    greatest = ascending.flip(0).cumsum(0).diagonal()
                taken = torch.arange(1, len(by_index) + 1)
                average = total * taken / int(ties.equal[start])
                # Rounding must not put the average outside.
                average = average.clamp(least, torch.maximum(least, greatest))
                changes[:, within] = torch.stack([average, least, greatest]) - by_index
        changes[:, ties.tied == 0] = 0
        average, least, greatest = (self._overlap + changes / sizes).clamp(0, 1)
        return TieBreaks(average, least, greatest, self._overlap, ties.tied)
