"""What Hugging Face's trainer writes beside the weights: ``trainer_state.json`` and ``optimizer.pt``."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seigh.core.problems.checkpoints.names import read_name
from seigh.core.reading import contents, parent
from seigh.core.reading.parent import Refused
from seigh.core.reading.words import MIB

STATE, OPTIMIZER = "trainer_state.json", "optimizer.pt"
FILES = (STATE, OPTIMIZER)

# A history of a hundred thousand entries is shorter.
_LARGEST_STATE = 12 * MIB


@dataclass(frozen=True)
class Beside:
    """What is known of a checkpoint from the files beside it.

    Attributes:
        step: The training step, of the state or of the folder's name.
        epoch: The number of completed epochs.
        metrics: Losses and accuracy at this very step.
        learning_rate: The optimiser's, if it is the same for all parameters.
        notes: What there is to know about these, each a sentence.
    """

    step: int | None = None
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    notes: tuple[str, ...] = ()


def files(weights: Path) -> dict[str, Path]:
    """The files that lie beside weights, by their names in the trainer's folder.

    They have these names in the folder that the trainer has written, and the weights' name in front where
    ``keep`` has put them.
    """
    found: dict[str, Path] = {}
    for name in FILES:
        for path in (weights.with_name(f"{weights.name}.{name}"), weights.with_name(name)):
            if path.is_file():
                found.setdefault(name, path)
    return found


def keep(weights: Path, found: Mapping[str, Path]) -> None:
    """Put the files beside weights that have been moved or merged."""
    for name, path in found.items():
        target = weights.with_name(f"{weights.name}.{name}")
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:  # another disk
            shutil.copyfile(path, target)


def read(weights: Path, in_own_folder: bool, *, folder_is_original: bool) -> Beside:
    """Read the files beside weights.

    Args:
        weights: The file of weights, or the index of several.
        in_own_folder: Whether the folder is that of these weights alone.
        folder_is_original: Whether the trainer has made the folder, so that its name may tell the step: an
            upload lies in one of ours.
    """
    found = files(weights)
    if not in_own_folder:
        found = {name: path for name, path in found.items() if path.name != name}
    state = _state(found[STATE]) if STATE in found else {}
    step = contents.step_in(state)
    is_named = in_own_folder and folder_is_original
    named = read_name(weights.absolute().parent.name).step if is_named else None
    entries = _at_step(state, step)
    metrics, notes = _metrics(entries)
    rate: float | None = None
    if OPTIMIZER in found:
        try:
            rate = parent.read("optimizer", found[OPTIMIZER], OPTIMIZER).facts["learning_rate"]
        except (Refused, OSError):
            notes.append(f"{OPTIMIZER} beside it cannot be read, so it tells no learning rate.")
    if rate is None:
        rates = [each for entry in entries if (each := _number(entry.get("learning_rate"))) is not None]
        rate = rates[-1] if rates and rates[-1] > 0 else None
    return Beside(named if step is None else step, contents.epoch_in(state), metrics, rate, tuple(notes))


def _state(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= _LARGEST_STATE:
            state = json.loads(path.read_bytes())
            return state if isinstance(state, dict) else {}
    return {}


def _at_step(state: Mapping[str, Any], step: int | None) -> list[dict[str, Any]]:
    """The entries of the history that are of the step of the weights."""
    history = state.get("log_history")
    if not isinstance(history, list) or step is None:
        return []
    return [each for each in history if isinstance(each, dict) and each.get("step") == step]


def _metrics(entries: list[dict[str, Any]]) -> tuple[dict[str, float], list[str]]:
    names = {"train_loss": "loss", "test_loss": "eval_loss", "test_accuracy": "eval_accuracy"}
    found = {
        ours: value
        for ours, theirs in names.items()
        for entry in entries
        if (value := _number(entry.get(theirs))) is not None and (ours != "test_accuracy" or 0 <= value <= 1)
    }
    notes = []
    if "train_loss" in found:
        notes.append(
            "The training loss is the trainer's mean over the steps since its last entry, not that of these "
            "weights."
        )
    return found, notes


def _number(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None  # type: ignore[arg-type]
