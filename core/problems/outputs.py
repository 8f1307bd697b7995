"""The logits among what a network returns: a tensor, or a tuple, dictionary or dataclass that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from seigh.core.settings import SettingsError

# Where libraries put what the loss takes: transformers, and torchvision's networks for segmentation.
_NAMES = ("logits", "out")


class OutputsError(SettingsError):
    """A network returns nothing that a loss can be taken of."""


def with_tensor_outputs(model: nn.Module) -> nn.Module:
    """The model, which from now on returns its logits (N, …) where it returned them among other things."""
    model.register_forward_hook(_OnlyLogits())
    return model


class _OnlyLogits:
    """Takes the logits out of what a network returns.

    Attributes:
        among: How many tensors might have been them.
    """

    among = 1

    def __call__(self, model: nn.Module, given: tuple[Any, ...], returned: Any) -> Tensor | None:
        if isinstance(returned, Tensor):
            return None
        samples = len(given[0]) if given and isinstance(given[0], Tensor) else None
        found = logits(returned, samples, type(model).__name__)
        unnamed = all(_named(returned, name) is not found for name in _NAMES)
        self.among = len(_fitting(returned, samples)) if unnamed else 1
        return found


def chosen_among(model: nn.Module) -> int:
    """How many tensors that a network returned last might have been the logits."""
    hooks = [each for each in model._forward_hooks.values() if isinstance(each, _OnlyLogits)]
    return max((each.among for each in hooks), default=1)


def logits(returned: Any, samples: int | None, network: str = "The network") -> Tensor:
    """The logits among what a network returned.

    Those are the entry or attribute of this name; else, of a tuple, the first tensor (N, outputs), and of
    anything else its only such tensor.

    Args:
        returned: No tensor.
        samples: N; None if it is not known.
        network: For errors.

    Raises:
        OutputsError: There are none, or it is not clear which they are.
    """
    for name in _NAMES:
        if (found := _named(returned, name)) is not None:
            return found
    fitting = _fitting(returned, samples)
    if len(fitting) == 1 or (fitting and isinstance(returned, tuple | list)):
        return fitting[0]
    what = type(returned).__name__
    if entries := _entries(returned):
        what += f" with {', '.join(list(entries)[:5])}"
    problem = (
        "in which it is not clear what the logits are" if fitting else "which holds no outputs (N, classes)"
    )
    raise OutputsError(
        f"{network} returns a {what}, {problem}; let it return the tensor of logits, or name them 'logits'."
    )


def _named(returned: Any, name: str) -> Tensor | None:
    """The tensor of this name among what a network returned."""
    found = returned.get(name) if isinstance(returned, Mapping) else getattr(returned, name, None)
    return found if isinstance(found, Tensor) else None


def _entries(returned: Any) -> dict[str, Any]:
    """What a network returned, by name or number."""
    if isinstance(returned, Mapping):
        return {str(name): each for name, each in returned.items()}
    if dataclasses.is_dataclass(returned):
        return {field.name: getattr(returned, field.name) for field in dataclasses.fields(returned)}
    if isinstance(returned, tuple | list):
        return {str(number): each for number, each in enumerate(returned)}
    return {}


def _fitting(returned: Any, samples: int | None) -> list[Tensor]:
    """The tensors (N, outputs) among what a network returned."""
    return [
        each
        for each in _entries(returned).values()
        if isinstance(each, Tensor) and each.ndim >= 2 and samples in (None, len(each))
    ]
