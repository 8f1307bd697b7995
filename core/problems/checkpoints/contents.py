"""The dictionaries that people save around a state dict, and the facts beside it: step, epoch, metrics.

Read here: bare state dicts; the dictionaries of PyTorch's own examples, timm, mmcv and Hugging Face; those of
Lightning; DeepSpeed's and others' with the weights under ``module``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.problems.checkpoints.checkpoint import METRICS, CheckpointError, shown
from core.problems.checkpoints.pickles import Inert, Number

_WEIGHTS = (
    "model_state_dict",
    "state_dict",
    "model",
    "module",
    "net",
    "network",
    "model_state",
    "params",
    "weights",
)
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
_DEEPEST = 4  # dictionaries around the state dict

_STEPS = ("step", "global_step", "global_steps", "iteration", "iter", "num_updates")
_EPOCHS = ("epoch",)
_FACTS = ("trainer_state", "meta")  # where Hugging Face and mmcv have them

# DataParallel and its kin, torch.compile, and the attribute names under which wrappers hold their network.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
# What stands beside the network in a wrapper's state dict without being part of it.
_ASIDE = re.compile(
    r"(?:\w*_)?(?:acc|accuracy|auroc|f1|metrics?|loss|losses|loss_fn|criterion|ema|ema_model|model_ema)\d*\."
)
_COUNT_OF_AVERAGES = "n_averaged"  # of torch.optim.swa_utils.AveragedModel

# DeepOBS's convolutions lie in a Sequential, behind TensorFlow's padding (1) or without any (0).
_DEEPOBS = re.compile(r"(conv\d)\.[01]\.")
_DEEPOBS_LAYERS = (
    {"conv1", "conv2", "conv3", "dense1", "dense2", "dense3"},
    {f"conv{number}" for number in range(1, 10)},
)

# The database keeps steps in 32 bits; longer digit strings in file names are dates, not steps.
_LARGEST_STEP = 2**31 - 1


@dataclass(frozen=True)
class Contents:
    """A state dict as it was saved, and what stood around it.

    Attributes:
        tensors: The state dict with names as the architecture has them; number types as in the file.
        prefix: What was removed in front of every name.
        step: Training step, if any is recorded.
        epoch: Epoch, if any is recorded.
        metrics: Those of ``METRICS`` that are recorded.
        notes: What was done, a sentence each.
    """

    tensors: dict[str, Tensor]
    prefix: str
    step: int | None
    epoch: int | None
    metrics: dict[str, float]
    notes: tuple[str, ...]


def unpack(contents: Mapping[Any, Any], name: str) -> Contents:
    """Find the weights in what a file holds.

    Args:
        contents: A state dict, or dictionaries around one.
        name: The file's name, for errors.

    Raises:
        CheckpointError: If there are none, or other things are among them.
    """
    notes: list[str] = []
    found, facts = _weights(contents, notes)
    tensors, prefix = _unwrapped(_checked(found, name), "", notes)
    tensors = _with_our_names(tensors, notes)
    return Contents(
        tensors=tensors,
        prefix=prefix,
        step=step_in(facts),
        epoch=epoch_in(facts),
        metrics=_metrics(facts),
        notes=tuple(notes),
    )


def tensors(contents: Mapping[Any, Any], name: str) -> dict[str, Tensor]:
    """The state dict in what a file holds, by the names it has there.

    Raises:
        CheckpointError: As ``unpack``.
    """
    return _checked(_weights(contents, [])[0], name)


def _entries(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """A plain copy: an OrderedDict out of a file may bring attributes that shadow its methods."""
    return dict(dict.items(value)) if isinstance(value, dict) else dict(value)


def _weights(contents: Mapping[Any, Any], notes: list[str]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The innermost dictionary, which should hold the tensors, and the entries of those around it."""
    inner, facts = _entries(contents), dict[Any, Any]()
    for _ in range(_DEEPEST):
        if all(isinstance(value, Tensor) for value in inner.values()):
            break
        averages = [key for key in _AVERAGES if isinstance(inner.get(key), dict)]
        key = next((key for key in _WEIGHTS if isinstance(inner.get(key), dict)), None)
        if key is None and averages:
            key = averages.pop(0)
            notes.append(f"The weights are an average over training steps, the file's entry '{key}'.")
        if key is None:
            break
        if averages:
            notes.append(f"An average over training steps, the file's entry '{averages[0]}', is ignored.")
        facts = inner | facts
        inner = _entries(inner[key])
    return inner, facts


def _checked(tensors: Mapping[Any, Any], name: str) -> dict[str, Tensor]:
    if not tensors:
        raise CheckpointError(f"'{name}' holds no tensors; save model.state_dict().")
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kind = "Python object" if isinstance(value, Inert) else type(value).__name__
            kind = kind if isinstance(key, str) else "name"
            raise CheckpointError(
                f"'{name}' is not a state dict of tensors alone: its entry '{shown(key)}' has a {kind} "
                "where a tensor with a name is expected; save model.state_dict()."
            )
    return dict(tensors)


