"""What all who read files share: the refusal, names made fit for it, and what a file may ask for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MIB = 2**20

# Bytes of a file's plain structure, without its tensors; those of a hundred thousand tensors are a tenth.
LARGEST_STRUCTURE = 32 * MIB

# What a checkpoint may record of its model: mean losses, accuracies in [0, 1].
METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")

# Tensors in one file; the largest networks have some ten thousand.
MOST_TENSORS = 200_000

# The database keeps training steps in 32 bits.
LARGEST_STEP = 2**31 - 1


class Refusal(ValueError):
    """A file that cannot be used; the message is one sentence for the person who brought it."""


@dataclass(frozen=True)
class Limits:
    """What the process that reads one file may take.

    Attributes:
        memory: Bytes of memory beyond what the process has when it starts.
        seconds: Seconds of CPU time.
        output: Bytes of numbers that it may hand back.
        installation: Whether the memory is what the installation allows, rather than the file's size.
    """

    memory: int
    seconds: int
    output: int
    installation: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def damaged(name: str) -> Refusal:
    """The refusal of a file whose bytes cannot be made sense of."""
    return Refusal(
        f"'{name}' is damaged or incomplete and not a readable PyTorch checkpoint; save or upload it again."
    )


def too_many(name: str) -> Refusal:
    """The refusal of a file whose structure is too large for a state dict."""
    return Refusal(f"'{name}' holds too many entries for a state dict; save model.state_dict() alone.")


def more_than_tensors(name: str, what: str = "") -> Refusal:
    """The refusal of a file that refers to other things than tensors and plain values."""
    detail = f" (the file refers to {shown(what)})" if what else ""
    return Refusal(
        f"'{name}' contains more than tensors, so it was not loaded and nothing in it was executed; "
        f"save model.state_dict() instead of the whole object{detail}."
    )


def shown(text: object) -> str:
    """A name out of a file, made fit for a sentence: short and printable."""
    characters = (c if c.isprintable() else "�" for c in str(text)[:80])
    return "".join(characters)
