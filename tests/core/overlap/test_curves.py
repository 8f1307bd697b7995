import pytest
import torch

from core.overlap import best_curve, chance_curve, largest_first, overlap_curve, random_curve
from core.spectra import Eigenpairs


def eigenpairs(dimension: int, n: int, seed: int) -> Eigenpairs:
    generator = torch.Generator().manual_seed(seed)
    vectors, _ = torch.linalg.qr(torch.randn(dimension, n, generator=generator, dtype=torch.float64))
    return Eigenpairs(vectors.T, torch.eye(n, dtype=torch.float64), torch.ones(n), None, 0)


def direct(mask: torch.Tensor, vectors: torch.Tensor, k: int) -> float:
    unit = torch.eye(len(vectors), dtype=torch.float64)[:, mask[:k]]
    return float((unit.T @ vectors[:, :k]).norm() ** 2) / k


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_overlap_of_every_k_is_the_definition(seed: int) -> None:
    pairs = eigenpairs(60, 25, seed)
    theta = torch.randn(60, generator=torch.Generator().manual_seed(seed))
    mask = largest_first(theta, 25)
    curve = overlap_curve(pairs.rows(mask))
    expected = [direct(mask, pairs.vectors(), k) for k in range(1, 26)]
    torch.testing.assert_close(curve, torch.tensor(expected, dtype=torch.float64))


def test_largest_first_is_by_magnitude_with_ties_by_index() -> None:
    assert largest_first(torch.tensor([1.0, -3.0, 3.0, 0.0, -1.0]), 4).tolist() == [1, 2, 0, 4]


def test_overlap_is_one_for_the_same_space_and_zero_for_an_orthogonal_one() -> None:
    pairs = Eigenpairs(
        torch.eye(6, dtype=torch.float64)[:3], torch.eye(3, dtype=torch.float64), torch.ones(3), None, 0
    )
    assert overlap_curve(pairs.rows(torch.tensor([0, 1, 2]))).tolist() == [1, 1, 1]
    assert overlap_curve(pairs.rows(torch.tensor([3, 4, 5]))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_best_mask_is_the_best_of_all(seed: int) -> None:
    pairs = eigenpairs(9, 4, seed)
    curve = best_curve(pairs.vectors().T)
    for k in range(1, 5):
        masks = torch.combinations(torch.arange(9), k)
        expected = max(direct(mask, pairs.vectors(), k) for mask in masks)
        assert float(curve[k - 1]) == pytest.approx(expected)


def test_best_mask_beyond_one_block_of_columns() -> None:
    pairs = eigenpairs(200, 70, 0)
    norms = pairs.vectors()[:, :70].square().sum(1)
    assert float(best_curve(pairs.vectors().T)[-1]) == pytest.approx(float(norms.topk(70).values.sum()) / 70)


def test_random_masks_lie_at_the_chance_level() -> None:
    pairs = eigenpairs(400, 100, 0)
    mean, std = random_curve(pairs.vectors().T, draws=200, seed=0)
    error = (mean - chance_curve(400, 100)).abs() / (std / 200**0.5)
    assert float(error[20:].mean()) < 2
    assert float(std.min()) > 0


def test_random_masks_are_fixed_by_their_seed() -> None:
    pairs = eigenpairs(50, 10, 0)
    torch.manual_seed(0)
    first = random_curve(pairs.vectors().T, 5, seed=1)
    torch.manual_seed(1)
    assert torch.equal(first[0], random_curve(pairs.vectors().T, 5, seed=1)[0])
    assert not torch.equal(first[0], random_curve(pairs.vectors().T, 5, seed=2)[0])


def test_standard_deviation_is_that_of_the_draws() -> None:
    pairs = eigenpairs(50, 10, 0)
    from core.overlap import random_order

    generator = torch.Generator().manual_seed(7)
    draws = torch.stack([overlap_curve(pairs.rows(random_order(50, 10, generator))) for _ in range(6)])
    mean, std = random_curve(pairs.vectors().T, 6, seed=7)
    torch.testing.assert_close(mean, draws.mean(0))
    torch.testing.assert_close(std, ((draws - draws.mean(0)).square().sum(0) / 5).sqrt())


def test_a_rectangle_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="as many masked rows as eigenvectors"):
        overlap_curve(torch.ones(3, 4))
