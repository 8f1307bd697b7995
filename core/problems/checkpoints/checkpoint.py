"""What a checkpoint is, once it has been read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")

# Bytes of a file's plain structure, without its tensors; those of a hundred thousand tensors are a tenth.
LARGEST_STRUCTURE = 32 * 2**20


class CheckpointError(ValueError):
    """A file that is no usable checkpoint; the message is one sentence for the person who brought it."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        path: Where the file lies.
        name: The file name to show: of the original where ``path`` is a temporary copy.
        sha256: Hex SHA-256 of the file.
        size: Size of the file in bytes.
        state: The state dict on the CPU: floating-point tensors in float32, others (buffers) as they are.
            Tied weights, one tensor under several names, share memory here too where they are in float32.
        step: Training step, from the file or else its name; None where neither tells.
        metrics: Those of ``METRICS`` that the file records: mean losses, accuracies in [0, 1].
        epoch: Epoch, from the file or else its name, counted as its writer counts; None where neither tells.
        notes: What happened to the weights on the way here, each a sentence for the person who brought them.
        prefix: What stood in front of every name of the state dict and has been removed.
    """

    path: Path
    name: str
    sha256: str
    size: int
    state: dict[str, Tensor]
    step: int | None
    metrics: dict[str, float]
    epoch: int | None = None
    notes: tuple[str, ...] = ()
    prefix: str = ""


def damaged(name: str) -> CheckpointError:
    """The refusal of a file whose bytes cannot be made sense of."""
    return CheckpointError(
        f"'{name}' is damaged or incomplete and not a readable PyTorch checkpoint; save or upload it again."
    )


def shown(text: object) -> str:
    """A name out of a file, made fit for a sentence: short and printable."""
    characters = (c if c.isprintable() else "�" for c in str(text)[:80])
    return "".join(characters)
