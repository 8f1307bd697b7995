"""Losses and their curvature against formulas written out, and dense second derivatives in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import curvlinops
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from seigh.core.analysis import analyse
from seigh.core.curvature import CurvatureOperator
from seigh.core.names import KINDS, PATHS, Kind, PathName
from seigh.core.problems import architectures, data, losses
from seigh.core.problems.recorder import Recorder
from seigh.core.settings import AnalysisSettings, SettingsError
from tests.core.curvature.problems import dense, problem

CHOICES: tuple[dict[str, Any], ...] = (
    {"loss": "cross-entropy"},
    {"loss": "cross-entropy", "label_smoothing": 0.2},
    {"loss": "mse"},
)


def settings(**changes: Any) -> AnalysisSettings:
    return AnalysisSettings(**({"architecture": "tanh-mlp", "data": "digits"} | changes))


def by_definition(choice: dict[str, Any], outputs: Tensor, y: Tensor) -> Tensor:
    """The loss written out, sample by sample and output by output."""
    smoothing, total = choice.get("label_smoothing", 0.0), torch.zeros((), dtype=outputs.dtype)
    samples, classes = outputs.shape
    for row, label in zip(outputs, y.tolist(), strict=True):
        normaliser = row.exp().sum().log()
        for c in range(classes):
            target = float(c == label)
            if choice["loss"] == "mse":
                total = total + (row[c] - target) ** 2 / classes
            else:
                share = (1 - smoothing) * target + smoothing / classes
                total = total + share * (normaliser - row[c])
    return total / samples


@pytest.mark.parametrize("choice", CHOICES)
def test_a_loss_is_its_definition(choice: dict[str, Any]) -> None:
    torch.manual_seed(0)
    outputs, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(0, 4, (7,))
    targets = losses.targets(choice["loss"], y, outputs)
    value = losses.build(settings(**choice))(outputs, targets)
    torch.testing.assert_close(value, by_definition(choice, outputs, y))
    assert len(targets) == 7
    if choice["loss"] == "mse":
        assert targets.dtype == torch.float64
        assert torch.equal(targets.argmax(1), y)
        assert torch.equal(targets.sum(1), torch.ones(7, dtype=torch.float64))
    else:
        assert targets is y


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_products_are_those_of_the_dense_matrix(choice: dict[str, Any], kind: Kind, path: PathName) -> None:
    loss = losses.build(settings(**choice))
    # Tracing takes a second for every shape of a batch.
    for name, samples in (("mlp", 8),) if path == "linearize" else (("mlp", 11), ("tied", 11)):
        model, x, y = problem(name, seed=1, samples=samples)
        targets = losses.targets(choice["loss"], y, model(x[:1]))

        class Defined(nn.Module):
            def forward(self, outputs: Tensor, _: Tensor, y: Tensor = y) -> Tensor:
                return by_definition(choice, outputs, y)

        truth = dense(model, Defined(), x, y, kind)
        operator = CurvatureOperator(model, loss, x, targets, kind=kind, path=path, batch_size=4, keep=True)
        torch.testing.assert_close(operator @ torch.eye(len(truth), dtype=torch.float64), truth)


@pytest.mark.parametrize("choice", CHOICES)
def test_the_ggn_is_curvlinops(choice: dict[str, Any]) -> None:
    torch.manual_seed(1)
    model = architectures.build("tanh-mlp").double()
    x, y = torch.rand(12, 1, 16, 16, dtype=torch.float64), torch.arange(12) % 10
    loss, targets = losses.build(settings(**choice)), losses.targets(choice["loss"], y, model(x[:1]))
    peer = curvlinops.GGNLinearOperator(model, loss, list(model.parameters()), [(x, targets)])
    block = torch.randn(7030, 3, dtype=torch.float64)
    torch.testing.assert_close(CurvatureOperator(model, loss, x, targets, kind="ggn") @ block, peer @ block)


def checkpoint(folder: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = architectures.build("tanh-mlp(depth=1,width=4)")
    path = Recorder(model, folder, [0])(0)
    assert path is not None
    return model, path


# Every loss by every method, and either of them with every kind of matrix.
@pytest.mark.parametrize(
    ("choice", "method", "kind"),
    [
        (choice, method, KINDS[(i + j) % len(KINDS)])
        for i, choice in enumerate(CHOICES)
        for j, method in enumerate(("krylov", "seigh", "exact"))
    ],
)
def test_an_analysis_with_weight_decay_finds_the_penalised_eigenvalues(
    tmp_path: Path, choice: dict[str, Any], kind: Kind, method: str
) -> None:
    model, path = checkpoint(tmp_path)
    decay, k = 0.3, 6
    sizes = {"outer": 400, "inner": 800} if method == "seigh" else {}
    asked = settings(
        architecture="tanh-mlp(depth=1,width=4)",
        samples=30,
        k=k,
        precision="float64",
        method=method,
        curvature=kind,
        weight_decay=decay,
        seed=2,
        **choice | sizes,
    )
    result = analyse(path, asked)

    subset = data.fitting_subset("digits", "test", 30, 2, model)
    model.double()
    x = subset.x.double()

    class Defined(nn.Module):
        def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
            return by_definition(choice, outputs, y)

    parameters = list(model.named_parameters())
    theta = torch.cat([p.detach().flatten() for _, p in parameters])
    truth = dense(model, Defined(), x, subset.y, kind) + decay * torch.eye(len(theta), dtype=torch.float64)
    values = torch.linalg.eigvalsh(truth)
    largest = values[values.abs().argsort(descending=True)[:k]].numpy()
    assert np.all(np.abs(result.eigenvalues - largest) <= result.residuals + 1e-9)  # they are checked below
    assert np.all(result.residuals < 1e-2)
    order = theta.abs().argsort(descending=True, stable=True)[:k]
    vectors = torch.from_numpy(result.eigenvectors.double().numpy()).T
    computed = result.overlap[-1] - result.record["extrapolated"][-1]
    assert computed == pytest.approx(float(vectors[order].square().sum()) / k, abs=1e-5)
    residuals = torch.linalg.vector_norm(
        truth @ vectors - vectors * torch.from_numpy(result.eigenvalues), dim=0
    )
    # What fresh vectors leave of a residual is bounded, not known.
    assert np.all(result.residuals >= residuals.numpy() - 1e-6)
    np.testing.assert_allclose(result.residuals, residuals.numpy(), rtol=0.2, atol=1e-5)
    norm = result.record["norm"]
    assert norm["lower"] < float(torch.linalg.matrix_norm(truth)) < norm["upper"]

    assert result.record["loss"] == {
        "name": choice["loss"],
        "label_smoothing": choice.get("label_smoothing", 0),
        "weight_decay": decay,
        "penalty": pytest.approx(decay / 2 * float(theta.square().sum())),
    }
    assert result.record["subset_loss"] == pytest.approx(
        float(by_definition(choice, model(x), subset.y).detach())
    )


def test_weight_decay_moves_all_eigenvalues_and_no_eigenvector(tmp_path: Path) -> None:
    _, path = checkpoint(tmp_path)
    common = {"architecture": "tanh-mlp(depth=1,width=4)", "samples": 30, "k": 5, "precision": "float64"}
    common |= {"curvature": "ggn"}  # without negative eigenvalues, so that the order stays
    without, penalised = (analyse(path, settings(**common, weight_decay=decay)) for decay in (0, 0.01))
    # One may need more products than the other until its overlap is resolved.
    off = np.abs(penalised.eigenvalues - without.eigenvalues - 0.01)
    assert np.all(off <= penalised.residuals + without.residuals)
    assert np.all(off <= 1e-4 * without.eigenvalues[0])
    apart = np.abs(penalised.overlap - without.overlap)
    assert np.all(apart <= penalised.overlap_error + without.overlap_error)
    assert without.record["loss"]["penalty"] == 0


def test_reduced_precision_keeps_the_penalty_exact(tmp_path: Path) -> None:
    _, path = checkpoint(tmp_path)
    common = {"architecture": "tanh-mlp(depth=1,width=4)", "samples": 30, "k": 3, "curvature": "ggn"}
    exact, coarse = (
        analyse(path, settings(**common, weight_decay=0.5, precision=each))
        for each in ("float64", "bfloat16")
    )
    difference = np.abs(coarse.eigenvalues - exact.eigenvalues)
    assert np.all(difference <= coarse.residuals + 1e-6)
    assert np.all(coarse.residuals < 0.05)  # far from the 0.5 of a residual without the penalty


def test_settings_without_a_new_loss_keep_their_key() -> None:
    old = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=40)
    named = settings(samples=40, loss="cross-entropy", label_smoothing=0.0, weight_decay=0.0)
    assert named.key == old.key
    # Of settings of this kind as they were before losses could be chosen.
    assert old.key == "da62bc75053d8ab64579fb2ab914a639d0ecafb55ff220f575c43f76936620ae"
    assert len({old.key, *(settings(samples=40, **each).key for each in CHOICES[1:])}) == 3
    assert settings(samples=40, weight_decay=1e-4).key != old.key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse", "label_smoothing": 0.1}, "label smoothing belongs to cross-entropy"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"label_smoothing": -0.1}, "greater than or equal to 0"),
        ({"weight_decay": -1e-4}, "greater than or equal to 0"),
        ({"weight_decay": math.nan}, "weight_decay"),
        ({"weight_decay": math.inf}, "less than"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="no loss 'hinge'; choose one of cross-entropy, mse"):
        losses.build(settings(loss="hinge"))
