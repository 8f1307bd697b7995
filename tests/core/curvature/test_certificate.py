"""The certificate of an operator: what is wrong is found and named, and honest networks pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seigh.core.curvature import CurvatureOperator
from seigh.core.curvature import paths as path_module
from seigh.core.names import KINDS, PATHS
from seigh.core.network import Network, certified, objective, plan, planned, reference
from seigh.core.problems import plugins
from seigh.core.settings import SettingsError
from tests.core.curvature.networks import (
    CLASSES,
    HONEST,
    MIXING,
    RANDOM,
    SHAPE,
    Rough,
    Tokens,
    mlp,
    network,
    products,
    relative,
)

CE = nn.CrossEntropyLoss()
FORCED = {"hvp_path": "double-backward", "batch_size": 5, "hvp_columns": 2}


def certify(of: Network, *, again: bool = False) -> tuple[CurvatureOperator, list[dict[str, Any]]]:
    """The operator as an analysis makes it, and its certificate.

    ``again`` builds it from its plan once more, as a worker that helps does; tracing takes seconds.
    """
    loss = objective(of)
    operator, made = plan(of, loss, block=5, products=60, device="cpu")
    operator, made, certificate = certified(of, loss, operator, made)
    assert operator.path == made.path
    if again:
        helper = planned(of, objective(of), made)
        block = torch.randn(operator.shape[0], 2, dtype=operator.dtype)
        torch.testing.assert_close(helper @ block, operator @ block)
    return operator, certificate


def assert_true(
    operator: CurvatureOperator,
    model: nn.Module,
    loss: nn.Module,
    x: Tensor,
    y: Tensor,
    kind: str = "hessian",
) -> None:
    """The products along random directions are difference quotients of gradients, or of outputs."""
    block = torch.randn(operator.shape[0], 6, dtype=torch.float64)
    assert relative(operator @ block, products(model, loss, x, y, block, kind)) < 1e-6


# --- No false alarm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HONEST)
def test_honest_networks_pass_and_their_products_are_true(name: str) -> None:
    for kind in KINDS:
        for seed, precision, forced in ((0, "float64", {}), (0, "float32", {}), (1, "float32", FORCED)):
            torch.manual_seed(seed)
            ids = name == "tokens"
            options = {"curvature": kind, "precision": precision} | forced
            of = network(HONEST[name](), seed=seed, ids=ids, **options)
            operator, certificate = certify(of, again=precision == "float64" and kind == KINDS[0])
            assert all(check["passed"] for check in certificate)
            assert sum(check["products"] for check in certificate) <= 12.0
            json.dumps(certificate, allow_nan=False)
            # At a kink, difference quotients are no derivatives.
            if precision == "float64" and name != "zero-biases":
                assert_true(operator, of.model, CE, of.x, of.y, kind)


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
@pytest.mark.parametrize("name", ["tanh", "relu-cnn", "batch-norm", "layer-norm", "tied", "zero-biases"])
def test_reduced_precision_passes_with_its_rounding_said(name: str, precision: str) -> None:
    torch.manual_seed(1)
    _, certificate = certify(network(HONEST[name](), seed=1, precision=precision))
    rounding = next(check for check in certificate if check["name"] == "rounding")
    assert rounding["value"] < 0.2
    assert (rounding["value"] > 1e-4) == (precision == "bfloat16")  # TF32 is a format of GPUs


@pytest.mark.parametrize("name", ["tanh", "relu", "attention"])
def test_trained_networks_pass(name: str) -> None:
    torch.manual_seed(0)
    of = network(HONEST[name](), samples=40)
    optimiser = torch.optim.Adam(of.model.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(of.model(of.x), of.y).backward()
        optimiser.step()
    of = network(of.model, samples=40)
    assert objective(of).value < 0.5
    certify(of)


# --- Chance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_random_in_eval_mode_is_refused_by_name(name: str) -> None:
    build, culprit = RANDOM[name]
    for changes in ({}, FORCED, {"precision": "float64", "curvature": "ggn"}):
        torch.manual_seed(0)
        with pytest.raises(SettingsError, match=culprit):
            certify(network(build(), **changes))


# --- Sums over samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_the_samples_of_a_batch_is_refused_by_name(name: str) -> None:
    build, culprit = MIXING[name]
    for changes in ({}, FORCED, {"precision": "float64", "curvature": "ggn"}):
        torch.manual_seed(0)
        with pytest.raises(SettingsError, match=culprit):
            certify(network(build(), **changes))


class Weighted(nn.Module):
    """Cross-entropy with class weights that nothing shows from outside."""

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("importance", torch.tensor([0.2, 1.0, 3.0, 0.5]))
        self.smoothing = smoothing

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, weight=self.importance, label_smoothing=self.smoothing)


class SomeIgnored(nn.Module):
    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, ignore_index=0)


class Focal(nn.Module):
    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        logs = F.log_softmax(outputs, 1).gather(1, y[:, None])[:, 0]
        return -((1 - logs.exp()) ** 2 * logs).mean()


class Contrastive(nn.Module):
    """Pulls samples apart from each other."""

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y) + 0.1 * (outputs @ outputs.T).square().mean()


class Added(nn.Module):
    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, reduction="sum")


class OutputsAsWeights(nn.Module):
    """A mean whose weights depend on the outputs."""

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(outputs, y, reduction="none")
        weights = outputs[:, 0].sigmoid()
        return (weights * each).sum() / weights.sum()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], nn.Module]], None]:
    registry = plugins.Registry()
    monkeypatch.setattr(plugins, "registry", lambda: registry)
    return registry.loss


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "hidden-weights": Weighted,
    "smoothed-weights": lambda: Weighted(0.2),
    "shown-weights": lambda: nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0, 0.5])),
    "ignored": SomeIgnored,
    "ignored-by-torch": lambda: nn.CrossEntropyLoss(ignore_index=2),
    "focal": Focal,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_are_weighted_means_are_put_together_with_their_weights(
    registered: Callable[[str, Callable[[], nn.Module]], None], name: str, kind: str
) -> None:
    registered(name, LOSSES[name])
    torch.manual_seed(0)
    model = mlp(nn.Tanh())
    changes = {"loss": name, "curvature": kind, "precision": "float64"}
    of = network(model, **changes)
    truth = LOSSES[name]().double()
    for batch_size in (1, 7):
        operator, _ = certify(network(model, **changes, **(FORCED | {"batch_size": batch_size})))
        # Before training, values of weighted and unweighted means are alike; their curvature is not.
        assert_true(operator, of.model, truth, of.x, of.y, kind)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (Contrastive, "looks at several samples together"),
        (OutputsAsWeights, "no mean over its samples"),
        (Added, "no mean over its samples: it is .* divide by their number"),
        (lambda: nn.CrossEntropyLoss(reduction="none"), "gives no single number"),
        (nn.CosineEmbeddingLoss, "does not take outputs of shape"),
    ],
)
@pytest.mark.parametrize("zero", [True, False])
def test_losses_that_are_no_means_are_refused_also_before_training(
    registered: Callable[[str, Callable[[], nn.Module]], None],
    build: Callable[[], nn.Module],
    said: str,
    zero: bool,
) -> None:
    registered("odd", build)
    torch.manual_seed(0)
    model = HONEST["zero-head" if zero else "tanh"]()
    with pytest.raises(SettingsError, match=f"The loss 'odd' .*{said}"):
        objective(network(model, loss="odd"))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_loss_that_is_flat_to_rounding_is_refused(precision: str) -> None:
    torch.manual_seed(0)
    of = network(mlp(nn.Tanh()), precision=precision)
    with torch.no_grad():
        of.model[-1].weight.zero_()
        of.model[-1].bias.copy_(torch.tensor([80.0, 0.0, 0.0, 0.0]))
    of.y.zero_()
    with pytest.raises(SettingsError, match="flat to rounding"):
        objective(of)
    with torch.no_grad():
        of.model[-1].bias.copy_(torch.tensor([20.0, 0.0, 0.0, 0.0]))
    if precision == "float64":
        certify(of)
    else:
        with pytest.raises(SettingsError, match="use float64"):
            objective(of)


def test_products_that_rounding_has_spoilt_are_refused() -> None:
    torch.manual_seed(0)
    of = network(mlp(nn.Tanh()))
    with torch.no_grad():
        of.model[-1].weight.zero_()
        of.model[-1].bias.copy_(torch.tensor([14.0, 0.0, 0.0, 0.0]))
    of.y.zero_()
    with pytest.raises(SettingsError, match=r"Products in float32 are off by .* use float64"):
        certify(of)


def test_a_loss_that_does_not_depend_on_the_parameters_is_refused() -> None:
    torch.manual_seed(0)
    model = HONEST["relu"]()
    with torch.no_grad():
        model[1].bias.fill_(-100.0)
    of = network(model)
    of.theta.__dict__["names"] = ["1.weight", "1.bias"]
    with pytest.raises(SettingsError, match="Every product is exactly 0"):
        certify(of)


# --- Wrong derivatives ------------------------------------------------------------------------------------

NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: mlp(nn.GELU(), nn.LayerNorm(7)),
    "instance": HONEST["instance-norm"],
    "group": HONEST["group-norm"],
    "rms": HONEST["rms-norm"],
    "batch": HONEST["batch-norm"],
}


# The GGN differentiates them once, the Hessian twice.
@pytest.mark.parametrize(("name", "kind"), [*((name, "hessian") for name in NORMS), ("layer", "ggn")])
@pytest.mark.parametrize("path", PATHS)
def test_norms_are_right_by_every_path_that_is_not_refused(name: str, path: str, kind: str) -> None:
    torch.manual_seed(0)
    options = {"curvature": kind, "precision": "float64", "hvp_path": path}
    of = network(NORMS[name](), samples=9, **options)
    if path == "curvlinops" and kind == "hessian" and name in ("layer", "instance", "group"):
        with pytest.raises(SettingsError, match=r"is right|no derivative by the path 'curvlinops'"):
            certify(of)
        return
    operator, _ = certify(of)
    assert_true(operator, of.model, CE, of.x, of.y, kind)


@pytest.mark.parametrize("name", ["layer", "instance"])
def test_a_forced_path_that_is_wrong_is_refused_with_the_module_and_a_right_one(name: str) -> None:
    torch.manual_seed(0)
    of = network(NORMS[name](), hvp_path="curvlinops")
    module = {"layer": r"2 \(LayerNorm\)", "instance": r"1 \(InstanceNorm2d\)"}[name]
    with pytest.raises(
        SettingsError, match=f"{module} by the path 'curvlinops' are wrong: .* 'double-backward' is right"
    ):
        certify(of)


def test_a_wrong_path_that_was_chosen_gives_way_to_a_right_one() -> None:
    torch.manual_seed(0)
    of = network(NORMS["layer"](), precision="float64", samples=9)
    loss = objective(of)
    operator, made = plan(of, loss, block=5, products=60, device="cpu")
    wrong = made.__class__(**(made.to_json() | {"path": "curvlinops"}))
    operator, made, certificate = certified(of, loss, planned(of, loss, wrong), wrong)
    assert operator.path == made.path != "curvlinops"
    assert all(check["passed"] for check in certificate)
    assert_true(operator, of.model, CE, of.x, of.y)


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_a_second_derivative_that_is_wrong_by_every_path_is_refused_by_name(precision: str) -> None:
    torch.manual_seed(0)
    model = mlp(nn.Tanh(), Rough())
    with pytest.raises(SettingsError, match=r"2 \(Rough\) .* no other path is right"):
        certify(network(model, precision=precision))
    with pytest.raises(SettingsError, match=r"no other path is right|is right, so choose it"):
        certify(network(model, precision=precision, **FORCED))


@pytest.mark.parametrize("name", ["weight-norm", "weight-norm-conv"])
def test_pytorchs_double_backward_of_weight_norm_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By its definition, weight_norm passes; as PyTorch has it, it must not."""
    monkeypatch.delitem(path_module._INSTEAD, torch._weight_norm)
    torch.manual_seed(0)
    for changes in ({}, FORCED, {"precision": "float64"}):
        with pytest.raises(SettingsError, match=r"are wrong|has no second derivative|no derivative"):
            certify(network(HONEST[name](), **changes))


