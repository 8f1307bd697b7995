"""The problems: a checkpoint and a data subset each, made once and kept in ``.cache``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from curvlinops import HessianLinearOperator
from torch import Tensor, nn

from seigh.core.curvature import CurvatureOperator
from seigh.core.methods import EXACT_MAX_PARAMETERS
from seigh.core.overlap import largest_first, overlap_curve
from seigh.core.problems import architectures, checkpoints
from seigh.core.problems import data as datasets
from seigh.core.problems.recorder import Recorder, checkpoint_name
from seigh.core.problems.training import train
from seigh.core.settings import AnalysisSettings
from seigh.core.spectra import exact

CACHE = Path(__file__).parent / ".cache"

# The truth is kept for every k up to this.
_TRUE_PAIRS = 1000


@dataclass(frozen=True)
class Task:
    """What every method computes: the top k eigenpairs at one checkpoint, and the overlap curve.

    Attributes:
        problem: Name of the problem.
        architecture, checkpoint, data, split, samples, seed: As in an analysis.
        k: Number of eigenpairs.
        outer, inner: n_O and n_I of the sketched methods.
        device: Where the model runs.
    """

    problem: str
    architecture: str
    checkpoint: str
    data: str
    split: str
    samples: int
    seed: int
    k: int
    outer: int
    inner: int
    device: str = "cpu"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def settings(self, **more: Any) -> AnalysisSettings:
        """Those of an analysis of this task."""
        return AnalysisSettings(
            architecture=self.architecture,
            data=self.data,
            split=self.split,
            samples=self.samples,
            k=self.k,
            seed=self.seed,
            **more,
        )


@dataclass(frozen=True)
class Loaded:
    """A task's model in eval mode and its data, on the device; ``theta`` is (D,)."""

    model: nn.Module
    loss: nn.Module
    x: Tensor
    y: Tensor
    theta: Tensor

    def curvlinops(self) -> HessianLinearOperator:
        """The Hessian as curvlinops has it, over data that are held as tensors."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return HessianLinearOperator(
            self.model,
            self.loss,
            parameters,
            [(self.x, self.y)],
            check_deterministic=False,
            num_data=len(self.x),
        )


def load(task: Task, dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a task's checkpoint file and its data subset, as an analysis does."""
    stored = checkpoints.read(Path(task.checkpoint))
    checkpoints.check_fits(stored, task.architecture)
    model = architectures.build(task.architecture)
    checkpoints.load_into(model, stored)
    subset = datasets.fitting_subset(task.data, task.split, task.samples, task.seed, model)
    model.to(task.device, dtype)
    theta = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    return Loaded(
        model, nn.CrossEntropyLoss(), subset.x.to(task.device, dtype), subset.y.to(task.device), theta
    )


def digits_mlp(cache: Path, samples: int = 500) -> Task:
    """The paper's tanh-MLP on the digits after 1000 steps: D = 7,030."""
    checkpoint = train("digits-mlp", 1000, [1000], cache / "digits-mlp")[0]
    return Task("digits-mlp", "tanh-mlp", str(checkpoint), "digits", "test", samples, 0, 355, 355, 700)


def three_c_three_d(cache: Path, samples: int = 500) -> Task:
    """3c3d after 50 steps on synthetic 32×32×3 images: D = 895,210."""
    return _synthetic(cache, "3c3d", "3c3d", (3, 32, 32), samples, classes=10, steps=50, k=100)


def all_cnn_c(cache: Path, samples: int = 100) -> Task:
    """All-CNN-C as initialised, with synthetic 32×32×3 images: D = 1,387,108."""
    return _synthetic(cache, "all-cnn-c", "all-cnn-c", (3, 32, 32), samples, classes=100, steps=0, k=64)


def resnet18_shape(cache: Path, samples: int = 8) -> Task:
    """ResNet-18 as initialised, with synthetic 224×224×3 images: D = 11,689,512."""
    return _synthetic(cache, "resnet18-shape", "resnet18", (3, 224, 224), samples, classes=8, steps=0, k=64)


