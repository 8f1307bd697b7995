"""A user's own mask, as a child reads it: scores, or zeros and ones, by the names of the parameters."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from seigh.core.reading import arrays, checkpoints, contents
from seigh.core.reading.packing import DTYPES, Array, Storage, contiguous, handed_back
from seigh.core.reading.task import Digest, Task
from seigh.core.reading.words import MOST_TENSORS, Refusal, shown, too_many

# ``torch.nn.utils.prune`` keeps the mask of a parameter beside it, as a buffer of this name.
_MASK, _ORIGINAL = "_mask", "_orig"


def read(task: Task) -> dict[str, Any]:
    """The scores of a file; of a checkpoint pruned by ``torch.nn.utils.prune``, its masks."""
    digest = Digest(task.whole)
    prefix = ""
    if task.name.lower().endswith(".npz"):
        named: Mapping[str, Array] = _read_npz(task)
    else:
        found = contents.unpack(checkpoints.load(task)[0], task.name, floats=False)
        named, prefix = found.tensors, found.prefix
    named, kind = _masks_of(named)
    checkpoints.check_numbers(named, task.name)
    description = handed_back(named, task.source, task.target, task.limits.output, task.name)
    checkpoints.check_finite(description, named, task, "mask", "remove them from the scores")
    return {**description, "sha256": digest.hexdigest(), "prefix": prefix, "pruned": kind}


def _masks_of(named: Mapping[str, Array]) -> tuple[Mapping[str, Array], bool]:
    """The masks among the tensors by their parameters' names, and whether these are what was taken."""
    masks = {name.removesuffix(_MASK): each for name, each in named.items() if name.endswith(_MASK)}
    if masks and all(name.endswith((_MASK, _ORIGINAL)) for name in named):
        return masks, True
    if any(name + _ORIGINAL in named for name in masks):
        return masks, True
    return named, False


def _read_npz(task: Task) -> dict[str, Array]:
    try:
        arrays.check_npz(task)
        with zipfile.ZipFile(task.file) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if not entries:
                raise Refusal(f"'{task.name}' holds no arrays; save scores by the names of parameters.")
            if len(entries) > MOST_TENSORS:
                raise too_many(task.name)
            if sum(entry.file_size for entry in entries.values()) > task.limits.output:
                raise Refusal(
                    f"The arrays in '{task.name}' unpack to more than {task.limits.output // 2**20:,} MiB; "
                    "save scores of the parameters alone."
                )
            advice = "save scores as floating-point numbers, masks as zeros and ones"
            return {
                name: _array(task, name, arrays.read_npy(task, archive, entry, advice))
                for name, entry in entries.items()
            }
    except (Refusal, MemoryError):
        raise
    except Exception as error:  # the parsers meet arbitrary bytes here, and fail in every way there is
        raise Refusal(
            f"The file of scores '{task.name}' is damaged or incomplete; save or upload it again."
        ) from error


def _array(task: Task, name: str, numbers: np.ndarray[Any, Any]) -> Array:
    dtype = numbers.dtype.name
    if dtype not in DTYPES:
        raise Refusal(f"The array '{shown(name)}' in '{task.name}' holds unusual numbers ({dtype}).")
    plain = np.ascontiguousarray(numbers, DTYPES[dtype])
    return contiguous(Storage(memoryview(plain.tobytes())), dtype, numbers.shape)
