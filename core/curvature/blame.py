"""Find the module of a network that is random, or mixes the samples of a batch, by comparing two runs."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from seigh.core.curvature.causes import here

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


def is_random(model: nn.Module, x: Tensor) -> bool:
    """Whether a network whose outputs differ from run to run gives the same ones from the same seeds: else
    it keeps something from one run to the next."""
    with torch.no_grad(), _seeded() as seed:
        seed()
        once = model(x)
        seed()
        return bool(torch.equal(once, model(x)))


@contextmanager
def _seeded() -> Iterator[Callable[[], None]]:
    """Gives a function that sets all seeds; their states are restored in the end."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []

    def seed() -> None:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    with torch.random.fork_rng(devices=devices):
        try:
            yield seed
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def coarser_inside(model: nn.Module, x: Tensor) -> str | None:
    """What a network computes in half precision, whatever its weights are in; None if nothing.

    Args:
        model: The network, in float64.
        x: Samples (n, …).
    """
    formats = _Formats()  # type: ignore[no-untyped-call]
    with torch.no_grad(), formats:
        model(x)
    return formats.found


class _Formats(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the first operation that gives numbers in half precision or less."""

    found: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        floats = isinstance(result, Tensor) and result.is_floating_point()
        if self.found is None and floats and result.dtype.itemsize < 4:
            where = here()
            self.found = str(result.dtype).removeprefix("torch.") + (f" ({where})" if where else "")
        return result


def cuts(outputs: Callable[[], Tensor]) -> list[str]:
    """What keeps PyTorch from differentiating a network: operations whose results it takes for constants, or
    whose backward pass is somebody's own.

    Args:
        outputs: Computes the network from parameters that require gradients.
    """
    found = _Cuts()
    with torch.enable_grad(), found:
        result = outputs()
    python: type[Any] = torch.autograd.function.BackwardCFunction
    pending, seen = [result.grad_fn] if result.grad_fn is not None else [], set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, python):
            found.note(f"the backward pass of {node.name().removesuffix('Backward')}")
        pending += [following for following, _ in node.next_functions if following is not None]
    return found.found


_ATEN_EMBEDDINGS = (torch.embedding, torch.ops.aten.embedding.default)
# Names of the arguments of embeddings, and those that make their gradients others than their derivatives.
_EMBEDDINGS: Mapping[Any, tuple[str, ...]] = {
    **{each: tuple(inspect.signature(each).parameters) for each in (embedding, embedding_bag)},
    **dict.fromkeys(_ATEN_EMBEDDINGS, ("weight", "indices", "padding_idx", "scale_grad_by_freq", "sparse")),
}
_CHANGE_GRADIENTS = ("max_norm", "padding_idx", "scale_grad_by_freq")


class _Cuts(TorchFunctionMode):
    """Notes where numbers that depend on parameters leave the graph."""

    _NAMES: ClassVar[dict[Any, str]] = {
        torch.Tensor.detach: "detach()",
        torch.detach: "detach()",
        torch.ops.aten.detach.default: "detach()",  # of exported networks
        torch.Tensor.detach_: "detach_()",
        torch.Tensor.data.__get__: "data",  # type: ignore[attr-defined]
        torch.Tensor.item: "item()",
        torch.Tensor.tolist: "tolist()",
        torch.Tensor.numpy: "numpy()",
        torch.Tensor.__float__: "float()",
        torch.Tensor.register_hook: "register_hook()",
    }

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def note(self, what: str) -> None:
        if what not in self.found and len(self.found) < 3:
            self.found.append(what)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if not any(each.requires_grad for each in given):
            return result
        what = self._NAMES.get(func)
        if func in _EMBEDDINGS:
            options = dict(zip(_EMBEDDINGS[func], args, strict=False)) | kwargs
            without = -1 if func in _ATEN_EMBEDDINGS else None
            chosen = [(name, options.get(name)) for name in _CHANGE_GRADIENTS]
            wrong = [name for name, each in chosen if each not in (None, without) and each is not False]
            what = f"{wrong[0]} of an embedding" if wrong else None
        elif "fake_quantize" in getattr(func, "__name__", ""):
            what = f"{func.__name__}()"
        elif what is None and isinstance(result, Tensor) and not torch.is_grad_enabled():
            what = "torch.no_grad() or inference_mode()"
        if what is not None:
            where = here()
            self.note(f"{what} at {where}" if where else what)
        return result


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
