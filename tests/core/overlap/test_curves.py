import itertools

import pytest
import torch

from seigh.core.overlap import MaskCurves, chance_curve, find_ties, largest_first, mask_curves, overlap_curve
from seigh.core.spectra import Eigenpairs


def eigenpairs(dimension: int, n: int, seed: int) -> Eigenpairs:
    generator = torch.Generator().manual_seed(seed)
    vectors, _ = torch.linalg.qr(torch.randn(dimension, n, generator=generator, dtype=torch.float64))
    return Eigenpairs(vectors.T, torch.eye(n, dtype=torch.float64), torch.ones(n), None, 0)


def curves(pairs: Eigenpairs, sizes: tuple[int, ...] = (1,)) -> MaskCurves:
    """Of a mask that is of no interest."""
    vectors = pairs.vectors().T
    theta = torch.arange(vectors.shape[1])
    order = largest_first(theta, len(vectors))
    return mask_curves(vectors, find_ties(theta, order), overlap_curve(pairs.rows(order)), sizes)


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
    curve = curves(pairs).best
    for k in range(1, 5):
        masks = torch.combinations(torch.arange(9), k)
        expected = max(direct(mask, pairs.vectors(), k) for mask in masks)
        assert float(curve[k - 1]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("columns", [64, 150, 2000])
def test_best_mask_beyond_one_block_of_columns(
    monkeypatch: pytest.MonkeyPatch, columns: int, seed: int
) -> None:
    monkeypatch.setattr("seigh.core.linalg.tiles._CACHED_BYTES", columns * 70 * 8)
    pairs = eigenpairs(1000, 70, seed)
    curve = curves(pairs).best
    for k in range(1, 71):
        norms = pairs.vectors()[:, :k].square().sum(1)
        assert float(curve[k - 1]) == pytest.approx(float(norms.topk(k).values.sum()) / k)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_spread_of_random_masks_is_that_of_all_masks(seed: int) -> None:
    pairs = eigenpairs(8, 8, seed)
    found = curves(pairs).random_std
    for k in range(1, 9):
        masks = itertools.combinations(range(8), k)
        overlaps = torch.tensor([direct(torch.tensor(mask), pairs.vectors(), k) for mask in masks])
        assert float(overlaps.mean()) == pytest.approx(float(chance_curve(8, 8)[k - 1]), abs=1e-6)
        assert float(found[k - 1]) == pytest.approx(float(overlaps.std(correction=0)), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spread_of_random_masks_is_that_of_many_draws(dtype: torch.dtype) -> None:
    pairs = eigenpairs(400, 100, 0)
    vectors = pairs.vectors()
    found = curves(Eigenpairs(pairs.basis.to(dtype), torch.eye(100), torch.ones(100), None, 0)).random_std
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [overlap_curve(vectors[torch.randperm(400, generator=generator)[:100]]) for _ in range(2000)]
    )
    torch.testing.assert_close(drawn.std(0), found, rtol=0.08, atol=0)
    deviation = (drawn.mean(0) - chance_curve(400, 100)).abs() / (found / 2000**0.5)
    assert float(deviation.max()) < 4


def test_one_parameter_alone_has_no_spread() -> None:
    pairs = Eigenpairs(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), None, 0)
    assert curves(pairs).random_std.tolist() == [0]


def test_masses_are_the_squared_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seigh.core.linalg.tiles._CACHED_BYTES", 1000)
    pairs, sizes = eigenpairs(60, 12, 0), (1, 4, 12)
    expected = torch.stack([pairs.vectors()[:, :k].square().sum(1) for k in sizes])
    torch.testing.assert_close(curves(pairs, sizes).masses, expected)


def test_a_rectangle_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="as many masked rows as eigenvectors"):
        overlap_curve(torch.ones(3, 4))
