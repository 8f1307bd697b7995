"""Shares of layers against sums that are written out."""

import pytest
import torch
from torch import Tensor

from seigh.core.overlap.layers import layer_shares
from seigh.core.overlap.masks import largest_first
from seigh.core.overlap.ties import Ties, find_ties

TENSORS = [("1.weight", 40), ("1.bias", 3), ("2.weight", 17)]
SIZES = (1, 4, 12)


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Ties]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(60, 12, generator=generator, dtype=torch.float64))[0].T
    theta = torch.randn(60, generator=generator)
    return vectors.to(dtype), find_ties(theta, largest_first(theta, 12))


def row_masses(vectors: Tensor, sizes: tuple[int, ...]) -> Tensor:
    return torch.stack([vectors[:k].square().sum(0) for k in sizes])


def test_shares_of_each_tensor() -> None:
    vectors, ties = drawn()
    order = ties.order
    shares = layer_shares(TENSORS, row_masses(vectors, SIZES), ties, SIZES)
    assert shares.names == ("1.weight", "1.bias", "2.weight")
    assert shares.parameters == (40, 3, 17)
    spans = [range(40), range(40, 43), range(43, 60)]
    for row, k in enumerate(SIZES):
        mask = order[:k].tolist()
        masked = float(vectors[:k, mask].square().sum())
        for column, span in enumerate(spans):
            inside = [i for i in mask if i in span]
            assert shares.eigenspace[row, column] == pytest.approx(
                float(vectors[:k, list(span)].square().sum()) / k
            )
            assert shares.mask[row, column] == pytest.approx(len(inside) / k)
            assert shares.overlap[row, column] == pytest.approx(
                float(vectors[:k, inside].square().sum()) / masked
            )


def test_shares_sum_to_one_in_fp32() -> None:
    vectors, ties = drawn(torch.float32)
    shares = layer_shares(TENSORS, row_masses(vectors, SIZES), ties, SIZES)
    for table in (shares.eigenspace, shares.mask, shares.overlap):
        assert table.sum(1) == pytest.approx([1, 1, 1], abs=1e-12)


def test_there_are_no_shares_of_no_overlap() -> None:
    masses = row_masses(torch.eye(60)[:2], (2,))
    theta = torch.zeros(60)
    theta[50], theta[51] = 2, 1
    ties = find_ties(theta, torch.tensor([50, 51]))
    shares = layer_shares(TENSORS, masses, ties, (2,))
    assert (shares.overlap != shares.overlap).all()
    assert shares.eigenspace.tolist() == [[1, 0, 0]]


def test_tensors_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="Tensors of 40 parameters in all; there are 60"):
        layer_shares(TENSORS[:1], torch.ones(1, 60), drawn()[1], (1,))
