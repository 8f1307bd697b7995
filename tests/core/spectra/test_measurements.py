import numpy as np
import pytest
import scipy.fft
import torch

import seigh.core.spectra.measurements as measurements
from seigh.core.names import TEST_MATRICES
from seigh.core.spectra.measurements import (
    SSRFT,
    Gaussian,
    Rademacher,
    draw_test_matrix,
    padded_length,
    ssrft_choices,
)

SIZES = [(1, 1), (2, 2), (3, 7), (16, 64), (64, 64), (50, 101), (7, 130)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("padded", "long"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("n", "dimension"), SIZES)
def test_ssrft_is_two_scipy_dcts_between_signed_permutations(
    n: int, dimension: int, padded: bool, long: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if padded:
        monkeypatch.setattr(measurements, "_SHORTEST_PADDED", 0)
    if long:
        monkeypatch.setattr(measurements, "_LONG_BYTES", 0)
    units = np.eye(dimension)
    truth = dcts_between_permutations(units, n)
    omega = SSRFT(n, dimension, 3, dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(omega.columns(0, n).T.double(), truth, rtol=0, atol=tolerance)
    unit = torch.eye(dimension, dtype=dtype)
    torch.testing.assert_close(omega.apply(unit), truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dimension", [299_993, 1_000_000])  # padded, and as it is
def test_long_rows_of_an_ssrft_are_those_of_scipy(dimension: int, dtype: torch.dtype) -> None:
    n = 5
    omega = SSRFT(n, dimension, 3, dtype)
    block = torch.randn(dimension, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    truth = dcts_between_permutations(block.double().T.numpy(), n)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(omega.apply(block), truth, rtol=tolerance, atol=2 * tolerance)
    formed = omega.columns(0, n).double()
    torch.testing.assert_close(formed.T @ block.double(), truth, rtol=tolerance, atol=2 * tolerance)
    assert float((formed.norm(dim=0) - 1).abs().max()) < 0.03  # what padding may take away


def dcts_between_permutations(vectors: np.ndarray, n: int) -> torch.Tensor:
    """Ω of seed 3 applied to rows (b, D) by SciPy's DCT: (n, b)."""
    length = padded_length(n, vectors.shape[1])
    first, first_signs, second, second_signs, picked = (x.numpy() for x in ssrft_choices(n, length, 3))
    rows = np.pad(vectors, ((0, 0), (0, length - vectors.shape[1])))
    rows = scipy.fft.dct(rows[:, first] * first_signs, norm="ortho")
    rows = scipy.fft.dct(rows[:, second] * second_signs, norm="ortho")
    return torch.from_numpy(rows[:, picked].T)


def test_ssrft_pads_only_where_a_fft_is_slow_and_the_rows_stay_nearly_orthonormal() -> None:
    assert padded_length(100, 7030) == 7030  # small
    assert padded_length(900, 11_689_512) == 11_718_750 == 2 * 3 * 5**9  # ResNet-18: 24 · 487,063
    assert padded_length(100, 10**6) == 10**6  # fast as it is
    assert padded_length(70_000, 100_003) == 100_003  # too many rows for that
    dimension = 66_067  # a prime
    dense = SSRFT(30, dimension, 0, torch.float64).columns(0, 30)
    padding = padded_length(30, dimension) - dimension
    assert 0 < padding < 0.03 * dimension
    error = dense.T @ dense - torch.eye(30, dtype=torch.float64)
    assert float(error.abs().max()) < 4 * padding / dimension


@pytest.mark.parametrize("name", TEST_MATRICES)
@pytest.mark.parametrize(("n", "dimension"), SIZES)
def test_every_kind_applies_what_it_forms_in_blocks_of_any_size(
    name, n: int, dimension: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = draw_test_matrix(name, n, dimension, 3, torch.float64).columns(0, n).T
    block = torch.randn(dimension, 5, dtype=torch.float64)
    for batch, summed in [(1000, 10**9), (1, 1), (2, 13)]:
        monkeypatch.setattr(measurements, "_BATCH_BYTES", 0)
        monkeypatch.setattr(measurements, "_LEAST_BATCH", batch)
        monkeypatch.setattr(measurements, "_SUMMED", summed)
        omega = draw_test_matrix(name, n, dimension, 3, torch.float64)
        assert omega.shape == (n, dimension)
        for part in (block, block.T.contiguous().T, block[:, :1]):
            sketch = omega.apply(part)
            assert sketch.dtype == torch.float64
            torch.testing.assert_close(sketch, dense @ part, rtol=0, atol=1e-12)
        torch.testing.assert_close(omega.columns(n // 2, n), dense[n // 2 :].T, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["gaussian", "rademacher"])
@pytest.mark.parametrize("dimension", [3, 70, 1000])
def test_independent_rows_do_not_depend_on_what_else_is_drawn(name, dimension: int) -> None:
    omega = draw_test_matrix(name, 3, dimension, 1, torch.float32)
    whole = omega.columns(0, 3)
    assert torch.equal(omega.columns(2, 3), whole[:, 2:])
    assert torch.equal(omega.columns(0, 2), whole[:, :2])
    # The same entries in either precision, up to the factor 1/√D.
    doubled = draw_test_matrix(name, 3, dimension, 1, torch.float64).columns(0, 3)
    torch.testing.assert_close(doubled.float(), whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", TEST_MATRICES)
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, (5, 1)])
def test_a_matrix_depends_on_its_seed_alone(name, seed) -> None:
    def dense(seed) -> torch.Tensor:
        return draw_test_matrix(name, 8, 64, seed, torch.float32).columns(0, 8)

    torch.manual_seed(0)
    first = dense(seed)
    torch.manual_seed(1)
    assert torch.equal(first, dense(seed))
    for other in (7, (7, 0), (5, 2), (5, 0)):
        # Not equal nor shifted by some rows.
        cosines = first.T @ dense(other)
        assert float(cosines.abs().max()) < 0.7


@pytest.mark.parametrize("name", TEST_MATRICES)
def test_rows_have_mean_zero_unit_norm_and_no_correlation(name) -> None:
    n, dimension = 60, 4000
    dense = draw_test_matrix(name, n, dimension, 0, torch.float64).columns(0, n)
    # Six standard deviations of each statistic.
    assert float((dense.sum() / n**0.5).abs()) < 6
    assert float((dense.square().sum() / n - 1).abs()) < 6 * (2 / (n * dimension)) ** 0.5
    off_diagonal = dense.T @ dense - torch.diag((dense.T @ dense).diagonal())
    assert float(off_diagonal.abs().max()) < 6 / dimension**0.5
    assert float((dense[1:] * dense[:-1]).sum().abs()) < 6 * (n / dimension) ** 0.5


def test_gaussian_entries_are_gaussian_and_rademacher_entries_are_signs() -> None:
    n, dimension = 50, 2000
    entries = Gaussian(n, dimension, 4, torch.float64).columns(0, n).flatten() * dimension**0.5
    # Share within one and two standard deviations, and the fourth moment.
    assert float((entries.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=6e-3)
    assert float((entries.abs() < 2).double().mean()) == pytest.approx(0.9545, abs=3e-3)
    assert float(entries.pow(4).mean()) == pytest.approx(3, abs=0.15)
    signs = Rademacher(n, dimension, 4, torch.float64).columns(0, n) * dimension**0.5
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))
    assert float(signs.mean().abs()) < 6 / (n * dimension) ** 0.5


def test_ssrft_spreads_a_unit_vector_over_all_rows() -> None:
    # What the transform is for: no single coordinate of the input may dominate the sketch.
    dimension = 512
    sketch = SSRFT(dimension, dimension, 0, torch.float64).apply(
        torch.eye(dimension, dtype=torch.float64)[:, :20]
    )
    assert float(sketch.abs().max()) < 8 / dimension**0.5


@pytest.mark.parametrize("name", ["gaussian", "rademacher"])
def test_long_sums_in_fp32_lose_no_digits(name) -> None:
    n, dimension = 4, 2**20
    omega = draw_test_matrix(name, n, dimension, 0, torch.float32)
    block = torch.randn(dimension, 8, generator=torch.Generator().manual_seed(0))
    truth = omega.columns(0, n).T.double() @ block.double()
    # One fp32 sum over all coordinates is off by 2e-5 to 1e-4.
    assert float((omega.apply(block) - truth).norm() / truth.norm()) < 4e-6


@pytest.mark.parametrize("name", TEST_MATRICES)
@pytest.mark.parametrize("n", [0, 9])
def test_impossible_numbers_of_rows_are_refused(name, n: int) -> None:
    with pytest.raises(ValueError, match="1 ≤ n ≤ D"):
        draw_test_matrix(name, n, 8, 0, torch.float32)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of ssrft, gaussian, rademacher"):
        draw_test_matrix("sparse", 2, 8, 0, torch.float32)  # type: ignore[arg-type]
