"""Whether a checkpoint's tensors fit an architecture, which architectures they fit, and putting them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from torch import Tensor, nn

from core.problems import architectures
from core.problems.checkpoints.checkpoint import Checkpoint, CheckpointError, shown

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
    proposed = _proposed(shapes, checkpoint.prefix)
    return [spec for spec in proposed if not _differences(checkpoint, spec)]


@lru_cache(maxsize=64)  # many checkpoints of one run
def _proposed(shapes: frozenset[tuple[str, Shape]], prefix: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for each in _prefixes(prefix):
        named = _with_counters({each + name: shape for name, shape in shapes})
        for name in architectures.names():
            spec = architectures.infer(name, named)
            if spec is not None:
                found[spec] = None
    return tuple(found)


def _prefixes(prefix: str) -> list[str]:
    """Ways of naming: without what was removed, and with its inner parts, which may be the network's own."""
    parts = [f"{part}." for part in prefix.split(".") if part]
    return ["".join(parts[start:]) for start in range(len(parts), -1, -1)]


def _with_counters(shapes: dict[str, Shape]) -> dict[str, Shape]:
    for name in list(shapes):
        layer, _, kind = name.rpartition(".")
        if kind == "running_mean":
            shapes.setdefault(f"{layer}.{_COUNTER}" if layer else _COUNTER, ())
    return shapes


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
    differences = []
    for name, tensor in expected.items():
        if name not in found:
            if name.rpartition(".")[2] != _COUNTER:
                differences.append(f"{name} is missing")
        elif found[name].shape != tensor.shape:
            shapes = f"{_shape(found[name])} instead of {_shape(tensor)}"
            differences.append(f"{name} is {shapes}")
        elif tensor.is_floating_point() and not found[name].is_floating_point():
            differences.append(f"{name} holds integers")
    differences += [f"{shown(name)} is unexpected" for name in found if name not in expected]
    return differences


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights and buffers into a model of an architecture that ``check_fits`` accepted.

    Raises:
        CheckpointError: If weights that are one tensor in the model are different ones in the file.
    """
    state = _named_for(model.state_dict(), checkpoint)
    model.load_state_dict(state)
    _check_tied(model, state, checkpoint.name)


def _check_tied(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    for key, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.detach().equal(state[key]):
            raise CheckpointError(
                f"'{key}' in '{name}' differs from the tensor it is tied to; choose an architecture where "
                "it is a weight of its own."
            )
