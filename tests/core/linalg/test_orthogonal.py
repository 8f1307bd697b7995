"""Products of long rows, which are computed by strips: they are those of one matrix product."""

from __future__ import annotations

import pytest
import torch

from seigh.core.linalg.orthogonal import gram, inner, orthonormaliser, subtract
from seigh.core.linalg.tiles import CHUNK_BYTES, chunks, form, strips

# Shorter than any strip, some strips and a rest, many chunks and a rest, whole strips.
LENGTHS = [1, 700, 5_003, 70_001, 2**15]
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-13}


def rows(count: int, length: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, length, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [1, 5, 130])
def test_inner_products_of_long_rows(count: int, length: int, dtype: torch.dtype) -> None:
    x, y = rows(7, length, dtype, 0), rows(count, length, dtype, 1)
    scale = length**0.5
    for found, true in (
        (inner(x, y), x.double() @ y.double().T),
        (inner(x[2:5], x[:2]), x[2:5].double() @ x[:2].double().T),
    ):
        assert found.dtype == torch.float64
        assert float((found - true).abs().max()) <= 6 * ROUNDING[dtype] * scale
    exact = gram(y)
    torch.testing.assert_close(exact, y.double() @ y.double().T, rtol=1e-12, atol=1e-12 * length)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("length", LENGTHS)
def test_combinations_are_subtracted_in_place(length: int, dtype: torch.dtype) -> None:
    x, y = rows(7, length, dtype, 0), rows(130, length, dtype, 1)
    coefficients = rows(4, 130, torch.float64, 2) / 12
    before = x.clone()
    true = x[1:5].double() - coefficients @ y.double()
    assert subtract(x[1:5], coefficients, y).data_ptr() == x[1:5].data_ptr()
    assert float((x[1:5] - true).abs().max()) <= 10 * ROUNDING[dtype]
    assert torch.equal(x[0], before[0])
    assert torch.equal(x[5:], before[5:])


@pytest.mark.parametrize("in_double", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("length", LENGTHS)
def test_vectors_are_formed_in_place_of_their_basis_or_elsewhere(
    length: int, dtype: torch.dtype, in_double: bool
) -> None:
    basis = rows(130, length, dtype, 0)
    coefficients = rows(130, 120, torch.float64, 1) / 12
    true = coefficients.T @ basis.double()
    bound = ROUNDING[dtype] * 10
    out = torch.full((125, length), 7.0, dtype=dtype)
    assert float((form(basis, coefficients, out, in_double=in_double) - true).abs().max()) <= bound
    assert bool((out[120:] == 7).all())
    last = basis[120:].clone()
    form(basis, coefficients, basis, in_double=in_double)
    assert float((basis[:120] - true).abs().max()) <= bound
    assert torch.equal(basis[120:], last)


@pytest.mark.parametrize("length", LENGTHS)
def test_strips_and_the_rest_are_all_of_the_rows_and_no_copy(length: int) -> None:
    x = rows(3, length, torch.float32, 0)
    batch, rest = strips(x)
    assert torch.equal(torch.cat([*batch.unbind(), rest], dim=1), x)
    if len(batch):
        batch[0, 0, 0] = 99
        assert x[0, 0] == 99


@pytest.mark.parametrize("width", [1, 16, 137, 10**7])
@pytest.mark.parametrize("length", [1, 700, 23_457])
def test_chunks_are_all_of_the_columns(length: int, width: int) -> None:
    for cached in (None, torch.device("cpu"), torch.device("cuda")):
        parts = chunks(length, width, cached=cached)
        assert [i for part in parts for i in range(length)[part]] == list(range(length))
        # A column is the least that can be taken.
        assert all((p.stop - p.start) * width * 8 <= max(CHUNK_BYTES, width * 8) for p in parts)


def test_nearly_dependent_rows_become_orthonormal() -> None:
    x = rows(6, 70_001, torch.float32, 0)
    x[1] = x[0] + 1e-4 * x[1]
    whitening = orthonormaliser(x, gram(x))
    q = whitening.T @ x.double()
    assert whitening.shape == (6, 6)
    torch.testing.assert_close(q @ q.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)
