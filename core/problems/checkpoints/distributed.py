"""Folders of ``torch.distributed.checkpoint`` as one file."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from seigh.core.problems.checkpoints.checkpoint import CheckpointError
from seigh.core.problems.checkpoints.files import asked, write
from seigh.core.reading import contents
from seigh.core.reading.words import shown

METADATA = ".metadata"
SUFFIX = ".distcp"

_OPTIMISER = re.compile(r"optim\w*|opt|lr_?scheduler\w*|scheduler\w*|rng\w*|dataloader\w*|scaler")


def merge(files: Mapping[str, Path], target: Path) -> Path:
    """Write the weights of a distributed checkpoint as one ``.safetensors`` file.

    Args:
        files: ``.metadata`` and the files that it names, by their names.
        target: The file to write; it appears complete or not at all.

    Returns:
        ``target``.

    Raises:
        CheckpointError: If a file is missing or damaged, or the pieces do not make up whole tensors.
    """
    plan = asked("metadata", files[METADATA], METADATA, None).facts
    paths: Mapping[str, Sequence[str]] = plan["paths"]
    wanted = {
        name: about
        for name, about in plan["tensors"].items()
        if not any(_OPTIMISER.fullmatch(key) for key in (paths.get(name) or name.split(".")))
    }
    if not wanted:
        raise CheckpointError(
            "The distributed checkpoint holds no weights; save the state dict of the model."
        )
    values = {name: place for name, place in plan["values"].items() if _is_fact(name)}
    pieces: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for about in wanted.values():
        for file, start, length, *_ in about["pieces"]:
            pieces[file].append((start, length))
    for file, start, length in values.values():
        pieces[file].append((start, length))
    held: dict[tuple[str, int], Tensor] = {}
    facts: dict[tuple[str, int], float] = {}
    for file, places in pieces.items():
        name = PurePosixPath(file).name
        if name not in files:
            raise CheckpointError(
                f"'{METADATA}' names '{shown(name)}', which is not there; give all files of the folder."
            )
        asked_for = sorted(set(places))
        answer = asked("pieces", files[name], name, None, {"pieces": asked_for})
        held |= {(file, asked_for[int(number)][0]): each for number, each in answer.tensors.items()}
        numbers: Mapping[str, float] = answer.facts["numbers"]
        facts |= {(file, asked_for[int(number)][0]): each for number, each in numbers.items()}
    told = {name.rpartition(".")[2]: facts.get((file, start)) for name, (file, start, _) in values.items()}
    tensors = {name: _whole(name, about, held) for name, about in wanted.items()}
    return write(tensors, target, contents.step_in(told), contents.epoch_in(told))


def _is_fact(name: str) -> bool:
    last = {name.rpartition(".")[2]: 1.0}
    return contents.step_in(last) is not None or contents.epoch_in(last) is not None


def _whole(name: str, about: Mapping[str, Any], held: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """A tensor put together from its pieces."""
    shape, pieces = about["shape"], about["pieces"]
    damaged = CheckpointError(
        f"The pieces of '{shown(name)}' in the distributed checkpoint do not make up a whole tensor; give "
        "the files of one checkpoint."
    )
    if sum(math.prod(sizes) for *_, sizes in pieces) != math.prod(shape) or not pieces:
        raise damaged
    whole: Tensor | None = None
    for file, start, _, offsets, sizes in pieces:
        piece = held.get((file, start))
        fits = len(offsets) == len(sizes) == len(shape)
        inside = fits and all(a + b <= c for a, b, c in zip(offsets, sizes, shape, strict=True))
        if piece is None or list(piece.shape) != list(sizes) or not inside:
            raise damaged
        if list(sizes) == list(shape):
            return piece
        whole = torch.full(shape, torch.nan, dtype=piece.dtype) if whole is None else whole
        if piece.dtype != whole.dtype:
            raise damaged
        whole[tuple(slice(a, a + b) for a, b in zip(offsets, sizes, strict=True))] = piece
    assert whole is not None
    return whole
