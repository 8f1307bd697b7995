"""Checkpoints in many files, as a child reads them one by one: what lies where, and the pieces.

``torch.distributed.checkpoint`` writes a folder with ``.metadata``, a pickle that says in which file the
pieces of every tensor lie, and files in which these follow each other, each as ``torch.save`` writes it.
DeepSpeed writes, for each process, its share of the parameters as flat vectors, and their names and shapes
beside them. Archives are taken apart here, too.
"""

from __future__ import annotations

import io
import math
import os
import stat
import zipfile
from typing import Any

from seigh.core.reading import contents
from seigh.core.reading.archives import Archive, directory_bytes
from seigh.core.reading.checkpoints import load
from seigh.core.reading.packing import Array, handed_back
from seigh.core.reading.pickles import Stranger, Unpickler
from seigh.core.reading.task import Task
from seigh.core.reading.words import LARGEST_STRUCTURE, Refusal, damaged, shown, too_many

_MOST_MEMBERS = 10_000
_DISTRIBUTED = "torch.distributed.checkpoint."


class _Record(Stranger):
    """An object of ``torch.distributed.checkpoint``, of which the fields matter."""

    def __init__(self, *arguments: object) -> None:
        self.fields: dict[str, Any] = {}
        self.arguments = arguments

    def __new__(cls, *arguments: object) -> _Record:
        made = super().__new__(cls)
        assert isinstance(made, _Record)
        made.fields, made.arguments = {}, arguments
        return made

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.fields = dict(state)


class _MetadataUnpickler(Unpickler):
    def find_class(self, module: str, attribute: str) -> Any:
        return _Record if f"{module}.".startswith(_DISTRIBUTED) else super().find_class(module, attribute)


def read_metadata(task: Task) -> dict[str, Any]:
    """What ``.metadata`` tells: of every tensor its shape, and where each piece of it lies.

    Returns:
        ``tensors``: by name its ``shape`` and ``pieces`` (file, start, length, offsets, sizes); ``values``:
        where other values lie (file, start, length), by name; ``paths``: the keys that a name was made of.
    """
    loaded = _MetadataUnpickler(io.BytesIO(task.whole[:LARGEST_STRUCTURE]), task.name).follow()
    try:
        return _described(loaded)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise damaged(task.name) from error


def _described(loaded: Any) -> dict[str, Any]:
    places: dict[tuple[str, tuple[int, ...] | None], list[Any]] = {}
    for index, stored in loaded.fields["storage_data"].items():
        about = stored.fields
        if about.get("transform_descriptors"):
            raise ValueError("compressed pieces")
        offset = index.fields.get("offset")
        key = (str(index.fields["fqn"]), None if offset is None else _sizes(offset))
        places[key] = [str(about["relative_path"]), int(about["offset"]), int(about["length"])]
    tensors, values = {}, {}
    for name, each in loaded.fields["state_dict_metadata"].items():
        if "chunks" not in each.fields:
            if (name, None) in places:
                values[str(name)] = places[name, None]
            continue
        pieces = [
            [
                *(places.get((name, _sizes(chunk.fields["offsets"]))) or places[name, None]),
                _sizes(chunk.fields["offsets"]),
                _sizes(chunk.fields["sizes"]),
            ]
            for chunk in each.fields["chunks"]
        ]
        tensors[str(name)] = {"shape": _sizes(each.fields["size"]), "pieces": pieces}
    planned = loaded.fields.get("planner_data")
    paths = {
        str(name): [str(key) for key in path]
        for name, path in (planned.items() if isinstance(planned, dict) else ())
        if isinstance(path, tuple)
    }
    return {"tensors": tensors, "values": values, "paths": paths}


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = tuple(value)
    if len(sizes) > 32 or any(type(each) is not int or each < 0 for each in sizes):
        raise ValueError("no size")
    return sizes


def read_pieces(task: Task) -> dict[str, Any]:
    """Tensors and plain values that ``torch.save`` has written into one file at certain places.

    Returns:
        The tensors by the numbers of the pieces, as stored; and ``numbers``, those of pieces that are none.
    """
    held: dict[str, Array] = {}
    numbers: dict[str, float] = {}
    for number, (start, length) in enumerate(task.options["pieces"]):
        if start < 0 or length <= 0 or start + length > task.size:
            raise damaged(task.name)
        part = task.whole[start : start + length]
        file = io.BytesIO(part)
        archive = Archive(file, part, task.name)
        value = Unpickler(io.BytesIO(archive.pickled()), task.name, archive.storage).follow()
        if isinstance(value, Array):
            if value.storage is None:
                raise Refusal(f"A tensor in '{task.name}' is {value.lack}, not a dense array of numbers.")
            value.check()
            if value.storage.place is not None and not value.storage.moved:
                value.storage.place += start
                value.storage.moved = True
            held[str(number)] = value
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            numbers[str(number)] = value
    found = handed_back(held, task.source, task.target, task.limits.output, task.name, as_stored=True)
    return {**found, "numbers": numbers}


