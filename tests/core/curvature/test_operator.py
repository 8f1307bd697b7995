"""Hessian-vector products against finite differences, curvlinops and a dense autograd Hessian."""

import curvlinops
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from core.curvature import CurvatureOperator
from core.curvature import PATHS
from core.problems import architectures


def small_problem(seed: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    )
    x = torch.randn(20, 6, dtype=dtype)
    return model.to(dtype).eval(), x, torch.randint(0, 3, (20,))


def dense_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """∇² of the loss by reverse-over-forward differentiation of all parameters as one vector."""
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(theta: Tensor) -> Tensor:
        parts = {n: part.view(s) for n, part, s in zip(names, theta.split(sizes), shapes, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, parts, (x,)), y)

    return hessian(loss)(flat)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("columns", [1, 3, 100])
@pytest.mark.parametrize("seed", [0, 1])
def test_products_are_those_of_the_dense_hessian(seed: int, columns: int, path: str) -> None:
    model, x, y = small_problem(seed)
    operator = CurvatureOperator(model, nn.CrossEntropyLoss(), x, y, path=path, columns=columns)
    truth = dense_hessian(model, x, y)
    block = torch.randn(operator.shape[0], 7, dtype=torch.float64)
    torch.testing.assert_close(operator @ block, truth @ block)
    torch.testing.assert_close(operator @ block[:, 0], truth @ block[:, 0])
    assert operator.hvps == 8


@pytest.mark.parametrize("name", ["tanh-mlp", "3c3d"])
def test_products_of_the_papers_models_are_curvlinops(name: str) -> None:
    torch.manual_seed(0)
    model = architectures.build(name)
    x = torch.rand(8, 1, 16, 16) if name == "tanh-mlp" else torch.rand(8, 3, 32, 32)
    y = torch.arange(8)
    operator = CurvatureOperator(model, nn.CrossEntropyLoss(), x, y)
    reference = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)]
    )
    block = torch.randn(operator.shape[0], 3)
    torch.testing.assert_close(operator @ block, reference @ block, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_products_are_the_slope_of_the_gradient(seed: int) -> None:
    model, x, y = small_problem(seed)
    operator = CurvatureOperator(model, nn.CrossEntropyLoss(), x, y)
    parameters = list(model.parameters())
    direction = torch.randn(operator.shape[0], dtype=torch.float64)
    start = nn.utils.parameters_to_vector(parameters).detach()
    product = operator @ direction

    def gradient(theta: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(theta, parameters)
        loss = nn.functional.cross_entropy(model(x), y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    step = 1e-6
    slope = (gradient(start + step * direction) - gradient(start - step * direction)) / (2 * step)
    torch.testing.assert_close(product, slope, rtol=1e-6, atol=1e-8)


def test_each_batch_is_told_and_may_stop_the_product() -> None:
    model, x, y = small_problem(0)
    seen: list[int] = []

    def stop_at_four(hvps: int) -> None:
        seen.append(hvps)
        if hvps >= 4:
            raise KeyboardInterrupt

    operator = CurvatureOperator(model, nn.CrossEntropyLoss(), x, y, columns=2, after_batch=stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        operator @ torch.randn(operator.shape[0], 9, dtype=torch.float64)
    assert seen == [2, 4]


def test_parameters_that_do_not_reach_the_loss_have_zero_curvature() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(6, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    operator = CurvatureOperator(
        Unused().double().eval(),
        nn.CrossEntropyLoss(),
        torch.randn(5, 6, dtype=torch.float64),
        torch.zeros(5).long(),
    )
    product = operator @ torch.randn(operator.shape[0], 2, dtype=torch.float64)
    assert float(product[-6:].abs().max()) == 0
    assert float(product[:-6].abs().max()) > 0


def test_a_model_in_training_mode_is_refused() -> None:
    model, x, y = small_problem(0)
    with pytest.raises(ValueError, match="eval mode"):
        CurvatureOperator(model.train(), nn.CrossEntropyLoss(), x, y)


def test_a_block_of_the_wrong_height_is_refused() -> None:
    model, x, y = small_problem(0)
    with pytest.raises(ValueError, match="cannot multiply"):
        CurvatureOperator(model, nn.CrossEntropyLoss(), x, y) @ torch.randn(4, 2)