PROBLEMS = {
    "digits-mlp": digits_mlp,
    "3c3d": three_c_three_d,
    "all-cnn-c": all_cnn_c,
    "resnet18-shape": resnet18_shape,
}


def make(
    problem: str,
    checkpoint: Path | None = None,
    cache: Path = CACHE,
    samples: int | None = None,
    **changes: object,
) -> Task:
    """The task of a problem, with another checkpoint and other settings where they are given."""
    task = PROBLEMS[problem](cache) if samples is None else PROBLEMS[problem](cache, samples)
    if checkpoint is not None:
        task = replace(task, checkpoint=str(checkpoint))
    return replace(task, **{key: value for key, value in changes.items() if value is not None})


def _synthetic(
    cache: Path,
    problem: str,
    architecture: str,
    shape: tuple[int, ...],
    samples: int,
    *,
    classes: int,
    steps: int,
    k: int,
) -> Task:
    """A task on noise around one random image per class, trained on it for some steps; files made once."""
    folder = cache / f"{problem}-{samples}"
    checkpoint, data = folder / checkpoint_name(steps), folder / "data.safetensors"
    if not (checkpoint.is_file() and data.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            y = torch.arange(samples) % classes
            x = torch.randn(samples, *shape) + torch.randn(classes, *shape)[y]
            safetensors.torch.save_file({"x": x, "y": y}, data)
            model = architectures.build(architecture)
            optimiser = torch.optim.SGD(model.parameters(), lr=0.0226)
            for step in range(steps):
                batch = torch.arange(step * 128, (step + 1) * 128) % samples
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimiser.step()
            Recorder(model, folder, [steps])(steps)
    return Task(problem, architecture, str(checkpoint), str(data), "test", samples, 0, k, k, 2 * k)


@dataclass(frozen=True)
class Truth:
    """The overlap curve from all eigenpairs of the dense fp64 Hessian: (n,) fp64."""

    overlap: np.ndarray

    def errors(self, overlap: np.ndarray) -> np.ndarray:
        """Relative error of an overlap curve at every k."""
        true = self.overlap[: len(overlap)]
        return np.abs(overlap - true) / true


def truth(task: Task, cache: Path = CACHE) -> Truth | None:
    """The exact overlap curve; computed once for a checkpoint and its data, and None where D is too large."""
    dimension = architectures.parameter_count(task.architecture)
    if dimension > EXACT_MAX_PARAMETERS:
        return None
    identity = [task.architecture, task.data, task.split, task.samples, task.seed]
    contents = Path(task.checkpoint).read_bytes() + json.dumps(identity).encode()
    file = cache / f"truth-{hashlib.sha256(contents).hexdigest()[:16]}.npy"
    if not file.is_file():
        loaded = load(task, torch.float64)
        hessian = CurvatureOperator(loaded.model, loaded.loss, loaded.x, loaded.y)
        n = min(_TRUE_PAIRS, dimension)
        curve = overlap_curve(exact(hessian, n).rows(largest_first(loaded.theta, n)))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, curve.cpu().numpy())
    return Truth(np.load(file))


def measured_residuals(task: Task, values: Tensor, vectors: Tensor) -> Tensor:
    """‖Hv − λv‖₂/‖v‖₂ from curvlinops' own products: (k,) fp64.

    In fp64 where D is small, in the precision of the vectors elsewhere.
    """
    small = len(vectors) <= EXACT_MAX_PARAMETERS
    dtype = torch.float64 if small else torch.float32
    hessian = load(task, dtype).curvlinops()
    out = []
    for part in torch.arange(vectors.shape[1]).split(32 if small else 1):
        v = vectors[:, part].to(task.device, dtype)
        error = (hessian @ v).double() - v.double() * values[part].to(task.device).double()
        out.append(error.norm(dim=0) / v.double().norm(dim=0))
    return torch.cat(out).cpu()
