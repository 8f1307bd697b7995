"""Products on every path against dense autograd matrices, finite differences and curvlinops."""

import curvlinops
import pytest
import torch
from torch import Tensor, nn

from seigh.core.curvature import CurvatureOperator, select_parameters
from seigh.core.curvature.paths import Linearise
from seigh.core.names import KINDS, PATHS
from seigh.core.problems import architectures
from tests.core.curvature.problems import NAMES, dense, problem

CE = nn.CrossEntropyLoss()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_dense_matrix(name: str, path: str, kind: str) -> None:
    # Batches of 4, 4 and 3 samples times 2, 2 and 1 vectors, so that two shapes of each are met; of two equal
    # batches where each further shape is a further trace, except for one network.
    samples = 8 if path == "linearize" and name != "mlp" else 11
    model, x, y = problem(name, seed=NAMES.index(name), samples=samples)
    truth = dense(model, CE, x, y, kind)
    block = torch.randn(len(truth), 5, dtype=torch.float64)
    operator = CurvatureOperator(model, CE, x, y, kind=kind, path=path, columns=2, batch_size=4, keep=True)
    torch.testing.assert_close(operator @ block, truth @ block)
    torch.testing.assert_close(operator @ block[:, 0], truth @ block[:, 0])
    assert operator.hvps == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_batches_of_data_give_what_one_gives(path: str, kind: str) -> None:
    model, x, y = problem("conv-bn", seed=7, samples=12 if path == "linearize" else 11)
    one = CurvatureOperator(model, CE, x, y, kind=kind, path=path)
    block = torch.randn(one.shape[0], 3, dtype=torch.float64)
    truth = one @ block
    for keep in (True, False):
        several = CurvatureOperator(model, CE, x, y, kind=kind, path=path, batch_size=6, keep=keep)
        assert (one.batches, several.batches, one.keep, several.keep) == (1, 2, True, keep)
        torch.testing.assert_close(several @ block, truth)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_some_parameters_give_their_block_of_the_matrix(path: str, kind: str) -> None:
    for name, patterns in (("mlp", ["4.*"]), ("mlp", ["*.bias"]), ("tied", ["second.*", "first.weight"])):
        model, x, y = problem(name, seed=3)
        chosen = select_parameters(model, patterns)
        operator = CurvatureOperator(model, CE, x, y, kind=kind, path=path, parameters=chosen, columns=4)
        truth = dense(model, CE, x, y, kind, chosen)
        assert operator.shape == truth.shape
        torch.testing.assert_close(operator @ torch.eye(len(truth), dtype=torch.float64), truth)
        whole = dense(model, CE, x, y, kind)
        flags = [torch.full((p.numel(),), n in chosen) for n, p in model.named_parameters()]
        mine = torch.cat(flags)
        torch.testing.assert_close(truth, whole[mine][:, mine])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_a_loss_that_is_quadratic_in_the_outputs(path: str, kind: str) -> None:
    model, x, _ = problem("mlp", seed=5)
    y = torch.randn(len(x), 3, dtype=torch.float64)
    operator = CurvatureOperator(model, nn.MSELoss(), x, y, kind=kind, path=path, batch_size=6, keep=True)
    truth = dense(model, nn.MSELoss(), x, y, kind)
    torch.testing.assert_close(operator @ torch.eye(len(truth), dtype=torch.float64), truth)


@pytest.mark.parametrize("path", ["double-backward", "linearize"])
def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature(path: str) -> None:
    class Mean(nn.Module):
        def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
            return (outputs * y[:, None]).mean()

    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2).double().eval(), torch.randn(5, 3).double(), torch.randn(5).double()
    for kind in KINDS:
        operator = CurvatureOperator(model, Mean(), x, y, kind=kind, path=path)
        assert not (operator @ torch.randn(8, 2, dtype=torch.float64)).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["double-backward", "linearize"])
@pytest.mark.parametrize("name", ["tanh-mlp", "3c3d"])
def test_float32_products_of_the_papers_models_are_curvlinops(name: str, path: str, kind: str) -> None:
    torch.manual_seed(0)
    model = architectures.build(name)
    x = torch.rand(8, 1, 16, 16) if name == "tanh-mlp" else torch.rand(8, 3, 32, 32)
    y = torch.arange(8)
    operator = CurvatureOperator(model, CE, x, y, kind=kind, path=path, batch_size=4, keep=True)
    peer = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}[kind]
    reference = peer(model, CE, list(model.parameters()), [(x, y)], check_deterministic=False)
    block = torch.randn(operator.shape[0], 2)
    truth = reference @ block
    assert float((operator @ block - truth).norm() / truth.norm()) < 1e-5


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("path", PATHS)
def test_products_are_the_slope_of_the_gradient(path: str, seed: int) -> None:
    model, x, y = problem("mlp", seed)
    operator = CurvatureOperator(model, CE, x, y, path=path)
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


