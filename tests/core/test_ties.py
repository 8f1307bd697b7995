"""Whole analyses of networks with parameters of equal magnitude."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from seigh.core import analysis
from seigh.core.analysis import Result, analyse, cost
from seigh.core.problems import plugins
from seigh.core.problems.plugins import PluggedArchitecture
from seigh.core.settings import AnalysisSettings
from tests.plugging import forget

K = 10


class Scales(nn.Module):
    """Has 48 scales of exactly 1 before training, larger than all its other parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = (
            nn.Conv2d(1, 48, 3, stride=4),
            nn.GroupNorm(4, 48),
            nn.Linear(48, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plugged = PluggedArchitecture(Scales, {}, (1, 16, 16), "tests")
    forget()
    monkeypatch.setattr(plugins.registry(), "architectures", {"scales": plugged})
    yield
    forget()


def found(folder: Path, weights: dict[str, Tensor], **changes: object) -> Result:
    path = folder / "step_0.safetensors"
    save_file(weights, path)
    chosen = {"architecture": "scales", "data": "digits", "samples": 40, "k": K} | changes
    return analyse(path, AnalysisSettings(**chosen))


def weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: each.detach().clone() for name, each in Scales().named_parameters()}


def turned(weights: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same function, with the channels of every group in another order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([12 * group + torch.randperm(12, generator=generator) for group in range(4)])
    return {
        name: each[:, order].contiguous() if name == "head.weight" else each
        if name == "head.bias" else each[order].contiguous()
        for name, each in weights.items()
    }  # fmt: skip


def test_scales_of_one_are_a_range_of_overlaps(tmp_path: Path) -> None:
    result = found(tmp_path, weights(), precision="float64", tolerance=1e-9)
    flat = torch.cat([each.flatten() for each in weights().values()])
    assert (flat.abs() == 1).sum() == 48
    assert result.tied.tolist() == [48] * K
    masses = result.eigenvectors.double().square().cumsum(0)[:, flat.abs() == 1].numpy()
    k = np.arange(1, K + 1)
    np.testing.assert_allclose(result.overlap, masses.sum(1) / 48, rtol=1e-5)
    low = np.array([np.sort(row)[:t].sum() for t, row in zip(k, masses, strict=True)]) / k
    high = np.array([np.sort(row)[-t:].sum() for t, row in zip(k, masses, strict=True)]) / k
    np.testing.assert_allclose(result.least, low, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(result.greatest, high, rtol=1e-5)
    assert (result.overlap + result.overlap_error >= result.greatest).all()
    assert (result.overlap - result.overlap_error <= result.least).all()
    assert result.greatest[-1] > 2 * result.overlap[-1] > 20 * result.least[-1]
    assert result.resolved_k == 0


def test_the_order_of_the_parameters_does_not_matter(tmp_path: Path) -> None:
    settings = {"precision": "float64", "tolerance": 1e-9}
    before = found(tmp_path, weights(), **settings)
    for seed in (1, 2, 3):
        after = found(tmp_path, turned(weights(), seed), **settings)
        np.testing.assert_allclose(before.eigenvalues, after.eigenvalues, rtol=1e-8)
        for name in ("overlap", "overlap_error", "least", "greatest"):
            np.testing.assert_allclose(getattr(before, name), getattr(after, name), rtol=1e-3, atol=1e-9)


def test_ties_do_not_make_krylov_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = found(tmp_path, weights(), precision="float64")
    assert result.hvps <= cost(result.settings, result.parameters).hvps  # it may be twice that
    assert result.resolved_k == 0
    # Nor do they enter what is asked while products are still being made.
    monkeypatch.setattr(analysis, "find_ties", lambda *_: pytest.fail("asked for ties"))
    with pytest.raises(pytest.fail.Exception, match="asked for ties"):
        found(tmp_path, weights())


def test_what_is_written_tells_of_ties(tmp_path: Path) -> None:
    result = found(tmp_path, weights())
    point = result.to_json()["overlap"][K - 1]
    assert point["tied"] == 48
    assert point["least"] < point["overlap"] < point["greatest"]
    assert point["error"] >= point["greatest"] - point["overlap"]
    norm = next(
        row for row in result.to_json()["layers"] if row["k"] == K and row["name"] == "norm.weight"
    )  # all masks lie in the scales
    assert (norm["mask"], norm["overlap"]) == (pytest.approx(1), pytest.approx(1))
    # The metrics are of one of the masks, and their error reaches all of them.
    metric = next(each for each in result.metrics if each["k"] == K and each["metric"] == "overlap")
    assert metric["error"] is not None
    assert metric["value"] - metric["error"] <= point["least"] + 1e-9
    assert metric["value"] + metric["error"] >= point["greatest"] - 1e-9


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_pruned_weights(tmp_path: Path, seed: int, share: float) -> None:
    pruned = {name: each * (torch.rand(each.shape) > share) for name, each in weights(seed).items()}
    pruned["norm.weight"] = 1 + 0.1 * torch.randn(48)
    result = found(tmp_path, pruned, k=60)
    nonzero = sum(int((each != 0).sum()) for each in pruned.values())
    zeros = result.parameters - nonzero
    # A mask that is large enough must take some of the weights that were pruned.
    assert result.tied.tolist() == [zeros if k > nonzero else 0 for k in range(1, 61)]
    assert (result.least <= result.overlap).all()
    assert (result.overlap <= result.greatest).all()


def test_random_masks_are_no_draws(tmp_path: Path) -> None:
    few, many = (found(tmp_path, weights(), random_masks=draws) for draws in (2, 1000))
    np.testing.assert_array_equal(few.random_mean, np.arange(1, K + 1) / few.parameters)
    np.testing.assert_allclose(few.random_std, many.random_std, rtol=1e-5)
    assert few.settings.key != many.settings.key  # as before: who asks again gets what there is
