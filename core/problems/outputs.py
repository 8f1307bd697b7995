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
    model.register_forward_hook(_only_logits)
    return model


def _only_logits(model: nn.Module, given: tuple[Any, ...], returned: Any) -> Tensor | None:
    if isinstance(returned, Tensor):
        return None
    samples = len(given[0]) if given and isinstance(given[0], Tensor) else None
    return logits(returned, samples, type(model).__name__)


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
    if dataclasses.is_dataclass(returned) and not isinstance(returned, Mapping):
        returned = {field.name: getattr(returned, field.name) for field in dataclasses.fields(returned)}
    for name in _NAMES:
        found = returned.get(name) if isinstance(returned, Mapping) else getattr(returned, name, None)
        if isinstance(found, Tensor):
            return found
    is_sequence = isinstance(returned, tuple | list)
    entries = list(enumerate(returned)) if is_sequence else []
    if isinstance(returned, Mapping):
        entries = list(returned.items())
    fitting = [
        each
        for _, each in entries
        if isinstance(each, Tensor) and each.ndim >= 2 and samples in (None, len(each))
    ]
    if len(fitting) == 1 or (fitting and is_sequence):
        return fitting[0]
    what = type(returned).__name__
    if entries:
        what += f" with {', '.join(str(name) for name, _ in entries[:5])}"
    problem = (
        "in which it is not clear what the logits are" if fitting else "which holds no outputs (N, classes)"
    )
    raise OutputsError(
        f"{network} returns a {what}, {problem}; let it return the tensor of logits, or name them 'logits'."
    )
