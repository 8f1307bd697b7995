"""Small networks with their dense Hessians, for benchmarks.coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_SAMPLES, _CLASSES = 40, 5

# Rows of a Hessian that are computed at once.
_ROWS = 64


class _Attention(nn.Module):
    """Self-attention over four tokens of eight numbers, with a residual connection and layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.second, self.head = nn.LayerNorm(8), nn.Linear(8, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(len(x), 4, 8)
        normed = self.first(tokens)
        mixed, _ = self.attention(normed, normed, normed, need_weights=False)
        return self.head(self.second(tokens + mixed).mean(1))


class _Tied(nn.Module):
    """The same weights twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(32, 12), nn.Linear(12, 12), nn.Linear(12, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.embed(x))
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(hidden)))))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(32, 12), nn.BatchNorm1d(12)
        self.layer, self.head = nn.Linear(12, 12), nn.Linear(12, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        return self.head(hidden + self.layer(torch.relu(self.norm(hidden))))


class _Image(nn.Module):
    """Samples of 32 numbers as 2×4×4 images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 2, 4, 4)


def _mlp(activation: Callable[[], nn.Module], *widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((32, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], _CLASSES))


def _convolutional(*norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        _Image(), nn.Conv2d(2, 8, 3, padding=1), *norm, nn.ReLU(), nn.Flatten(), nn.Linear(128, _CLASSES)
    )


def _duplicated() -> nn.Sequential:
    """Every hidden unit twice: their curvature cannot be told apart."""
    model = _mlp(nn.Tanh, 16)
    with torch.no_grad():
        model[0].weight[8:], model[0].bias[8:] = model[0].weight[:8].clone(), model[0].bias[:8].clone()
        model[2].weight[:, 8:] = model[2].weight[:, :8].clone()
    return model


def _zero_head() -> nn.Sequential:
    model = _mlp(nn.Tanh, 12)
    nn.init.zeros_(model[2].weight), nn.init.zeros_(model[2].bias)
    return model


def _linear_zero() -> nn.Linear:
    """A linear classifier at zero: every eigenvalue comes as often as there are classes, but once."""
    model = nn.Linear(32, _CLASSES)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    return model


def _pruned() -> nn.Sequential:
    model = _mlp(nn.ReLU, 16)
    with torch.no_grad():
        model[0].weight[model[0].weight.abs() < 0.1] = 0
    return model


NETWORKS: MappingProxyType[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "tanh": lambda: _mlp(nn.Tanh, 16),
        "deep tanh": lambda: _mlp(nn.Tanh, 10, 10, 10, 10),
        "relu": lambda: _mlp(nn.ReLU, 16),
        "deep relu": lambda: _mlp(nn.ReLU, 10, 10, 10),
        "gelu": lambda: _mlp(nn.GELU, 16),
        "silu": lambda: _mlp(nn.SiLU, 12, 8),
        "softplus": lambda: _mlp(nn.Softplus, 14),
        "layer norm": lambda: nn.Sequential(
            nn.Linear(32, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, _CLASSES)
        ),
        "rms norm": lambda: nn.Sequential(
            nn.Linear(32, 12), nn.RMSNorm(12), nn.GELU(), nn.Linear(12, _CLASSES)
        ),
        "batch norm": lambda: _convolutional(nn.BatchNorm2d(8)),
        "group norm": lambda: _convolutional(nn.GroupNorm(4, 8)),
        "instance norm": lambda: _convolutional(nn.InstanceNorm2d(8, affine=True)),
        "convolution": lambda: _convolutional(),
        "pooling": lambda: nn.Sequential(
            _Image(),
            nn.Conv2d(2, 8, 3, padding=1),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32, _CLASSES),
        ),
        "attention": _Attention,
        "residual": _Residual,
        "tied weights": _Tied,
        "duplicated units": _duplicated,
        "zero head": _zero_head,
        "linear at zero": _linear_zero,
        "pruned": _pruned,
    }
)


@dataclass(frozen=True)
class Small:
    """A network in eval mode with float32 weights, its data and its Hessian.

    Attributes:
        model: In float64; its weights are float32 numbers.
        x, y: The data.
        dense: ∇² of the mean cross-entropy row by row from the gradient's graph, (D, D) fp64.
        theta: (D,).
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    dense: Tensor
    theta: Tensor


def small(name: str, seed: int, steps: int) -> Small:
    """A network of ``NETWORKS`` after some steps of gradient descent on random clusters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[name]()
        centres = torch.randn(_CLASSES, 32)
        y = torch.arange(_SAMPLES) % _CLASSES
        x = centres[y] + torch.randn(_SAMPLES, 32)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(steps):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
    model.eval().double()
    x = x.double()
    dense = _dense(model, x, y, seed)
    parameters = list(model.parameters())
    theta = torch.cat([p.detach().flatten() for p in parameters])
    return Small(model, x, y, dense, theta)


def _dense(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """The Hessian row by row from the gradient's graph, many rows at once; some rows alone must agree."""
    parameters = list(model.parameters())

    def rows(flat: Tensor, index: Tensor, together: bool) -> Tensor:
        chosen = torch.eye(len(flat), dtype=flat.dtype)[index]
        found = torch.autograd.grad(
            flat,
            parameters,
            chosen if together else chosen[0],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=together,
        )
        return torch.cat(
            [
                torch.zeros(len(index), p.numel(), dtype=flat.dtype)
                if g is None
                else g.reshape(len(index), -1)
                for g, p in zip(found, parameters, strict=True)
            ],
            1,
        )

    with sdpa_kernel(SDPBackend.MATH):
        loss = nn.functional.cross_entropy(model(x), y)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        flat = torch.cat([g.flatten() for g in gradient])
        index = torch.arange(len(flat))
        dense = torch.cat([rows(flat, part, True) for part in torch.split(index, _ROWS)])
        generator = torch.Generator().manual_seed(seed)
        for row in torch.randperm(len(flat), generator=generator)[:4]:
            torch.testing.assert_close(dense[row], rows(flat, row[None], False)[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(dense, dense.T, rtol=1e-8, atol=1e-11)
    return (dense + dense.T) / 2
