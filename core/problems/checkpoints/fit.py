"""Whether a checkpoint's tensors fit an architecture, which architectures they fit, and putting them in."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from seigh.core.errors import first_line
from seigh.core.problems import architectures, graphs
from seigh.core.problems.checkpoints.checkpoint import Checkpoint, CheckpointError
from seigh.core.problems.checkpoints.files import read
from seigh.core.reading.contents import ASIDE
from seigh.core.reading.words import shown
from seigh.core.settings import SettingsError

# Old files lack this counter, which plays no part in eval mode.
_COUNTER = "num_batches_tracked"

Shape = tuple[int, ...]
T = TypeVar("T")
Match = Literal["names", "order"]


@dataclass(frozen=True)
class Pair:
    """A tensor of a checkpoint and the one of an architecture that it becomes.

    Attributes:
        theirs: The name in the checkpoint.
        ours: The name in the architecture.
        shape: Shape of both tensors.
    """

    theirs: str
    ours: str
    shape: Shape


def check_fits(checkpoint: Checkpoint, architecture: str, match: Match = "names") -> None:
    """Check the tensors against an architecture: their names and shapes, or their order and shapes.

    Args:
        checkpoint: The checkpoint.
        architecture: Its name, with options.
        match: By what tensors are matched; ``order`` is for networks whose layers have other names.

    Raises:
        CheckpointError: Naming the first tensors that differ, and the architectures that do fit; or the file
            offers several weights, and none has been chosen.
        SettingsError: If there is no such architecture.
    """
    if checkpoint.undecided:
        listed = ", ".join(f"'{shown(each)}'" for each in checkpoint.offered)
        raise CheckpointError(
            f"'{shown(checkpoint.name)}' holds several weights: {listed}; choose one with --entry."
        )
    for name, tensor in architectures.expected_tensors(architecture).items():
        if tensor.is_complex():
            raise CheckpointError(
                f"The tensor '{name}' of {architecture} has complex numbers, which are not read from files; "
                "keep real and imaginary part as two, as torch.view_as_real gives them, or do not let a "
                "buffer persist."
            )
    if match == "order":
        pairs(checkpoint, architecture)
        return
    differences = _differences(checkpoint, architecture)
    if not differences:
        return
    some = "; ".join(differences[:3])
    more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
    raise CheckpointError(
        f"The tensors of '{checkpoint.name}' do not fit {architecture} ({some}{more}); "
        f"{_advice(checkpoint, architecture)}."
    )


def _advice(checkpoint: Checkpoint, architecture: str) -> str:
    """What to do where tensors do not fit."""
    if fitting := fitting_architectures(checkpoint):
        return f"choose {' or '.join(fitting)}, which they do fit"
    for part in parts(checkpoint):
        inner = replace(checkpoint, state=_below(checkpoint.state, part), prefix="")
        if not _differences(inner, architecture):
            return f"those under '{shown(part)}' do, take them with --entry {shown(part)}"
    with suppress(CheckpointError):
        pairs(checkpoint, architecture)
        return "other names for the same shapes in the same order, so look at the pairs with --match order"
    return "choose its own architecture"


def parts(checkpoint: Checkpoint) -> list[str]:
    """The first parts of names under which several tensors lie, if there is more than one such part."""
    counts = Counter(name.partition(".")[0] for name in checkpoint.state if "." in name)
    several = [part for part, count in counts.items() if count > 1]
    return several if len(counts) > 1 or any("." not in name for name in checkpoint.state) else []


def _below(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(f"{part}.")
    }


def pairs(checkpoint: Checkpoint, architecture: str) -> list[Pair]:
    """The tensors of a checkpoint and of an architecture in their order, which must have equal shapes.

    Order and shape prove nothing: two layers of one shape may stand in another order there. A person looks at
    the pairs, or compares outputs.

    Raises:
        CheckpointError: If they do not agree in number, shape, or in what a layer's tensors are called.
        SettingsError: If there is no such architecture.
    """
    expected = {
        name: tensor
        for name, tensor in architectures.expected_tensors(architecture).items()
        if not _is_counter(name)
    }
    found = {
        name: tensor
        for name, tensor in checkpoint.state.items()
        if not _is_counter(name) and not ASIDE.match(name) and tensor.is_floating_point()
    }
    expected = {name: tensor for name, tensor in expected.items() if tensor.is_floating_point()}
    made = []
    for number, (theirs, ours) in enumerate(zip(found, expected, strict=False), start=1):
        one, other = found[theirs], expected[ours]
        if one.shape != other.shape:
            raise CheckpointError(
                f"The tensors of '{checkpoint.name}' do not fit {architecture} by their order: number "
                f"{number:,}, {shown(theirs)}, is {_shape(one)}, where {ours} is {_shape(other)}; choose its "
                "own architecture."
            )
        last = {theirs.rpartition(".")[2], ours.rpartition(".")[2]}
        if len(last) == 2 and last <= _OF_LAYERS:
            raise CheckpointError(
                f"The tensors of '{checkpoint.name}' do not fit {architecture} by their order: number "
                f"{number:,}, {shown(theirs)}, stands where {ours} does; choose its own architecture."
            )
        made.append(Pair(theirs, ours, tuple(one.shape)))
    if len(found) != len(expected):
        raise CheckpointError(
            f"'{checkpoint.name}' has {len(found):,} tensors and {architecture} has {len(expected):,}, so "
            "they cannot be matched by their order; choose its own architecture."
        )
    return made


def named(checkpoint: Checkpoint, architecture: str, match: Match) -> dict[str, str] | None:
    """The architecture's name of each tensor where they are matched by order; None where names do it."""
    if match == "names":
        return None
    return {pair.theirs: pair.ours for pair in pairs(checkpoint, architecture)}


