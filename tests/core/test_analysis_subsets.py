"""Analyses of every kind of subset: the numbers are those of the samples that the record names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from seigh.core.analysis import analyse
from seigh.core.problems import architectures
from seigh.core.settings import AnalysisSettings

ARCHITECTURE = "tanh-mlp(inputs=6,depth=1,width=5,num_classes=3)"
COUNTS = (180, 18, 2)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint, and data of which the classes are far from balanced."""
    generator = torch.Generator().manual_seed(0)
    y = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    y = y[torch.randperm(len(y), generator=generator)]
    x = torch.randn(len(y), 6, generator=generator) + y[:, None]
    np.savez(tmp_path / "rare.npz", x=x.numpy(), y=y.numpy())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(architectures.build(ARCHITECTURE).state_dict(), tmp_path / "step_1.pt")
    return tmp_path / "step_1.pt", tmp_path / "rare.npz"


def truth(checkpoint: Path, data: Path, index: list[int]) -> float:
    """λ₁ of the mean loss over these samples, from the dense Hessian in float64."""
    model = architectures.build(ARCHITECTURE).double()
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    arrays = np.load(data)
    x = torch.tensor(arrays["x"]).double()[index]
    y = torch.tensor(arrays["y"])[index]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        state = {n: part.reshape(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        return cross_entropy(functional_call(model, state, (x,)), y)

    values = torch.linalg.eigvalsh(torch.func.hessian(loss)(theta))
    return float(values[values.abs().argmax()])


@pytest.mark.parametrize(
    "changes",
    [
        {"subset": "all"},
        {"subset": "random", "samples": 100, "seed": 3},
        {"subset": "first-per-class", "samples": 6},
        {"subset": "balanced", "samples": 6},
        {"indices": "0-9,50,199"},
    ],
)
def test_the_eigenvalues_are_those_of_the_samples_in_the_record(
    files: tuple[Path, Path], changes: dict[str, Any]
) -> None:
    checkpoint, data = files
    settings = AnalysisSettings(
        architecture=ARCHITECTURE, data=str(data), k=3, precision="float64", method="exact", **changes
    )
    result = analyse(checkpoint, settings)
    told = result.record["data"]
    index = told["indices"]
    assert result.eigenvalues[0] == pytest.approx(truth(checkpoint, data, index), rel=1e-9)
    assert told["subset"] == settings.subset
    assert told["samples"] == len(index) == result.settings.samples
    assert index == sorted(set(index))
    if settings.subset == "all":
        assert index == list(range(sum(COUNTS)))


def test_all_samples_are_what_training_has_seen(files: tuple[Path, Path]) -> None:
    checkpoint, data = files
    common = {"architecture": ARCHITECTURE, "data": str(data), "k": 3}
    whole = analyse(checkpoint, AnalysisSettings(**common, subset="all"))
    same = analyse(checkpoint, AnalysisSettings(**common, subset="random", samples=sum(COUNTS)))
    assert whole.data_sha256 == same.data_sha256
    assert whole.eigenvalues == pytest.approx(same.eigenvalues)
    again = analyse(checkpoint, whole.settings)  # with N filled in
    assert again.settings == whole.settings