def _unwrapped(tensors: dict[str, Tensor], prefix: str, notes: list[str]) -> tuple[dict[str, Tensor], str]:
    for wrapper in _PREFIXES:
        inside = {key for key in tensors if key.startswith(wrapper)}
        aside = [key for key in tensors if key not in inside]
        if not inside or not all(_ASIDE.match(key) or key == _COUNT_OF_AVERAGES for key in aside):
            continue
        if _COUNT_OF_AVERAGES in aside:
            aside.remove(_COUNT_OF_AVERAGES)
            notes.append("The weights are an average over training steps (AveragedModel).")
        if aside:
            more = f" and {len(aside) - 1} more" if len(aside) > 1 else ""
            notes.append(f"{shown(aside[0])}{more}, beside the network under '{wrapper}', is left out.")
        # Before they are renamed: names in the file may repeat themselves once wrappers are off.
        stripped = {key.removeprefix(wrapper): value for key, value in tensors.items() if key in inside}
        return _unwrapped(stripped, prefix + wrapper, notes)
    return tensors, prefix


def _with_our_names(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    renamed = {_DEEPOBS.sub(r"\1.", key, count=1): value for key, value in tensors.items()}
    layers = {key.partition(".")[0] for key in renamed}
    if len(renamed) < len(tensors) or renamed.keys() == tensors.keys() or layers not in _DEEPOBS_LAYERS:
        return tensors
    old, new = next((old, new) for old, new in zip(tensors, renamed, strict=True) if old != new)
    notes.append(f"The layers are named as in DeepOBS; {old} is {new} here.")
    return renamed


def notes_on_numbers(tensors: Mapping[str, Tensor]) -> list[str]:
    """What becomes of number types other than float32, and which weights are tied."""
    notes = []
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()):
        if dtype == torch.float64:
            notes.append("Weights in float64 are rounded to float32.")
        elif dtype != torch.float32:
            notes.append(f"Weights in {str(dtype).removeprefix('torch.')} are computed in float32.")
    groups = defaultdict(list)
    for key, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        groups[place].append(key)
    notes += [
        f"{' and '.join(map(shown, tied))} are one tensor." for tied in groups.values() if len(tied) > 1
    ]
    return notes[:5]


def step_in(facts: Mapping[Any, Any]) -> int | None:
    """The training step among the facts that a file records."""
    return _count(facts, _STEPS)


def epoch_in(facts: Mapping[Any, Any]) -> int | None:
    """The epoch among the facts; the number of completed ones where it is a fraction."""
    return _count(facts, _EPOCHS)


def _places(facts: Mapping[Any, Any]) -> Iterable[Mapping[Any, Any]]:
    yield facts
    for key in _FACTS:
        if isinstance(facts.get(key), dict):
            yield _entries(facts[key])


def _count(facts: Mapping[Any, Any], keys: Iterable[str]) -> int | None:
    for place in _places(facts):
        for key in keys:
            value = _number(place.get(key))
            if value is not None and (value.is_integer() or key in _EPOCHS) and 0 <= value <= _LARGEST_STEP:
                return math.floor(value)
    return None


def _metrics(facts: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {key: _number(facts.get(key)) for key in METRICS}
    return {key: value for key, value in numbers.items() if value is not None}


def _number(value: object) -> float | None:
    """A finite number, also where it is written as a string or held by a tensor or scalar of one entry."""
    if isinstance(value, Number):
        value = getattr(value, "value", None)
    if (
        isinstance(value, Tensor)
        and value.numel() == 1
        and value.device.type == "cpu"
        and not value.is_complex()
    ):
        value = value.item()
    if not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# "step_000300", "ckpt-300", "epoch=3-step=300"; and a last number that stands alone or after any other word
# than these: "epoch_3", "seed-1" and "v2" are no steps, nor is the 18 of "resnet18".
_NAMED_STEP = re.compile(
    r"(?<![a-z])(?:global_?step|steps?|iter(?:ation)?|ckpt|checkpoint)[ _=.-]*(\d+)(?![a-z\d])"
)
_LAST_NUMBER = re.compile(r"(?:^|[ _=.-])(\d+)$")
_OTHER_COUNT = re.compile(r"(?<![a-z])(?:epochs?|ep|e|seed|run|fold|rank|version|v)[ _=.-]*\d+$")


def step_from_name(name: str) -> int | None:
    """The training step in a file name such as ``step_000300.pt`` or ``ckpt-300.pth``, if there is one.

    >>> step_from_name("epoch=3-step=300.pt"), step_from_name("model_40.pth"), step_from_name("epoch_3.pt")
    (300, 40, None)
    """
    stem = Path(name).stem.lower()
    match = _NAMED_STEP.search(stem)
    if match is None and not _OTHER_COUNT.search(stem):
        match = _LAST_NUMBER.search(stem)
    step = int(match[1]) if match else None
    return step if step is not None and step <= _LARGEST_STEP else None


_NAMED_EPOCH = re.compile(r"(?<![a-z])(?:epochs?|ep|e)[ _=.-]*(\d+)(?![a-z\d])")


def epoch_from_name(name: str) -> int | None:
    """The epoch in a file name such as ``epoch_003.pt``, if there is one.

    >>> epoch_from_name("epoch=3-step=300.pt"), epoch_from_name("model-ep12.pth"), epoch_from_name("e1e.pt")
    (3, 12, None)
    """
    match = _NAMED_EPOCH.search(Path(name).stem.lower())
    epoch = int(match[1]) if match else None
    return epoch if epoch is not None and epoch <= _LARGEST_STEP else None
