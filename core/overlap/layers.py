"""In which parameter tensors the eigenspaces, the masks and their overlap lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.spectra.eigenpairs import chunks

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerShares:
    """Shares of the parameter tensors, which sum to 1 over them for every size k.

    Attributes:
        names: Of the T tensors, in the model's order.
        parameters: (T,), how many each has.
        sizes: The G sizes k.
        eigenspace: (G, T), of the squared entries of V_k.
        mask: (G, T), of the k coordinates of the mask.
        overlap: (G, T), of ‖MᵀV_k‖²; NaN where that is 0.
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


def row_masses(vectors: Tensor, sizes: Sequence[int]) -> Tensor:
    """‖row i of V_k‖² of every coordinate i, for each size k: (G, D), in the vectors' precision.

    Args:
        vectors: Vᵀ, (n, D): an eigenvector in each row; read once, in blocks of columns.
        sizes: Ascending, up to n.
    """
    masses = torch.empty(len(sizes), vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    for part in chunks(vectors.shape[1], sizes[-1], vectors.itemsize):
        squares = vectors[: sizes[-1], part].square()
        for row, (start, end) in enumerate(pairwise((0, *sizes))):
            torch.sum(squares[start:end], dim=0, out=masses[row, part])
    return masses.cumsum_(0)


def layer_shares(
    tensors: Sequence[tuple[str, int]], masses: Tensor, order: Tensor, sizes: Sequence[int]
) -> LayerShares:
    """How eigenspaces, masks and their overlap are shared by the parameter tensors.

    Args:
        tensors: Name and number of parameters of each tensor, in the order of the coordinates.
        masses: (G, D), ``row_masses`` for ``sizes``.
        order: (n,), the mask's coordinates, largest |θ| first.
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
    order = order.to(masses.device)
    ends = torch.tensor(parameters, device=masses.device).cumsum(0)
    owner = torch.searchsorted(ends, order, right=True)
    rank = torch.arange(len(order), device=masses.device)
    within = (rank < torch.tensor(sizes, device=masses.device)[:, None]).double()
    mask = _by_owner(within, owner, len(parameters))
    overlap = _by_owner(masses[:, order].double() * within, owner, len(parameters))
    return LayerShares(
        tuple(name for name, _ in tensors),
        parameters,
        tuple(sizes),
        *(_shares(each) for each in (eigenspace, mask, overlap)),
    )


def _by_owner(values: Tensor, owner: Tensor, owners: int) -> Tensor:
    """Sums of (G, n) values over the coordinates of each tensor: (G, T)."""
    return values.new_zeros(len(values), owners).index_add_(1, owner, values)


def _shares(values: Tensor) -> Floats:
    shares: Floats = (values / values.sum(1, keepdim=True)).cpu().numpy()
    return shares
