"""A recorder of checkpoints for any training loop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from seigh.core.problems.checkpoints import METRICS


class Recorder:
    """Writes a model's checkpoints at chosen steps of a training loop; one line per step feeds it.

    ::

        recorder = Recorder(model, "run", steps=range(0, 1001, 100))
        for step, (x, y) in enumerate(batches):
            recorder(step)
            loss = loss_function(model(x), y)
            optimiser.zero_grad(), loss.backward(), optimiser.step()
        recorder(step + 1)

    A file holds the state dict (safetensors) and, as metadata, the step, the metrics and ``facts``. It
    appears complete or not at all, and equal contents give equal bytes. Random states, gradients and the
    model's mode are left alone. The wrappers of ``DataParallel``, ``DistributedDataParallel`` and
    ``torch.compile`` are looked through; of several processes that train together, only the first writes.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | Path,
        steps: Iterable[int],
        facts: Mapping[str, str] | None = None,
    ) -> None:
        self.model = unwrapped(model)
        self.folder = Path(folder)
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
        if step not in self.steps or not _is_first_process():
            return None
        if unknown := sorted(set(metrics) - set(METRICS)):
            raise TypeError(f"unknown metrics {', '.join(unknown)}; known are {', '.join(METRICS)}")
        metadata = self.facts | {"step": str(step)} | {key: repr(float(v)) for key, v in metrics.items()}
        path = self.folder / checkpoint_name(step)
        write_tensors(path, plain_state(self.model), metadata)
        return path


def checkpoint_name(step: int) -> str:
    """The file name of the checkpoint at ``step``.

    >>> checkpoint_name(300)
    'step_000300.safetensors'
    """
    return f"step_{step:06d}.safetensors"


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what ``DataParallel``, its distributed kin and ``torch.compile`` put around it."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a state dict as a safetensors file takes it: on the CPU, contiguous, nothing shared."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)  # a module's extra state may be anything
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that appears complete or not at all; equal contents give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    contents = _with_sorted_metadata(safetensors.torch.save(dict(tensors), dict(metadata)))
    try:
        with temporary.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the name without the content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _is_first_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
