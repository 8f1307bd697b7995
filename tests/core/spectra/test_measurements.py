import numpy as np
import pytest
import scipy.fft
import torch

from core.spectra.measurements import SSRFT, dct, inverse_dct


@pytest.mark.parametrize("length", [1, 2, 3, 8, 37, 100])
def test_dct_is_scipys_orthonormal_dct(length: int) -> None:
    rows = torch.randn(4, length, dtype=torch.float64)
    np.testing.assert_allclose(dct(rows).numpy(), scipy.fft.dct(rows.numpy(), norm="ortho"), atol=1e-12)
    torch.testing.assert_close(inverse_dct(dct(rows)), rows)


@pytest.mark.parametrize(("n", "dimension"), [(1, 1), (3, 7), (16, 64), (64, 64), (50, 101)])
def test_ssrft_has_orthonormal_rows_and_applies_what_it_forms(n: int, dimension: int) -> None:
    omega = SSRFT(n, dimension, seed=3, dtype=torch.float64)
    dense = omega.columns(0, n).T
    torch.testing.assert_close(dense @ dense.T, torch.eye(n, dtype=torch.float64))
    block = torch.randn(dimension, 5, dtype=torch.float64)
    torch.testing.assert_close(omega.apply(block), dense @ block)
    torch.testing.assert_close(omega.columns(n // 2, n), dense[n // 2 :].T)


def test_ssrft_depends_on_its_seed_alone() -> None:
    torch.manual_seed(0)
    first = SSRFT(8, 32, seed=5, dtype=torch.float32).columns(0, 8)
    torch.manual_seed(1)
    assert torch.equal(first, SSRFT(8, 32, seed=5, dtype=torch.float32).columns(0, 8))
    assert not torch.allclose(first, SSRFT(8, 32, seed=6, dtype=torch.float32).columns(0, 8))


def test_ssrft_spreads_a_unit_vector_over_all_rows() -> None:
    # What the transform is for: no single coordinate of the input may dominate the sketch.
    dimension = 512
    sketch = SSRFT(dimension, dimension, seed=0, dtype=torch.float64).apply(
        torch.eye(dimension, dtype=torch.float64)[:, :20]
    )
    assert float(sketch.abs().max()) < 8 / dimension**0.5


def test_more_rows_than_coordinates_are_refused() -> None:
    with pytest.raises(ValueError, match="1 ≤ n ≤ D"):
        SSRFT(9, 8, seed=0, dtype=torch.float32)
