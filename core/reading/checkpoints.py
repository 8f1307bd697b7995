"""Checkpoint files, as a child reads them: PyTorch's two formats, and safetensors."""

from __future__ import annotations

import io
import json
import math
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seigh.core.reading import contents
from seigh.core.reading.archives import Archive
from seigh.core.reading.packing import DTYPES, Array, Storage, contiguous, first_not_finite, handed_back
from seigh.core.reading.pickles import Unpickler
from seigh.core.reading.task import Digest, Task
from seigh.core.reading.words import (
    LARGEST_STRUCTURE,
    MOST_TENSORS,
    Refusal,
    damaged,
    more_than_tensors,
    shown,
    too_many,
)

# A PyTorch file before the zip format: this number, a version, facts about the machine, the contents, the
# keys of the storages, each a pickle; then for every key the number of entries and the numbers.
_LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

_DTYPE_IN_SAFETENSORS = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


def read(task: Task) -> dict[str, Any]:
    """A checkpoint: its weights, and what it tells about itself."""
    digest = Digest(task.whole)
    found = contents.unpack(entries(task), task.name)
    check_numbers(found.tensors, task.name)
    description = handed_back(found.tensors, task.source, task.target, task.limits.output, task.name)
    check_finite(description, task)
    return {
        **description,
        "sha256": digest.hexdigest(),
        "size": task.size,
        "prefix": found.prefix,
        "step": found.step,
        "epoch": found.epoch,
        "metrics": found.metrics,
        "learning_rate": found.learning_rate,
        "notes": [*found.notes, *contents.notes_on_numbers(found.tensors)],
    }


def read_shard(task: Task) -> dict[str, Any]:
    """The tensors of one of several files of a checkpoint, by their names and in their types there."""
    held = contents.tensors(entries(task), task.name)
    check_numbers(held, task.name)
    return handed_back(held, task.source, task.target, task.limits.output, task.name, as_stored=True)


def entries(task: Task) -> Mapping[Any, Any]:
    """What the file holds; of a safetensors file, its tensors within its metadata."""
    start = bytes(task.whole[: len(_LEGACY_START)])
    # Decided by content: people rename files. After its 8-byte length a safetensors header begins with "{".
    if start[8:9] == b"{" or task.name.lower().endswith(".safetensors"):
        return _read_safetensors(task)
    loaded = _read_archive(task) if start.startswith(b"PK\x03\x04") else _read_legacy(task, start)
    if not isinstance(loaded, dict):
        kind = "Tensor" if isinstance(loaded, Array) else type(loaded).__name__
        raise Refusal(f"'{task.name}' holds a {kind}, not a state dict; save model.state_dict().")
    return loaded


def _read_archive(task: Task) -> Any:
    archive = Archive(task.file, task.whole, task.name)
    return Unpickler(io.BytesIO(archive.pickled()), task.name, archive.storage).follow()


@dataclass
class _Unfilled:
    """A storage of the old format, whose numbers stand behind all pickles."""

    nbytes: int
    storage: Storage


def _read_legacy(task: Task, start: bytes) -> Any:
    name = task.name
    stream = io.BytesIO(task.whole[:LARGEST_STRUCTURE])
    if start != _LEGACY_START:
        raise more_than_tensors(name) if _imports(stream) else damaged(name)
    storages: dict[str, _Unfilled] = {}

    def load(key: str, nbytes: int) -> Storage:
        storage = storages.setdefault(key, _Unfilled(nbytes, Storage(memoryview(b""))))
        if storage.nbytes != nbytes:
            raise damaged(name)
        return storage.storage

    for _ in range(3):
        Unpickler(stream, name).follow()
    loaded = Unpickler(stream, name, load).follow()
    keys = Unpickler(stream, name).follow()
    if not isinstance(keys, list) or any(type(key) is not str for key in keys):
        raise damaged(name)
    if len(keys) != len(storages) or set(keys) != storages.keys():
        raise damaged(name)  # a storage without numbers would have whatever the memory held before
    place = stream.tell()
    for key in keys:
        each = storages[key]
        place = _fill(each, place + 8, int.from_bytes(task.whole[place : place + 8], "little"), task)
    return loaded


