"""A network from a file as a list of allowed operations, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from seigh.core.problems.graphs import operations
from seigh.core.problems.graphs.operations import Unfit
from seigh.core.reading.parent import Answer
from seigh.core.reading.words import shown

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A reference to an earlier value by its number."""

    number: int


@dataclass(frozen=True)
class Batch:
    """A size that is a multiple of the number of samples, where the file has the number of its example."""

    times: int


class Follows(Enum):
    """What follows from where the network computes, and not from where it was exported."""

    dtype = "the number type of its weights and samples"
    device = "their device"


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        function: What computes it.
        operation: Its name, ``aten.conv2d.default``.
        where: The module that it belongs to, for errors: `` in its module conv``; empty if none is told.
        arguments: Values, references and lists of them, in the order of the function's arguments.
        keywords: The rest by name.
        results: The numbers of the results; a list of numbers where the operation gives a list.
        single: Whether the operation gives a result by itself, not a tuple.
        last: The numbers of values that no later step needs.
    """

    function: Callable[..., Any]
    operation: str
    where: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    results: tuple[Any, ...]
    single: bool
    last: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """A network without numbers.

    Attributes:
        parameters: Shape, number type and whether it is trainable, by name, in the network's order.
        buffers: Shape, number type and whether checkpoints hold it, by name.
        numbers: The buffers that checkpoints do not hold, by name, and the constants, by name.
        ties: Names of one tensor.
        given: What the values are that the graph begins with: pairs of a kind and a name or a plain value.
        steps: Its operations, none of which is without effect on the outputs.
        outputs: The numbers of what it returns.
        keys: Names of the outputs; None if it returns a tensor or a tuple.
        sample: Shape of one sample.
        batch: The fixed number of samples that it was exported with; None if it is free.
        dtype: Number type of the samples.
        torch: The version that wrote it.
    """

    parameters: Mapping[str, tuple[Shape, torch.dtype, bool]]
    buffers: Mapping[str, tuple[Shape, torch.dtype, bool]]
    numbers: Mapping[str, Mapping[str, Tensor]]
    ties: tuple[tuple[str, ...], ...]
    given: tuple[tuple[str, Any], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    keys: tuple[str, ...] | None
    sample: Shape
    batch: int | None
    dtype: torch.dtype
    torch: str

    def __deepcopy__(self, memo: object) -> Program:
        return self  # nothing of it ever changes


def program(answer: Answer) -> Program:
    """The program that a child has found in a file.

    Raises:
        Unfit: If it is none that can be an architecture.
    """
    facts = answer.facts
    sizes, dtype = facts["sample"]
    if not sizes:
        raise Unfit("The network takes a single number, where samples (N, …) are needed.")
    batch = None if isinstance(sizes[0], list) else int(sizes[0])
    given = tuple(_given(kind, about, facts) for kind, about in facts["inputs"])
    outputs = tuple(each for each in facts["outputs"] if each is not None)
    if not outputs:
        raise Unfit("The network returns no tensor; let it return its outputs (N, …).")
    keys = facts["keys"]
    steps, outputs = _pure(_steps(facts["steps"]), given, outputs)
    numbers: dict[str, dict[str, Tensor]] = {"buffer": {}, "constant": {}}
    for key, tensor in answer.tensors.items():
        kind, _, name = key.partition(":")
        numbers[kind][name] = tensor
    return Program(
        parameters=_tensors(facts["parameters"], "parameter"),
        buffers=_tensors(facts["buffers"], "buffer"),
        numbers=numbers,
        ties=tuple(map(tuple, facts["ties"])),
        given=given,
        steps=_alive(steps, outputs),
        outputs=outputs,
        keys=None if keys is None or len(outputs) < len(facts["outputs"]) else tuple(keys),
        sample=tuple(each[1] if isinstance(each, list) else each for each in sizes[1:]),
        batch=batch,
        dtype=getattr(torch, dtype),
        torch=facts["torch"],
    )


def _tensors(entries: Sequence[Any], kind: str) -> dict[str, tuple[Shape, torch.dtype, bool]]:
    found: dict[str, tuple[Shape, torch.dtype, bool]] = {}
    for name, shape, dtype, flag in entries:
        if name in found:
            raise Unfit(f"The network has two {kind}s called {shown(name)}.")
        if dtype.startswith("complex"):
            raise Unfit(
                f"The {kind} {shown(name)} of the network is complex, which is not read; keep its real and "
                "imaginary part as two tensors."
            )
        if kind == "parameter" and 0 in shape:
            raise Unfit(f"The parameter {shown(name)} of the network has no entries.")
        found[name] = tuple(shape), getattr(torch, dtype), flag
    return found


def _given(kind: str, about: Any, facts: Mapping[str, Any]) -> tuple[str, Any]:
    match kind:
        case "parameter":
            return kind, facts["parameters"][about][0]
        case "buffer":
            return kind, facts["buffers"][about][0]
        case "constant":
            return kind, facts["constants"][about]
        case "sample":
            return kind, None
    return "value", _plain(about)


# --- From names to operations -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A step, and whether it was one that changes its first argument; for the time of the checks."""

    step: Step
    changes: bool
    view: bool


