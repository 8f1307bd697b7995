"""Networks, losses and data of people's own: analysed as they are meant, or refused with the true cause."""

# ruff: noqa: F811 — pytest hands the fixture over by its name
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seigh.core.analysis import analyse
from seigh.core.network import load, parameters_of
from seigh.core.problems import architectures
from seigh.core.problems.checkpoints import CheckpointError, read
from seigh.core.problems.data import DataError
from seigh.core.problems.recorder import Recorder
from seigh.core.settings import AnalysisSettings, Settings, SettingsError
from tests.core.problems.test_plugins import Install, install  # noqa: F401

SOURCE = """
import dataclasses
from collections import namedtuple

import torch
from torch import nn
from torch.nn import functional as F

from seigh.core.problems.data import Dataset


class Net(nn.Module):
    def __init__(self, way: str = "tensor"):
        super().__init__()
        self.head = nn.Linear(16, 10)
        self.way = way

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 4).flatten(1)
        logits = self.head(torch.tanh(pooled))
        return WAYS[self.way](logits, pooled)


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor
    loss: object = None


Named = namedtuple("Named", ["logits", "aux"])

def missing(logits, pooled):
    return logits @ undefined_name

def broken(logits, pooled):
    raise KeyError("width")

def unbuilt(logits, pooled):
    raise RuntimeError("the tokenizer is not there")

WAYS = {
    "tensor": lambda logits, pooled: logits,
    "dict": lambda logits, pooled: {"features": pooled, "logits": logits},
    "one": lambda logits, pooled: {"scores": logits, "step": 3},
    "tuple": lambda logits, pooled: (logits, pooled),
    "list": lambda logits, pooled: [None, logits],
    "named": lambda logits, pooled: Named(logits, pooled),
    "dataclass": lambda logits, pooled: Output(logits, pooled),
    "unclear": lambda logits, pooled: {"scores": logits, "features": pooled},
    "none": lambda logits, pooled: None,
    "scalars": lambda logits, pooled: (logits.sum(), pooled.sum()),
    "scalar": lambda logits, pooled: logits.sum(),
    "folded": lambda logits, pooled: torch.cat([logits, logits]),
    "undefined": missing,
    "key": broken,
    "runtime": unbuilt,
    "one-output": lambda logits, pooled: logits[:, :1],
    "flat": lambda logits, pooled: logits[:, 0],
    "sequence": lambda logits, pooled: logits[:, :, None].expand(-1, -1, 3),
}


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.linspace(0.2, 2.0, 10))

    def forward(self, outputs, y):
        return F.cross_entropy(outputs, y, weight=self.weight)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(1000, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)).mean(1))


def words(split):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 1000, (60, 7), generator=generator)
    return Dataset("words", x, torch.arange(60) % 3)


def register(registry):
    registry.architecture("net", Net, takes=(1, 16, 16))
    registry.architecture("words", Words)
    registry.data("words", words)
    registry.loss("weighted", Weighted)
    registry.loss("broken", lambda: Broken())


class Broken(nn.Module):
    def forward(self, outputs, y):
        raise KeyError("table")
"""


def settings(**changes: Any) -> AnalysisSettings:
    chosen = {"architecture": "net", "data": "digits", "samples": 40, "k": 5, "precision": "float64"}
    return AnalysisSettings(**(chosen | changes))


def checkpoint(folder: Path, architecture: str = "net") -> Path:
    torch.manual_seed(0)
    path = Recorder(architectures.build(architecture), folder, [0])(0)
    assert path is not None
    return path


