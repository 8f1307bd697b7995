"""In which parameter tensors the eigenspaces, the masks and their overlap lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seigh.core.overlap.ties import Ties

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerShares:
    """Shares of the parameter tensors, which sum to 1 over them for every size k.

    Attributes:
        names: Names of the T tensors, in the model's order.
        parameters: (T,), how many each has.
        sizes: The G sizes k.
        eigenspace: (G, T), of the squared entries of V_k.
        mask: (G, T), of the k coordinates of the mask; the mean over all ways to break ties.
        overlap: (G, T), of ‖MᵀV_k‖², likewise averaged; NaN where that is 0.
    """

    names: tuple[str, ...]
    parameters: tuple[int, ...]
    sizes: tuple[int, ...]
    eigenspace: Floats
    mask: Floats
    overlap: Floats

    def rows(self) -> list[dict[str, Any]]:
        """A row for every size and tensor; None for a share of no overlap at all."""
        return [
            {
                "k": k,
                "position": t,
                "name": name,
                "parameters": number,
                "eigenspace": float(self.eigenspace[g, t]),
                "mask": float(self.mask[g, t]),
                "overlap": None if np.isnan(self.overlap[g, t]) else float(self.overlap[g, t]),
            }
            for g, k in enumerate(self.sizes)
            for t, (name, number) in enumerate(zip(self.names, self.parameters, strict=True))
        ]


def layer_shares(
    tensors: Sequence[tuple[str, int]], masses: Tensor, ties: Ties, sizes: Sequence[int]
) -> LayerShares:
    """How eigenspaces, masks and their overlap are shared by the parameter tensors.

    Args:
        tensors: Name and number of parameters of each tensor, in the order of the coordinates.
        masses: (G, D), ‖row i of V_k‖² of every coordinate i at ``sizes``.
        ties: The mask's coordinates, and which of them are equal.
        sizes: The G sizes k, ascending, up to n.

    Raises:
        ValueError: The tensors have not D parameters together.
    """
    parameters = tuple(number for _, number in tensors)
    if sum(parameters) != masses.shape[1]:
        raise ValueError(f"Tensors of {sum(parameters):,} parameters in all; there are {masses.shape[1]:,}.")
    eigenspace = torch.stack(
        [part.sum(1, dtype=torch.float64) for part in torch.split(masses, list(parameters), 1)], 1
    )
    ends = torch.tensor(parameters).cumsum(0)
    mask, overlap = (torch.zeros(len(sizes), len(parameters), dtype=torch.float64) for _ in range(2))
    for row, k in enumerate(sizes):
        index, chosen = ties.chosen(k)
        owner = torch.searchsorted(ends, index, right=True)
        mask[row].index_add_(0, owner, chosen)
        overlap[row].index_add_(0, owner, masses[row, index.to(masses.device)].double().cpu() * chosen)
    return LayerShares(
        tuple(name for name, _ in tensors),
        parameters,
        tuple(sizes),
        *(_shares(each) for each in (eigenspace, mask, overlap)),
    )


def _shares(values: Tensor) -> Floats:
    shares: Floats = (values / values.sum(1, keepdim=True)).cpu().numpy()
    return shares