def _steps(entries: Sequence[Any]) -> Iterator[_Call]:
    """The operations without checks of sizes.

    Raises:
        Unfit: If one is not allowed.
    """
    for target, arguments, results, module in entries:
        if operations.is_check(target):
            continue
        where = f" in its module {shown(module)}" if module and not module.startswith("_") else ""
        named = [(name, _argument(value)) for name, value in arguments]
        single = len(results) == 1
        function = operations.sizes(target)
        if function is not None:
            step = Step(function, target, where, tuple(v for _, v in named), {}, tuple(results), True)
            yield _Call(step, False, False)
            continue
        yield _operation(target, where, named, results, single)


def _operation(
    target: str, where: str, named: list[tuple[str, Any]], results: list[Any], single: bool
) -> _Call:
    found, exact = operations.overload(target, where)
    given = dict(named)
    known = {each.name for each in exact._schema.arguments}
    if len(given) < len(named) or not given.keys() <= known:
        odd = next((name for name in given if name not in known), "an argument twice")
        raise Unfit(
            f"The network calls {target.removeprefix('torch.ops.')}{where} with {shown(odd)}, which it has "
            "not."
        )
    if exact is not found:  # whose arguments have other names here and there
        pairs = zip(exact._schema.arguments, found._schema.arguments, strict=False)
        given = {pure.name: given[other.name] for other, pure in pairs if other.name in given}
    if given.pop("generator", None) is not None:
        raise Unfit(f"The network draws random numbers{where}; leave this out.")
    operations.check_eval(found, given, where)
    positional: list[Any] = []
    for each in found._schema.arguments:
        if each.kwarg_only or each.name not in given:
            break
        positional.append(given.pop(each.name))
    returned = len(found._schema.returns)
    if len(results) > max(returned, 1) or (returned == 1 and single is False and results):
        raise Unfit(
            f"The network takes {len(results)} results of {target.removeprefix('torch.ops.')}{where}."
        )
    step = Step(
        found,
        target.removeprefix("torch.ops."),
        where,
        tuple(positional),
        given,
        tuple(results),
        returned == 1,
    )
    return _Call(step, exact is not found, not operations.gives_no_view(found))


def _argument(value: Any) -> Any:
    match value:
        case ["r", number]:
            return Value(number)
        case ["v", plain]:
            return _plain(plain)
        case ["l", entries]:
            return [_argument(each) for each in entries]
        case ["dtype", name]:
            # What was exported in float32 computes in float64 where its weights are converted.
            return Follows.dtype if name == "float32" else getattr(torch, name)
        case ["format", name]:
            return getattr(torch, name)
        case ["layout", _]:
            return torch.strided
        case _:
            return Follows.device


def _plain(value: Any) -> Any:
    return float(value["float"]) if isinstance(value, dict) else value


def references(value: Any) -> Iterator[int]:
    """The numbers of the values that an argument refers to."""
    if isinstance(value, Value):
        yield value.number
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from references(each)


def needed(step: Step) -> Iterator[int]:
    """The numbers of the values that a step refers to."""
    yield from references(step.arguments)
    yield from references(tuple(step.keywords.values()))