# What the tensors of a layer are called; one is never matched with another.
_OF_LAYERS = frozenset(("weight", "bias", "running_mean", "running_var"))


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNTER


def fitting_architectures(checkpoint: Checkpoint) -> list[str]:
    """The architectures that the checkpoint's tensors fit, with the options that their shapes tell."""
    shapes = frozenset((name, tuple(tensor.shape)) for name, tensor in checkpoint.state.items())
    proposed = _proposed(shapes, checkpoint.prefix, graphs.names())
    return [spec for spec in proposed if not _differences(checkpoint, spec)]


def fitting_by_order(checkpoint: Checkpoint) -> list[str]:
    """The architectures that the tensors fit by order and shape, where none fits by their names.

    Only those of the paper, of plug-ins and exported ones are looked at, without options. It is a proposal:
    somebody has to look at the ``pairs``.
    """
    if checkpoint.undecided or fitting_architectures(checkpoint):
        return []
    found = []
    for name in architectures.of_one_s_own():
        with suppress(CheckpointError, SettingsError):
            if pairs(checkpoint, name):
                found.append(name)
    return found


@lru_cache(maxsize=64)  # many checkpoints of one run
def _proposed(
    shapes: frozenset[tuple[str, Shape]], prefix: str, _exported: tuple[str, ...]
) -> tuple[str, ...]:
    """What fits such tensors, as long as the exported networks are these."""
    found: dict[str, None] = {}
    for named in reversed(_namings(dict(sorted(shapes)), prefix)):
        found |= dict.fromkeys(architectures.fitting(named))
    return tuple(found)


def _namings(tensors: Mapping[str, T], prefix: str) -> list[dict[str, T]]:
    """Ways of naming the tensors, most literal first.

    What was removed in front of all names is put back whole and in parts, as it may be the network's own;
    what stands in front of all that is left is removed, part by part; and so is ``module`` inside a name,
    where only a part of the network was given to DataParallel. Metrics and losses are left out, at last.
    """
    parts = [f"{part}." for part in prefix.split(".") if part]
    found = [
        {"".join(parts[start:]) + name: tensor for name, tensor in tensors.items()}
        for start in range(len(parts) + 1)
    ]
    inner = {_INNER.sub(".", name): tensor for name, tensor in tensors.items()}
    found.append(inner if len(inner) == len(tensors) else dict(tensors))
    lean = {name: tensor for name, tensor in tensors.items() if not _is_aside(name)} or dict(tensors)
    found.append(lean)
    while len({name.partition(".")[0] for name in lean}) == 1 and all("." in name for name in lean):
        lean = {name.partition(".")[2]: tensor for name, tensor in lean.items()}
        found.append(lean)
    distinct: dict[frozenset[str], dict[str, T]] = {}
    for each in found:
        distinct.setdefault(frozenset(each), each)
    return list(distinct.values())


_INNER = re.compile(r"\.(?:module\.)+")


def _is_aside(name: str) -> bool:
    return bool(ASIDE.match(name)) or name.rpartition(".")[2] == "_extra_state"


