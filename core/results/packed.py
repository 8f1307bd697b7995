"""Curves, profiles and quantities as strings of bytes: rows of little-endian fp64, one after the other.

A curve has value, error and chance for each k; a profile has ``POINTS`` for each place, and a quantity is one
such row without a place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, func

from seigh.core.results.schema import PARTS

_TYPE = np.dtype("<f8")
_BYTES = len(PARTS) * _TYPE.itemsize  # of one k


def pack(columns: Mapping[str, Any], parts: Sequence[str] = PARTS) -> bytes:
    """(n,) numbers, or None, for each of ``parts``, as bytes, eight for each; what is unknown is NaN."""
    length = len(columns["value"])
    unknown = np.full(length, np.nan)
    known = [unknown if columns.get(part) is None else columns[part] for part in parts]
    return np.column_stack(known).astype(_TYPE).tobytes()


def unpack(packed: bytes, parts: Sequence[str] = PARTS) -> dict[str, NDArray[np.float64]]:
    """Bytes as (n,) numbers for each of ``parts``."""
    table = np.frombuffer(packed, dtype=_TYPE).reshape(-1, len(parts)).astype(np.float64)
    return {part: table[:, number] for number, part in enumerate(parts)}


def at(column: Any, k: int) -> ColumnElement[bytes]:
    """The numbers of a curve at ``k``, of 1 … K, still packed; empty where the curve ends before."""
    return func.substr(column, _BYTES * (k - 1) + 1, _BYTES, type_=column.type)
