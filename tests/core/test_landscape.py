"""What observables and masks may ask of the loss, against finite differences and loops over samples."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seigh.core import curves
from seigh.core.analysis import analyse, cost
from seigh.core.errors import UserError
from seigh.core.landscape import NetworkLandscape
from seigh.core.network import load, objective, plan
from seigh.core.overlap.observables import (
    GRADIENT,
    Curve,
    EmpiricalFisher,
    Observable,
    Scene,
    ScoredMask,
    Unavailable,
)
from seigh.core.problems import architectures, data
from seigh.core.settings import AnalysisSettings, Settings

N = 23
DECAY = 0.03
D = 420  # of the last layer


def checkpoint(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    path = folder / f"step_{seed}.safetensors"
    save_file(architectures.build("tanh-mlp").state_dict(), path)
    return path


def settings(**changes: Any) -> AnalysisSettings:
    given = {"architecture": "tanh-mlp", "data": "digits", "samples": N, "k": 4, "weight_decay": DECAY}
    return AnalysisSettings(**given | {"parameters": ("linear3.*",)} | changes)


def landscape(path: Path, asked: AnalysisSettings, **more: Any) -> NetworkLandscape:
    environment = Settings()
    network = load(path, asked, path.name, environment)
    loss = objective(network)
    _, made = plan(network, loss, block=4, products=10, device="cpu")
    return NetworkLandscape(network, loss, made, environment, **more)


class Truth:
    """The same loss written down anew, in float64."""

    def __init__(self, seed: int, split: str = "test", loss: nn.Module | None = None) -> None:
        torch.manual_seed(seed)
        self.model = architectures.build("tanh-mlp")
        subset = data.fitting_subset("digits", split, N, 0, self.model)
        self.model.double()
        self.x, self.y = subset.x.double(), subset.y
        self.loss = loss or nn.CrossEntropyLoss()
        self.chosen = [p for name, p in self.model.named_parameters() if name.startswith("linear3")]
        self.start = torch.cat([p.detach().flatten() for p in self.chosen])

    def at(self, theta: Tensor, samples: slice = slice(None), decay: float = DECAY) -> float:
        with torch.no_grad():
            nn.utils.vector_to_parameters(theta, self.chosen)
            penalty = sum(float(p.square().sum()) for p in self.model.parameters())
            return float(self.loss(self.model(self.x[samples]), self.y[samples])) + 0.5 * decay * penalty

    def slope(self, direction: Tensor, samples: slice = slice(None), decay: float = DECAY) -> float:
        """Its derivative along a direction, by central differences with one extrapolation."""

        def central(h: float) -> float:
            ends = (self.at(self.start + sign * h * direction, samples, decay) for sign in (1, -1))
            return (next(ends) - next(ends)) / (2 * h)

        return (4 * central(1e-4) - central(2e-4)) / 3


@pytest.mark.parametrize("split", ["test", "train"])
def test_loss_and_gradients_are_those_of_the_loss_written_down_anew(tmp_path: Path, split: str) -> None:
    found = landscape(checkpoint(tmp_path, 1), settings())
    found = found.other if split == "train" else found
    assert found.split == split
    truth = Truth(1, split)
    torch.testing.assert_close(found.theta, truth.start)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(5, len(truth.start), generator=generator, dtype=torch.float64)
    for direction in directions:
        moved = truth.start + direction
        assert found.loss(moved) == pytest.approx(truth.at(moved), rel=1e-12)
        assert float(found.gradient() @ direction) == pytest.approx(
            truth.slope(direction), rel=1e-7, abs=1e-9
        )
    blocks = [*found.sample_gradients()]
    weights, rows = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    assert rows.shape == (N, len(truth.start))
    total = weights @ rows + DECAY * truth.start
    torch.testing.assert_close(total, found.gradient(), rtol=1e-10, atol=1e-12)
    for n in range(N):
        slope = truth.slope(directions[0], slice(n, n + 1), decay=0)
        assert float(rows[n] @ directions[0]) == pytest.approx(slope, rel=1e-6, abs=1e-9)
    fisher = EmpiricalFisher(found) @ directions.T
    dense = sum(torch.outer(row, row) / N for row in rows)
    torch.testing.assert_close(fisher, dense @ directions.T)
    torch.testing.assert_close(EmpiricalFisher(found) @ directions[0], fisher[:, 0])


def test_sample_gradients_come_without_vmap_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path, 2)
    usual = landscape(path, settings())
    at_once = torch.cat([rows for _, rows in usual.sample_gradients()])
    monkeypatch.setattr("seigh.core.landscape._BLOCK", 8 * D * 5)  # five samples at once
    torch.testing.assert_close(torch.cat([rows for _, rows in usual.sample_gradients()]), at_once)

    def refuses(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no rule for this operation")

    monkeypatch.setattr("torch.func.vmap", lambda *_, **__: refuses)
    one_by_one = torch.cat([rows for _, rows in usual.sample_gradients()])
    torch.testing.assert_close(one_by_one, at_once, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_matrices_are_symmetric_ones_of_the_loss_and_counted(tmp_path: Path, kind: str) -> None:
    counted: list[int] = []
    found = landscape(checkpoint(tmp_path, 3), settings(precision="float64"), count=lambda: counted.append)
    matrix = found.matrix(kind)
    assert matrix is found.matrix(kind)
    dense = matrix @ torch.eye(D, dtype=torch.float64)
    assert counted[-1] == D
    truth = Truth(3)
    if kind == "hessian":
        direction = torch.randn(D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        here, h = truth.start, 1e-3
        bend = truth.at(here + h * direction) - 2 * truth.at(here) + truth.at(here - h * direction)
        assert float(direction @ dense @ direction) == pytest.approx(bend / h**2, rel=1e-5)
    else:  # of cross-entropy it is the Fisher: the sum over classes c of p_c ∇ℓ_c ∇ℓ_cᵀ
        outputs = truth.model(truth.x)
        total = DECAY * torch.eye(D, dtype=torch.float64)
        for probabilities in outputs.log_softmax(1):
            for each in probabilities:
                parts = torch.autograd.grad(each, truth.chosen, retain_graph=True)
                row = torch.cat([part.flatten() for part in parts])
                total += each.detach().exp() / N * torch.outer(row, row)
        torch.testing.assert_close(dense, total, rtol=1e-8, atol=1e-12)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1)
    listed = landscape(path, settings(subset="indices", indices=range(5), samples=None))
    with pytest.raises(Unavailable, match="are listed, so there are none of the other split"):
        _ = listed.other
    alone = Scene(torch.eye(2), torch.ones(2), torch.zeros(2), {}, lambda _: Curve(np.ones(2)))
    with pytest.raises(Unavailable, match="a matrix here and no network"):
        _ = alone.landscape
    with pytest.raises(Unavailable, match="name no earlier checkpoint to compare with"):
        alone.earlier("previous")
    with pytest.raises(Unavailable, match="no operator"):
        _ = alone.hessian
    assert issubclass(Unavailable, UserError)


def test_an_analysis_lets_curves_and_masks_ask_and_counts_what_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Scene] = []

    @cache
    def available() -> dict[str, Observable]:
        def products(scene: Scene) -> Curve:
            made.append(scene)
            asked = scene.once("rayleigh", lambda: scene.hessian @ scene.vectors.T)
            again = scene.once("rayleigh", lambda: pytest.fail("it is made once"))
            assert again is asked
            return Curve((asked * scene.vectors.T).sum(0).double().cpu().numpy())

        def gradient(scene: Scene) -> Curve:
            scores = scene.landscape.gradient().abs()
            return scene.overlap(scores)

        mask = ScoredMask(
            "slope",
            "the largest |∇L|",
            "…",
            lambda scene: scene.landscape.gradient().abs(),
            lambda _: GRADIENT,
        )
        return {
            each.name: each
            for each in (
                Observable("rayleigh", "vᵀHv", "…", products, lambda request: {"rayleigh": request.k}),
                Observable("gradient", "…", "…", gradient, lambda _: GRADIENT),
                mask.observable(),
            )
        }

    monkeypatch.setattr(curves, "available", available)
    path = checkpoint(tmp_path, 1)
    names = ("rayleigh", "gradient", "overlap-slope")
    plain, asked = (settings(curves=each, hvp_path="double-backward") for each in ((), names))
    assert cost(asked, D).hvps == cost(plain, D).hvps + 4 + 1  # a gradient for both that ask for it
    without, found = analyse(path, plain), analyse(path, asked)
    assert "curves_failed" not in found.record
    np.testing.assert_allclose(found.curves["rayleigh"]["value"], found.eigenvalues, rtol=1e-5)
    assert found.hvps == without.hvps + 4
    assert {stage.name: stage.hvps for stage in found.stages}["curves"] == 4
    for name in ("gradient", "overlap-slope"):
        assert found.curves[name]["value"].shape == (4,)
    np.testing.assert_array_equal(*(found.curves[name]["value"] for name in ("gradient", "overlap-slope")))
    scene = made[0]
    assert scene.found is not None
    assert scene.residuals is not None
    assert len(scene.found.values) == len(scene.residuals) >= 4
    assert scene.estimate is not None
    assert scene.request is not None
    assert (scene.request.k, scene.request.dimension) == (4, D)


@pytest.mark.parametrize("method", ["krylov", "seigh", "exact"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_mask_with_the_same_scores_has_the_same_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, on_disk: bool
) -> None:
    """What a mask is computed from must not have been written over by the eigenvectors, further ones too."""
    scored = ScoredMask(
        "same",
        "the largest |θ|",
        "…",
        lambda scene: torch.cat([each.flatten().abs() for each in scene.tensors.values()]),
    )
    monkeypatch.setattr(curves, "available", lambda: {"overlap-same": scored.observable()})
    sizes = {"outer": 24, "inner": 48} if method == "seigh" else {}
    # A basis that is much larger than K, of which the K vectors are a part.
    asked = settings(curves=("overlap-same",), method=method, k=8, parameters=(), weight_decay=0, **sizes)
    if method == "exact":
        asked = asked.model_copy(update={"parameters": ("linear3.*",)})
    environment = Settings(memory_gb=1e-6) if on_disk else Settings()
    path = checkpoint(tmp_path, 1)
    found = analyse(path, asked, environment=environment, scratch=tmp_path / "scratch" if on_disk else None)
    plain = analyse(path, asked.model_copy(update={"curves": ()}))
    again = found.curves["overlap-same"]
    np.testing.assert_allclose(again["value"], plain.overlap, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(again["error"], plain.overlap_error, rtol=0.1, atol=1e-8)
    np.testing.assert_allclose(found.overlap, plain.overlap, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.eigenvectors.norm(dim=1), 1, rtol=1e-5)
