"""Training that leaves checkpoints behind: the paper's recipes, and a recorder for any training loop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from core.problems import architectures, data
from core.problems.checkpoints import METRICS
from core.problems.data import Dataset
from core.settings import SettingsError


@dataclass(frozen=True)
class Problem:
    """A recipe: plain SGD with cross-entropy, no schedule, no augmentation.

    Attributes:
        architecture: Name of the architecture.
        data: Name of the data set.
        learning_rate: Of plain SGD.
        batch: Samples in a batch; an incomplete batch at the end of an epoch is dropped.
    """

    architecture: str
    data: str
    learning_rate: float
    batch: int


PROBLEMS: MappingProxyType[str, Problem] = MappingProxyType(
    # The paper's recipe for 16×16 MNIST (Table 1), on the digits.
    {"digits-mlp": Problem(architecture="tanh-mlp", data="digits", learning_rate=0.3, batch=500)}
)


class Recorder:
    """Writes a model's checkpoints at chosen steps of a training loop; one line per step feeds it.

    ::

        recorder = Recorder(model, Path("run"), steps=range(0, 1001, 100))
        for step in range(1001):
            recorder(step, test_accuracy=accuracy)
            ...  # one optimiser step

    A file holds the state dict (safetensors) and, as metadata, the step, the metrics and ``facts``. It
    appears complete or not at all, equal contents give equal bytes, and random states are left alone.
    """

    def __init__(
        self, model: nn.Module, folder: Path, steps: Iterable[int], facts: Mapping[str, str] | None = None
    ) -> None:
        self.model = model
        self.folder = folder
        self.steps = frozenset(steps)
        self.facts = dict(facts or {})

    def __call__(self, step: int, **metrics: float) -> Path | None:
        """Record the model as it is after ``step`` optimiser steps, if that is a chosen step.

        Args:
            step: Number of optimiser steps taken so far.
            **metrics: Any of ``checkpoints.METRICS``: mean losses, accuracies in [0, 1].

        Returns:
            The file written, or None.
        """
        if step not in self.steps:
            return None
        if unknown := sorted(set(metrics) - set(METRICS)):
            raise TypeError(f"unknown metrics {', '.join(unknown)}; known are {', '.join(METRICS)}")
        metadata = self.facts | {"step": str(step)} | {key: repr(float(v)) for key, v in metrics.items()}
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        path = self.folder / checkpoint_name(step)
        _write(path, _with_sorted_metadata(safetensors.torch.save(state, metadata)))
        return path


def checkpoint_name(step: int) -> str:
    """The file name of the checkpoint at ``step``.

    >>> checkpoint_name(300)
    'step_000300.safetensors'
    """
    return f"step_{step:06d}.safetensors"


def _with_sorted_metadata(serialised: bytes) -> bytes:
    """The same safetensors file with its metadata in alphabetical order.

    The library writes it in an order that differs from process to process; the same training must give the
    same bytes.
    """
    length = int.from_bytes(serialised[:8], "little")
    header = json.loads(serialised[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    ordered += b" " * (-len(ordered) % 8)
    return len(ordered).to_bytes(8, "little") + ordered + serialised[8 + length :]


def _write(path: Path, contents: bytes) -> None:
    """Write a file that appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_bytes(contents)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def train(
    problem: str,
    steps: int,
    record: Iterable[int],
    out: Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Train a problem and record checkpoints, with losses and accuracies on the whole train and test split.

    The same seed gives the same files, byte for byte, on the same machine. Where all of them lie there
    already, from the same problem and seed, they are returned as they are. Torch's global generator is left
    alone.

    Args:
        problem: A key of ``PROBLEMS``.
        steps: Number of optimiser steps.
        record: The steps to record, in 0 … ``steps``; 0 is the initialisation.
        out: Folder for the files ``step_000000.safetensors``, …
        seed: Of the initialisation and the batches.
        progress: Called after every step with the steps done and ``steps``.

    Returns:
        The files, in the order of their steps.

    Raises:
        SettingsError: If there is no such problem, or a step cannot be recorded.
    """
    if problem not in PROBLEMS:
        raise SettingsError(f"There is no problem '{problem}'; choose one of {', '.join(PROBLEMS)}.")
    chosen = sorted(set(record))
    if not chosen or chosen[0] < 0 or chosen[-1] > steps:
        raise SettingsError(f"The steps to record must lie between 0 and the {steps:,} steps of training.")
    files = [out / checkpoint_name(step) for step in chosen]
    facts = {"problem": problem, "architecture": PROBLEMS[problem].architecture, "seed": str(seed)}
    if all(_recorded_facts(file).items() >= facts.items() for file in files):
        return files

    recipe = PROBLEMS[problem]
    training, test = data.load(recipe.data, "train"), data.load(recipe.data, "test")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architectures.build(recipe.architecture)
        recorder = Recorder(model, out, chosen, facts)
        optimiser = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate)
        batches = _batches(training, recipe.batch, torch.Generator().manual_seed(seed))
        for step in range(steps + 1):
            if step in recorder.steps:
                recorder(step, **_metrics(model, "train", training), **_metrics(model, "test", test))
            if progress is not None:
                progress(step, steps)
            if step < steps:
                x, y = next(batches)
                model.train()
                optimiser.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
                optimiser.step()
                model.eval()
    return files


def _recorded_facts(file: Path) -> dict[str, str]:
    """The metadata of a recorded checkpoint; empty if there is no readable one."""
    try:
        with safetensors.safe_open(file, framework="pt") as checkpoint:
            return checkpoint.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return {}


def _batches(dataset: Dataset, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: every epoch in a new order, its incomplete last batch dropped."""
    while True:
        order = torch.randperm(len(dataset.y), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            index = order[start : start + size]
            yield dataset.x[index], dataset.y[index]


@torch.no_grad()
def _metrics(model: nn.Module, split: str, dataset: Dataset) -> dict[str, float]:
    """Mean cross-entropy and accuracy of a model in eval mode on a whole split."""
    outputs = model(dataset.x)
    return {
        f"{split}_loss": nn.functional.cross_entropy(outputs, dataset.y).item(),
        f"{split}_accuracy": (outputs.argmax(dim=1) == dataset.y).float().mean().item(),
    }