# --- DeepSpeed --------------------------------------------------------------------------------------------


def read_zero(task: Task) -> dict[str, Any]:
    """A file of DeepSpeed's: of a model's states or of a share of the optimiser's.

    Returns:
        Tensors as stored: ``module/NAME``, ``frozen/NAME`` and ``flat/NUMBER``; and the facts about them.
    """
    loaded, _ = load(task)
    if not isinstance(loaded, dict):
        raise damaged(task.name)
    try:
        found, facts = _of_optimiser(loaded) if "optimizer_state_dict" in loaded else _of_model(loaded)
        for each in found.values():
            each.check()
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise damaged(task.name) from error
    described = handed_back(found, task.source, task.target, task.limits.output, task.name, as_stored=True)
    return {**described, **facts}


def _of_model(loaded: dict[Any, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    module, frozen = loaded.get("module") or {}, loaded.get("frozen_param_fragments") or {}
    found = {f"module/{name}": each for name, each in module.items() if _is_dense(each)}
    found |= {f"frozen/{name}": each for name, each in frozen.items() if _is_dense(each)}
    groups = loaded.get("param_shapes") or []
    groups = [groups] if isinstance(groups, dict) else groups
    return found, {
        "buffers": [str(name) for name in loaded.get("buffer_names") or []],
        "groups": [{str(name): _sizes(size) for name, size in group.items()} for group in groups],
        "frozen": {str(k): _sizes(v) for k, v in (loaded.get("frozen_param_shapes") or {}).items()},
        "shared": {str(k): str(v) for k, v in dict(loaded.get("shared_params") or {}).items()},
        "step": contents.step_in(loaded),
        "epoch": contents.epoch_in(loaded),
    }


def _of_optimiser(loaded: dict[Any, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    held = loaded["optimizer_state_dict"]
    stage = held["zero_stage"]
    stage = stage if type(stage) is int else getattr(stage, "arguments", (None,))[0]
    if stage is None:
        raise ValueError("no stage")
    count = held["partition_count"]
    count = max(count) if isinstance(count, (list, tuple)) else count
    flat = held["single_partition_of_fp32_groups" if stage <= 2 else "fp32_flat_groups"]
    paddings = held.get("param_alignment_paddings")
    found = {f"flat/{number}": each for number, each in enumerate(flat) if _is_dense(each)}
    if len(found) != len(flat) or type(count) is not int or type(stage) is not int:
        raise ValueError("no share")
    return found, {"stage": stage, "count": count, "paddings": None if paddings is None else list(paddings)}


def _is_dense(value: object) -> bool:
    return isinstance(value, Array) and value.storage is not None and value.numel > 0


# --- Archives ---------------------------------------------------------------------------------------------


def read_members(task: Task) -> dict[str, Any]:
    """The files of a zip archive, one after another in the file of numbers.

    Returns:
        ``members``: name and length of each, in their order.

    Raises:
        Refusal: If it is damaged, encrypted, or unpacks to more than it may.
    """
    try:
        size = directory_bytes(task.file)
        if size is None or size > LARGEST_STRUCTURE:
            raise zipfile.BadZipFile if size is None else too_many(task.name)
        with zipfile.ZipFile(task.file) as archive:
            entries = [each for each in archive.infolist() if not each.is_dir()]
            if len(entries) > _MOST_MEMBERS:
                raise too_many(task.name)
            return {"members": [[each.filename, _unpacked(archive, each, task)] for each in entries]}
    except (Refusal, MemoryError, OSError):
        raise
    except Exception as error:  # arbitrary bytes
        raise Refusal(f"'{task.name}' is a damaged archive; make or upload it again.") from error


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, task: Task) -> int:
    """Write what an entry holds to the file of numbers; its length."""
    if stat.S_ISLNK(entry.external_attr >> 16) or entry.flag_bits & 1:
        what = "encrypted" if entry.flag_bits & 1 else "a link"
        raise Refusal(f"'{shown(entry.filename)}' in '{task.name}' is {what}; give the files themselves.")
    length = 0
    with archive.open(entry) as member:
        while block := member.read(2**20):
            length += len(block)
            if os.fstat(task.target).st_size + len(block) > task.limits.output:
                raise Refusal(
                    f"'{task.name}' unpacks to more than the limit for a file of its size; unpack it first."
                )
            os.write(task.target, block)
    return length
