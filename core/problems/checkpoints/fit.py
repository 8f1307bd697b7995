"""Whether a checkpoint's tensors fit an architecture, which architectures they fit, and putting them in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from seigh.core.problems import architectures, graphs
from seigh.core.problems.checkpoints.checkpoint import Checkpoint, CheckpointError
from seigh.core.reading.words import shown

# Old files lack this counter, which plays no part in eval mode.
_COUNTER = "num_batches_tracked"

Shape = tuple[int, ...]


def check_fits(checkpoint: Checkpoint, architecture: str) -> None:
    """Check names and shapes of the tensors against an architecture.

    Args:
        checkpoint: The checkpoint.
        architecture: Its name, with options.

    Raises:
        CheckpointError: Naming the first tensors that differ, and the architectures that do fit.
        SettingsError: If there is no such architecture.
    """
    differences = _differences(checkpoint, architecture)
    if not differences:
        return
    some = "; ".join(differences[:3])
    more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
    fitting = fitting_architectures(checkpoint)
    advice = f"choose {' or '.join(fitting)}, which they do fit" if fitting else "choose its own architecture"
    raise CheckpointError(
        f"The tensors of '{checkpoint.name}' do not fit {architecture} ({some}{more}); {advice}."
    )


def fitting_architectures(checkpoint: Checkpoint) -> list[str]:
    """The architectures that the checkpoint's tensors fit, with the options that their shapes tell."""
    shapes = frozenset((name, tuple(tensor.shape)) for name, tensor in checkpoint.state.items())
    proposed = _proposed(shapes, checkpoint.prefix, graphs.names())
    return [spec for spec in proposed if not _differences(checkpoint, spec)]


@lru_cache(maxsize=64)  # many checkpoints of one run
def _proposed(
    shapes: frozenset[tuple[str, Shape]], prefix: str, _exported: tuple[str, ...]
) -> tuple[str, ...]:
    """What fits such tensors, as long as the exported networks are these."""
    found: dict[str, None] = {}
    for each in _prefixes(prefix):
        found |= dict.fromkeys(architectures.fitting({each + name: shape for name, shape in sorted(shapes)}))
    return tuple(found)


def _prefixes(prefix: str) -> list[str]:
    """Ways of naming: without what was removed, and with its inner parts, which may be the network's own."""
    parts = [f"{part}." for part in prefix.split(".") if part]
    return ["".join(parts[start:]) for start in range(len(parts), -1, -1)]


def _named_for(expected: Iterable[str], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict with what was removed from its names put back, as far as all expected names have it."""
    expected = list(expected)
    for prefix in reversed(_prefixes(checkpoint.prefix)):
        if all(name.startswith(prefix) for name in expected):
            return {prefix + name: tensor for name, tensor in checkpoint.state.items()}
    return checkpoint.state


def _differences(checkpoint: Checkpoint, architecture: str) -> list[str]:
    """What keeps the tensors from fitting, in the architecture's order; empty if they fit."""
    expected = architectures.expected_tensors(architecture)
    found = _named_for(expected, checkpoint)
    ties = _ties(expected)
    present = {name for tied in ties if not found.keys().isdisjoint(tied) for name in tied}
    differences = []
    for name, tensor in expected.items():
        if name not in found:
            if name not in present and name.rpartition(".")[2] != _COUNTER:
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


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights and buffers into a model of an architecture that ``check_fits`` accepted.

    Of tied weights one name is enough.

    Raises:
        CheckpointError: Weights in float64 are too large for the model's float32.
    """
    tensors = model.state_dict(keep_vars=True)
    state = dict(_named_for(tensors, checkpoint))
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
