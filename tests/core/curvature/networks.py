"""Small networks, honest ones and ones whose curvature is easily wrong, with true products of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from seigh.core.network import Network, Theta
from seigh.core.problems.checkpoints import Checkpoint
from seigh.core.problems.data import Subset
from seigh.core.settings import AnalysisSettings

SHAPE = (2, 6, 6)
CLASSES = 4


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def mlp(activation: nn.Module, *before: nn.Module) -> nn.Module:
    """A perceptron of 209 parameters, with further layers after its first."""
    return nn.Sequential(
        nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten()), nn.Linear(18, 7), *before, activation,
        nn.Linear(7, 6), activation, nn.Linear(6, CLASSES),
    )  # fmt: skip


def _convolutional(norm: nn.Module, activation: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), norm, activation or nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3),
        nn.Flatten(), nn.Linear(4, CLASSES),
    )  # fmt: skip


class Attention(nn.Module):
    """A transformer's block with ``nn.MultiheadAttention``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1)
        self.norm, self.feed, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(1).reshape(len(x), 6, 12))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.head((h + F.gelu(self.feed(self.norm(h)))).mean(1))


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(72, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.third.weight = self.second.weight
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x.flatten(1)))
        return self.head(torch.tanh(self.third(torch.tanh(self.second(h)))))


class Recurrent(nn.Module):
    """Its first state is allocated without asking for a format."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(12, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 5, device=x.device).to(self.inner.weight.dtype)
        for row in x.flatten(1).reshape(len(x), 6, 12).unbind(1):
            state = torch.tanh(self.inner(row) + self.outer(state))
        return self.head(state)


class FinerNorm(nn.Module):
    """A norm that computes in float32 on purpose, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale, self.head = (
            nn.Linear(72, 6),
            nn.Parameter(torch.ones(6)),
            nn.Linear(6, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1))
        wide = h.float() if h.dtype != torch.float64 else h
        normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(h.dtype)
        return self.head(torch.tanh(normed * self.scale))


class Tokens(nn.Module):
    """An embedding of integer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.feed, self.head = nn.Embedding(1000, 5), nn.Linear(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.feed(self.embed(x.flatten(1).long()).mean(1))))


class Bags(Tokens):
    """The same by ``nn.EmbeddingBag``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(1000, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.feed(self.embed(x.flatten(1).long()))))


@torch.no_grad()
def _duplicated() -> nn.Module:
    model = mlp(nn.Tanh())
    model[1].weight[3:6] = model[1].weight[:3]
    model[1].bias[3:6] = model[1].bias[:3]
    return model


def _zero_head() -> nn.Module:
    model = mlp(nn.Tanh())
    nn.init.zeros_(model[-1].weight), nn.init.zeros_(model[-1].bias)
    return model


@torch.no_grad()
def _dead() -> nn.Module:
    model = mlp(nn.ReLU())
    model[1].bias[:4] = -100.0
    return model


def _zero_biases() -> nn.Module:
    """Over blank parts of an image, its units lie exactly on the kink."""
    model = _convolutional(nn.Identity())
    nn.init.zeros_(model[0].bias), nn.init.zeros_(model[4].bias)
    return model


def _trained_statistics() -> nn.Module:
    model = _convolutional(nn.BatchNorm2d(6))
    for _ in range(3):
        model(torch.randn(8, *SHAPE))
    return model


HONEST: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: mlp(nn.Tanh()),
    "relu": lambda: mlp(nn.ReLU()),
    "gelu": lambda: mlp(nn.GELU()),
    "silu": lambda: mlp(nn.SiLU()),
    "softplus": lambda: mlp(nn.Softplus()),
    "elu": lambda: mlp(nn.ELU()),
    "leaky": lambda: mlp(nn.LeakyReLU()),
    "hardtanh": lambda: mlp(nn.Hardtanh()),
    "dropout": lambda: mlp(nn.Tanh(), nn.Dropout(0.5)),
    "relu-cnn": lambda: _convolutional(nn.Identity()),
    "batch-norm": _trained_statistics,
    "group-norm": lambda: _convolutional(nn.GroupNorm(2, 6)),
    "instance-norm": lambda: _convolutional(nn.InstanceNorm2d(6, affine=True)),
    "layer-norm": lambda: mlp(nn.GELU(), nn.LayerNorm(7)),
    "rms-norm": lambda: mlp(nn.GELU(), nn.RMSNorm(7)),
    "attention": Attention,
    "tied": Tied,
    "recurrent": Recurrent,
    "finer-norm": FinerNorm,
    "duplicated": _duplicated,
    "zero-head": _zero_head,
    "dead": _dead,
    "zero-biases": _zero_biases,
    "tokens": Tokens,
    "weight-norm": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.weight_norm(nn.Linear(72, 6)), nn.Tanh(), nn.Linear(6, CLASSES)
    ),
    "weight-norm-conv": lambda: _convolutional(
        nn.Sequential(parametrizations.weight_norm(nn.Conv2d(6, 6, 3, padding=1)), nn.Tanh())
    ),
    "spectral-norm": lambda: nn.Sequential(
        nn.Flatten(), parametrizations.spectral_norm(nn.Linear(72, 6)), nn.Tanh(), nn.Linear(6, CLASSES)
    ),
}


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Noise(nn.Module):
    """Adds noise whatever the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class Inside(nn.Module):
    """Dropout in a forward pass without ``training=``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(72, 7), nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(torch.tanh(self.first(x.flatten(1))), 0.3))


