"""DeepSpeed's checkpoints of training with ZeRO as one file: the single-precision weights, as its own
``zero_to_fp32.py`` puts them together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seigh.core.problems.checkpoints.checkpoint import CheckpointError
from seigh.core.problems.checkpoints.files import asked, write
from seigh.core.reading.parent import Answer
from seigh.core.reading.words import shown

OPTIMISER, MODEL = "_optim_states.pt", "_model_states.pt"


def merge(files: Mapping[str, Path], target: Path) -> Path:
    """Write the weights that lie in the shares of all processes as one ``.safetensors`` file.

    Args:
        files: ``…_model_states.pt`` and ``…_optim_states.pt``, by their names.
        target: The file to write; it appears complete or not at all.

    Returns:
        ``target``.

    Raises:
        CheckpointError: If a file is missing or damaged, or they do not belong together.
    """
    models = [_asked(files, name) for name in _ordered(files, MODEL)]
    shares = [_asked(files, name) for name in _ordered(files, OPTIMISER)]
    if not models or not shares:
        raise CheckpointError(
            "Of DeepSpeed's checkpoint give the files …_model_states.pt and …_optim_states.pt."
        )
    stage, count = shares[0].facts["stage"], shares[0].facts["count"]
    if count != len(shares):
        raise CheckpointError(
            f"DeepSpeed's checkpoint was written by {count:,} processes, and of {len(shares):,} there is a "
            f"file …{OPTIMISER}; give those of all."
        )
    try:
        first = models[0].facts
        flat = [[share.tensors[f"flat/{n}"] for n in range(len(share.tensors))] for share in shares]
        state = {name: models[0].tensors[f"module/{name}"] for name in first["buffers"]}
        state |= _frozen(models, stage)
        if stage <= 2:
            state |= _by_group(first["groups"], flat, shares[0].facts["paddings"])
        else:
            state |= _by_parameter(first["groups"], flat)
        state |= {name: state[other] for name, other in first["shared"].items() if other in state}
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            "The files of DeepSpeed's checkpoint do not belong together; give those of one step."
        ) from error
    return write(state, target, first["step"], first["epoch"])


def _asked(files: Mapping[str, Path], name: str) -> Answer:
    answer = asked("zero", files[name], name, None)
    wanted = "groups" if name.endswith(MODEL) else "count"
    if wanted not in answer.facts:
        raise CheckpointError(f"'{shown(name)}' is not what DeepSpeed writes under this name.")
    return answer


def _ordered(files: Mapping[str, Path], suffix: str) -> list[str]:
    """The names with this end, by the numbers in them."""
    names = [name for name in files if name.endswith(suffix)]
    return sorted(names, key=lambda name: [int(part) for part in "".join(_digits(name)).split()])


def _digits(name: str) -> list[str]:
    return [letter if letter.isdigit() else " " for letter in name]


def _by_group(
    groups: Sequence[Mapping[str, Sequence[int]]], flat: Sequence[Sequence[Tensor]], paddings: Any
) -> dict[str, Tensor]:
    """Stages 1 and 2: the shares of a group, one behind the other, are its parameters in their order."""
    state: dict[str, Tensor] = {}
    for number, group in enumerate(groups):
        whole = torch.cat([share[number] for share in flat])
        place = 0
        for position, (name, shape) in enumerate(group.items()):
            size = math.prod(shape)
            state[name] = whole.narrow(0, place, size).view(*shape)
            place += size + (int(paddings[number][position]) if paddings is not None else 0)
        aligned = 2 * len(flat)
        if math.ceil(place / aligned) != math.ceil(len(whole) / aligned):
            raise ValueError("numbers are left over")
    return state


def _by_parameter(
    groups: Sequence[Mapping[str, Sequence[int]]], flat: Sequence[Sequence[Tensor]]
) -> dict[str, Tensor]:
    """Stage 3: every process has an equal part of each parameter, the last one padded."""
    shares = [torch.cat(list(each)) for each in flat]
    state: dict[str, Tensor] = {}
    place = 0
    for group in groups:
        for name, shape in group.items():
            size = math.prod(shape)
            part = math.ceil(size / len(shares))
            whole = torch.cat([share.narrow(0, place, part) for share in shares])
            state[name] = whole[:size].view(*shape)
            place += part
    if place > len(shares[0]):
        raise ValueError("numbers are missing")
    return state


def _frozen(models: Sequence[Answer], stage: int) -> dict[str, Tensor]:
    state = {}
    for name, shape in models[0].facts["frozen"].items():
        parts = [each.tensors[f"frozen/{name}"].reshape(-1) for each in models[: 1 if stage <= 2 else None]]
        state[name] = torch.cat(parts)[: math.prod(shape)].view(*shape)
    return state
