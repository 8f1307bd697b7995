"""Files read as checkpoints: PyTorch's two formats, safetensors, and safetensors in several shards."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import pickletools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from core.problems.checkpoints import archives, contents
from core.problems.checkpoints.checkpoint import (
    LARGEST_STRUCTURE,
    Checkpoint,
    CheckpointError,
    damaged,
    shown,
)
from core.problems.checkpoints.pickles import Structure, Walk

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
INDEX_SUFFIX = ".index.json"

# A PyTorch file before the zip format: this number, three more pickles, the storages' names; then numbers.
_LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_LEGACY_PICKLES = 5

# Tensors may share storage (tied weights), so that together they are larger than the file; never by much.
_LARGEST_SHARING = 2

# Hugging Face names the folder after the step, not the file, and writes what it knows beside it.
_NAMED_BY_FOLDER = ("pytorch_model.bin", "model.safetensors")
_TRAINER_STATE = "trainer_state.json"

# torch keeps the names that may be let through in one place for all threads.
_letting_through = threading.Lock()


def read(path: Path, name: str | None = None) -> Checkpoint:
    """Read a PyTorch file (``.pt``, ``.pth``, ``.ckpt``, ``.bin``) of tensors or a ``.safetensors`` file.

    It holds a state dict, alone or in the dictionaries that training code saves (``contents``). Takes memory
    in proportion to the file's size, whatever the file says.

    Args:
        path: The file.
        name: Its original name where ``path`` is a temporary copy; errors show it.

    Raises:
        CheckpointError: If the file is missing, empty, damaged, no checkpoint, holds more than tensors, or
            holds weights that are NaN or infinite.
    """
    original, name = name is None, name or path.name
    if name.lower().endswith(INDEX_SUFFIX):
        raise CheckpointError(f"'{name}' is the index of a checkpoint in several files; give those with it.")
    if Path(name).suffix.lower() not in SUFFIXES:
        raise CheckpointError(
            f"'{name}' does not end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; "
            "save the model's state dict in one of these formats."
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"'{name}' cannot be read: {error.strerror}.") from error
    found = contents.unpack(_read(path, name, size), name)
    _check_numbers(found.tensors, name, size)
    notes = (*found.notes, *contents.notes_on_numbers(found.tensors))
    step, epoch = found.step, found.epoch
    if original and name in _NAMED_BY_FOLDER:
        step_beside, epoch_beside = _beside(path)
        step = step_beside if step is None else step
        epoch = epoch_beside if epoch is None else epoch
    return Checkpoint(
        path=path,
        name=name,
        sha256=sha256,
        size=size,
        state=_in_float32(found.tensors, name),
        step=contents.step_from_name(name) if step is None else step,
        metrics=found.metrics,
        epoch=contents.epoch_from_name(name) if epoch is None else epoch,
        notes=notes,
        prefix=found.prefix,
    )


def named_files(index_path: Path) -> list[str]:
    """The names of the files that the index of a checkpoint in several files gives.

    Raises:
        CheckpointError: If the index is damaged.
    """
    return sorted(set(_index(index_path).values()))


def merged_name(index_name: str) -> str:
    """The name of the one file that a checkpoint in several files becomes, from that of its index.

    >>> merged_name("model.safetensors.index.json"), merged_name("pytorch_model.bin.index.json")
    ('model.safetensors', 'pytorch_model.safetensors')
    """
    return Path(index_name[: -len(INDEX_SUFFIX)]).with_suffix(".safetensors").name


def merge(index_path: Path, shards: Mapping[str, Path], target: Path) -> Path:
    """Write a checkpoint that lies in several files as one ``.safetensors`` file.

    Args:
        index_path: ``model.safetensors.index.json``, ``pytorch_model.bin.index.json`` or alike.
        shards: Where the files are that the index names, by the names it gives them.
        target: The file to write; it appears complete or not at all.

    Returns:
        ``target``.

    Raises:
        CheckpointError: If the index is damaged or does not belong to the files, or one of these cannot be
            read as a checkpoint.
    """
    name = index_path.name
    places = _index(index_path)
    missing = sorted(set(places.values()) - shards.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"'{name}' names '{shown(missing[0])}'{more}, which is not there; give all its files."
        )
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        path = shards[shard]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise CheckpointError(f"'{shown(shard)}' cannot be read: {error.strerror}.") from error
        held = contents.tensors(_read(path, shard, size), shard)
        _check_numbers(held, shard, size)
        expected = {key for key, place in places.items() if place == shard}
        odd = sorted(held.keys() ^ expected)
        if odd:
            raise CheckpointError(
                f"'{name}' does not belong to '{shown(shard)}': only one of them has the tensor "
                f"'{shown(odd[0])}'; give the files of one checkpoint."
            )
        tensors |= held
    step, epoch = _beside(index_path)
    facts = {key: str(value) for key, value in (("step", step), ("epoch", epoch)) if value is not None}
    partial = target.with_name(f"{target.name}.partial")
    try:
        safetensors.torch.save_file(_apart(tensors), partial, {"format": "pt"} | facts)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _index(path: Path) -> dict[str, str]:
    """The file name of every tensor's shard, by the tensor's name."""
    try:
        if path.stat().st_size > LARGEST_STRUCTURE:
            raise ValueError("too long")
        places: dict[str, str] = json.loads(path.read_bytes())["weight_map"]
        good = isinstance(places, dict) and all(isinstance(place, str) for place in places.values())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"'{path.name}' is no index of a checkpoint in several files; give the one saved with them."
        ) from error
    if not good or not places:
        raise CheckpointError(f"'{path.name}' names no tensors; give the index saved with the files.")
    for place in places.values():
        if place in ("", ".", "..") or not place.isprintable() or not {"/", "\\"}.isdisjoint(place):
            raise CheckpointError(
                f"'{path.name}' names '{shown(place)}', which is no plain file name; "
                "give the index that was saved with the files."
            )
    return places


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without shared memory, which safetensors cannot express: tied ones become copies."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        memory = tensor.untyped_storage()
        alone = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        apart[key] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
    return apart


def _beside(path: Path) -> tuple[int | None, int | None]:
    """Step and epoch as Hugging Face's trainer writes them: beside the weights, or in the folder's name."""
    state: object = None
    try:
        file = path.with_name(_TRAINER_STATE)
        if file.stat().st_size <= LARGEST_STRUCTURE:
            state = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        pass
    facts = state if isinstance(state, dict) else {}
    step = contents.step_in(facts)
    named = contents.step_from_name(path.absolute().parent.name)
    return named if step is None else step, contents.epoch_in(facts)


def _read(path: Path, name: str, size: int) -> Mapping[Any, Any]:
    """What a file holds; of a safetensors file, its tensors within its metadata."""
    if size == 0:
        raise CheckpointError(f"'{name}' is an empty file; save or upload the checkpoint again.")
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY_START))
    except OSError as error:
        raise CheckpointError(f"'{name}' cannot be read: {error.strerror}.") from error
    # Decided by content: people rename files. After its 8-byte length a safetensors header begins with "{".
    if start[8:9] == b"{" or name.lower().endswith(".safetensors"):
        return _read_safetensors(path, name, int.from_bytes(start[:8], "little"))
    return _read_torch(path, name, size, start)


def _read_safetensors(path: Path, name: str, length: int) -> Mapping[Any, Any]:
    problem = CheckpointError(
        f"'{name}' is damaged or incomplete and not a readable safetensors file; save or upload it again."
    )
    if length > LARGEST_STRUCTURE:
        raise problem
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return {**(file.metadata() or {}), "state_dict": tensors}
    except Exception as error:  # the parser meets arbitrary bytes here, and fails in every way there is
        raise problem from error


def _read_torch(path: Path, name: str, size: int, start: bytes) -> Mapping[Any, Any]:
    zipped = start.startswith(b"PK\x03\x04")
    structure = _walk_archive(path, name, size) if zipped else _walk_legacy(path, name, size, start)
    try:
        with _letting_through, torch.serialization.safe_globals(structure.stand_ins()):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        if isinstance(error, pickle.UnpicklingError) and zipped:
            raise _more_than_tensors(name) from error
        raise damaged(name) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"'{name}' holds a {type(loaded).__name__}, not a state dict; save model.state_dict()."
        )
    return loaded


def _walk_archive(path: Path, name: str, size: int) -> Structure:
    records = archives.check(path, name, size)
    try:
        # Through torch's own reader: what is walked is what will be loaded.
        pickled = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    except Exception as error:
        raise damaged(name) from error
    walk = Walk(name)
    walk.follow(io.BytesIO(pickled))
    if any(records.get(key, 0) != length for key, length in walk.structure.storages.items()):
        raise damaged(name)
    return walk.structure


def _walk_legacy(path: Path, name: str, size: int, start: bytes) -> Structure:
    if start != _LEGACY_START:
        raise _more_than_tensors(name) if _imports(path) else damaged(name)
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(LARGEST_STRUCTURE))
    walk = Walk(name)
    for _ in range(_LEGACY_PICKLES):
        walk.follow(stream)
    if sum(walk.structure.storages.values()) > size:
        raise damaged(name)
    return walk.structure


def _more_than_tensors(name: str) -> CheckpointError:
    return CheckpointError(
        f"'{name}' contains more than tensors, so it was not loaded and nothing in it was executed; "
        "save model.state_dict() instead of the whole object."
    )


def _imports(path: Path) -> bool:
    """Whether the file starts with a pickle that imports something; walks its opcodes and runs none."""
    try:
        with path.open("rb") as file:
            pickled = io.BytesIO(file.read(LARGEST_STRUCTURE))
        names = ("GLOBAL", "STACK_GLOBAL", "INST")
        return any(opcode.name in names for opcode, _argument, _position in pickletools.genops(pickled))
    except Exception:  # no pickle, or half of one
        return False


def _check_numbers(tensors: Mapping[str, Tensor], name: str, size: int) -> None:
    """Refuse what is no dense array of real numbers, and more numbers than the file can hold."""
    total = 0
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(
                f"The tensor '{shown(key)}' in '{name}' is sparse, quantised or without numbers; "
                "save dense tensors."
            )
        if value.is_complex():
            raise CheckpointError(
                f"The tensor '{shown(key)}' in '{name}' is complex; only real weights can be analysed."
            )
        if value.numel() == 0:
            raise CheckpointError(
                f"The tensor '{shown(key)}' in '{name}' has no entries; save the state dict of a whole model."
            )
        total += value.numel() * value.element_size()
    if total > _LARGEST_SHARING * size:
        raise CheckpointError(
            f"The tensors of '{name}' claim more numbers than the file holds; save model.state_dict() again."
        )


def _in_float32(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The state dict with float32 numbers, all of them finite; integers stay as they are."""
    state = {}
    for key, value in tensors.items():
        tensor = value.detach()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"The tensor '{shown(key)}' in '{name}' holds NaN or infinite values; "
                    "choose a checkpoint from before the training diverged."
                )
        state[key] = tensor.contiguous()
    return state
