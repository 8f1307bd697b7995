"""Where a block Krylov run was when its state was saved, each number by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

_State = TypeVar("_State")


@dataclass
class Saved:
    """Numbers of a run, beside its basis, its tensors and its fresh block.

    Attributes:
        start: Where the last block begins in the basis.
        stop: Where it ends.
        spent: Products made.
        products: Products after which the iteration ends.
        broken_down: Whether a block had to be filled up with random vectors.
        restarts: Whether the basis is replaced when it is full.
        checked: Products after which the residuals were looked at last.
        ask_at: Products after which the pairs are asked about next.
        restarted: How many times the basis was replaced.
        left_open: How many blocks have products that were not followed.
        asymmetry: Largest entry of (XᵀHX − XᵀHᵀX)/2 of all blocks X.
    """

    start: int = 0
    stop: int = 0
    spent: int = 0
    products: int = 0
    broken_down: bool = False
    restarts: bool = False
    checked: int = 0
    ask_at: int = 0
    restarted: int = 0
    left_open: int = 0
    asymmetry: float = 0.0


def to_tensors(prefix: str, state: object) -> dict[str, Tensor]:
    """Each field of a dataclass of numbers as a tensor under its own name, ``float`` in fp64."""
    kinds = {bool: torch.bool, int: torch.int64, float: torch.float64}
    return {
        f"{prefix}-{name}": torch.tensor(value, dtype=kinds[type(value)])
        for name, value in vars(state).items()
    }


def from_tensors(kind: type[_State], prefix: str, tensors: Mapping[str, Tensor]) -> _State:
    """What ``to_tensors`` was given, an object of the dataclass ``kind``."""
    values: dict[str, Any] = {
        each.name: tensors[f"{prefix}-{each.name}"].item()
        for each in fields(kind)  # type: ignore[arg-type]
    }
    return kind(**values)
