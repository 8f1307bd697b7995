"""Every loss with every kind of target: its curvature against a double loop, and wrong pairings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from seigh.core.analysis import analyse
from seigh.core.curvature import CurvatureOperator
from seigh.core.names import KINDS, Kind
from seigh.core.problems import architectures, data, losses
from seigh.core.problems.data import DataError, Dataset, check_matches
from seigh.core.problems.recorder import Recorder
from seigh.core.settings import AnalysisSettings, SettingsError

N = 7  # of which batches of 2, 3 and 4 leave a ragged one


class Positions(nn.Module):
    """Three classes at each of 2 × 2 positions: outputs (n, 3, 2, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def small(*outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(9, 2), nn.Tanh(), nn.Linear(2, math.prod(outputs)), nn.Unflatten(1, outputs)
    )


def labels(*shape: int) -> Tensor:
    return torch.randint(0, 3, (N, *shape))


def some_ignored(value: int) -> Tensor:
    y = labels(2, 2)
    y[torch.rand(y.shape) < 0.4] = value
    y[3] = value  # a sample without any loss
    y[0, 0, 0] = 1
    return y


def by_class(f: Tensor, y: Tensor, c: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Σ weight · loss of one sample, and Σ weight, by position and class."""
    ignored, smoothing = c.get("ignore_index", -100), c.get("label_smoothing", 0.0)
    weights = [float(w) for w in c.get("class_weights", "1,1,1").split(",")]
    total, size = f.new_zeros(()), f.new_zeros(())
    f, y = f.reshape(len(f), -1), y.reshape(-1)
    for position, label in enumerate(y.tolist()):
        if label == ignored:
            continue
        column = f[:, position]
        logs = column - column.exp().sum().log()
        total = total - (1 - smoothing) * weights[label] * logs[label]
        for k in range(len(column)):
            total = total - smoothing / len(column) * weights[k] * logs[k]
        size = size + weights[label]
    return total, size


def by_share(f: Tensor, y: Tensor, _: dict[str, Any]) -> tuple[Tensor, Tensor]:
    total = f.new_zeros(())
    f, y = f.reshape(len(f), -1), y.reshape(len(f), -1)
    for position in range(f.shape[1]):
        logs = f[:, position] - f[:, position].exp().sum().log()
        total = total - sum(q * log for q, log in zip(y[:, position], logs, strict=True))
    return total, f.new_tensor(f.shape[1])


def by_square(f: Tensor, y: Tensor, _: dict[str, Any]) -> tuple[Tensor, Tensor]:
    if not y.is_floating_point():
        y = f.new_tensor([float(k == int(y)) for k in range(len(f))])
    return sum((a - b) ** 2 for a, b in zip(f.flatten(), y.flatten(), strict=True)), f.new_tensor(f.numel())


def by_bit(f: Tensor, y: Tensor, c: dict[str, Any]) -> tuple[Tensor, Tensor]:
    weights = [float(w) for w in c.get("class_weights", ",".join(["1"] * f.numel())).split(",")]
    total = f.new_zeros(())
    for a, b, weight in zip(f.flatten(), y.flatten().double(), weights, strict=True):
        total = total + weight * b * (1 + (-a).exp()).log() + (1 - b) * (1 + a.exp()).log()
    return total, f.new_tensor(f.numel())


@dataclass(frozen=True)
class Case:
    settings: dict[str, Any]
    model: Callable[[], nn.Module]
    y: Callable[[], Tensor]
    one: Callable[[Tensor, Tensor, dict[str, Any]], tuple[Tensor, Tensor]]


def soft(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(N, *shape, dtype=torch.float64).softmax(1)


CASES = {
    "labels": Case({}, small(3), labels, by_class),
    "smoothed, weighted": Case(
        {"label_smoothing": 0.1, "class_weights": "0.5,1,3"}, small(3), labels, by_class
    ),
    "one label ignored": Case({"ignore_index": 1}, small(3), labels, by_class),
    "positions": Case({}, Positions, lambda: labels(2, 2), by_class),
    "positions, -100 ignored": Case({}, Positions, lambda: some_ignored(-100), by_class),
    "positions, 255 ignored, weighted": Case(
        {"ignore_index": 255, "class_weights": "2,1,0.25"}, Positions, lambda: some_ignored(255), by_class
    ),
    "soft labels": Case({}, small(3), soft(3), by_share),
    "soft labels at positions": Case({}, Positions, soft(3, 2, 2), by_share),
    "unit vectors": Case({"loss": "mse"}, small(3), labels, by_square),
    "one number": Case({"loss": "mse"}, small(1), lambda: torch.randn(N).double(), by_square),
    "numbers": Case({"loss": "mse"}, small(2, 3), lambda: torch.randn(N, 2, 3).double(), by_square),
    "one bit": Case({"loss": "bce"}, small(1), lambda: torch.randint(0, 2, (N,)), by_bit),
    "bits": Case({"loss": "bce"}, small(4), lambda: torch.randint(0, 2, (N, 4)), by_bit),
    "soft bits, weighted": Case(
        {"loss": "bce", "class_weights": "1,2,0.5,3"}, small(4), lambda: torch.rand(N, 4).double(), by_bit
    ),
}


SLOW = [name for name in CASES if "positions" in name]


def asked(**changes: Any) -> AnalysisSettings:
    return AnalysisSettings(**({"architecture": "tanh-mlp", "data": "digits"} | changes))


def truth(model: nn.Module, case: Case, x: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """The dense matrix, column by column: every second derivative by its own backward pass, and of the GGN
    every sample's Jᵀ (∇²ℓ) J, from the loss written out."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in named.values()]
    theta = torch.cat([p.flatten() for p in named.values()]).requires_grad_()

    def outputs(flat: Tensor, sample: Tensor) -> Tensor:
        parts = zip(named.items(), flat.split(sizes), strict=True)
        return functional_call(model, {n: part.view(p.shape) for (n, p), part in parts}, (sample[None],))[0]

    samples = list(zip(x, y, strict=True))
    ones = [case.one(outputs(theta, sample), target, case.settings) for sample, target in samples]
    size = sum(float(each) for _, each in ones)
    if kind == "hessian":
        (slope,) = torch.autograd.grad(sum(each for each, _ in ones) / size, theta, create_graph=True)
        rows = [torch.autograd.grad(each, theta, retain_graph=True)[0] for each in slope]
        return torch.stack(rows)
    total = torch.zeros(len(theta), len(theta), dtype=theta.dtype)
    for sample, target in samples:
        f = outputs(theta, sample)
        jacobian = torch.stack(
            [torch.autograd.grad(each, theta, retain_graph=True)[0] for each in f.flatten()]
        )
        at = f.detach().requires_grad_()
        value, _ = case.one(at, target, case.settings)
        if not value.requires_grad:
            continue
        (slope,) = torch.autograd.grad(value, at, create_graph=True)
        inner = torch.stack(
            [torch.autograd.grad(each, at, retain_graph=True)[0].flatten() for each in slope.flatten()]
        )
        total += jacobian.T @ inner @ jacobian / size
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_double_loop_in_all_batches(name: str, kind: Kind) -> None:
    case = CASES[name]
    for seed in (1,) if name in SLOW else (1, 2):
        torch.manual_seed(seed)
        model, x, y = case.model().double().eval(), torch.randn(N, 1, 3, 3).double(), case.y()
        expected = truth(model, case, x, y, kind)
        settings = asked(**case.settings)
        outputs = model(x).detach()
        assert losses.mismatch(settings, y, tuple(outputs.shape[1:]), "d") is None
        loss, targets = losses.build(settings).double(), losses.targets(settings.loss, y, outputs)
        shares = losses.mean(settings.loss, loss, outputs, targets).shares
        for size in (2, 4, N):
            operator = CurvatureOperator(
                model, loss, x, targets, kind=kind, batch_size=size, keep=True, shares=shares
            )
            found = operator @ torch.eye(len(expected), dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["positions, 255 ignored, weighted", "soft bits, weighted"])
def test_the_traced_products_are_the_same(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(3)
    model, x, y = case.model().double().eval(), torch.randn(N, 1, 3, 3).double(), case.y()
    settings = asked(**case.settings)
    outputs = model(x).detach()
    loss, targets = losses.build(settings).double(), losses.targets(settings.loss, y, outputs)
    shares = losses.mean(settings.loss, loss, outputs, targets).shares
    for kind in KINDS:
        expected = truth(model, case, x, y, kind)
        operator = CurvatureOperator(
            model, loss, x, targets, kind=kind, path="linearize", batch_size=4, keep=True, shares=shares
        )
        found = operator @ torch.eye(len(expected), dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_equal_class_weights_can_be_divided_into_batches() -> None:
    torch.manual_seed(0)
    model, x, y = small(3)().double().eval(), torch.randn(N, 1, 3, 3).double(), labels()
    case = Case({"class_weights": "2,2,2"}, small(3), labels, by_class)
    settings = asked(**case.settings)
    loss, outputs = losses.build(settings).double(), model(x).detach()
    shares = losses.mean("cross-entropy", loss, outputs, y).shares
    operator = CurvatureOperator(model, loss, x, y, batch_size=2, keep=True, shares=shares)
    expected = truth(model, case, x, y, "hessian")
    torch.testing.assert_close(operator @ torch.eye(len(expected), dtype=torch.float64), expected)


# --- Whole analyses ---------------------------------------------------------------------------------------

ARCHITECTURE = "tanh-mlp(depth=1,inputs=9,num_classes=3,width=2)"


def checkpoint(folder: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = architectures.build(ARCHITECTURE)
    path = Recorder(model, folder, [0])(0)
    assert path is not None
    return model.double(), path


@pytest.mark.parametrize(
    ("name", "y"),
    [
        ("numbers", lambda: np.random.default_rng(0).standard_normal((9, 3))),
        ("soft bits, weighted", lambda: np.random.default_rng(1).random((9, 3))),
        ("one label ignored", lambda: np.arange(9) % 3),
        ("soft labels", lambda: np.random.default_rng(2).dirichlet(np.ones(3), 9)),
    ],
)
def test_an_analysis_of_a_file_is_that_of_the_double_loop(
    name: str, y: Callable[[], np.ndarray], tmp_path: Path
) -> None:
    model, path = checkpoint(tmp_path)
    case, x = CASES[name], np.random.default_rng(3).random((9, 1, 3, 3)).astype("float32")
    chosen = case.settings | ({"class_weights": "1,2,0.5"} if "class_weights" in case.settings else {})
    case = Case(chosen, case.model, case.y, case.one)
    np.savez(tmp_path / "d.npz", x=x, y=y())
    settings = asked(
        architecture=ARCHITECTURE,
        data=str(tmp_path / "d.npz"),
        subset="all",
        samples=None,
        **{"k": 4, "precision": "float64", "method": "exact", **chosen},
    )
    result = analyse(path, settings)
    stored = torch.tensor(y())
    stored = stored.float().double() if stored.is_floating_point() else stored
    expected = truth(model, case, torch.tensor(x).double(), stored, "hessian")
    values = torch.linalg.eigvalsh(expected)
    values = values[values.abs().argsort(descending=True)][:4]
    np.testing.assert_allclose(result.eigenvalues, values.numpy(), rtol=1e-7, atol=1e-10)
    has_classes = name != "numbers"
    assert (result.record["subset_accuracy"] is not None) == has_classes
    told = result.record["loss"]
    assert told.get("class_weights") == ([1.0, 2.0, 0.5] if "class_weights" in chosen else None)
    assert told.get("ignore_index") == chosen.get("ignore_index")


@pytest.mark.parametrize("method", ["krylov", "exact"])
def test_a_penalty_by_parameter_group_is_a_diagonal_in_the_matrix(tmp_path: Path, method: str) -> None:
    model, path = checkpoint(tmp_path)
    names = [name for name, _ in model.named_parameters()]
    common: dict[str, Any] = {"architecture": ARCHITECTURE, "samples": 9, "k": 5, "precision": "float64"}
    common |= {"data": "random(1x3x3,classes=3)", "method": method}
    settings = asked(**common, weight_decay=0.3, penalty=("*.bias=0", f"{names[-2]}=2"))
    assert settings.penalty == ("*.bias=0", f"{names[-2]}=2")
    result = analyse(path, settings)
    plain = analyse(path, asked(**{**common, "k": 1, "method": "exact"}))
    subset = plain.record["data"]["indices"]
    whole = data.load("random(1x3x3,classes=3)", "test")
    x, y = whole.x[subset].double(), whole.y[subset]
    matrix = truth(model, CASES["labels"], x, y, "hessian")
    decays = {name: 0.0 if name.endswith("bias") else 0.3 for name in names} | {names[-2]: 2.0}
    diagonal = torch.cat([torch.full((p.numel(),), decays[n]).double() for n, p in model.named_parameters()])
    values, vectors = torch.linalg.eigh(matrix + torch.diag(diagonal))
    first = values.abs().argsort(descending=True)[:5]
    np.testing.assert_allclose(result.eigenvalues, values[first].numpy(), atol=1e-8)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    order = theta.abs().argsort(descending=True, stable=True)[:5]
    expected = float(vectors[order][:, first].square().sum()) / 5
    assert abs(result.overlap[-1] - expected) <= result.overlap_error[-1] + 1e-6
    told = result.record["loss"]
    assert told["penalties"] == {"*.bias": 0.0, names[-2]: 2.0}
    squares = sum(0.5 * decays[n] * float(p.detach().square().sum()) for n, p in model.named_parameters())
    assert told["penalty"] == pytest.approx(squares)


def test_a_penalty_of_no_parameter_and_of_a_sketch_is_refused(tmp_path: Path) -> None:
    _, path = checkpoint(tmp_path)
    common: dict[str, Any] = {"architecture": ARCHITECTURE, "data": "random(1x3x3,classes=3)", "k": 2}
    with pytest.raises(SettingsError, match=r"penalty of 'layer9.\*' matches no parameter; the model's are"):
        analyse(path, asked(**common, samples=9, penalty=("layer9.*=1",)))
    with pytest.raises(ValueError, match="choose krylov or exact in place of seigh"):
        asked(**common, method="seigh", penalty=("*.bias=0",))
    for wrong in ("bias", "=1", "bias=x", "bias=-1", "bias=inf"):
        with pytest.raises(ValueError, match="write PATTERN=λ"):
            asked(**common, penalty=(wrong,))
    for wrong in ("1,x", "0,1", "-1", "inf"):
        with pytest.raises(ValueError, match="class weights are positive numbers"):
            asked(**common, class_weights=wrong)


# --- Wrong pairings ---------------------------------------------------------------------------------------

ZERO_ONE = torch.tensor([[0, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("chosen", "outputs", "y", "said"),
    [
        ({}, (3,), torch.tensor([0, 3]), r"label 3, but this architecture has 3 outputs .*fewer classes"),
        ({}, (3,), torch.tensor([1, 3]), "count from 1: save y - 1"),
        ({}, (3,), torch.tensor([0, -1]), "label -1; labels count from 0, and -100 has no loss"),
        ({}, (1,), torch.tensor([0, 1]), "one output .* give it 2 outputs, or choose --loss bce"),
        ({}, (), torch.tensor([0, 4]), "one output .* give it 5 outputs"),
        ({}, (3,), torch.tensor([[0], [1]]), r"have the shape \(2, 1\); save them as \(N,\)"),
        ({}, (3,), ZERO_ONE, "--loss bce compares each output with 0 or 1"),
        ({}, (3,), torch.eye(3).long(), "are one-hot.*y.argmax"),
        ({}, (3,), 4 * ZERO_ONE, "--loss mse compares numbers: save y as float32"),
        ({}, (5, 3), torch.zeros(2, 5).long(), r"have the classes last; .*movedim\(-1, 1\)"),
        ({}, (3, 4), torch.zeros(2, 5).long(), r"targets \(N, 5\) of d and outputs \(N, 3, 4\); it takes"),
        ({}, (2, 3), torch.tensor([[0, 1, 255]]), "--ignore-index 255"),
        ({}, (3,), torch.full((4,), -100), "All labels of d are -100"),
        ({}, (3,), torch.tensor([0.0, 2.0]), "save the labels as integers"),
        ({}, (1,), torch.tensor([0.5, 2.0]), "for a regression, choose --loss mse"),
        ({}, (3,), torch.rand(2, 3) + 1, "no probabilities .* --loss mse compares any numbers"),
        ({}, (3,), ZERO_ONE.float(), "no probabilities .* --loss bce compares each output by itself"),
        ({"ignore_index": 2}, (3,), torch.eye(3), "none can be ignored"),
        ({"class_weights": "1,2"}, (3,), torch.tensor([0, 1]), "2 class weights for 3 classes"),
        ({"loss": "mse"}, (3,), torch.randn(2), r"targets \(N,\) of d and outputs \(N, 3\) have two"),
        ({"loss": "mse"}, (1,), torch.tensor([0, 3]), "for a regression, save y as float32"),
        ({"loss": "mse"}, (3,), torch.tensor([0, 3]), "labels 0 to 3, but .* has 3 outputs"),
        ({"loss": "mse"}, (3, 2), torch.zeros(2, 2).long(), "for a regression, save y as float32"),
        ({"loss": "bce"}, (3,), torch.tensor([0, 1]), "these labels fit --loss cross-entropy"),
        ({"loss": "bce"}, (3,), torch.rand(2, 3) * 2, "bce takes targets from 0 to 1.*mse takes any"),
        ({"loss": "bce"}, (1,), torch.tensor([0, 2]), "0 to 2; cross-entropy takes labels of more classes"),
        ({"loss": "bce"}, (3,), torch.rand(2, 4), r"\(N, 4\) of d and outputs \(N, 3\) have two; save y"),
        ({"loss": "bce", "class_weights": "1,2"}, (3,), ZERO_ONE, "2 class weights for 3 outputs"),
    ],
)
def test_a_wrong_pairing_is_refused_with_what_would_fit(
    chosen: dict[str, Any], outputs: tuple[int, ...], y: Tensor, said: str
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1).view(-1, *[1] * len(outputs)) + self.bias

    dataset = Dataset("d", torch.zeros(len(y), 4), y)
    with pytest.raises(DataError, match=said) as refused:
        check_matches(dataset, Model(), asked(**chosen))
    sentence = str(refused.value)
    assert sentence[0].isupper() or sentence.startswith(("d ", "mse", "bce"))
    assert sentence.endswith(".")
    assert "{" not in sentence


def test_settings_of_the_new_losses_have_keys_of_their_own_and_are_written_only_where_asked_for() -> None:
    plain = asked()
    chosen = [{"ignore_index": 255}, {"class_weights": "1,2"}, {"penalty": ("a=1",)}, {"loss": "bce"}]
    assert len({plain.key, *(asked(**each).key for each in chosen)}) == 5
    assert not {"ignore_index", "class_weights", "penalty"} & plain.model_dump().keys()
    for each in chosen:
        again = AnalysisSettings.model_validate(asked(**each).model_dump(mode="json"))
        assert again == asked(**each)
