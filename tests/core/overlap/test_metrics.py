"""Metrics against scipy's principal angles, and chance against subspaces that are really drawn."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from torch import Tensor

from seigh.core.names import METRICS, Metric
from seigh.core.overlap import metrics as module
from seigh.core.overlap.masks import largest_first
from seigh.core.overlap.metrics import (
    align,
    largest,
    mask_angles,
    metric_errors,
    metrics,
    normalised,
    random_angles,
    random_metrics,
    random_study,
    sizes,
)

Floats = NDArray[np.float64]


def drawn(dimension: int, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dimension, k, generator=generator, dtype=torch.float64))[0].T


def independent(angles: Floats) -> dict[Metric, float]:
    """The metrics as the paper defines them, term by term."""
    sines, cosines = np.sin(angles), np.cos(angles)
    return {
        "geodesic": float(np.sqrt((angles**2).sum())),
        "chordal_2": float(2 * np.sin(angles.max() / 2)),
        "chordal_f": float(2 * np.sqrt((np.sin(angles / 2) ** 2).sum())),
        "projection_2": float(sines.max()),
        "projection_f": float(np.sqrt((sines**2).sum())),
        "fubini_study": float(np.arccos(np.clip(cosines.prod(), 0, 1))),
        "overlap": float((cosines**2).mean()),
    }


def nearly(first: Tensor, angle: float) -> Tensor:
    """Rows turned by about this angle, each out of the span of the others."""
    k, dimension = first.shape
    outside = drawn(dimension, k, 99)
    outside -= outside @ first.T @ first
    outside /= outside.norm(dim=1, keepdim=True)
    return math.cos(angle) * first + math.sin(angle) * outside


PAIRS: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda first: drawn(first.shape[1], len(first), 1),
    "identical": lambda first: first.clone(),
    "same span": lambda first: drawn(len(first), len(first), 2) @ first,
    "orthogonal": lambda first: _complement(first),
    "partially equal": lambda first: torch.cat(
        [first[: len(first) // 2], _complement(first)[len(first) // 2 :]]
    ),
    "nearly equal": lambda first: nearly(first, 1e-5),
    "hardly different": lambda first: nearly(first, 1e-9),
}


def _complement(first: Tensor) -> Tensor:
    other = drawn(first.shape[1], len(first), 3)
    other -= other @ first.T @ first
    return torch.linalg.qr(other.T)[0].T


@pytest.mark.parametrize("pair", PAIRS)
def test_metrics_agree_with_those_of_scipys_angles(pair: str) -> None:
    first = drawn(400, 30, 0)
    second = PAIRS[pair](first)
    alignment = align(first, second)
    for k in (1, 7, 30):
        truth = independent(subspace_angles(first[:k].T.numpy(), second[:k].T.numpy()))
        found = metrics(alignment.angles(k))
        # Of the product of cosines, arccos knows small angles to 10⁻⁸ only, here and in the truth.
        assert found == pytest.approx(truth, abs=1e-6), k


def test_a_million_parameters() -> None:
    first = drawn(1_000_000, 6, 0)
    second = torch.cat([first[:2], drawn(1_000_000, 4, 1)])
    truth = independent(subspace_angles(first.T.numpy(), second.T.numpy()))
    assert metrics(align(first, second).angles(6)) == pytest.approx(truth, abs=1e-6)
    assert metrics(align(first, first).angles(6)) == pytest.approx(independent(np.zeros(6)), abs=1e-6)


def test_vectors_in_fp32_count_by_what_they_span() -> None:
    first, second = (drawn(3000, 20, seed).float() for seed in (0, 1))
    first *= 1 + 1e-3 * torch.arange(20)[:, None]  # not even of length 1
    truth = subspace_angles(first.T.double().numpy(), second.T.double().numpy())
    assert np.abs(align(first, second).angles(20) - truth[::-1]).max() < 1e-7
    same = align(first, torch.flip(first, (0,))).angles(20)
    assert same.max() < 1e-7


def test_unequal_numbers_of_vectors_are_those_of_the_fewer() -> None:
    first, second = drawn(100, 8, 0), drawn(100, 5, 1)
    truth = subspace_angles(first[:5].T.numpy(), second.T.numpy())
    assert np.allclose(align(first, second).angles(5), truth[::-1], atol=1e-9)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="no common space"):
        align(drawn(10, 2, 0), drawn(11, 2, 0))
    with pytest.raises(ValueError, match="The first 2 vectors are linearly dependent"):
        align(torch.ones(2, 10), drawn(10, 2, 0))


def test_masks_are_the_spans_of_their_coordinates() -> None:
    vectors = drawn(80, 20, 0)
    order = largest_first(torch.randn(80, generator=torch.Generator().manual_seed(0)), 20)
    for k, angles in zip((3, 20), mask_angles(vectors, order, (3, 20)), strict=True):
        mask = np.eye(80)[:, order[:k].numpy()]
        assert np.allclose(angles, subspace_angles(mask, vectors[:k].T.numpy())[::-1], atol=1e-9)


def test_a_mask_that_is_the_eigenspace_has_no_angle_even_in_fp32() -> None:
    vectors = torch.zeros(3, 50)
    vectors[0, 4], vectors[1, 7], vectors[2, 1] = 1 - 6e-8, 1 - 6e-8, 1
    exact, *_ = mask_angles(vectors, torch.tensor([7, 1, 4]), (3,))
    assert exact.max() < 1e-7


@pytest.mark.parametrize("metric", METRICS)
def test_likeness_is_one_for_equal_and_zero_for_orthogonal_subspaces(metric: Metric) -> None:
    equal, orthogonal = metrics(np.zeros(9)), metrics(np.full(9, math.pi / 2))
    assert normalised(metric, equal[metric], 9) == pytest.approx(1)
    assert normalised(metric, orthogonal[metric], 9) == pytest.approx(0, abs=1e-7)
    assert (equal if metric == "overlap" else orthogonal)[metric] == pytest.approx(largest(metric, 9))


def test_errors_bound_what_follows_from_the_overlap() -> None:
    k, overlap, error = 10, 0.3, 0.02
    errors = metric_errors(k, overlap, error)
    assert set(errors) == {"overlap", "projection_f"}
    for true in (overlap - error, overlap + error):
        assert abs(math.sqrt(k * (1 - true)) - math.sqrt(k * (1 - overlap))) <= errors["projection_f"] + 1e-12
    assert metric_errors(10, 1.0, 0.01)["projection_f"] == pytest.approx(math.sqrt(0.1))


# --- Chance -----------------------------------------------------------------------------------------------

DRAWS = 4000


@pytest.mark.parametrize(("dimension", "k"), [(30, 7), (30, 20), (10, 5), (9, 1), (6, 5)])
def test_drawn_angles_are_those_of_drawn_subspaces(dimension: int, k: int) -> None:
    generator = np.random.default_rng(0)
    found = random_angles(dimension, k, DRAWS, generator)
    haar = np.linalg.qr(generator.standard_normal((DRAWS, dimension, k)))[0]
    cosines = np.linalg.svd(haar[:, :k], compute_uv=False).clip(0, 1)
    truth = np.arccos(cosines)
    for ours, theirs in ((found, truth), (found**2, truth**2), (np.cos(found) ** 4, cosines**4)):
        spread = np.sqrt((ours.var(0) + theirs.var(0)) / DRAWS)
        assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 4.5 * spread + 1e-7).all()
    smallest = (found[:, 0].std(), truth[:, 0].std())
    assert smallest[0] == pytest.approx(smallest[1], rel=0.08, abs=1e-7)


def metrics_of_draws(kind: module.Kind, dimension: int, k: int, seed: int) -> list[dict[str, float]]:
    """Every metric between the first k coordinates and each of DRAWS random subspaces, by dense algebra."""
    generator = np.random.default_rng(seed)
    truth = []
    for _ in range(DRAWS):
        if kind == "subspaces":
            other = np.linalg.qr(generator.standard_normal((dimension, k)))[0]
        else:
            other = np.eye(dimension)[:, generator.choice(dimension, k, replace=False)]
        truth.append(independent(np.arccos(np.linalg.svd(other[:k], compute_uv=False).clip(0, 1))))
    return truth


@pytest.mark.parametrize("kind", ["subspaces", "masks"])
def test_mean_and_deviation_over_draws(kind: module.Kind) -> None:
    found = random_metrics(40, 6, kind=kind, draws=DRAWS, seed=1)
    truth = metrics_of_draws(kind, 40, 6, seed=5)
    for metric in METRICS:
        values = np.array([each[metric] for each in truth])
        error = math.sqrt(2 / DRAWS) * max(float(values.std()), 1e-9)
        assert abs(found[metric].mean - values.mean()) < 4.5 * error + 1e-7
        assert found[metric].std == pytest.approx(float(values.std(ddof=1)), rel=0.1, abs=1e-7)
    assert found["overlap"].mean == 6 / 40


def test_chance_of_hundreds_of_millions_of_parameters_is_quick_and_seeded() -> None:
    found = random_metrics(10**8, 1000, seed=3)
    assert found["overlap"].mean == 1e-5
    assert 0.9 < found["fubini_study"].mean / (math.pi / 2) <= 1
    random_metrics.cache_clear()
    assert random_metrics(10**8, 1000, seed=3) == found
    assert random_metrics(10**8, 1000, seed=4)["geodesic"] != found["geodesic"]


def test_all_of_space_is_equal_to_itself() -> None:
    assert all(value.std == 0 for value in random_metrics(5, 5).values())
    assert random_metrics(5, 5)["geodesic"].mean == 0
    assert random_metrics(1, 1)["overlap"].mean == 1


def test_the_study_has_every_metric_of_every_size() -> None:
    sizes = [(10, 5), (100, 5), (100, 50)]
    rows = random_study(sizes, draws=4)
    assert [(row["dimension"], row["k"]) for row in rows] == [size for size in sizes for _ in METRICS]
    assert all(-1e-9 <= float(row["normalised_mean"]) <= 1 for row in rows)


@pytest.mark.parametrize("kind", ["subspaces", "masks"])
def test_the_quantiles_of_the_study_are_those_of_independent_draws(kind: module.Kind) -> None:
    rows = {row["metric"]: row for row in random_study([(40, 6)], kind=kind, draws=DRAWS, seed=3)}
    truth = metrics_of_draws(kind, 40, 6, seed=8)
    for metric in METRICS:
        values = np.array([module.normalised(metric, each[metric], 6) for each in truth])
        for share, name in ((0.05, "low"), (0.5, "median"), (0.95, "high")):
            found = float(rows[metric][f"normalised_{name}"])
            # As many of the independent draws lie below, up to four deviations; ties count on both sides.
            reach = 4 * math.sqrt(2 * share * (1 - share) / DRAWS)
            assert (values < found - 1e-9).mean() - reach <= share <= (values <= found + 1e-9).mean() + reach


def test_sizes_are_round_the_papers_and_the_last() -> None:
    assert sizes(355, 7030) == (1, 2, 5, 10, 20, 35, 50, 70, 100, 200, 355)
    assert sizes(1, 10) == (1,)
    assert sizes(3, 3) == (1, 2, 3)
    assert sizes(1500, 11_689_512)[-3:] == (500, 1000, 1500)
