"""Adam's second moments in a checkpoint file, as a child reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seigh.core.reading import contents
from seigh.core.reading.checkpoints import check_finite, check_numbers, load
from seigh.core.reading.packing import Array, handed_back
from seigh.core.reading.task import Task
from seigh.core.reading.words import MOST_TENSORS, Refusal, shown, too_many


def read(task: Task) -> dict[str, Any]:
    """The second moments of an optimizer of the Adam family, a tensor for each of its parameters.

    Tensors are called by their place among the parameters of all groups, in the optimizer's order. Beside
    them stand ``steps`` and ``names`` of the parameters (names are None where the optimizer has none), and
    ``groups``: how many parameters each group has, with its ``lr``, ``beta1``, ``beta2`` and ``eps``.

    Raises:
        Refusal: There is no such optimizer in the file, or its state is incomplete or not finite.
    """
    held = contents.optimizer_in(load(task)[0])
    if held is None:
        raise _lacking(task, "holds no state of an optimizer")
    states = contents.dictionary(held.get("state")) or {}
    tensors: dict[str, Array] = {}
    steps: list[float] = []
    names: list[str | None] = []
    groups = []
    for given in held["param_groups"]:
        group = contents.dictionary(given) or {}
        params = group.get("params")
        if not isinstance(params, list) or len(tensors) + len(params) > MOST_TENSORS:
            raise too_many(task.name) if isinstance(params, list) else _lacking(task, "lists no parameters")
        called = group.get("param_names")
        if not isinstance(called, list) or len(called) != len(params):
            called = [None] * len(params)
        key = "max_exp_avg_sq" if group.get("amsgrad") is True else "exp_avg_sq"
        for number, name in zip(params, called, strict=True):
            state = contents.dictionary(states.get(number)) or {}
            moments, step = state.get(key), contents.finite(state.get("step"))
            if not isinstance(moments, Array) or step is None or step < 1:
                raise _lacking(
                    task, f"holds no second moments (exp_avg_sq) of parameter {shown(str(number))}"
                )
            tensors[str(len(tensors))] = moments
            steps.append(step)
            names.append(name if isinstance(name, str) else None)
        groups.append({"count": len(params), **_options(group, task)})
    if not tensors:
        raise _lacking(task, "holds no state of an optimizer that has made a step")
    check_numbers(tensors, task.name)
    description = handed_back(tensors, task.source, task.target, task.limits.output, task.name)
    check_finite(description, tensors, task, "second moment")
    return {**description, "steps": steps, "called": names, "groups": groups}


def _options(group: Mapping[Any, Any], task: Task) -> dict[str, float]:
    """Learning rate, β₁, β₂ and ε of a parameter group."""
    betas = group.get("betas")
    first, second = betas if isinstance(betas, (list, tuple)) and len(betas) == 2 else (None, None)
    given = {"lr": group.get("lr"), "beta1": first, "beta2": second, "eps": group.get("eps")}
    found = {name: contents.finite(each) for name, each in given.items()}
    for name, value in found.items():
        if value is None or value < 0 or (name.startswith("beta") and value >= 1):
            raise _lacking(task, f"does not say {name} of its optimizer, as Adam has it")
    return {name: value for name, value in found.items() if value is not None}


def _lacking(task: Task, why: str) -> Refusal:
    return Refusal(
        f"'{task.name}' {why}; save the state dict of Adam or AdamW with the weights, under 'optimizer'."
    )
