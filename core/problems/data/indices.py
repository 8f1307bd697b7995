"""Indices of samples as people give them: a text, or a file of numbers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from seigh.core import ranges
from seigh.core.problems.data.dataset import DataError

SUFFIXES = (".txt", ".csv", ".json", ".npy", ".npz")

_LARGEST_FILE = 16 * 2**20  # bytes; a hundred thousand numbers take less in every format


def read_indices(given: str) -> tuple[int, ...]:
    """The indices that a text (``0-99,105``) or the file of this name lists, in its order.

    A file has one index per line (``.txt``, ``.csv``), or is a one-dimensional array of integers (``.npy``,
    ``.npz`` with one array), a JSON list, or a result as ``seigh analyze --json`` writes it, whose subset is
    taken.

    Raises:
        DataError: If it is neither.
    """
    path = Path(given)
    if path.suffix.lower() not in SUFFIXES:
        try:
            return tuple(ranges.parse(given))
        except ValueError as error:
            raise DataError(f"The indices are not understood: {error}, or give a file of them.") from error
    if not path.is_file():
        raise DataError(f"There is no file of indices '{path}'.")
    if path.stat().st_size > _LARGEST_FILE:
        raise DataError(f"The file of indices '{path.name}' is larger than {_LARGEST_FILE // 2**20} MiB.")
    try:
        numbers = _read(path)
    except DataError:
        raise
    except Exception as error:  # the parsers meet arbitrary bytes here
        raise DataError(
            f"The file of indices '{path.name}' cannot be read as whole numbers, one per line or as an array."
        ) from error
    if len(numbers) > ranges.MOST:
        raise DataError(f"'{path.name}' lists more than {ranges.MOST:,} indices; list fewer.")
    return numbers


def _read(path: Path) -> tuple[int, ...]:
    match path.suffix.lower():
        case ".npy":
            return _whole(np.load(path, allow_pickle=False))
        case ".npz":
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_FILE:
                    raise DataError(f"'{path.name}' unpacks to more than {_LARGEST_FILE // 2**20} MiB.")
            with np.load(path, allow_pickle=False) as arrays:
                if len(arrays.files) != 1:
                    raise DataError(
                        f"'{path.name}' holds {len(arrays.files)} arrays; save the indices alone."
                    )
                return _whole(arrays[arrays.files[0]])
        case ".json":
            return _from_json(json.loads(path.read_text(encoding="utf-8")))
    return tuple(ranges.parse(path.read_text(encoding="utf-8")))


def _from_json(value: Any) -> tuple[int, ...]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        value = value["record"]["data"]["indices"]
    if not isinstance(value, list) or any(type(number) is not int for number in value):
        raise ValueError("no list of whole numbers")
    return tuple(value)


def _whole(array: Any) -> tuple[int, ...]:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError("no array of whole numbers")
    return tuple(array.tolist())
