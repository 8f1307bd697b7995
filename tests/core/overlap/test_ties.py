"""Overlaps over all ways to break ties, against all of those ways written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from seigh.core.overlap import TieBreaks, find_ties, largest_first, layer_shares, mask_curves, overlap_curve

N, DIMENSION = 6, 13

# Magnitudes with groups of every kind; the sign is drawn, so −0.0 and +0.0 are both there.
FAMILIES = {
    "no ties": [13.0, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
    "at the start": [5.0, 5, 5, 4, 3, 2, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    "in the middle, twice": [9.0, 8, 8, 7, 7, 7, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    "up to the end": [9.0, 8, 7, 6, 5, 5, 4, 3, 2, 1, 0.9, 0.8, 0.7],
    "across the end": [9.0, 8, 8, 7, 5, 5, 5, 5, 2, 1, 0.9, 0.8, 0.7],
    "all equal": [1.0] * 13,
    "pruned": [3.0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "all zero": [0.0] * 13,
    "quantised": [3.0, 3, 2, 2, 2, 1, 1, 1, 1, 1, 0, 0, 0],
    "one beyond the end": [9.0, 8, 7, 6, 5, 4, 4, 3, 2, 1, 0.9, 0.8, 0.7],
}


def drawn(magnitudes: list[float], seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Vᵀ (n, D), orthonormal, with rows of very different masses, some of them 0; and θ in a random order."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(DIMENSION, 1, generator=generator, dtype=torch.float64)
    scale[torch.randperm(DIMENSION, generator=generator)[:2]] = 0
    wide = scale * torch.randn(DIMENSION, N, generator=generator, dtype=torch.float64)
    signs = torch.where(torch.rand(DIMENSION, generator=generator) < 0.5, -1.0, 1.0)
    theta = (torch.tensor(magnitudes) * signs)[torch.randperm(DIMENSION, generator=generator)]
    return torch.linalg.qr(wide)[0].T.to(dtype), theta.to(dtype)


def found(vectors: Tensor, theta: Tensor) -> TieBreaks:
    order = largest_first(theta, len(vectors))
    overlap = overlap_curve(vectors[:, order].T)
    return mask_curves(vectors, find_ties(theta, order), overlap, [1, len(vectors)]).ties


def all_masks(theta: Tensor, k: int) -> list[list[int]]:
    """Every set of k coordinates of which none outside is larger than one inside."""
    magnitudes = theta.abs()
    least = magnitudes.sort(descending=True).values[k - 1]
    certain = (magnitudes > least).nonzero().flatten().tolist()
    equal = (magnitudes == least).nonzero().flatten().tolist()
    return [certain + list(some) for some in itertools.combinations(equal, k - len(certain))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", FAMILIES)
def test_average_least_and_greatest_are_those_of_all_ways(family: str, seed: int, dtype: torch.dtype) -> None:
    vectors, theta = drawn(FAMILIES[family], seed, dtype)
    breaks = found(vectors, theta)
    for k in range(1, N + 1):
        masks = all_masks(theta, k)
        masses = vectors[:k].double().square().sum(0)
        overlaps = torch.stack([masses[mask].sum() for mask in masks]) / k
        near = {"abs": 1e-6 if dtype == torch.float32 else 1e-13}
        assert float(breaks.average[k - 1]) == pytest.approx(float(overlaps.mean()), **near)
        assert float(breaks.least[k - 1]) == pytest.approx(float(overlaps.min()), **near)
        assert float(breaks.greatest[k - 1]) == pytest.approx(float(overlaps.max()), **near)
        equal = int((theta.abs() == theta.abs()[masks[0][-1]]).sum())
        assert int(breaks.tied[k - 1]) == (equal if len(masks) > 1 else 0)
    assert (breaks.least <= breaks.average).all()
    assert (breaks.average <= breaks.greatest).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_does_not_depend_on_how_the_parameters_are_numbered(family: str, seed: int) -> None:
    vectors, theta = drawn(FAMILIES[family], seed)
    order = torch.randperm(DIMENSION, generator=torch.Generator().manual_seed(seed))
    before, after = found(vectors, theta), found(vectors[:, order].contiguous(), theta[order])
    for name in ("average", "least", "greatest"):
        torch.testing.assert_close(getattr(before, name), getattr(after, name), rtol=0, atol=1e-13)
    assert torch.equal(before.tied, after.tied)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["pruned", "all equal", "quantised", "one per layer"])
def test_large_groups_in_many_blocks(monkeypatch: pytest.MonkeyPatch, seed: int, kind: str) -> None:
    monkeypatch.setattr("seigh.core.linalg.tiles._CACHED_BYTES", 40 * 8 * 70)  # 70 coordinates a block
    generator = torch.Generator().manual_seed(seed)
    dimension, n = 1500, 40
    theta = torch.randn(dimension, generator=generator, dtype=torch.float64)
    if kind == "pruned":
        theta[torch.randperm(dimension, generator=generator)[: dimension - 25]] = 0
    elif kind == "all equal":
        theta = theta.sign()
    elif kind == "quantised":
        theta = theta.round()
    else:
        theta[600:633] = 2.5
    scale = torch.rand(dimension, 1, generator=generator, dtype=torch.float64).pow(4)
    scale[:200] = 0  # like inputs that are always 0
    wide = scale * torch.randn(dimension, n, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(wide)[0].T.contiguous()
    breaks = found(vectors, theta)
    magnitudes = theta.abs()
    for k in range(1, n + 1):
        least = magnitudes.topk(k).values[-1]
        masses = vectors[:k].square().sum(0)
        equal = masses[magnitudes == least].sort().values
        certain = masses[magnitudes > least]
        taken = k - len(certain)
        sums = (equal[:taken].sum(), equal.mean() * taken, equal[len(equal) - taken :].sum())
        low, mean, high = ((certain.sum() + each) / k for each in sums)
        for name, value in (("least", low), ("average", mean), ("greatest", high)):
            assert float(getattr(breaks, name)[k - 1]) == pytest.approx(float(value), abs=1e-12)
    assert int((breaks.tied > 0).sum()) >= 10


def test_without_ties_nothing_changes() -> None:
    vectors, theta = drawn(FAMILIES["no ties"], 0)
    breaks = found(vectors, theta)
    overlap = overlap_curve(vectors[:, largest_first(theta, N)].T)
    for curve in (breaks.average, breaks.least, breaks.greatest, breaks.by_index):
        assert torch.equal(curve, overlap)
    assert not breaks.tied.any()
    numerical = torch.full((N,), 1e-3, dtype=torch.float64)
    assert torch.equal(breaks.error(numerical), numerical)


def test_magnitudes_are_equal_in_the_precision_of_the_analysis() -> None:
    theta = torch.tensor([1.0, 1.0 + 1e-10, 0.5], dtype=torch.float64)
    double, single = theta, theta.float()
    assert find_ties(double, largest_first(double, 2)).tied.tolist() == [0, 0]
    assert find_ties(single, largest_first(single, 2)).tied.tolist() == [2, 0]


def test_zeros_of_both_signs_are_equal() -> None:
    theta = torch.tensor([0.0, -0.0, 2.0, 0.0])
    assert find_ties(theta, largest_first(theta, 3)).tied.tolist() == [0, 3, 3]
    assert find_ties(theta, largest_first(theta, 4)).tied.tolist() == [0, 3, 3, 0]


@pytest.mark.parametrize("family", ["at the start", "across the end", "all equal", "pruned"])
def test_the_error_reaches_every_way_to_break_ties(family: str) -> None:
    vectors, theta = drawn(FAMILIES[family], 1)
    breaks = found(vectors, theta)
    numerical = torch.full((N,), 1e-3, dtype=torch.float64)
    error = breaks.error(numerical)
    assert (breaks.average + error >= (breaks.greatest + numerical).clamp_max(1) - 1e-12).all()
    assert (breaks.average - error <= (breaks.least - numerical).clamp_min(0) + 1e-12).all()
    by_index = breaks.error_by_index(numerical)
    assert (breaks.by_index + by_index >= breaks.greatest - 1e-12).all()
    assert (breaks.by_index - by_index <= breaks.least + 1e-12).all()
    assert (error <= 1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_of_layers_are_averaged_over_all_ways(family: str) -> None:
    vectors, theta = drawn(FAMILIES[family], 2)
    order, sizes = largest_first(theta, N), (1, 3, 5, N)
    ties = find_ties(theta, order)
    curves = mask_curves(vectors, ties, overlap_curve(vectors[:, order].T), sizes)
    shares = layer_shares([("a", 4), ("b", 9)], curves.masses, ties, sizes)
    for row, k in enumerate(sizes):
        masks = all_masks(theta, k)
        inside = [[i for i in mask if i < 4] for mask in masks]
        expected = sum(len(some) for some in inside) / (k * len(masks))
        assert shares.mask[row, 0] == pytest.approx(expected)
        masses = vectors[:k].square().sum(0)
        mass = float(sum(masses[some].sum() for some in inside)) / len(masks)
        if float(curves.ties.average[k - 1]):
            assert shares.overlap[row, 0] == pytest.approx(mass / (k * float(curves.ties.average[k - 1])))
        else:
            assert np.isnan(shares.overlap[row, 0])


def test_masks_that_are_determined_cost_no_group() -> None:
    """A tie that ends within n asks for no mass but those of the mask's own coordinates."""
    _, theta = drawn(FAMILIES["up to the end"], 0)
    assert find_ties(theta, largest_first(theta, N)).beyond is None
    assert find_ties(theta, largest_first(theta, 5)).beyond is not None
