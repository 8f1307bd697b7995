"""A user's own data: ``.npz`` or ``.safetensors`` files with samples ``x`` and labels ``y``.

Nothing in a file is ever executed, and what it claims about its sizes is checked before memory is given
to it.
"""

from __future__ import annotations

import io
import math
import re
import stat
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from core.problems.data.dataset import LARGEST_ARRAY, DataError, Dataset

SUFFIXES = (".npz", ".safetensors")

_KEYS = ("x", "y")

# Bytes of a file's list of arrays, which is read as a whole and takes ten times the memory.
_LARGEST_LIST = 2**20

# Bytes of what precedes an array's numbers; numpy reads no longer one either, but would load it first.
_LONGEST_HEADER = 10_000

# numpy writes no others, and the decompressors of others do not stop at what was asked for.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def stored(digest: str, artifact_folder: Path) -> Path:
    """The file with a SHA-256 in the artefact store.

    Raises:
        DataError: If it is not there.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise DataError(f"'sha256:{digest}' is no data file: 'sha256:' is followed by 64 hexadecimal digits.")
    for suffix in SUFFIXES:
        if (path := artifact_folder / "data" / f"{digest}{suffix}").is_file():
            return path
    raise DataError(f"The data file sha256:{digest[:12]}… is not in the artefact store; upload it again.")


def read(path: Path) -> Dataset:
    """The samples and labels of a file.

    Raises:
        DataError: If there is no such file, or it is not usable.
    """
    if not path.is_file():
        raise DataError(f"There is no data file '{path}'.")
    if path.stat().st_size == 0:
        raise DataError(f"The data file '{path.name}' is empty.")
    try:
        arrays = _read_npz(path) if path.suffix.lower() == ".npz" else _read_safetensors(path)
    except DataError:
        raise
    except Exception as error:  # the parsers meet arbitrary bytes here, and fail in every way there is
        raise DataError(
            f"The data file '{path.name}' is damaged or incomplete; save or upload it again."
        ) from error
    return _checked(path.name, **arrays)


def _read_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as opened:
        end = zipfile._EndRecData(opened)  # type: ignore[attr-defined]  # as ZipFile itself finds the list
    _check_list(path, end[zipfile._ECD_SIZE] if end else 0)  # type: ignore[attr-defined]
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        _check_keys(path, list(entries))
        return {key: _read_npy(path, archive, entries[key]) for key in _KEYS}


def _read_npy(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(f"{entry.filename} in '{path.name}' is a link, not an array; save the array itself.")
    if entry.compress_type not in _COMPRESSIONS:
        raise DataError(f"'{path.name}' is compressed in an unusual way; save it with np.savez_compressed.")
    with archive.open(entry) as file:
        shape, dtype = _npy_header(file)
    if dtype.hasobject:
        raise DataError(
            f"'{path.name}' holds Python objects, which are not loaded because they could run code; "
            "save x and y as plain arrays of numbers."
        )
    if dtype.kind not in "biufc":
        raise DataError(f"'{path.name}' holds text, records or dates; save x as float32 and y as int64.")
    _check_size(path, shape, dtype.itemsize)
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError("the array claims more than its entry holds")
    with archive.open(entry) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return np.asarray(array, dtype=dtype.newbyteorder("="), order="C")


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    major, _ = np.lib.format.read_magic(file)
    length = file.read(2 if major == 1 else 4)
    if int.from_bytes(length, "little") > _LONGEST_HEADER:
        raise ValueError("the array's header is too long")
    start = io.BytesIO(length + file.read(_LONGEST_HEADER))
    one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, _, dtype = (one if major == 1 else two)(start)
    return shape, dtype


def _read_safetensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as opened:
        _check_list(path, int.from_bytes(opened.read(8), "little"))
    with safetensors.safe_open(path, framework="pt") as file:
        _check_keys(path, list(file.keys()))
        for key in _KEYS:
            _check_size(path, file.get_slice(key).get_shape(), 1)
        return {key: file.get_tensor(key) for key in _KEYS}


def _check_list(path: Path, size: int) -> None:
    """Refuse a file whose list of arrays, of ``size`` bytes, is too large to be read."""
    if size > path.stat().st_size:
        raise ValueError("the list of arrays is longer than the file")
    if size > _LARGEST_LIST:
        raise DataError(f"'{path.name}' lists far too many arrays; save only x and y.")


def _check_keys(path: Path, found: list[str]) -> None:
    missing = [key for key in _KEYS if key not in found]
    if missing:
        shown = ", ".join(name[:40] for name in found[:5]) or "nothing"
        raise DataError(
            f"'{path.name}' has no {' and no '.join(missing)} (it holds {shown}); "
            "save the samples as x and their labels as y."
        )


def _check_size(path: Path, shape: tuple[int, ...] | list[int], itemsize: int) -> None:
    """Refuse an array that is too large, as stored or as the float32 that it becomes."""
    if math.prod(shape) * max(itemsize, 4) > LARGEST_ARRAY:
        raise DataError(
            f"The arrays in '{path.name}' unpack to more than {LARGEST_ARRAY // 2**30} GiB; "
            "keep only the samples that the analysis needs."
        )


def _checked(name: str, x: Any, y: Any) -> Dataset:
    """Samples and labels as tensors, refused unless they are what they should be."""
    try:
        x, y = torch.as_tensor(x), torch.as_tensor(y)
    except (TypeError, ValueError) as error:
        raise DataError(f"'{name}' holds unusual numbers; save x as float32 and y as int64.") from error
    if x.dtype == torch.uint8:
        raise DataError(
            f"x in '{name}' holds images of bytes (uint8); scale them as in training, such as by x / 255, "
            "and save them as float32."
        )
    if not x.is_floating_point():
        raise DataError(
            f"x in '{name}' is {_kind(x)}; save it as floating-point numbers, scaled as in training."
        )
    if _one_hot(x, y):
        raise DataError(
            f"y in '{name}' is one-hot, of shape {tuple(y.shape)}; save the labels themselves, y.argmax(1)."
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(f"y in '{name}' is {_kind(y)}; save the labels as integers.")
    if x.ndim < 2 or y.ndim != 1:
        raise DataError(
            f"x in '{name}' has shape {tuple(x.shape)} and y {tuple(y.shape)}; expected are (N, …) and (N,)."
        )
    if len(x) != len(y):
        raise DataError(
            f"'{name}' has {len(x):,} samples in x and {len(y):,} labels in y; save as many of each."
        )
    if x.numel() == 0:
        raise DataError(f"'{name}' holds no samples.")
    x, y = x.to(torch.float32).contiguous(), y.to(torch.int64)
    if not all(map(torch.isfinite, torch.aminmax(x))):  # NaN is both least and largest; this makes no copies
        raise DataError(f"x in '{name}' holds NaN or infinite values; remove those samples.")
    if int(y.min()) < 0:
        raise DataError(f"y in '{name}' holds the label {int(y.min())}; labels count from 0.")
    return Dataset(name, x, y)


def _one_hot(x: Tensor, y: Tensor) -> bool:
    """Whether each row of y has a single one, and otherwise zeros."""
    if y.ndim != 2 or y.shape[1] < 2 or len(x) != len(y) or y.is_complex():
        return False
    return bool(((y == 0) | (y == 1)).all()) and bool((y.to(torch.float32).sum(1) == 1).all())


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