def _named_for(expected: Iterable[str], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict by the names of an architecture, as far as there is a way to name it so."""
    expected = {name for name in expected if not _is_counter(name)}
    namings = _namings(checkpoint.state, checkpoint.prefix)
    best = min(namings, key=lambda naming: len(expected - naming.keys()))
    return {name: tensor for name, tensor in best.items() if name in expected or not _is_aside(name)}


def _differences(checkpoint: Checkpoint, architecture: str) -> list[str]:
    """What keeps the tensors from fitting, in the architecture's order; empty if they fit."""
    expected = architectures.expected_tensors(architecture)
    found = _named_for(expected, checkpoint)
    ties = _ties(expected)
    present = {name for tied in ties if not found.keys().isdisjoint(tied) for name in tied}
    differences = []
    for name, tensor in expected.items():
        if name not in found:
            if name not in present and not _is_counter(name):
                differences.append(f"{name} is missing")
        elif found[name].shape != tensor.shape:
            shapes = f"{_shape(found[name])} instead of {_shape(tensor)}"
            differences.append(f"{name} is {shapes}")
        elif tensor.is_floating_point() and not found[name].is_floating_point():
            differences.append(f"{name} holds integers")
    for tied in ties:
        held = [name for name in tied if name in found]
        differences += [
            f"{name} differs from {held[0]}, which is the same tensor there"
            for name in held[1:]
            if not _equal(found[name], found[held[0]])
        ]
    differences += [f"{shown(name)} is unexpected" for name in found if name not in expected]
    return differences


def _ties(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of every tensor that has more than one."""
    names = defaultdict(list)
    for name, tensor in tensors.items():
        names[id(tensor)].append(name)
    return [tied for tied in names.values() if len(tied) > 1]


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, in the coarser of their formats."""
    if one.dtype != other.dtype:
        one, other = one.float(), other.float()
    return one.equal(other)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"


def load_into(model: nn.Module, checkpoint: Checkpoint, named: Mapping[str, str] | None = None) -> None:
    """Copy the weights and buffers into a model of an architecture that ``check_fits`` accepted.

    Of tied weights one name is enough.

    Args:
        model: The model.
        checkpoint: The checkpoint.
        named: The model's name of each tensor, where they are not matched by their names (``pairs``).

    Raises:
        CheckpointError: Weights in float64 are too large for the model's float32.
    """
    tensors = model.state_dict(keep_vars=True)
    if named is None:
        state = dict(_named_for(tensors, checkpoint))
    else:
        state = {ours: checkpoint.state[theirs] for theirs, ours in named.items()}
    for tied in _ties(tensors):
        held = next(state[name] for name in tied if name in state)
        state = dict.fromkeys(tied, held) | state
    model.load_state_dict(state)
    for name, tensor in model.state_dict().items():
        coarser = name in state and state[name].dtype == torch.float64 != tensor.dtype
        if coarser and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"The tensor '{shown(name)}' in '{checkpoint.name}' holds numbers that are too large for "
                "float32; analyse it in float64."
            )


def compare_outputs(model: nn.Module, reference: Path) -> float:
    """How far a model's outputs are those of a reference, as a share of its largest output.

    Args:
        model: The model, with its weights.
        reference: A file with tensors ``inputs`` and ``outputs``, written where the weights come from.

    Raises:
        CheckpointError: They differ by more than a thousandth, or the file does not hold them.
    """
    held = read(reference).state
    if not {"inputs", "outputs"} <= held.keys():
        raise CheckpointError(
            f"'{reference.name}' has no tensors called inputs and outputs; write it with "
            "torch.save({'inputs': x, 'outputs': model(x)}, file)."
        )
    wanted = held["outputs"].double()
    try:
        with torch.no_grad():
            outputs = model(held["inputs"]).double()
    except Exception as error:  # a model's own code refuses inputs in every way there is
        raise CheckpointError(
            f"The network does not take the inputs of '{reference.name}' ({first_line(error)})."
        ) from error
    if outputs.shape != wanted.shape:
        raise CheckpointError(
            f"The network's outputs are {_shape(outputs)} and those of '{reference.name}' {_shape(wanted)}; "
            "it is another network."
        )
    deviation = float((outputs - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    if not deviation <= _MOST_DEVIATION:
        raise CheckpointError(
            f"The network's outputs differ from those of '{reference.name}' by {deviation:.1%} of the "
            "largest: its tensors or layers are not the same; choose another architecture or another match."
        )
    return deviation


# Rounding of float32 in networks of a hundred layers stays a hundred times below.
_MOST_DEVIATION = 1e-3
