"""Bins against numpy on the coordinates that belong in them."""

import numpy as np
import pytest
import torch

from seigh.core.overlap.magnitudes import QUANTILES, magnitude_bins

SIZES = (2, 9)


def row_masses(vectors: torch.Tensor) -> torch.Tensor:
    return torch.stack([vectors[:k].square().sum(0) for k in SIZES])


def test_bins_hold_the_mass_of_their_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(3000, generator=generator)
    vectors = torch.linalg.qr(torch.randn(3000, 9, generator=generator, dtype=torch.float64))[0].T
    masses = row_masses(vectors)
    bins = magnitude_bins(theta, masses, SIZES, bins=20)
    assert sum(bins.counts) == 3000
    assert min(bins.counts) >= 1
    descending = np.argsort(-theta.abs().numpy(), kind="stable")
    start = 0
    for b, count in enumerate(bins.counts):
        members = descending[start : start + count]
        magnitudes = theta.abs().numpy()[members]
        assert (bins.largest[b], bins.smallest[b]) == (magnitudes.max(), magnitudes.min())
        for g, k in enumerate(SIZES):
            mass = (vectors[:k, members].square().sum(0) / k).numpy()
            assert bins.mean[g, b] == pytest.approx(mass.mean())
            expected = np.quantile(mass, QUANTILES, method="inverted_cdf")
            assert bins.quantiles[g, b] == pytest.approx(expected, rel=1e-9)
        start += count


def test_ranks_go_down_by_about_the_same_factor() -> None:
    bins = magnitude_bins(torch.rand(100_000), torch.ones(1, 100_000), (1,))
    ends = np.cumsum(bins.counts) + 1
    assert 40 < len(bins.counts) <= 60
    assert np.allclose(ends[30:] / ends[29:-1], ends[-1] / ends[-2], rtol=0.02)


def test_mass_sums_to_one() -> None:
    vectors = torch.linalg.qr(torch.randn(500, 9))[0].T
    bins = magnitude_bins(torch.randn(500), row_masses(vectors), SIZES)
    assert (bins.mean * np.array(bins.counts)).sum(1) == pytest.approx([1, 1], abs=1e-5)


def test_few_coordinates_have_a_bin_each() -> None:
    bins = magnitude_bins(torch.tensor([0.5, -2.0, 1.0]), torch.tensor([[0.1, 0.7, 0.2]]), (1,))
    assert bins.counts == (1, 1, 1)
    assert bins.largest.tolist() == bins.smallest.tolist() == [2.0, 1.0, 0.5]
    assert bins.mean[0] == pytest.approx([0.7, 0.2, 0.1])
