"""Checkpoints to submit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seigh.core.problems import architectures
from seigh.tasks.submit import Upload


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Upload]:
    """Makes a checkpoint file of the tanh-MLP, of other weights for every seed."""

    def make(step: int = 100, seed: int = 0, suffix: str = ".pt") -> Upload:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = architectures.build("tanh-mlp")
        path = tmp_path / f"step_{step:06d}-{seed}{suffix}"
        torch.save(model.state_dict(), path)
        return Upload(path, f"step_{step:06d}{suffix}")

    return make