def test_logits_are_found_wherever_a_network_returns_them(
    install: Install,
    tmp_path: Path,
) -> None:
    install("lab", SOURCE)
    path = checkpoint(tmp_path)
    expected = analyse(path, settings())
    for way in ("dict", "one", "tuple", "list", "named", "dataclass"):
        found = analyse(path, settings(architecture=f"net(way={way})"))
        np.testing.assert_array_equal(found.eigenvalues, expected.eigenvalues)
        assert found.record["subset_accuracy"] == expected.record["subset_accuracy"]


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("unclear", "Net returns a dict with scores, features, in which it is not clear what the logits are"),
        ("none", "Net returns a NoneType, which holds no outputs"),
        ("scalars", "Net returns a tuple with 0, 1, which holds no outputs"),
        ("scalar", "Net gives outputs of shape .* for one sample of digits"),
        ("folded", "Net gives outputs of shape \\(2×10\\) for one sample of digits"),
        (
            "undefined",
            "Net fails on the samples of digits, .*NameError: name 'undefined_name' .*lab.py, line",
        ),
        ("key", "Net fails on the samples of digits, of shape 1×16×16: KeyError: 'width'"),
        ("runtime", "Net fails on the samples of digits, .* the tokenizer is not there"),
        ("one-output", "one output for each sample, .* give it 10 outputs"),
        ("flat", "one output for each sample, .* give it 10 outputs"),
        ("sequence", r"Cross-entropy does not pair targets \(N,\) of digits and outputs \(N, 10, 3\)"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_with_the_true_cause(
    install: Install,
    tmp_path: Path,
    way: str,
    said: str,
) -> None:
    install("lab", SOURCE)
    with pytest.raises((DataError, SettingsError), match=said) as refused:
        analyse(checkpoint(tmp_path), settings(architecture=f"net(way={way})"))
    assert "does not take;" not in str(refused.value)


def test_a_weighted_loss_is_the_same_in_one_batch_and_in_many(
    install: Install,
    tmp_path: Path,
) -> None:
    install("lab", SOURCE)
    path = checkpoint(tmp_path)
    forced = {"hvp_path": "double-backward", "hvp_columns": 2}
    whole = analyse(path, settings(loss="weighted"))
    for size in (1, 2, 7):
        parts = analyse(path, settings(loss="weighted", batch_size=size, **forced))
        np.testing.assert_allclose(parts.eigenvalues, whole.eigenvalues, rtol=1e-10)
        checks = {check["name"]: check for check in parts.record["certificate"]}
        assert checks.keys() >= {"loss", "determinism", "additivity", "gradient", "truth", "symmetry"}
        assert all(check["passed"] for check in checks.values())
        assert "they weigh differently" in checks["loss"]["sentence"]
    unweighted = analyse(path, settings())
    assert abs(unweighted.eigenvalues[0] / whole.eigenvalues[0] - 1) > 1e-3


def test_a_loss_that_fails_is_refused_with_the_true_cause(
    install: Install,
    tmp_path: Path,
) -> None:
    install("lab", SOURCE)
    with pytest.raises(SettingsError, match=r"The loss 'broken' .*KeyError: 'table'"):
        analyse(checkpoint(tmp_path), settings(loss="broken"))


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_integers_stay_integers_in_every_precision(
    install: Install,
    tmp_path: Path,
    precision: str,
) -> None:
    install("lab", SOURCE)
    path = checkpoint(tmp_path, "words")
    asked = settings(architecture="words", data="words", precision=precision)
    assert load(path, asked, path.name, Settings()).x.dtype == torch.int64
    exact = analyse(path, asked.model_copy(update={"precision": "float64"}))
    found = analyse(path, asked)
    error = np.abs(found.eigenvalues - exact.eigenvalues).max() / exact.eigenvalues[0]
    assert error < (0.05 if precision == "bfloat16" else 1e-5)


def test_a_float64_checkpoint_is_analysed_with_its_float64_weights(
    install: Install,
    tmp_path: Path,
) -> None:
    install("lab", SOURCE)
    torch.manual_seed(0)
    model = architectures.build("net").double()
    path = tmp_path / "step_0.pt"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-9 * torch.randn_like(parameter))
    torch.save(model.state_dict(), path)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.equal(parameters_of(path, settings()), theta)
    assert torch.equal(parameters_of(path, settings(precision="float32")), theta.float())
    network = load(path, settings(), path.name, Settings())
    assert torch.equal(network.theta.flat(network.model), theta)
    assert not torch.equal(theta.float().double(), theta)
    assert read(path).notes == (
        "Weights in float64 are rounded to float32, unless the analysis is in float64.",
    )


def test_float64_weights_beyond_float32_are_refused_there_alone(
    install: Install,
    tmp_path: Path,
) -> None:
    install("lab", SOURCE)
    model: nn.Module = architectures.build("net").double()
    with torch.no_grad():
        bias: Tensor = model.head.bias  # type: ignore[union-attr, assignment]
        bias[3] = 1e60
    path = tmp_path / "step_0.pt"
    torch.save(model.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"'head.bias' .* too large for float32; analyse it in float64"):
        parameters_of(path, settings(precision="float32"))
    assert float(parameters_of(path, settings()).max()) == 1e60
