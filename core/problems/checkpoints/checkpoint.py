"""A checkpoint that has been read: its tensors and the facts beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seigh.core.errors import UserError


class CheckpointError(UserError):
    """A file that is no usable checkpoint; the message is one sentence for the person who brought it."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        path: Where the file lies.
        name: The file name to show: of the original where ``path`` is a temporary copy.
        sha256: Hex SHA-256 of the file.
        size: Size of the file in bytes.
        state: The state dict on the CPU: float64 tensors and integers as they are, other floating-point
            tensors in float32. Tied weights, one tensor under several names, share memory here too where they
            are in float32 or float64.
        step: Training step, from the file or else its name; None where neither tells.
        metrics: The ``METRICS`` that the file records: mean losses, accuracies in [0, 1].
        epoch: Epoch, from the file or else its name, counted as its writer counts; None where neither tells.
        guess: A number in the name that may be the step, where neither step nor epoch is known.
        notes: What happened to the weights on the way here, each a sentence for the person who brought them.
        learning_rate: Learning rate of the optimizer, where the file tells one for all parameters.
        prefix: What stood in front of every name of the state dict and has been removed.
        entry: Which of the file's entries the state dict is, as ``read`` takes it; empty if all of it.
        offered: The entries with weights that could be taken, where there are several.
        undecided: Whether none of them is beyond doubt, so that somebody has to choose before the checkpoint
            is used.
    """

    path: Path
    name: str
    sha256: str
    size: int
    state: dict[str, Tensor]
    step: int | None
    metrics: dict[str, float]
    epoch: int | None = None
    guess: int | None = None
    notes: tuple[str, ...] = ()
    prefix: str = ""
    learning_rate: float | None = None
    rate_is_beside: bool = False
    entry: str = ""
    offered: tuple[str, ...] = ()
    undecided: bool = False