def _fill(unfilled: _Unfilled, place: int, numel: int, task: Task) -> int:
    """Give a storage the numbers that stand at a place of the file; the place behind them."""
    end = place + unfilled.nbytes
    # The number of entries, not of bytes, is written there, and their size is that of the storage's type.
    itemsize, rest = divmod(unfilled.nbytes, numel) if numel else (0, unfilled.nbytes)
    if end > task.size or rest or itemsize not in (0, 1, 2, 4, 8, 16):
        raise damaged(task.name)
    unfilled.storage.buffer, unfilled.storage.place = task.whole[place:end], place
    return end


def _imports(stream: io.BytesIO) -> bool:
    """Whether a pickle imports something; walks its opcodes and runs none."""
    try:
        names = ("GLOBAL", "STACK_GLOBAL", "INST")
        return any(opcode.name in names for opcode, _argument, _position in pickletools.genops(stream))
    except MemoryError:
        raise
    except Exception:  # no pickle, or half of one
        return False


def _read_safetensors(task: Task) -> Mapping[Any, Any]:
    problem = Refusal(
        f"'{task.name}' is damaged or incomplete and not a readable safetensors file; "
        "save or upload it again."
    )
    try:
        length = int.from_bytes(task.whole[:8], "little")
        if task.size < 8 or length > min(LARGEST_STRUCTURE, task.size - 8):
            raise problem
        header = json.loads(bytes(task.whole[8 : 8 + length]), object_pairs_hook=once)
        metadata = header.pop("__metadata__", None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise problem
        return {**metadata, "state_dict": in_safetensors(header, 8 + length, task)}
    except MemoryError:
        raise
    except Exception as error:  # arbitrary bytes
        raise problem from error


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no name may stand twice: readers differ in which of them they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def in_safetensors(header: dict[str, Any], start: int, task: Task) -> dict[str, Array]:
    """The tensors of a safetensors header, which follow each other without gaps to the end of the file.

    Args:
        header: By name, without the metadata.
        start: Where the numbers begin in the file.
        task: The file.

    Raises:
        ValueError, KeyError, TypeError, IndexError: If it is no such header.
    """
    tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda each: each[1]["data_offsets"]):
        dtype, shape = _DTYPE_IN_SAFETENSORS[entry["dtype"]], entry["shape"]
        begin, end_before = entry["data_offsets"][0], end
        end = entry["data_offsets"][1]
        if begin != end_before or any(type(each) is not int or each < 0 for each in (*shape, begin, end)):
            raise ValueError("tensors overlap, or leave gaps")
        if end - begin != math.prod(shape) * DTYPES[dtype].itemsize or len(entry["data_offsets"]) != 2:
            raise ValueError("a tensor has another size than its numbers")
        place = start + begin
        tensors[name] = contiguous(Storage(task.whole[place : start + end], place), dtype, shape)
    if start + end != task.size:
        raise ValueError("the tensors do not fill the file")
    return {name: tensors[name] for name in header}


def check_numbers(tensors: Mapping[str, Array], name: str) -> None:
    """Refuse what is no dense array of real numbers in the file."""
    if len(tensors) > MOST_TENSORS:
        raise too_many(name)
    for key, value in tensors.items():
        if value.storage is None:
            raise Refusal(
                f"The tensor '{shown(key)}' in '{name}' is sparse, quantised or without numbers; "
                "save dense tensors."
            )
        if value.dtype.startswith("complex"):
            raise Refusal(
                f"The tensor '{shown(key)}' in '{name}' is complex; only real weights can be analysed."
            )
        try:
            value.check()
        except (ValueError, TypeError, OverflowError) as error:
            raise damaged(name) from error
        if value.numel == 0:
            raise Refusal(
                f"The tensor '{shown(key)}' in '{name}' has no entries; save the state dict of a whole model."
            )


def check_finite(
    description: Mapping[str, Any],
    task: Task,
    what: str = "tensor",
    advice: str = "choose a checkpoint from before the training diverged",
) -> None:
    """Refuse numbers that are none; ``advice`` says what to do."""
    dtypes = [dtype for dtype, count in description["types"] for _ in range(count)]
    sizes = [math.prod(map(int, filter(None, shape.split("x")))) for shape in description["shapes"]]
    odd = first_not_finite(task.numbers(), list(zip(dtypes, sizes, strict=True)))
    if odd is not None:
        key = description["names"][description["which"].index(odd)]
        raise Refusal(f"The {what} '{shown(key)}' in '{task.name}' holds NaN or infinite values; {advice}.")
