"""Curves as strings of bytes: value, error and chance for each k in turn, each little-endian fp64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, func

from seigh.core.results.schema import PARTS

_TYPE = np.dtype("<f8")
_BYTES = len(PARTS) * _TYPE.itemsize  # of one k


def pack(curve: Mapping[str, Any]) -> bytes:
    """(K,) numbers, or None, for each of ``PARTS``, as 24·K bytes; what is unknown is NaN."""
    length = len(curve["value"])
    columns = [np.full(length, np.nan) if curve[part] is None else curve[part] for part in PARTS]
    return np.column_stack(columns).astype(_TYPE).tobytes()


def unpack(packed: bytes) -> dict[str, NDArray[np.float64]]:
    """24·K bytes as (K,) numbers for each of ``PARTS``."""
    table = np.frombuffer(packed, dtype=_TYPE).reshape(-1, len(PARTS)).astype(np.float64)
    return {part: table[:, number] for number, part in enumerate(PARTS)}


def at(column: Any, k: int) -> ColumnElement[bytes]:
    """The numbers at ``k``, of 1 … K, still packed; empty where the curve ends before."""
    return func.substr(column, _BYTES * (k - 1) + 1, _BYTES, type_=column.type)
