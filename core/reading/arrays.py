"""A user's own data, as a child reads it: ``.npz`` or ``.safetensors`` files with ``x`` and ``y``."""

from __future__ import annotations

import io
import json
import math
import stat
import zipfile
from typing import IO, Any

import numpy as np

from seigh.core.reading import tokens
from seigh.core.reading.archives import directory_bytes
from seigh.core.reading.checkpoints import in_safetensors, once
from seigh.core.reading.packing import described, kept, not_finite, order, write_converted
from seigh.core.reading.task import Task
from seigh.core.reading.words import Refusal, shown

_KEYS = ("x", "y")

# Bytes of a file's list of arrays, which is read as a whole and takes ten times the memory.
_LARGEST_LIST = 2**20

# Bytes of what precedes an array's numbers; numpy reads no longer one either, but would load it first.
_LONGEST_HEADER = 10_000

# numpy writes no others, and the decompressors of others do not stop at what was asked for.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_Numbers = np.ndarray[Any, Any]


def read(task: Task) -> dict[str, Any]:
    """Samples in float32 or float64, and targets in these or int64, refused unless they are what they should
    be."""
    try:
        if task.name.lower().endswith(".npz") and "input_ids" in _entries(task):
            return tokens.read(task)
        arrays = _read_npz(task) if task.name.lower().endswith(".npz") else _read_safetensors(task)
    except (Refusal, MemoryError):
        raise
    except Exception as error:  # the parsers meet arbitrary bytes here, and fail in every way there is
        raise Refusal(
            f"The data file '{task.name}' is damaged or incomplete; save or upload it again."
        ) from error
    return _checked(task, **arrays)


def _entries(task: Task) -> list[str]:
    """The names of the arrays in a ``.npz`` file."""
    check_npz(task)
    with zipfile.ZipFile(task.file) as archive:
        return [entry.filename.removesuffix(".npy") for entry in archive.infolist()]


def _read_npz(task: Task) -> dict[str, _Numbers]:
    with zipfile.ZipFile(task.file) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        _check_keys(task, list(entries))
        return {key: read_npy(task, archive, entries[key]) for key in _KEYS}


def read_npy(
    task: Task,
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    expected: str = "save x as float32, and y as int64 or float32",
) -> _Numbers:
    """An array of an ``.npz`` file; ``expected`` says what to save instead of what is no numbers."""
    name = task.name
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Refusal(f"{shown(entry.filename)} in '{name}' is a link, not an array; save the array itself.")
    if entry.compress_type not in _COMPRESSIONS:
        raise Refusal(f"'{name}' is compressed in an unusual way; save it with np.savez_compressed.")
    with archive.open(entry) as file:
        shape, dtype = _npy_header(file)
    if dtype.hasobject:
        raise Refusal(
            f"'{name}' holds Python objects, which are not loaded because they could run code; "
            "save plain arrays of numbers."
        )
    if dtype.kind not in "biufc":
        raise Refusal(f"'{name}' holds text, records or dates; {expected}.")
    _check_size(task, shape, dtype.itemsize)
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError("the array claims more than its entry holds")
    with archive.open(entry) as file:
        array: _Numbers = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    major, _ = np.lib.format.read_magic(file)
    length = file.read(2 if major == 1 else 4)
    if int.from_bytes(length, "little") > _LONGEST_HEADER:
        raise ValueError("the array's header is too long")
    start = io.BytesIO(length + file.read(_LONGEST_HEADER))
    one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, _, dtype = (one if major == 1 else two)(start)
    return shape, dtype


def _read_safetensors(task: Task) -> dict[str, _Numbers]:
    length = int.from_bytes(task.whole[:8], "little")
    _check_list(task, length)
    header = json.loads(bytes(task.whole[8 : 8 + length]), object_pairs_hook=once)
    header.pop("__metadata__", None)
    _check_keys(task, list(header))
    tensors = in_safetensors(header, 8 + length, task)
    for key in _KEYS:
        _check_size(task, tensors[key].shape, 1)
    return {key: tensors[key].view() for key in _KEYS}