class _Rough(torch.autograd.Function):
    """sin with a backward pass whose derivative is not that of cos, as a wrong formula in a library is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return given * (x.detach().cos() + 0.5 * (x - x.detach()))


class Rough(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return _Rough.apply(self.scale * x)


RANDOM: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "functional": (Inside, r"own forward pass \(Inside\) is random"),
    "noise": (lambda: mlp(nn.Tanh(), Noise()), r"2 \(Noise\) is random"),
    "functional-layer": (
        lambda: mlp(nn.Tanh(), Lambda(lambda h: F.dropout(h, 0.3))),
        r"2 \(Lambda\) is random",
    ),
    "alpha": (
        lambda: mlp(nn.Tanh(), Lambda(lambda h: F.alpha_dropout(h, 0.3, training=True))),
        r"2 \(Lambda\) is random",
    ),
    "feature": (
        lambda: _convolutional(Lambda(lambda h: F.dropout2d(h, 0.3, training=True))),
        r"1 \(Lambda\) is random",
    ),
}

MIXING: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "1d": (lambda: mlp(nn.Tanh(), nn.BatchNorm1d(7, track_running_stats=False)), r"2 \(BatchNorm1d\) mixes"),
    "2d": (lambda: _convolutional(nn.BatchNorm2d(6, track_running_stats=False)), r"1 \(BatchNorm2d\) mixes"),
    "3d": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 4, 2), nn.BatchNorm3d(4, track_running_stats=False),
            nn.Tanh(), nn.Flatten(), nn.Linear(100, CLASSES),
        ),
        r"2 \(BatchNorm3d\) mixes",
    ),
    "centred": (lambda: mlp(nn.Tanh(), Centred()), r"2 \(Centred\) mixes"),
    "behind-a-zero-head": (
        lambda: nn.Sequential(_zero_head()[:-1], Centred(), _zero_head()[-1:]),
        r"1 \(Centred\) mixes",
    ),
    "softmax-over-samples": (
        lambda: mlp(nn.Tanh(), Lambda(lambda h: h * torch.softmax(h, 0))),
        r"2 \(Lambda\) mixes",
    ),
}  # fmt: skip


def settings(**changes: Any) -> AnalysisSettings:
    return AnalysisSettings(**({"architecture": "tanh-mlp", "data": "digits", "k": 5} | changes))


def network(
    model: nn.Module, samples: int = 23, seed: int = 0, *, ids: bool = False, **changes: Any
) -> Network:
    """A network as an analysis has it, with made-up data."""
    generator = torch.Generator().manual_seed(seed)
    chosen = settings(samples=samples, **changes)
    dtype = torch.float64 if chosen.precision == "float64" else torch.float32
    x = torch.randn(samples, *SHAPE, generator=generator)
    x[:, :, :3, :4] = 0.0  # blank, as the margins of images are
    if ids:
        x = torch.randint(0, 1000, (samples, *SHAPE), generator=generator)
    y = torch.randint(0, CLASSES, (samples,), generator=generator)
    model = model.to(dtype).eval()
    theta = Theta(None, sum(p.numel() for p in model.parameters() if p.requires_grad))
    subset = Subset("made up", x, y, torch.arange(samples), synthetic=True)
    stored = Checkpoint(Path("none"), "none", "", 0, {}, None, {})
    given = x if ids else x.to(dtype)
    return Network(chosen, stored, model, theta, subset, given, y, torch.device("cpu"), dtype)


def products(
    model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, block: Tensor, kind: str = "hessian"
) -> Tensor:
    """The matrix times ``block`` (D, b) in float64: difference quotients of gradients along its columns.

    The GGN is Jᵀ (∇²ℓ) J, with J along a column by difference quotients of the outputs.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = nn.utils.parameters_to_vector(parameters).detach().clone()
    step = 1e-7  # small, because of kinks

    def along(direction: Tensor, what: Callable[[], Tensor]) -> Tensor:
        found = []
        for change in (step * direction, -step * direction):
            nn.utils.vector_to_parameters(start + change, parameters)
            found.append(what())
        nn.utils.vector_to_parameters(start, parameters)
        return (found[0] - found[1]) / (2 * step)

    def slope(value: Tensor, cotangent: Tensor | None = None) -> Tensor:
        found = torch.autograd.grad(value, parameters, cotangent, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

    if kind == "hessian":
        return torch.stack([along(each, lambda: slope(loss(model(x), y))) for each in block.T], 1)
    outputs = model(x).detach()
    inner = torch.autograd.functional.hessian(
        lambda flat: loss(flat.view(outputs.shape), y), outputs.flatten()
    )
    images = (along(each, lambda: model(x).detach().flatten()) for each in block.T)
    return torch.stack([slope(model(x), (inner @ each).view(outputs.shape)) for each in images], 1)


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm()) / (float(truth.norm()) or math.nan)