@pytest.mark.parametrize("path", PATHS)
def test_bfloat16_products_are_near_and_their_block_is_float32(path: str) -> None:
    model, x, y = problem("conv-bn", seed=2, dtype=torch.float32, samples=64)
    truth = dense(model.double(), CE, x.double(), y, "hessian")
    block = torch.randn(len(truth), 3)
    model.float()
    product = CurvatureOperator(model, CE, x, y, path=path, reduced="bfloat16") @ block
    exact = CurvatureOperator(model, CE, x, y, path=path) @ block
    truth = truth.float() @ block
    assert product.dtype == torch.float32
    assert 1e-4 < float((product - truth).norm() / truth.norm()) < 0.1
    assert float((exact - truth).norm() / truth.norm()) < 1e-5
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_one_trace_serves_all_batches_of_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[int] = []
    trace = Linearise._trace
    monkeypatch.setattr(
        Linearise, "_trace", lambda self, x, *rest: (shapes.append(len(x)), trace(self, x, *rest))[1]
    )
    model, x, y = problem("mlp", seed=0)
    operator = CurvatureOperator(model, CE, x, y, path="linearize", batch_size=4)
    block = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    torch.testing.assert_close(operator @ block, operator @ block, rtol=0, atol=0)
    assert shapes == [4, 3]


@pytest.mark.parametrize("keep", [True, False])
def test_each_batch_is_told_and_may_stop_the_product(keep: bool) -> None:
    model, x, y = problem("mlp", seed=0)
    seen: list[int] = []

    def stop_at_four(hvps: int) -> None:
        seen.append(hvps)
        if hvps >= 4:
            raise KeyboardInterrupt

    operator = CurvatureOperator(
        model, CE, x, y, columns=2, batch_size=6, keep=keep, after_batch=stop_at_four
    )
    with pytest.raises(KeyboardInterrupt):
        operator @ torch.randn(operator.shape[0], 9, dtype=torch.float64)
    # 6 of 11 samples times 2, 4, 6, 8 of the vectors come first where batches are not kept.
    assert seen == ([2, 4] if keep else [1, 2, 3, 4])


def test_a_block_in_any_layout() -> None:
    model, x, y = problem("mlp", seed=1)
    operator = CurvatureOperator(model, CE, x, y, columns=3)
    block = torch.randn(2 * operator.shape[0], 40, dtype=torch.float64)
    truth = dense(model, CE, x, y, "hessian")
    torch.testing.assert_close(operator @ block[::2], truth @ block[::2])
    fortran = block[::2].T.contiguous().T
    torch.testing.assert_close(operator @ fortran, truth @ fortran)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fisher"}, "no curvature matrix 'fisher'"),
        ({"path": "jvp"}, "no path 'jvp'"),
        ({"columns": 0}, "one column"),
        ({"batch_size": 0}, "one sample"),
        ({"parameters": []}, "No parameter was chosen"),
        ({"parameters": ["1.weight", "2.weight"]}, "no trainable parameter '2.weight'; it has 1.weight"),
        ({"reduced": "bfloat16"}, "float32 model"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "mean over its samples"),
        ({"loss": nn.CrossEntropyLoss(weight=torch.rand(3).double()), "batch_size": 4}, "class weights"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, object], message: str) -> None:
    model, x, y = problem("mlp", seed=0)
    with pytest.raises(ValueError, match=message):
        CurvatureOperator(model, x=x, y=y, **({"loss": CE} | options))


def test_a_model_in_training_mode_is_refused() -> None:
    model, x, y = problem("mlp", seed=0)
    with pytest.raises(ValueError, match="eval mode"):
        CurvatureOperator(model.train(), CE, x, y)


def test_a_block_of_the_wrong_height_is_refused() -> None:
    model, x, y = problem("mlp", seed=0)
    with pytest.raises(ValueError, match="cannot multiply"):
        CurvatureOperator(model, CE, x, y) @ torch.randn(4, 2)


def test_patterns_select_parameters_in_the_models_order() -> None:
    model = architectures.build("tanh-mlp")
    assert select_parameters(model, ["linear2.*", "linear1.bias"]) == [
        "linear1.bias",
        "linear2.weight",
        "linear2.bias",
    ]
    assert len(select_parameters(model, ["*.weight"])) == 6
    with pytest.raises(ValueError, match=r"matches 'conv\*'; the model's are linear1.weight"):
        select_parameters(model, ["linear1.*", "conv*"])
