"""A whole analysis of a real checkpoint against curvlinops and scipy's Lanczos in fp64."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import curvlinops
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import subspace_angles
from scipy.sparse.linalg import eigsh
from torch import nn

from seigh.core.analysis import Progress, Result, analyse, cost
from seigh.core.names import NO_SPLIT
from seigh.core.network import parameters_of
from seigh.core.problems import architectures, data
from seigh.core.settings import SPLITS, AnalysisSettings, Settings, SettingsError
from seigh.core.spectra import SpectrumError
from seigh.core.spectra.residuals import CHECKS

K = 12


def checkpoint(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    path = folder / f"step_{seed}.safetensors"
    save_file(architectures.build("tanh-mlp").state_dict(), path)
    return path


def settings(**changes: object) -> AnalysisSettings:
    chosen = {"architecture": "tanh-mlp", "data": "digits", "samples": 100, "k": K} | changes
    return AnalysisSettings(**chosen)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Analyses of ``checkpoint(…, seed)`` that several tests look at: each is computed once."""

    @cache
    def once(seed: int = 0, **changes: object) -> Result:
        return analyse(checkpoint(tmp_path_factory.mktemp("analysed"), seed), settings(**changes))

    return once


@cache
def truth(
    seed: int, kind: type = curvlinops.HessianLinearOperator, layer: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """The leading 2·K eigenvalues by |λ|, and the overlap curve, by other people's code."""
    torch.manual_seed(seed)
    model = architectures.build("tanh-mlp")
    subset = data.fitting_subset("digits", "test", 100, 0, model)
    model.double()
    batches = [(subset.x.double(), subset.y)]
    parameters = [p for name, p in model.named_parameters() if name.startswith(layer)]
    operator = kind(model, nn.CrossEntropyLoss(), parameters, batches).to_scipy()
    values, vectors = eigsh(operator, k=2 * K, which="LM", tol=1e-12)
    order = np.argsort(-np.abs(values))
    values, vectors = values[order], vectors[:, order]
    theta = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    largest = np.argsort(-np.abs(theta), kind="stable")
    overlap = [np.sum(vectors[largest[:k], :k] ** 2) / k for k in range(1, K + 1)]
    return values, np.array(overlap)


@pytest.mark.parametrize("seed", [0, 1])
def test_krylov_analysis_agrees_with_curvlinops_and_scipy(analysed: Callable[..., Result], seed: int) -> None:
    values, overlap = truth(seed)
    result = analysed(seed, precision="float64")
    # Each claimed residual bounds the distance of its eigenvalue from the truth.
    distance = np.abs(result.eigenvalues[:, None] - values[None]).min(axis=1)
    assert (distance <= result.residuals + 1e-9).all()
    np.testing.assert_allclose(result.eigenvalues, values[:K], rtol=1e-3)
    np.testing.assert_allclose(result.overlap, overlap, rtol=1e-2)
    assert result.parameters == 7030
    assert result.hvps == result.record["basis"]["products"] + CHECKS + settings().error_tests
    assert result.hvps <= 2 * cost(settings(), 7030).hvps
    assert result.settings.k == len(result.to_json()["overlap"]) == K
    assert result.to_json()["overlap"][K - 1]["chance"] == pytest.approx(K / 7030)
    assert result.eigenvectors.shape == (K, 7030)
    # What it says of itself is true.
    assert (np.abs(result.overlap - overlap) <= result.overlap_error + 1e-9).all()
    assert (result.overlap_error[: result.resolved_k] <= 0.01 * result.overlap[: result.resolved_k]).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_norms_and_scree_bounds_enclose_the_truth(tmp_path: Path, seed: int) -> None:
    path = checkpoint(tmp_path, seed)
    layers = {"parameters": ("linear[56].*",)}
    squares = analyse(path, settings(method="exact", precision="float64", k=630, **layers)).eigenvalues ** 2
    result = analyse(path, settings(**layers))
    norm, missed = result.record["norm"], result.record["missed_norm"]
    assert norm["lower"] <= np.sqrt(squares.sum()) <= norm["upper"]
    assert missed["lower"] <= np.sqrt(squares[K:].sum()) <= missed["upper"]
    share = np.array([squares[r:].sum() for r in range(1, K + 1)]) / squares.sum()
    assert (result.scree_lower <= result.scree_upper).all()
    assert (share <= result.scree_upper * (norm["estimate"] / norm["lower"]) ** 2).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_gauss_newton_agrees_with_curvlinops_and_scipy(tmp_path: Path, seed: int) -> None:
    values, overlap = truth(seed, curvlinops.GGNLinearOperator)
    result = analyse(checkpoint(tmp_path, seed), settings(precision="float64", curvature="ggn"))
    np.testing.assert_allclose(result.eigenvalues, values[:K], rtol=1e-3, atol=1e-9)
    assert (np.abs(result.overlap - overlap) <= result.overlap_error + 1e-9).all()
    assert values.min() > -1e-9


def test_a_layer_has_a_hessian_of_its_own(tmp_path: Path) -> None:
    values, overlap = truth(0, layer="linear3.")
    result = analyse(checkpoint(tmp_path, 0), settings(precision="float64", parameters=("linear3.*",)))
    assert result.parameters == 420
    assert result.eigenvectors.shape == (K, 420)
    np.testing.assert_allclose(result.eigenvalues, values[:K], rtol=1e-6)
    np.testing.assert_allclose(result.overlap, overlap, atol=1e-5)
    assert (np.abs(result.overlap - overlap) <= result.overlap_error + 1e-9).all()
    assert result.to_json()["overlap"][0]["chance"] == 1 / 420
    with pytest.raises(SettingsError, match="linear9"):
        analyse(checkpoint(tmp_path, 0), settings(parameters=("linear9.*",)))
    with pytest.raises(SettingsError, match="more than the model's 420 parameters"):
        analyse(checkpoint(tmp_path, 0), settings(parameters=("linear3.*",), k=421))


def test_a_basis_beyond_memory_restarts_or_goes_to_a_file(
    tmp_path: Path, analysed: Callable[..., Result]
) -> None:
    path = checkpoint(tmp_path, 0)
    usual = analysed()
    tight = Settings(home=tmp_path, memory_gb=60 * 7030 * 4 / 2**30)
    restarted = analyse(path, settings(), environment=tight)
    assert restarted.record["basis"]["restarts"] > 0
    assert restarted.record["basis"]["columns"] == 60
    on_disk = analyse(path, settings(), environment=tight, scratch=tmp_path / "scratch")
    assert on_disk.record["basis"] | {"kept_in": "memory"} == usual.record["basis"]
    assert on_disk.record["basis"]["kept_in"] == "file"
    for result in (restarted, on_disk):
        np.testing.assert_allclose(result.eigenvalues, usual.eigenvalues, rtol=1e-3)
        np.testing.assert_allclose(result.overlap, usual.overlap, rtol=1e-2)
        np.testing.assert_allclose(result.eigenvectors.norm(dim=1), 1, rtol=1e-5)


def test_a_killed_analysis_goes_on_where_it_was(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 0)
    tight = Settings(home=tmp_path, memory_gb=60 * 7030 * 4 / 2**30)
    whole = analyse(path, settings(), environment=tight, scratch=tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.hvps > 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(path, settings(), environment=tight, scratch=tmp_path / "parts", progress=stop)
    seen: list[Progress] = []
    resumed = analyse(path, settings(), environment=tight, scratch=tmp_path / "parts", progress=seen.append)
    assert resumed.record["basis"]["resumed"] > 50
    assert min(progress.hvps for progress in seen if progress.hvps) > 50
    assert resumed.hvps == whole.hvps
    np.testing.assert_array_equal(resumed.eigenvalues, whole.eigenvalues)
    np.testing.assert_array_equal(resumed.overlap, whole.overlap)
    np.testing.assert_array_equal(resumed.overlap_error, whole.overlap_error)
    assert torch.equal(resumed.eigenvectors, whole.eigenvectors)


def test_a_tolerance_is_met_and_said_to_be(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 0)
    rough, fine = (analyse(path, settings(tolerance=tolerance)) for tolerance in (1e-2, 1e-5))
    assert rough.residuals.max() <= 1e-2 * abs(rough.eigenvalues[0])
    assert fine.residuals.max() <= 1.2e-5 * abs(fine.eigenvalues[0])
    assert rough.hvps < fine.hvps
    assert rough.record["basis"]["tolerance_met"] is fine.record["basis"]["tolerance_met"] is True


@pytest.mark.parametrize(
    "forced",
    [
        {"hvp_path": "double-backward", "batch_size": 30},
        {"hvp_path": "linearize", "hvp_columns": 1},
        {"hvp_path": "curvlinops"},
    ],
)
def test_any_forced_path_gives_the_same_numbers(
    analysed: Callable[..., Result], forced: dict[str, Any]
) -> None:
    usual, other = (analysed(precision="float64", **more) for more in ({}, forced))
    for name in ("path", "columns", "batch_size"):
        wanted = forced.get("hvp_path" if name == "path" else f"hvp_{name}", forced.get(name))
        assert wanted is None or other.record["hvp"][name] == wanted
    assert other.record["hvp"]["seconds"] > 0
    np.testing.assert_allclose(other.eigenvalues, usual.eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(other.overlap, usual.overlap, rtol=1e-6)


def test_reduced_precision_shows_in_the_residuals(analysed: Callable[..., Result]) -> None:
    full, reduced = analysed(), analysed(precision="bfloat16")
    assert reduced.residuals[0] > 100 * full.residuals[0]
    distance = np.abs(reduced.eigenvalues[:, None] - truth(0)[0][None]).min(axis=1)
    assert (distance <= reduced.residuals).all()


def test_an_overflowing_network_is_refused_by_name(tmp_path: Path) -> None:
    state = architectures.build("tanh-mlp").state_dict()
    state["linear6.weight"] = torch.full_like(state["linear6.weight"], 3e38)
    save_file(state, tmp_path / "step_7.safetensors")
    with pytest.raises(SpectrumError, match=r"Checkpoint 'step_7.safetensors': .*not finite"):
        analyse(tmp_path / "step_7.safetensors", settings())


@pytest.mark.parametrize("method", ["seigh", "ssvd"])
def test_sketched_analyses_carry_honest_residuals(tmp_path: Path, method: str) -> None:
    path = checkpoint(tmp_path, 0)
    values, _ = truth(0)
    result = analyse(path, settings(method=method, outer=60, inner=120, precision="float64"))
    for value, residual in zip(result.eigenvalues[:5], result.residuals[:5], strict=True):
        assert np.abs(values - value).min() <= residual
    assert result.hvps == cost(result.settings, 7030).hvps


def test_the_same_settings_give_the_same_numbers_and_hashes(
    tmp_path: Path, analysed: Callable[..., Result]
) -> None:
    path = checkpoint(tmp_path, 0)
    first, again = analysed(), analyse(path, settings())
    np.testing.assert_array_equal(first.eigenvalues, again.eigenvalues)
    np.testing.assert_array_equal(first.overlap, again.overlap)
    assert first.data_sha256 == again.data_sha256
    assert analyse(path, settings(seed=1)).data_sha256 != first.data_sha256


@pytest.mark.parametrize("name", ["digits", "random(1x16x16)"])
def test_the_record_tells_which_samples_and_whether_they_are_made_up(tmp_path: Path, name: str) -> None:
    result = analyse(checkpoint(tmp_path, 0), settings(data=name, samples=50, k=2))
    written = json.loads(json.dumps(result.to_json()))
    assert written["split"] == written["settings"]["split"] == "test"
    assert [settings(data="mine.npz", split=each).said_split for each in SPLITS] == ["train", NO_SPLIT]
    told = written["record"]["data"]
    assert told["samples"] == 50
    assert told["synthetic"] == name.startswith("random")
    whole, index = data.load(name, "test"), torch.tensor(told["indices"])
    assert torch.bincount(whole.y[index]).tolist() == [5] * 10
    again = data.Subset(name, whole.take(index), whole.y[index], index, told["synthetic"])
    assert data.content_hash(again) == result.data_sha256


def test_progress_only_grows_and_may_stop_the_analysis(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 0)
    seen: list[Progress] = []
    analyse(path, settings(), progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert 0 == fractions[0] < fractions[-1] <= 1
    assert [*dict.fromkeys(progress.stage for progress in seen)] == [
        "load", "operator", "eigenpairs", "residuals", "overlap", "masks", "structure", "missed",
    ]  # fmt: skip

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.hvps:
            raise Stop

    with pytest.raises(Stop):
        analyse(path, settings(), progress=stop)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": 7031}, "more than the model's 7,030 parameters"),
        ({"method": "seigh", "outer": 5}, "choose n_O ≥ k"),
        ({"method": "seigh", "outer": 20, "inner": 19}, "choose n_I ≥ n_O"),
        ({"method": "seigh", "outer": 4000}, "choose n_O and n_I ≤ D"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        cost(settings(**changes), 7030)
    with pytest.raises(SettingsError, match=reason):
        analyse(checkpoint(tmp_path, 0), settings(**changes))


def test_exact_is_for_small_models_only() -> None:
    with pytest.raises(SettingsError, match="limited to D ≤ 20,000"):
        cost(settings(method="exact"), 895_210)


def test_where_the_overlap_lies(tmp_path: Path, analysed: Callable[..., Result]) -> None:
    path = checkpoint(tmp_path, 0)
    result = analysed()
    torch.manual_seed(0)
    parameters = dict(architectures.build("tanh-mlp").named_parameters())
    theta = torch.cat([p.detach().flatten() for p in parameters.values()])
    assert torch.equal(parameters_of(path, settings()), theta)
    vectors = result.eigenvectors.double()
    mask = np.argsort(-theta.abs().numpy(), kind="stable")
    rows = result.to_json()

    layers = [row for row in rows["layers"] if row["k"] == K]
    assert [(row["name"], row["parameters"]) for row in layers] == [
        (name, p.numel()) for name, p in parameters.items()
    ]
    start = 0
    for row in layers:
        inside = slice(start, start + row["parameters"])
        masked = [i for i in mask[:K] if inside.start <= i < inside.stop]
        assert row["eigenspace"] == pytest.approx(float(vectors[:, inside].square().sum()) / K, rel=1e-5)
        assert row["mask"] == pytest.approx(len(masked) / K)
        # Layers share the overlap with the computed eigenvectors, without what is extrapolated.
        computed = result.overlap[K - 1] - result.record["extrapolated"][K - 1]
        share = float(vectors[:, masked].square().sum()) / (K * computed)
        assert row["overlap"] == pytest.approx(share, rel=1e-5)
        start = inside.stop

    bins = [row for row in rows["magnitudes"] if row["k"] == K]
    assert sum(row["count"] * row["mean"] for row in bins) == pytest.approx(1, abs=1e-5)
    assert bins[0]["largest"] == pytest.approx(float(theta.abs().max()))

    for k in (1, 5, K):
        angles = subspace_angles(np.eye(7030)[:, mask[:k]], vectors[:k].T.numpy())
        found = {row["metric"]: row for row in rows["metrics"] if row["k"] == k}
        assert found["geodesic"]["value"] == pytest.approx(np.linalg.norm(angles), abs=1e-6)
        assert found["projection_2"]["value"] == pytest.approx(np.sin(angles.max()), abs=1e-6)
        ahead = result.record["extrapolated"][k - 1]
        assert found["overlap"]["value"] == pytest.approx(result.overlap[k - 1] - ahead, abs=1e-6)
        assert found["overlap"]["error"] == pytest.approx(result.overlap_error[k - 1] + abs(ahead))
        assert found["overlap"]["random_mean"] == k / 7030
        assert found["geodesic"]["error"] is None


def test_layers_of_chosen_parameters_are_theirs(tmp_path: Path) -> None:
    result = analyse(checkpoint(tmp_path, 0), settings(parameters=("linear3.*",)))
    told = {row["name"]: row["parameters"] for row in result.layers}
    assert told == {"linear3.weight": 400, "linear3.bias": 20}
