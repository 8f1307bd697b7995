"""H + λI as an operator, and the eigenpairs of H as those of H + λI."""

from __future__ import annotations

import doctest

import pytest
import torch

from seigh.core.spectra import Shifted, a_posteriori, block_krylov, exact, operators, residuals, seigh, ssvd


@pytest.mark.parametrize("shift", [0.0, 0.3, -2.0])
def test_a_shifted_operator_and_shifted_pairs_are_those_of_the_shifted_matrix(shift: float) -> None:
    torch.manual_seed(0)
    # −1.5 leads; 0.3 more and 1.4 does, so that the order and what is among the first three change.
    eigenvalues = torch.tensor([-1.5, 1.4, -1.0, 0.9, 0.2, -0.1], dtype=torch.float64)
    vectors = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    matrix = vectors @ torch.diag(eigenvalues) @ vectors.T
    whole = matrix + shift * torch.eye(6, dtype=torch.float64)
    block = torch.randn(6, 2, dtype=torch.float64)
    operator = Shifted(matrix, shift)
    torch.testing.assert_close(operator @ block, whole @ block)
    assert (operator.shape, operator.dtype, operator.device) == (matrix.shape, matrix.dtype, matrix.device)

    largest = (eigenvalues + shift)[(eigenvalues + shift).abs().argsort(descending=True)[:3]]
    for pairs in (exact(operator, 3), exact(matrix, 6).shifted(shift).top(3)):
        torch.testing.assert_close(pairs.values, largest)
        found = pairs.vectors()
        torch.testing.assert_close(whole @ found, found * pairs.values)
        assert pairs.residuals is None or len(pairs.residuals) == 3


def test_shape_and_products_are_all_that_an_operator_needs() -> None:
    class Bare:
        shape = (40, 40)

        def __matmul__(self, block: torch.Tensor) -> torch.Tensor:
            return torch.arange(40, 0, -1.0)[:, None] * block

    wanted = torch.tensor([40.0, 39.0, 38.0], dtype=torch.float64)
    pairs = block_krylov(Bare(), 3, products=40)
    for values in (pairs.values[:3], exact(Bare(), 3).values, seigh(Bare(), 40, 40).values[:3]):
        torch.testing.assert_close(values.double(), wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close(ssvd(Bare(), 40, 40).values[:3].double(), wanted, rtol=1e-3, atol=0)
    assert residuals(Bare(), pairs).max() < 1e-3
    assert a_posteriori(Bare(), pairs, tests=2).norm > 0


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(operators)
    assert result.attempted > 0
    assert result.failed == 0
