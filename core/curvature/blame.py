"""Find the module of a network that is random, or mixes the samples of a batch, by comparing two runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Relative difference below which two runs agree: far above rounding in any format, far below what chance and
# batch statistics do.
_AGREE = {torch.float64: 1e-10, torch.float32: 1e-4}
_COARSE = 0.05


@dataclass
class _Call:
    """A module's call in a run of the network.

    Attributes:
        name: Name of the module.
        given: The tensors that it was called with.
        returned: The tensors that it returned.
    """

    name: str
    given: list[Tensor]
    returned: list[Tensor]


def culprit_of_chance(model: nn.Module, x: Tensor) -> str:
    """The first module whose outputs differ between two runs although its inputs agree."""
    return _first_difference(model, _run(model, x), _run(model, x), lambda once, again: (once, again))


def culprit_of_batches(model: nn.Module, x: Tensor, part: int) -> str:
    """The first module whose outputs for some samples depend on whether others are in the batch.

    Args:
        model: The network, in float64.
        x: Samples (n, …).
        part: How many of them are run alone.
    """

    def rows(whole: Tensor, alone: Tensor) -> tuple[Tensor, Tensor] | None:
        """The numbers of the same samples; None where it cannot be told which they are."""
        for axis in range(min(2, whole.ndim, alone.ndim)):
            if whole.shape[axis] * part == alone.shape[axis] * len(x) and (
                whole.shape[:axis] + whole.shape[axis + 1 :] == alone.shape[:axis] + alone.shape[axis + 1 :]
            ):
                return whole.narrow(axis, 0, alone.shape[axis]), alone
        return None

    return _first_difference(model, _run(model, x), _run(model, x[:part]), rows)


def described(model: nn.Module, name: str) -> str:
    """A module as a sentence names it: ``norm (BatchNorm2d)``, or the network by its own class."""
    if not name:
        return f"The network's own forward pass ({type(model).__name__})"
    return f"{name} ({type(model.get_submodule(name)).__name__})"


def _run(model: nn.Module, x: Tensor) -> list[_Call]:
    calls: list[_Call] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, given, returned: calls.append(_Call(name, _tensors(given), _tensors(returned)))

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _tensors(values: Any) -> list[Tensor]:
    """Copies of the tensors among what a module was given or has returned."""
    if isinstance(values, Tensor):
        return [values.detach().clone()]
    if isinstance(values, dict):
        values = list(values.values())
    return (
        [each.detach().clone() for each in values if isinstance(each, Tensor)]
        if isinstance(values, list | tuple)
        else []
    )


def _first_difference(
    model: nn.Module,
    one: list[_Call],
    other: list[_Call],
    same: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None],
) -> str:
    """The module of the first call, in the order of their ends, that turns agreeing inputs into others."""

    def agree(left: list[Tensor], right: list[Tensor]) -> bool | None:
        for a, b in zip(left, right, strict=False):
            pair = same(a, b)
            if pair is None:
                return None
            a, b = pair
            size = float(a.double().abs().max()) if a.numel() else 0.0
            limit = _AGREE.get(a.dtype, _COARSE) * size
            if a.shape != b.shape or float((a.double() - b.double()).abs().max() if a.numel() else 0) > limit:
                return False
        return True

    for left, right in zip(one, other, strict=False):
        if left.name != right.name:
            break
        if agree(left.given, right.given) and agree(left.returned, right.returned) is False:
            return described(model, left.name)
    return described(model, "")
