"""Residuals of products in float32, beside those of the same pairs by the dense Hessian in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

import seigh


@pytest.mark.parametrize(
    ("seed", "activation", "scale"),
    [(0, nn.Sigmoid, 1.0), (1, nn.Tanh, 1.5), (2, nn.ReLU, 0.5), (3, nn.Sigmoid, 3.0)],
)
def test_every_residual_holds_in_exact_arithmetic(
    seed: int, activation: type[nn.Module], scale: float
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 14), activation(), nn.Linear(14, 14), activation(), nn.Linear(14, 5))
    for each in model.parameters():
        each.data.mul_(scale)
    x, y = torch.randn(60, 12), torch.randint(0, 5, (60,))
    found = seigh.analyse(model, F.cross_entropy, (x, y), k=40, precision="float32", seed=seed)
    theta = nn.utils.parameters_to_vector(model.double().parameters()).detach()
    shapes = {name: each.shape for name, each in model.named_parameters()}

    def loss(at: torch.Tensor) -> torch.Tensor:
        parts = at.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return F.cross_entropy(functional_call(model, weights, (x.double(),)), y)

    matrix = hessian(loss)(theta)
    vectors = torch.as_tensor(found.eigenvectors).double().T.clone()
    vectors /= vectors.norm(dim=0)
    exactly = (matrix @ vectors - vectors * torch.as_tensor(found.eigenvalues)).norm(dim=0)
    assert (exactly <= torch.as_tensor(found.residuals)).all(), (
        exactly / torch.as_tensor(found.residuals)
    ).max()
