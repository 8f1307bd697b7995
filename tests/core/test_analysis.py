"""A whole analysis of a real checkpoint against curvlinops and scipy's Lanczos in fp64."""

from pathlib import Path

import curvlinops
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.sparse.linalg import eigsh
from torch import nn

from core.analysis import Progress, analyse, cost
from core.problems import architectures, data
from core.settings import AnalysisSettings, SettingsError

K = 12


def checkpoint(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    path = folder / f"step_{seed}.safetensors"
    save_file(architectures.build("tanh-mlp").state_dict(), path)
    return path


def settings(**changes: object) -> AnalysisSettings:
    chosen = {"architecture": "tanh-mlp", "data": "digits", "samples": 100, "k": K} | changes
    return AnalysisSettings(**chosen)


def truth(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The leading 2·K eigenvalues by |λ|, and the overlap curve, by other people's code."""
    torch.manual_seed(seed)
    model = architectures.build("tanh-mlp").double()
    subset = data.balanced_subset(data.load("digits", "test"), 100, 0)
    batches = [(subset.x.double(), subset.y)]
    hessian = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), batches
    ).to_scipy()
    values, vectors = eigsh(hessian, k=2 * K, which="LM", tol=1e-12)
    order = np.argsort(-np.abs(values))
    values, vectors = values[order], vectors[:, order]
    theta = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    largest = np.argsort(-np.abs(theta), kind="stable")
    overlap = [np.sum(vectors[largest[:k], :k] ** 2) / k for k in range(1, K + 1)]
    return values, np.array(overlap)


@pytest.mark.parametrize("seed", [0, 1])
def test_krylov_analysis_agrees_with_curvlinops_and_scipy(tmp_path: Path, seed: int) -> None:
    path = checkpoint(tmp_path, seed)
    values, overlap = truth(path, seed)
    result = analyse(path, settings(precision="float64"))
    # Each claimed residual bounds the distance of its eigenvalue from the truth.
    distance = np.abs(result.eigenvalues[:, None] - values[None]).min(axis=1)
    assert (distance <= result.residuals + 1e-9).all()
    np.testing.assert_allclose(result.eigenvalues, values[:K], rtol=1e-3)
    np.testing.assert_allclose(result.overlap, overlap, rtol=1e-2)
    assert result.parameters == 7030
    assert result.hvps == cost(settings(), 7030).hvps
    assert result.settings.k == len(result.to_json()["overlap"]) == K
    assert result.to_json()["overlap"][K - 1]["chance"] == pytest.approx(K / 7030)
    assert result.eigenvectors.shape == (7030, K)


@pytest.mark.parametrize("method", ["seigh", "ssvd"])
def test_sketched_analyses_carry_honest_residuals(tmp_path: Path, method: str) -> None:
    path = checkpoint(tmp_path, 0)
    values, _ = truth(path, 0)
    result = analyse(path, settings(method=method, outer=60, inner=120, precision="float64"))
    for value, residual in zip(result.eigenvalues[:5], result.residuals[:5], strict=True):
        assert np.abs(values - value).min() <= residual
    assert result.hvps == cost(result.settings, 7030).hvps


def test_the_same_settings_give_the_same_numbers_and_hashes(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 0)
    first, again = analyse(path, settings()), analyse(path, settings())
    np.testing.assert_array_equal(first.eigenvalues, again.eigenvalues)
    np.testing.assert_array_equal(first.overlap, again.overlap)
    assert first.data_sha256 == again.data_sha256
    assert analyse(path, settings(seed=1)).data_sha256 != first.data_sha256


def test_progress_only_grows_and_may_stop_the_analysis(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 0)
    seen: list[Progress] = []
    analyse(path, settings(), progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert 0 == fractions[0] < fractions[-1] <= 1
    assert [*dict.fromkeys(progress.stage for progress in seen)] == [
        "load", "operator", "eigenpairs", "residuals", "overlap",
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
