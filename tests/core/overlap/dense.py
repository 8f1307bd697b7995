"""Small networks and their dense float64 truth, by autograd one entry at a time and double loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from seigh.core.problems import architectures, data
from seigh.core.settings import AnalysisSettings

ARCHITECTURE = "tanh-mlp(inputs=6,width=4,depth=2,num_classes=3)"
D = 63


def checkpoint(folder: Path, seed: int, scale: float = 1.0) -> Path:
    """Random weights, larger ones by ``scale``; fp32."""
    torch.manual_seed(seed)
    path = folder / f"step_{seed}.safetensors"
    model = architectures.build(ARCHITECTURE)
    save_file({name: scale * each for name, each in model.state_dict().items()}, path)
    return path


def settings(**changes: object) -> AnalysisSettings:
    chosen = {"architecture": ARCHITECTURE, "data": "random(1x2x3,classes=3)", "samples": 30, "k": 8}
    chosen |= {"method": "exact", "precision": "float64", "hvp_path": "double-backward"}
    return AnalysisSettings(**chosen | changes)


def network(path: Path, chosen: AnalysisSettings) -> tuple[nn.Module, Tensor, Tensor]:
    """The model in fp64, and the subset."""
    from safetensors.torch import load_file

    model = architectures.build(chosen.architecture)
    model.load_state_dict(load_file(path))
    subset = data.fitting_subset(chosen.data, chosen.split, chosen.samples, chosen.seed, model)
    return model.double(), subset.x.double(), subset.y


def theta(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def loss_of(model: nn.Module, x: Tensor, y: Tensor, flat: Tensor, decay: float = 0.0) -> Tensor:
    """The mean cross-entropy at other parameters, written out, with the penalty (decay/2)‖θ‖²."""
    named, start = {}, 0
    for name, parameter in model.named_parameters():
        named[name] = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    outputs = functional_call(model, named, (x,))
    terms = [outputs[n].logsumexp(0) - outputs[n, y[n]] for n in range(len(x))]
    return torch.stack(terms).mean() + decay / 2 * flat.square().sum()


def hessian(model: nn.Module, x: Tensor, y: Tensor, decay: float = 0.0) -> Tensor:
    at = theta(model).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(model, x, y, at, decay), at, create_graph=True)
    return torch.stack([torch.autograd.grad(each, at, retain_graph=True)[0] for each in gradient])


def overlaps(matrix: Tensor, scores: Tensor, k: int) -> NDArray[np.float64]:
    """overlap(M, V_1 … V_k) of the coordinates of largest score, in a double loop."""
    values, vectors = torch.linalg.eigh(matrix)
    vectors = vectors[:, values.abs().argsort(descending=True)]
    order = sorted(range(len(scores)), key=lambda i: -float(scores[i]))
    found = []
    for size in range(1, k + 1):
        mass = 0.0
        for i in order[:size]:
            for j in range(size):
                mass += float(vectors[i, j]) ** 2
        found.append(mass / size)
    return np.array(found)
