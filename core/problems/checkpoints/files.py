"""Files read as checkpoints: PyTorch's two formats, safetensors, and safetensors in several shards."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from seigh.core.problems.checkpoints import beside
from seigh.core.problems.checkpoints.checkpoint import Checkpoint, CheckpointError
from seigh.core.problems.checkpoints.names import read_name
from seigh.core.reading import parent
from seigh.core.reading.parent import Answer, Refused
from seigh.core.reading.words import MIB, shown
from seigh.core.settings import Settings

SUFFIXES = (
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".safetensors",
    ".tar",
    ".t7",
    ".pkl",
    ".pickle",
    ".th",
    ".model",
    ".zip",
)
INDEX_SUFFIX = ".index.json"

# An index of a hundred thousand tensors is shorter.
LARGEST_INDEX = 12 * MIB

# Hugging Face names the folder after the step, not the file, and writes what it knows beside it.
NAMED_BY_FOLDER = ("pytorch_model.bin", "model.safetensors")


def read(path: Path, name: str | None = None, *, entry: str = "", env: Settings | None = None) -> Checkpoint:
    """Read a PyTorch file (``.pt``, ``.pth``, ``.ckpt``, ``.bin``, …) or a ``.safetensors`` file.

    It holds a state dict, alone or in the dictionaries that training code saves
    (``seigh.core.reading.contents``). A child reads it (``seigh.core.reading``); this process takes memory
    for the tensors that are looked at, and for nothing else.

    Args:
        path: The file.
        name: Its original name where ``path`` is a temporary copy; errors show it.
        entry: Which of the file's entries with weights to take (``Checkpoint.offered``), or the name under
            which the weights lie in it; what is beyond doubt if empty.
        env: With the limits for reading; from ``SEIGH_*`` when not given.

    Raises:
        CheckpointError: If the file is missing, empty, damaged, no checkpoint, holds more than tensors,
            holds weights that are NaN or infinite, or takes more memory or time than a file of its size may.
    """
    original, name = name is None, name or path.name
    if name.lower().endswith(INDEX_SUFFIX):
        raise CheckpointError(f"'{name}' is the index of a checkpoint in several files; give those with it.")
    if Path(name).suffix.lower() not in SUFFIXES:
        raise CheckpointError(
            f"'{name}' does not end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}; "
            "save the model's state dict in one of these formats."
        )
    answer = asked("checkpoint", path, name, env, {"entry": entry})
    facts = answer.facts
    step, epoch = facts["step"], facts["epoch"]
    found = beside.read(path, path.name in NAMED_BY_FOLDER, folder_is_original=original)
    step = found.step if step is None else step
    epoch = found.epoch if epoch is None else epoch
    rate_is_beside = facts["learning_rate"] is None and found.learning_rate is not None
    named = read_name(name)
    # timm and others number checkpoints by epochs, which they record in the file; Hugging Face by steps.
    of_epoch = named.step_of_checkpoint and epoch is not None and named.step in (epoch, epoch + 1)
    step = named.step if step is None and not of_epoch else step
    epoch = named.epoch if epoch is None else epoch
    return Checkpoint(
        path=path,
        name=name,
        sha256=facts["sha256"],
        size=facts["size"],
        state=answer.tensors,
        step=step,
        metrics={**found.metrics, **facts["metrics"]},
        epoch=epoch,
        guess=named.guess if step is None and epoch is None else None,
        notes=(*facts["notes"], *found.notes),
        prefix=facts["prefix"],
        learning_rate=found.learning_rate if rate_is_beside else facts["learning_rate"],
        rate_is_beside=rate_is_beside,
        entry=facts["entry"],
        offered=tuple(facts["offered"]),
        undecided=facts["undecided"],
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
        held = asked("shard", shards[shard], shard, None).tensors
        expected = {key for key, place in places.items() if place == shard}
        odd = sorted(held.keys() ^ expected)
        if odd:
            raise CheckpointError(
                f"'{name}' does not belong to '{shown(shard)}': only one of them has the tensor "
                f"'{shown(odd[0])}'; give the files of one checkpoint."
            )
        tensors |= held
    found = beside.read(index_path, in_own_folder=True, folder_is_original=True)
    beside.keep(target, beside.files(index_path))
    return write(tensors, target, found.step, found.epoch)


def write(tensors: Mapping[str, Tensor], target: Path, step: int | None, epoch: int | None) -> Path:
    """Write tensors as a ``.safetensors`` file, which appears complete or not at all.

    Returns:
        ``target``.

    Raises:
        CheckpointError: If a tensor's name is no text.
    """
    facts = {key: str(value) for key, value in (("step", step), ("epoch", epoch)) if value is not None}
    partial = target.with_name(f"{target.name}.partial")
    try:
        safetensors.torch.save_file(_apart(tensors), partial, {"format": "pt"} | facts)
        os.replace(partial, target)
    except UnicodeEncodeError as error:
        raise CheckpointError("A tensor has a name in characters that are no text.") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _index(path: Path) -> dict[str, str]:
    """The file name of every tensor's shard, by the tensor's name."""
    try:
        if path.stat().st_size > LARGEST_INDEX:
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
        apart[key] = tensor.clone() if id(tensor) in seen else tensor.contiguous()
        seen.add(id(tensor))
    return apart


def _refused(error: OSError, name: str) -> CheckpointError:
    return CheckpointError(f"'{name}' cannot be read: {error.strerror}.")


def asked(
    kind: parent.Kind,
    path: Path,
    name: str,
    env: Settings | None,
    options: Mapping[str, Any] | None = None,
) -> Answer:
    """Have a confined child process read a file, and return its answer."""
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"'{name}' is an empty file; save or upload the checkpoint again.")
        return parent.read(kind, path, name, env, options=options)
    except OSError as error:
        raise _refused(error, name) from error
    except Refused as error:
        raise CheckpointError(str(error)) from error
