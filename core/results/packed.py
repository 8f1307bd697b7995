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

from seigh.core.results.schema import ENDS, PARTS

_TYPE = np.dtype("<f8")


def pack(columns: Mapping[str, Any], parts: Sequence[str] = PARTS) -> bytes:
    """(n,) numbers, or None, for each of ``parts``, as bytes, eight for each; what is unknown is NaN."""
    length = max(len(columns[part]) for part in parts if columns.get(part) is not None)
    unknown = np.full(length, np.nan)
    known = [unknown if columns.get(part) is None else columns[part] for part in parts]
    return np.column_stack(known).astype(_TYPE).tobytes()


def unpack(packed: bytes, parts: Sequence[str] = PARTS) -> dict[str, NDArray[np.float64]]:
    """Bytes as (n,) numbers for each of ``parts``."""
    table = np.frombuffer(packed, dtype=_TYPE).reshape(-1, len(parts)).astype(np.float64)
    return {part: table[:, number] for number, part in enumerate(parts)}


def curve(points: bytes, ends: bytes | None) -> dict[str, NDArray[np.float64]]:
    """A curve's ``PARTS`` and ``ENDS``; the latter are its error to both sides where none were packed."""
    found = unpack(points)
    if ends is not None:
        return found | unpack(ends, ENDS)
    return found | {"lower": found["value"] - found["error"], "upper": found["value"] + found["error"]}


def at(column: Any, k: int, parts: Sequence[str] = PARTS) -> ColumnElement[bytes]:
    """The numbers of a curve at ``k``, of 1 … K, still packed; empty where the curve ends before."""
    size = len(parts) * _TYPE.itemsize
    return func.substr(column, size * (k - 1) + 1, size, type_=column.type)
