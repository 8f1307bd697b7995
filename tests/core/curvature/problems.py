"""Small problems whose dense curvature matrices are cheap, each with something that a path may get wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

Problem = tuple[nn.Module, Tensor, Tensor]


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Unused(nn.Module):
    """A layer that does not reach the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Attention(nn.Module):
    """Fused attention kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x)[:, None]
        return self.head(nn.functional.scaled_dot_product_attention(q, torch.sin(q), q)[:, 0].mean(1))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3))


def _conv_bn() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    for _ in range(3):
        model(torch.randn(8, 2, 6, 6))  # in training mode: running statistics that are not those at the start
    return model


_BUILDERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (_mlp, (6,)),
    "conv-bn": (_conv_bn, (2, 6, 6)),
    "tied": (Tied, (5,)),
    "unused": (Unused, (5,)),
    "attention": (Attention, (3, 4)),
}
NAMES = tuple(_BUILDERS)


def problem(name: str, seed: int, dtype: torch.dtype = torch.float64, samples: int = 11) -> Problem:
    """Model in eval mode, inputs and targets of three classes."""
    torch.manual_seed(seed)
    build, shape = _BUILDERS[name]
    model = build().to(dtype).eval()
    return model, torch.randn(samples, *shape, dtype=dtype), torch.randint(0, 3, (samples,))


def dense(
    model: nn.Module,
    loss: nn.Module,
    x: Tensor,
    y: Tensor,
    kind: str,
    parameters: Sequence[str] | None = None,
) -> Tensor:
    """The matrix by ``torch.func.hessian`` of all of θ as one vector, or by Jacobians for the GGN."""
    chosen = {n: p.detach() for n, p in model.named_parameters() if parameters is None or n in parameters}
    sizes = [p.numel() for p in chosen.values()]
    theta = torch.cat([p.flatten() for p in chosen.values()])

    def outputs(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        named = {n: part.view(p.shape) for (n, p), part in zip(chosen.items(), parts, strict=True)}
        return functional_call(model, named, (x,))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        if kind == "hessian":
            return hessian(lambda flat: loss(outputs(flat), y))(theta)
        jacobian = jacrev(outputs)(theta).reshape(-1, len(theta))
        at = outputs(theta)
    inner = hessian(lambda flat: loss(flat.view(at.shape), y))(at.detach().flatten())
    return jacobian.T @ inner @ jacobian