def check_npz(task: Task) -> None:
    """Refuse an ``.npz`` file whose list of arrays is too large to be read."""
    _check_list(task, directory_bytes(task.file) or 0)


def _check_list(task: Task, size: int) -> None:
    """Refuse a file whose list of arrays, of ``size`` bytes, is too large to be read."""
    if size > task.size:
        raise ValueError("the list of arrays is longer than the file")
    if size > _LARGEST_LIST:
        raise Refusal(f"'{task.name}' lists far too many arrays; save only those that are needed.")


def _check_keys(task: Task, found: list[str]) -> None:
    missing = [key for key in _KEYS if key not in found]
    if missing:
        held = ", ".join(shown(name)[:40] for name in found[:5]) or "nothing"
        raise Refusal(
            f"'{task.name}' has no {' and no '.join(missing)} (it holds {held}); "
            "save the samples as x and their labels as y."
        )


def _check_size(task: Task, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse an array that is too large, as stored or as the float32 that half precision becomes."""
    if math.prod(shape) * max(itemsize, 4) > task.options["largest"]:
        raise Refusal(
            f"The arrays in '{task.name}' unpack to more than {task.options['largest'] // 2**30} GiB; "
            "keep only the samples that the analysis needs."
        )


def _checked(task: Task, x: _Numbers, y: _Numbers) -> dict[str, Any]:
    """Write samples and labels, refused unless they are what they should be."""
    name = task.name
    if any(array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8) for array in (x, y)):
        raise Refusal(f"'{name}' holds unusual numbers; save x as float32, and y as int64 or float32.")
    if x.dtype.kind in "iu" and x.dtype != np.uint8 and x.ndim == 2 and y.dtype.kind in "iu":
        wide = y.ndim == 2 and y.shape[1] in (x.shape[1], x.shape[1] + 1)
        if len(x) == len(y) and (wide or y.ndim == 1):
            return tokens.checked(task, x.astype(np.int64), y.astype(np.int64))
    if x.dtype == np.uint8:
        raise Refusal(
            f"x in '{name}' holds images of bytes (uint8); scale them as in training, such as by x / 255, "
            "and save them as float32."
        )
    if not _is_float(x):
        raise Refusal(
            f"x in '{name}' is {x.dtype.name}; save it as floating-point numbers, scaled as in training."
        )
    floats = _is_float(y)
    if not floats and y.dtype.kind not in "iub":
        raise Refusal(f"y in '{name}' is {y.dtype.name}; save labels as integers, or targets as float32.")
    if x.ndim < 2 or y.ndim < 1:
        raise Refusal(f"x in '{name}' has shape {x.shape} and y {y.shape}; expected are (N, …) for both.")
    if len(x) != len(y):
        raise Refusal(
            f"'{name}' has {len(x):,} samples in x and {len(y):,} targets in y; save as many of each."
        )
    if x.size == 0 or y.size == 0:
        raise Refusal(f"'{name}' holds no samples.")
    named = {"y": y if floats else np.ascontiguousarray(y.astype("<i8")), "x": x}
    kinds = {key: kept(array.dtype.name) for key, array in named.items()}
    keys = [[*named][place] for place in order([*kinds.values()])]
    for key in keys:
        write_converted(named[key], kinds[key], task.target)
    odd = [
        keys[place] for place in not_finite(task.numbers(), [(kinds[key], named[key].size) for key in keys])
    ]
    odd += [key for key in keys if kinds[key] == "float64" and not _fits(named[key])]
    if odd:
        raise Refusal(f"{odd[0]} in '{name}' holds NaN or infinite values; remove those samples.")
    return described(
        [(kinds[key], named[key].shape) for key in keys], {key: place for place, key in enumerate(keys)}
    )


def _fits(array: _Numbers) -> bool:
    """Whether numbers in float64 are finite in the float32 of most analyses, too."""
    return bool(max(array.max(), -array.min()) <= np.finfo(np.float32).max)


def _is_float(array: _Numbers) -> bool:
    return array.dtype.kind == "f" or "float" in array.dtype.name