def results(step: Step) -> Iterator[int]:
    """The numbers of the results of a step."""
    for each in step.results:
        yield from each if isinstance(each, list) else () if each is None else (each,)


# --- Without changes in place -----------------------------------------------------------------------------


def _pure(
    calls: Iterator[_Call], given: Sequence[tuple[str, Any]], outputs: tuple[int, ...]
) -> tuple[list[Step], tuple[int, ...]]:
    """The steps, of which those that changed a tensor in place now give a new one.

    That is the same function where nothing else that shares the tensor's memory is needed afterwards: from
    there on its name stands for the new tensor.

    Raises:
        Unfit: If something else is, if a parameter, a buffer or a constant is changed, or if a value is
            needed that no operation gives: checks of sizes, whose results a file may name, are left out.
    """
    all_calls = list(calls)
    uses: dict[int, int] = dict.fromkeys(outputs, len(all_calls))
    for place, call in reversed(list(enumerate(all_calls))):
        for number in needed(call.step):
            uses.setdefault(number, place)
    memory: dict[int, frozenset[int]] = {number: frozenset((number,)) for number in range(len(given))}
    sharing: dict[int, set[int]] = {number: {number} for number in range(len(given))}
    renamed: dict[int, int] = {}
    steps = []
    for place, call in enumerate(all_calls):
        step = _renamed(call.step, renamed)
        if any(each not in memory for each in needed(step)):
            raise Unfit(
                f"The network calls {step.operation}{step.where} with a value that no operation gives, as a "
                "check of sizes has none; export it again, with seigh.export."
            )
        if call.changes:
            first = next(references(call.step.arguments[:1]), None)
            if first is None:
                raise Unfit(f"The network calls {step.operation}{step.where} on no tensor.")
            roots = memory[renamed.get(first, first)]
            held = next(
                (given[root] for root in roots if root < len(given) and given[root][0] != "sample"), None
            )
            if held is not None:
                raise Unfit(
                    f"The network changes {shown(held[1])} in place by {step.operation}{step.where}, as "
                    "layers in training mode do; let it do that in training mode alone, and export it in "
                    "eval mode, as seigh.export does."
                )
            others = {each for root in roots for each in sharing[root]} - {first, renamed.get(first, first)}
            if any(
                uses.get(each, -1) > place and renamed.get(each) != renamed.get(first, first)
                for each in others
            ):
                raise Unfit(
                    f"The network changes a tensor in place by {step.operation}{step.where} of which it uses "
                    "another view later; write it without the change, or export it with seigh.export, which "
                    "rewrites it."
                )
            new = next(results(step), None)
            if new is None:
                raise Unfit(
                    f"The network calls {step.operation}{step.where} without a result, which is not read."
                )
            for each in [first, *(each for each, now in renamed.items() if now == renamed.get(first, first))]:
                renamed[each] = new
        roots = frozenset().union(*(memory[each] for each in needed(step))) if call.view else frozenset()
        for each in results(step):
            memory[each] = roots or frozenset((each,))
            for root in memory[each]:
                sharing.setdefault(root, set()).add(each)
        steps.append(step)
    if any(renamed.get(each, each) not in memory for each in outputs):
        raise Unfit(
            "The network returns a value that no operation gives; export it again, with seigh.export."
        )
    return steps, tuple(renamed.get(each, each) for each in outputs)


def _renamed(step: Step, names: Mapping[int, int]) -> Step:
    if not names:
        return step

    def of(value: Any) -> Any:
        if isinstance(value, Value):
            return Value(names.get(value.number, value.number))
        return [of(each) for each in value] if isinstance(value, list) else value

    keywords = {name: of(value) for name, value in step.keywords.items()}
    return replace(step, arguments=tuple(map(of, step.arguments)), keywords=keywords)


def _alive(steps: Sequence[Step], outputs: Sequence[int]) -> tuple[Step, ...]:
    """The steps that the outputs depend on, each with the values that are needed no more behind it."""
    wanted = set(outputs)
    kept: list[Step] = []
    for step in reversed(steps):
        found = set(results(step))
        if found.isdisjoint(wanted):
            continue
        used = set(needed(step))
        kept.append(replace(step, last=tuple(sorted((used | found) - wanted))))
        wanted |= used
    return tuple(reversed(kept))
