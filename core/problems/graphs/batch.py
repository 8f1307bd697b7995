"""A network that was exported for a fixed number of samples, made one for any number where views tell how.

The file then has that number, or multiples of it, among the sizes that views and expansions are given. Where
the samples lie in a tensor follows from going through the operations with two numbers of samples. Whether the
outcome is the same network is measured afterwards (``trial``), as sizes that are equal by chance could
mislead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from seigh.core.problems.graphs.network import Bounds, ExportedNetwork, Run
from seigh.core.problems.graphs.operations import Unfit
from seigh.core.problems.graphs.program import Batch, Program, Step

_VIEWS = ("view", "reshape", "_unsafe_view")
_MADE = ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")


def generalised(program: Program) -> Program:
    """The program for any number of samples.

    Raises:
        Unfit: If it does not follow from its views.
    """
    if program.batch is None:
        return program
    fixed, meta = program.batch, torch.device("meta")
    model = ExportedNetwork(program, meta)
    try:
        with torch.no_grad():
            one, other = (
                Run(model, torch.empty((samples, *program.sample), dtype=program.dtype, device=meta))
                for samples in (fixed, fixed + 1)
            )
            of_one, of_other = Bounds(fixed), Bounds(fixed + 1)
            steps = []
            for step in program.steps:
                arguments, keywords = one.given(step)
                others, _ = other.given(step)
                decided = _with_batch(step, others, arguments, fixed)
                one.keep(step, of_one.computed(step, arguments, keywords))
                other.keep(decided, of_other.computed(decided, *other.given(decided)))
                steps.append(decided)
    except Unfit:
        raise
    except Exception as error:  # operations refuse shapes in every way there is
        raise Unfit(
            f"The network was exported for exactly {fixed} {'sample' if fixed == 1 else 'samples'} at a "
            "time; export it with seigh.export, or with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},) "
            "and two samples or more."
        ) from error
    return replace(program, steps=tuple(steps), batch=None)


def _with_batch(step: Step, arguments: Sequence[Any], before: Sequence[Any], fixed: int) -> Step:
    """A step whose sizes follow the number of samples, if they do.

    Args:
        step: The step.
        arguments: Its arguments for another number of samples.
        before: Its arguments for the number that it was exported with.
        fixed: That number.
    """
    name = step.operation.split(".")[1] if step.operation.startswith("aten.") else ""
    place = 0 if name in ("zeros", "ones", "full") else 1
    if len(step.arguments) <= place or not isinstance(step.arguments[place], list):
        return step
    sizes = step.arguments[place]
    if not all(type(each) is int for each in sizes) or not sizes:
        return step
    if name in _VIEWS:
        which = _of_view(sizes, before[0].shape, arguments[0].shape, fixed)
    elif name == "expand":
        which = _of_expansion(sizes, before[0].shape, arguments[0].shape, fixed)
    elif name in _MADE:
        which = _of_new(sizes, fixed)
    else:
        return step
    if which is None:
        return step
    new = [Batch(each // fixed) if number == which else each for number, each in enumerate(sizes)]
    return replace(step, arguments=(*step.arguments[:place], new, *step.arguments[place + 1 :]))


def _of_view(sizes: Sequence[int], was: Sequence[int], now: Sequence[int], fixed: int) -> int | None:
    """Which size of a view holds the samples: the one with as many numbers before it as in its argument.

    None if no size does, or the one that is left to follow from the others.
    """
    changed = next((number for number, (a, b) in enumerate(zip(was, now, strict=True)) if a != b), None)
    if changed is None:
        return None
    rest = math.prod(was) // max(1, math.prod(each for each in sizes if each != -1))
    whole = [rest if each == -1 else each for each in sizes]
    before = math.prod(was[:changed])
    begins = [math.prod(whole[:number]) for number in range(len(whole) + 1)]
    able = [number for number, size in enumerate(whole) if size and size % fixed == 0]
    exact = [number for number in able if begins[number] == before]
    inside = [number for number in able if begins[number] <= before < begins[number + 1]]
    if fixed == 1:  # every size is a multiple of it
        ones = [number for number in exact if whole[number] == 1]
        exact = ones or (
            exact if len(whole) >= len(was) else [number for number in able if begins[number + 1] == before]
        )
    which = next(iter(exact or inside), None)
    return None if which is None or sizes[which] == -1 else which


def _of_new(sizes: Sequence[int], fixed: int) -> int | None:
    """Which size of a new tensor is the number of samples: the second of the states of recurrent layers."""
    equal = [number for number, size in enumerate(sizes) if size == fixed]
    if len(sizes) < 2 or not equal:
        return None
    return equal[1] if len(sizes) == 3 and len(equal) > 1 else equal[0]


def _of_expansion(sizes: Sequence[int], was: Sequence[int], now: Sequence[int], fixed: int) -> int | None:
    """Which size of an expansion is the number of samples: one that its argument has, or the first."""
    offset = len(sizes) - len(was)
    for number, (a, b) in enumerate(zip(was, now, strict=True)):
        if a != b:
            return offset + number if sizes[offset + number] == a and a % fixed == 0 else None
    first_is_new = offset > 0 or was[0] == 1
    return 0 if len(sizes) > 1 and sizes[0] == fixed and first_is_new else None