class Stopped(nn.Module):
    """A gradient that is not that of the loss."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.detach().sigmoid()


class StraightThrough(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.round(4 * x) / 4 - x).detach()


@pytest.mark.parametrize("layer", [Stopped, StraightThrough])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_the_losses_is_refused(layer: type[nn.Module], kind: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(SettingsError, match="not the derivative of its loss"):
        certify(network(mlp(nn.Tanh(), layer()), curvature=kind))


# --- Operations without a second derivative ---------------------------------------------------------------


class Hard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(72, 7), nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.hardsigmoid(self.first(x.flatten(1))))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_an_operation_without_a_second_derivative_is_named_and_has_a_ggn(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(path_module._INSTEAD, F.hardsigmoid)  # by which it has one
    torch.manual_seed(0)
    model = Hard()
    with pytest.raises(SettingsError, match=r"operation hardsigmoid .* analyse the GGN"):
        certify(network(model, precision=precision))
    of = network(model, precision=precision, curvature="ggn", samples=9)
    operator, certificate = certify(of)
    assert all(check["passed"] for check in certificate)
    if precision == "float64":
        parameters = list(of.model.parameters())
        rows = []
        for output in of.model(of.x).flatten():
            row = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
            pairs = zip(row, parameters, strict=True)
            rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
        outputs = of.model(of.x).detach()
        inner = torch.autograd.functional.hessian(
            lambda flat: CE(flat.view(outputs.shape), of.y), outputs.flatten()
        )
        jacobian = torch.stack(rows)
        block = torch.randn(operator.shape[0], 3, dtype=torch.float64)
        truth = jacobian.T @ (inner @ (jacobian @ block))
        assert relative(operator @ block, truth) < 1e-12


# --- Formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "tf32"])
@pytest.mark.parametrize("as_floats", [True, False])
def test_ids_stay_whole_in_every_precision(precision: str, as_floats: bool) -> None:
    torch.manual_seed(0)
    of = network(Tokens(), ids=True, precision=precision)
    of.x.flatten()[0] = 999  # 1000 in bfloat16, and no row of the embedding
    if as_floats:
        x = of.x.to(of.dtype)
        of = Network(**(of.__dict__ | {"x": x}))
    operator, _ = certify(of)
    exact = reference(of, objective(of), plan(of, objective(of), block=5, products=60, device="cpu")[1])()
    assert exact.dtype == torch.float64
    block = torch.randn(operator.shape[0], 2, dtype=torch.float64)
    error = relative((operator @ block.to(operator.dtype)).double(), exact @ block)
    assert error < (0.1 if precision == "bfloat16" else 1e-5)


def test_the_reference_is_the_matrix_in_float64_and_costs_nothing_unless_used() -> None:
    torch.manual_seed(0)
    of = network(HONEST["relu-cnn"](), **FORCED)
    loss = objective(of)
    _, made = plan(of, loss, block=5, products=60, device="cpu")
    made_once = reference(of, loss, made)
    operator = made_once()
    assert operator is made_once()
    assert (operator.dtype, operator.batch_size, operator.columns) == (torch.float64, 3, 1)
    assert all(p.dtype == torch.float32 for p in of.model.parameters())
    model = HONEST["relu-cnn"]().double()
    model.load_state_dict(of.model.state_dict())
    assert_true(operator, model, CE, of.x.double(), of.y)
    assert of.x.shape[1:] == SHAPE
