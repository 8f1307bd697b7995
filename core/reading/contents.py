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
from typing import Any

from seigh.core.reading.packing import Array, is_float
from seigh.core.reading.pickles import Inert, Number
from seigh.core.reading.words import LARGEST_STEP, METRICS, Refusal, shown

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
_RATES = ("learning_rate", "lr")
_OPTIMIZERS = ("optimizer_state_dict", "optimizer", "optimizer_states", "optim", "optimizer_state")
_MOST_GROUPS = 1000
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
        learning_rate: That of the optimizer, if one is recorded and the same for all parameters.
    """

    tensors: dict[str, Array]
    prefix: str
    step: int | None
    epoch: int | None
    metrics: dict[str, float]
    notes: tuple[str, ...]
    learning_rate: float | None = None


def unpack(contents: Mapping[Any, Any], name: str) -> Contents:
    """Find the weights in what a file holds.

    Args:
        contents: A state dict, or dictionaries around one.
        name: The file's name, for errors.

    Raises:
        Refusal: If there are none, or other things are among them.
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
        learning_rate=learning_rate_in(facts),
    )


def tensors(contents: Mapping[Any, Any], name: str) -> dict[str, Array]:
    """The state dict in what a file holds, by the names it has there.

    Raises:
        Refusal: As ``unpack``.
    """
    return _checked(_weights(contents, [])[0], name)


def _entries(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """A plain copy: an OrderedDict out of a file may bring attributes that shadow its methods."""
    return dict(dict.items(value)) if isinstance(value, dict) else dict(value)


def _weights(contents: Mapping[Any, Any], notes: list[str]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The innermost dictionary, which should hold the tensors, and the entries of those around it."""
    inner, facts = _entries(contents), dict[Any, Any]()
    for _ in range(_DEEPEST):
        if all(isinstance(value, Array) for value in inner.values()):
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


def _checked(tensors: Mapping[Any, Any], name: str) -> dict[str, Array]:
    if not tensors:
        raise Refusal(f"'{name}' holds no tensors; save model.state_dict().")
    for key, value in tensors.items():
        if not isinstance(key, (str, int)):
            raise Refusal(
                f"'{name}' has entries whose names are no text, so it is no state dict; "
                "save model.state_dict()."
            )
        if not isinstance(key, str) or not isinstance(value, Array):
            kind = "Python object" if isinstance(value, Inert) else type(value).__name__
            kind = kind if isinstance(key, str) else "name"
            raise Refusal(
                f"'{name}' is not a state dict of tensors alone: its entry '{shown(key)}' has a {kind} "
                "where a tensor with a name is expected; save model.state_dict()."
            )
    return dict(tensors)


def _unwrapped(tensors: dict[str, Array], prefix: str, notes: list[str]) -> tuple[dict[str, Array], str]:
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


def _with_our_names(tensors: dict[str, Array], notes: list[str]) -> dict[str, Array]:
    renamed = {_DEEPOBS.sub(r"\1.", key, count=1): value for key, value in tensors.items()}
    layers = {key.partition(".")[0] for key in renamed}
    if len(renamed) < len(tensors) or renamed.keys() == tensors.keys() or layers not in _DEEPOBS_LAYERS:
        return tensors
    old, new = next((old, new) for old, new in zip(tensors, renamed, strict=True) if old != new)
    notes.append(f"The layers are named as in DeepOBS; {old} is {new} here.")
    return renamed


def notes_on_numbers(tensors: Mapping[str, Array]) -> list[str]:
    """What becomes of number types other than float32, and which weights are tied."""
    notes = []
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors.values() if is_float(tensor.dtype)):
        if dtype == "float64":
            notes.append("Weights in float64 are rounded to float32, unless the analysis is in float64.")
        elif dtype != "float32":
            notes.append(f"Weights in {dtype} are computed in the precision of the analysis.")
    groups = defaultdict(list)
    for key, tensor in tensors.items():
        groups[tensor.key].append(key)
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


def learning_rate_in(facts: Mapping[Any, Any]) -> float | None:
    """The learning rate of the optimizer, where all its groups have the same, or as a fact beside it."""
    for key in _OPTIMIZERS:
        held = facts.get(key)
        first = held[0] if isinstance(held, list) and held else held
        groups = _entries(first).get("param_groups") if isinstance(first, dict) else None
        if isinstance(groups, list) and groups:
            rates = {
                _number(_entries(each).get("lr")) if isinstance(each, dict) else None
                for each in groups[:_MOST_GROUPS]
            }
            rate = rates.pop()
            return rate if not rates and rate is not None and rate > 0 else None
    for place in _places(facts):
        for key in _RATES:
            rate = _number(place.get(key))
            if rate is not None and rate > 0:
                return rate
    return None


def _places(facts: Mapping[Any, Any]) -> Iterable[Mapping[Any, Any]]:
    yield facts
    for key in _FACTS:
        if isinstance(facts.get(key), dict):
            yield _entries(facts[key])


def _count(facts: Mapping[Any, Any], keys: Iterable[str]) -> int | None:
    for place in _places(facts):
        for key in keys:
            value = _number(place.get(key))
            if value is not None and (value.is_integer() or key in _EPOCHS) and 0 <= value <= LARGEST_STEP:
                return math.floor(value)
    return None


def _metrics(facts: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {key: _number(facts.get(key)) for key in METRICS}
    return {key: value for key, value in numbers.items() if value is not None}


def _number(value: object) -> float | None:
    """A finite number, also where it is written as a string or held by a tensor or scalar of one entry."""
    if isinstance(value, Number):
        value = getattr(value, "value", None)
    if isinstance(value, Array):
        value = _only_number(value)
    if not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _only_number(array: Array) -> float | None:
    try:
        if array.numel == 1 and not array.dtype.startswith("complex"):
            return float(array.view().reshape(-1)[0])
    except (ValueError, TypeError):
        pass
    return None
