"""Checkpoint files, as a child reads them: PyTorch's two formats, and safetensors."""

from __future__ import annotations

import io
import json
import math
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from seigh.core.reading import contents, formats
from seigh.core.reading.archives import Archive
from seigh.core.reading.packing import (
    DTYPES,
    Array,
    Storage,
    contiguous,
    handed_back,
    is_float,
    not_finite,
)
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
_MAGIC = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

# Enough of a file to tell what it is.
_LONGEST_START = 512

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
    loaded, strangers = load(task)
    try:
        found = contents.unpack(loaded, task.name, task.options.get("entry") or "", strangers)
    except Refusal:
        if strangers:  # which is why there is nothing to take
            raise more_than_tensors(task.name, strangers[0]) from None
        raise
    tensors, infinite = _finite_aside(found.tensors, task.name)
    description = handed_back(tensors, task.source, task.target, task.limits.output, task.name)
    check_finite(description, tensors, task)
    return {
        **description,
        "sha256": digest.hexdigest(),
        "size": task.size,
        "prefix": found.prefix,
        "step": found.step,
        "epoch": found.epoch,
        "metrics": found.metrics,
        "learning_rate": found.learning_rate,
        "notes": [*found.notes, *infinite, *contents.notes_on_numbers(tensors)],
        "entry": found.entry,
        "offered": list(found.offered),
        "undecided": found.undecided,
    }


def read_shard(task: Task) -> dict[str, Any]:
    """The tensors of one of several files of a checkpoint, by their names and in their types there."""
    held = contents.tensors(load(task)[0], task.name)
    check_numbers(held, task.name)
    return handed_back(held, task.source, task.target, task.limits.output, task.name, as_stored=True)


def read_optimizer(task: Task) -> dict[str, Any]:
    """What an optimiser's own file tells: its learning rate."""
    return {"learning_rate": contents.learning_rate_in({"optimizer": load(task)[0]})}


def load(task: Task) -> tuple[Any, list[str]]:
    """What the file holds, and the classes of objects that were left aside.

    Of a safetensors file these are its tensors within its metadata.
    """
    start = bytes(task.whole[:_LONGEST_START])
    # Decided by content: people rename files. After its 8-byte length a safetensors header begins with "{".
    if start[8:9] == b"{" or task.name.lower().endswith(".safetensors"):
        return _read_safetensors(task), []
    unpickler: Unpickler | None
    if start.startswith(b"PK\x03\x04"):
        archive = Archive(task.file, task.whole, task.name)
        unpickler = Unpickler(io.BytesIO(archive.pickled()), task.name, archive.storage)
        return unpickler.follow(), unpickler.strangers
    if other := formats.other(start, task.name):
        raise other
    return _read_legacy(task)


@dataclass
class _Unfilled:
    """A storage of the old format, whose numbers stand behind all pickles."""

    nbytes: int
    storage: Storage


def _read_legacy(task: Task) -> tuple[Any, list[str]]:
    name = task.name
    stream = io.BytesIO(task.whole[:LARGEST_STRUCTURE])
    if not _is_magic(stream, name):
        raise formats.plain_pickle(name) if _imports(stream) else damaged(name)
    storages: dict[str, _Unfilled] = {}

    def load(key: str, nbytes: int) -> Storage:
        storage = storages.setdefault(key, _Unfilled(nbytes, Storage(memoryview(b""))))
        if storage.nbytes != nbytes:
            raise damaged(name)
        return storage.storage

    for _ in range(2):
        Unpickler(stream, name).follow()
    unpickler = Unpickler(stream, name, load)
    loaded = unpickler.follow()
    keys = Unpickler(stream, name).follow()
    if not isinstance(keys, list) or any(type(key) is not str for key in keys):
        raise damaged(name)
    if len(keys) != len(storages) or set(keys) != storages.keys():
        raise damaged(name)  # a storage without numbers would have whatever the memory held before
    place = stream.tell()
    for key in keys:
        each = storages[key]
        place = _fill(each, place + 8, int.from_bytes(task.whole[place : place + 8], "little"), task)
    return loaded, unpickler.strangers


def _is_magic(stream: io.BytesIO, name: str) -> bool:
    """Whether a file of the old format begins here, in whatever protocol; behind its number then."""
    start = stream.getbuffer()[:_LONGEST_START]
    if start[0] != 0x80 or _MAGIC not in bytes(start):
        return False
    try:
        return bool(Unpickler(stream, name).follow() == int.from_bytes(_MAGIC, "little"))
    except Refusal:
        return False


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
    stream.seek(0)
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
    """Refuse what is no dense array of real numbers, or does not lie in the file as it is described."""
    if len(tensors) > MOST_TENSORS:
        raise too_many(name)
    for key, value in tensors.items():
        if lack := contents.lack(value):
            raise Refusal(contents.refused_tensor(shown(key), lack, name))
        try:
            value.check()
        except (ValueError, TypeError, OverflowError) as error:
            raise damaged(name) from error


def _finite_aside(tensors: dict[str, Array], name: str) -> tuple[dict[str, Array], list[str]]:
    """The tensors without metrics that are not finite, and a sentence on these."""
    check_numbers(tensors, name)
    odd = [
        key
        for key, each in tensors.items()
        if contents.ASIDE.match(key) and is_float(each.dtype) and each.numel <= _FEW and not _is_finite(each)
    ]
    if not odd or len(odd) == len(tensors):
        return tensors, []
    more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
    note = f"{shown(odd[0])}{more}, beside the network and not finite, {'are' if more else 'is'} left aside."
    return {key: each for key, each in tensors.items() if key not in odd}, [note]


# Numbers of a metric's state at most.
_FEW = 10_000


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array.view().astype(np.float64)).all())


def check_finite(
    description: Mapping[str, Any],
    tensors: Mapping[str, Array],
    task: Task,
    what: str = "tensor",
    advice: str = "choose a checkpoint from before the training diverged",
) -> None:
    """Refuse numbers that are none, but for masks of −∞ and 0; ``advice`` says what to do."""
    dtypes = [dtype for dtype, count in description["types"] for _ in range(count)]
    sizes = [math.prod(map(int, filter(None, shape.split("x")))) for shape in description["shapes"]]
    for odd in not_finite(task.numbers(), list(zip(dtypes, sizes, strict=True))):
        key = description["names"][description["which"].index(odd)]
        if not contents.is_mask(tensors[key]):
            raise Refusal(
                f"The {what} '{shown(key)}' in '{task.name}' holds NaN or infinite values; {advice}."
            )
