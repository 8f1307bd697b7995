"""What one random block misses, found by a fresh one; and the bound that it leaves."""

import math

import pytest
import torch

from seigh.core.spectra import block_krylov
from seigh.core.spectra.completeness import PROBABILITY, Completeness, shortfall
from tests.core.spectra.matrices import hessian_like, symmetric

SEEDS = range(4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("copies", [5, 9, 13])
@pytest.mark.parametrize("seed", SEEDS)
def test_copies_beyond_the_block_are_found(seed: int, copies: int, dtype: torch.dtype) -> None:
    values = torch.exp(-torch.div(torch.arange(300, dtype=torch.float64), copies, rounding_mode="floor") / 5)
    matrix, _ = symmetric(values, seed)
    k = 2 * copies + 2
    run = {"block": 4, "products": 3 * k + 40, "seed": seed}
    pairs = block_krylov(matrix.to(dtype), k, **run)
    # All are there, some of them perhaps not converged, and then their residuals say so.
    assert bool(((pairs.values - values[:k]).abs() <= pairs.residuals + 1e-5).all())
    assert float((pairs.values - values[:k]).abs().max()) < 0.1
    assert pairs.completeness is not None
    assert pairs.completeness.complete
    assert pairs.completeness.largest_outside < float(values[k - 1])
    if dtype == torch.float64:  # in float32, rounding keeps copies apart sometimes
        blind = block_krylov(matrix, k, complete=False, **run)
        assert float((blind.values - values[:k]).abs().max()) > 0.1
        assert float(blind.residuals[:8].max()) < 1e-3  # which notice nothing
        assert pairs.completeness.missed > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_where_nothing_is_missed_little_is_spent_and_nothing_is_claimed(seed: int) -> None:
    for k, most in ((20, 32), (110, 10)):
        matrix, values, _ = hessian_like(500, seed)
        alone = block_krylov(matrix, k, complete=False, seed=seed)
        pairs = block_krylov(matrix, k, seed=seed)
        assert pairs.completeness is not None
        assert (pairs.completeness.missed, pairs.completeness.complete) == (0, True)
        assert pairs.hvps - alone.hvps == pairs.completeness.products <= most
        torch.testing.assert_close(pairs.values, alone.values, rtol=1e-9, atol=1e-9)
        facts = pairs.completeness.to_json(float(values[k - 1].abs()))
        assert "no further leading pair" in facts["sentence"]
        assert facts["bound"] is None or facts["ratio"] >= 1 - 1e-6


def test_the_sentence_says_so_where_more_than_the_last_pair_lies_outside() -> None:
    found = Completeness(8, 0, largest_outside=0.031, bound=float("inf"), probability=0.95, complete=True)
    assert "near k that have not lie outside in part, where there is up to 0.031" in found.sentence(0.025)
    assert "the largest eigenvalue outside is 0.031 in magnitude" in found.sentence(0.035)


def test_a_number_of_further_eigenvalues_lies_below_the_bound_as_often_as_it_says() -> None:
    # Few products, so that the pairs have hardly converged and the bound has something to say.
    held = runs = 0
    for seed in range(40):
        values = torch.linspace(1, 0, 140, dtype=torch.float64) ** (1 + seed % 4)
        matrix, _ = symmetric(values, seed)
        k = 6 + seed % 5
        pairs = block_krylov(matrix, k, block=4, products=24, seed=seed)
        assert pairs.completeness is not None
        if math.isfinite(pairs.completeness.bound):
            runs += 1
            held += float(values[k - 1]) <= pairs.completeness.bound * (1 + 1e-9)
    assert runs >= 25
    assert held >= PROBABILITY * runs


@pytest.mark.parametrize(("width", "rounds"), [(1, 8), (1, 16), (4, 6)])
def test_a_krylov_space_falls_short_no_more_often_than_the_theorem_says(width: int, rounds: int) -> None:
    size, risk, short = 300, 0.1, 0
    spectra = (
        torch.linspace(0, 1, size),
        torch.cat([torch.zeros(size - 1), torch.ones(1)]),
        torch.rand(size),
    )
    share = shortfall(size, rounds, width, risk)
    assert 0 < share < math.inf
    for seed in range(200):
        values = spectra[seed % 3].double()
        start = torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        space = [torch.linalg.qr(start)[0]]
        for _ in range(rounds - 1):
            new = values[:, None] * space[-1]
            for _ in range(2):
                basis = torch.cat(space, 1)
                new = new - basis @ (basis.T @ new)
            space.append(torch.linalg.qr(new)[0])
        basis = torch.cat(space, 1)
        largest = float(torch.linalg.eigvalsh(basis.T @ (values[:, None] * basis))[-1])
        short += float(values.max()) - largest > share * float(values.max() - values.min())
    assert short <= risk * 200


def test_the_shortfall_falls_with_rounds_and_width_and_is_nothing_in_the_whole_space() -> None:
    assert shortfall(10**6, 12, 1, 0.05) < shortfall(10**6, 9, 1, 0.05)
    assert shortfall(10**6, 9, 4, 0.05) < shortfall(10**6, 9, 1, 0.05)
    assert shortfall(10**6, 2, 1, 0.05) == math.inf
    assert shortfall(5, 5, 1, 0.05) == 0
    # Solved for the probability, it is the theorem's.
    share = shortfall(10_000, 20, 1, 0.05)
    assert 1.648 * 100 * math.exp(-math.sqrt(share) * 39) == pytest.approx(0.05)


# Every rank in both formats and at both scales, and every format at every scale.
@pytest.mark.parametrize(
    ("rank", "dtype", "scale"),
    [
        (rank, dtype, 1e-6 if (i + j) % 2 else 1.0)
        for i, rank in enumerate((0, 1, 5, 40, 88))
        for j, dtype in enumerate((torch.float32, torch.float64))
    ],
)
def test_an_exhausted_operator_gives_the_pairs_there_are(rank: int, dtype: torch.dtype, scale: float) -> None:
    values = torch.zeros(226, dtype=torch.float64)
    values[:rank] = scale * torch.linspace(1, 0.1, rank, dtype=torch.float64)
    matrix, _ = symmetric(values, rank)
    for k in (3, 100, 150, 226):
        pairs = block_krylov(matrix.to(dtype), k)
        assert pairs.values.shape == (k,)
        slack = 100 * torch.finfo(dtype).eps * scale
        torch.testing.assert_close(pairs.values.abs(), values[:k], rtol=0, atol=slack)
        vectors = pairs.vectors().double()
        gramian = vectors.T @ vectors
        assert float((gramian - torch.eye(k, dtype=torch.float64)).abs().max()) < 1e-4
