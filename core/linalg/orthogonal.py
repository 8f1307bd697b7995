"""Orthonormal bases of tall matrices from fp64 Gram matrices, in one pass over their rows.

A pivoted QR of a D×m sketch reads it many times on one core. Its Gram matrix is one streamed product that
runs at the speed of a matrix multiplication, and what is left is m×m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seigh.core.linalg.tiles import chunks, strips

# Columns that are multiplied at once: sums in fp32 that are no longer lose no digits. A GPU wants more work
# at a time.
_SUMMED = {"cpu": 2**16}
_ON_GPU = 2**20


def gram(rows: Tensor) -> Tensor:
    """``rows @ rowsᵀ`` of an (m, D) matrix, formed in fp64: (m, m)."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for part in chunks(rows.shape[1], len(rows), cached=rows.device):
        block = rows[:, part].double()
        total += _product(block, block)
    return total


def inner(rows: Tensor, others: Tensor) -> Tensor:
    """``rows @ othersᵀ`` of (m, D) and (n, D) matrices, long sums in fp64: (m, n) fp64."""
    size = _SUMMED.get(rows.device.type, _ON_GPU)
    total = torch.zeros(len(rows), len(others), dtype=torch.float64, device=rows.device)
    for part, other in zip(torch.split(rows, size, dim=1), torch.split(others, size, dim=1), strict=True):
        total += _product(part, other)
    return total


def subtract(rows: Tensor, coefficients: Tensor, others: Tensor) -> Tensor:
    """``rows -= coefficients @ others`` for (m, D), (m, n) and (n, D), in place; returns the rows."""
    factor = coefficients.to(rows.dtype)
    size = _SUMMED.get(rows.device.type, _ON_GPU)
    for part, other in zip(torch.split(rows, size, dim=1), torch.split(others, size, dim=1), strict=True):
        (batch, rest), (other_batch, other_rest) = strips(part), strips(other)
        if len(batch):
            batch -= torch.bmm(factor.expand(len(batch), *factor.shape), other_batch)
        rest.addmm_(factor, other_rest, alpha=-1)
    return rows


def _product(rows: Tensor, others: Tensor) -> Tensor:
    """``rows @ othersᵀ``, the sum over strips in fp64."""
    (batch, rest), (other_batch, other_rest) = strips(rows), strips(others)
    product = rest @ other_rest.T
    return torch.bmm(batch, other_batch.mT).sum(0, dtype=torch.float64) + product if len(batch) else product


def orthonormaliser(rows: Tensor, gramian: Tensor) -> Tensor:
    """T (m, r) fp64 such that ``rowsᵀ @ T`` has orthonormal columns that span the rows' numerical range.

    Directions whose singular value is below the rounding error of the rows themselves (or, for fp64 rows,
    below what a Gram matrix resolves) are noise and left out, so r ≤ m: σ < ε · √m · σ_max with
    ε = ``resolution(rows.dtype)``.

    Args:
        rows: (m, D).
        gramian: (m, m), ``gram(rows)``.
    """
    whitening = _whiten(gramian, resolution(rows.dtype))
    if rows.dtype == torch.float64:
        # σ² is known to ε₆₄ σ_max² only, which leaves the shortest kept directions askew: once more.
        again = torch.zeros(whitening.shape[1], whitening.shape[1], dtype=torch.float64, device=rows.device)
        for part in chunks(rows.shape[1], len(rows)):
            block = whitening.T @ rows[:, part]
            again += block @ block.T
        whitening = whitening @ _whiten(again, resolution(rows.dtype))
    return whitening


def resolution(dtype: torch.dtype) -> float:
    """Relative length below which a direction of a Gram matrix in fp64 of rows in ``dtype`` is noise."""
    half_of_the_digits: float = torch.finfo(torch.float64).eps ** 0.5
    return max(torch.finfo(dtype).eps, half_of_the_digits)


def _whiten(gramian: Tensor, relative: float) -> Tensor:
    values, vectors = torch.linalg.eigh(gramian)
    sigma = values.clamp_min(0).sqrt()
    keep = sigma > relative * len(gramian) ** 0.5 * sigma[-1]
    whitening: Tensor = vectors[:, keep] / sigma[keep]
    return whitening
