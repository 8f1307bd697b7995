"""Where the checkpoints of one training run stand in it: by what each tells, and what all together tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

from seigh.core.problems.checkpoints.checkpoint import CheckpointError
from seigh.core.problems.checkpoints.names import pattern
from seigh.core.reading.words import LARGEST_STEP, shown

Source = Literal["told", "epoch", "converted", "guess"]


class Told(Protocol):
    """The facts of one file that decide its place in the order."""

    @property
    def name(self) -> str: ...

    @property
    def step(self) -> int | None: ...

    @property
    def epoch(self) -> int | None: ...

    @property
    def guess(self) -> int | None: ...


@dataclass(frozen=True)
class Position:
    """The training step that a checkpoint gets, and where it comes from.

    Attributes:
        step: None where it is not known.
        source: ``told`` by the file, its name or a person; ``epoch``, which stands in for the step;
            ``converted`` from the epoch at the rate of other files; or ``guess``. None where nothing is
            known.
    """

    step: int | None = None
    source: Source | None = None


def positions(files: Sequence[Told]) -> list[Position]:
    """The training steps of the files of one run.

    A step that a file tells is its step. If no file tells a step, epochs order the files. If some files tell
    a step and others an epoch only, these epochs become steps if at least two files that tell both show how
    many steps an epoch has; otherwise the files with an epoch only have no step. A guess counts only where
    the files tell neither.
    """
    if any(file.step is not None for file in files):
        line = _line(files)
        return [_among_steps(file, line) for file in files]
    if any(file.epoch is not None for file in files):
        return [Position() if file.epoch is None else Position(file.epoch, "epoch") for file in files]
    return [Position() if file.guess is None else Position(file.guess, "guess") for file in files]


def _among_steps(file: Told, line: tuple[Fraction, Fraction] | None) -> Position:
    if file.step is not None:
        return Position(file.step, "told")
    if file.epoch is None:
        return Position() if file.guess is None else Position(file.guess, "guess")
    if line is not None:
        step = line[0] * file.epoch + line[1]
        if step.denominator == 1 and 0 <= step <= LARGEST_STEP:
            return Position(int(step), "converted")
    return Position()


def _line(files: Sequence[Told]) -> tuple[Fraction, Fraction] | None:
    """Steps of an epoch and the step of epoch 0, if the files that tell both agree on them."""
    pairs = sorted({(f.epoch, f.step) for f in files if f.epoch is not None and f.step is not None})
    if len(pairs) < 2 or pairs[0][0] == pairs[-1][0]:
        return None
    (first, start), (last, end) = pairs[0], pairs[-1]
    rate = Fraction(end - start, last - first)
    if rate <= 0 or any(step - start != rate * (epoch - first) for epoch, step in pairs):
        return None
    return rate, start - rate * first


def guesses_agree(files: Sequence[Told], found: Sequence[Position]) -> bool:
    """Whether all of several files were guessed, and their names differ in the guessed number alone."""
    names = {
        pattern(file.name, each.step)
        for file, each in zip(files, found, strict=True)
        if each.step is not None
    }
    return len(files) > 1 and all(each.source == "guess" for each in found) and len(names) == 1


def settled(files: Sequence[Told]) -> tuple[list[int], list[str]]:
    """The steps of all files, and sentences about those that no file tells.

    Guesses are accepted where ``guesses_agree``, and said.

    Raises:
        CheckpointError: If a step is not known, or is a guess.
    """
    found = positions(files)
    steps = []
    agree = guesses_agree(files, found)
    for file, each in zip(files, found, strict=True):
        if each.step is None:
            raise CheckpointError(unknown(file, files))
        if each.source == "guess" and not agree:
            raise CheckpointError(
                f"The training step of '{shown(file.name)}' is not known: the number {each.step} in its name "
                f"may be the step; give --step {each.step} if it is, or the right step or --epoch, once for "
                "each file."
            )
        steps.append(each.step)
    return steps, notes(files, found)


def unknown(file: Told, files: Sequence[Told]) -> str:
    """Why a file has no step among these, and what to do."""
    name = shown(file.name)
    other = next((each for each in files if each.step is not None), None)
    if file.epoch is not None and other is not None:
        return (
            f"'{name}' tells its epoch, {file.epoch:,}, and no training step, while '{shown(other.name)}' "
            "tells its step; give the step of each with --step."
        )
    if other is None and any(each.epoch is not None for each in files):
        return f"'{name}' tells neither its epoch nor its training step; give them with --epoch or --step."
    return (
        f"Neither the name of '{name}' nor its content tells the training step or the epoch; "
        "give --step or --epoch, or name the file like step_000100.pt."
    )


def notes(files: Sequence[Told], found: Sequence[Position]) -> list[str]:
    """A sentence for each way in which steps became known that no file tells."""
    said = []
    if any(each.source == "epoch" for each in found):
        whose = (
            "The files tell their epochs" if len(files) > 1 else f"'{shown(files[0].name)}' tells its epoch"
        )
        stand = "epochs stand in for the steps" if len(files) > 1 else "epoch stands in for the step"
        said.append(f"{whose} and no training step, so the {stand}.")
    if converted := _of("converted", files, found):
        file, step = converted[0]
        more = f", and likewise for {len(converted) - 1} more" if len(converted) > 1 else ""
        said.append(
            f"Step {step:,} of '{shown(file.name)}' follows from its epoch, {file.epoch:,}, at the rate of "
            f"the files that tell both{more}."
        )
    if guessed := _of("guess", files, found):
        numbers = [f"{step:,}" for _, step in guessed]
        listed = ", ".join(numbers if len(numbers) < 8 else [*numbers[:6], "…", numbers[-1]])
        names = shown(pattern(guessed[0][0].name, guessed[0][1]))
        said.append(
            f"{f'The steps {listed} are guesses' if len(guessed) > 1 else f'The step {listed} is a guess'} "
            f"from the names of the files ({names}), which do not say what their number counts; if it is not "
            "the step, give --step or --epoch once for each file."
        )
    return said


def _of(source: Source, files: Sequence[Told], found: Sequence[Position]) -> list[tuple[Told, int]]:
    """The files whose step comes from there, with it."""
    return [
        (file, each.step)
        for file, each in zip(files, found, strict=True)
        if each.source == source and each.step is not None
    ]
