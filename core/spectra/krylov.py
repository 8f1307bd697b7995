"""Block Krylov subspace with Rayleigh–Ritz: the most accurate eigenpairs per Hessian-vector product."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from core.spectra.eigenpairs import Eigenpairs, by_magnitude
from core.spectra.operators import Operator, check_square, multiply
from core.spectra.orthogonal import gram, resolution
from core.spectra.residuals import residuals

# b ≈ 16–70 is the useful range: smaller blocks are more accurate per product, larger ones faster.
_SMALLEST_BLOCK, _LARGEST_BLOCK = 4, 32

# Columns beyond the k wanted ones, at least.
_LEAST_ROOM = 128

# A pass that leaves this share of each squared length has cancelled nothing.
_KEPT = 0.5
_MOST_PASSES = 5

# Pairs whose residual is measured by a product of its own: the recurrence cannot see rounding errors.
CHECKS = 8


def default_block(k: int) -> int:
    """Block size b for k wanted pairs."""
    return min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, k // 8))


def default_columns(k: int, dimension: int) -> int:
    """Basis size m for k wanted pairs: 1.75·k and k + 128 at least, in whole blocks, at most D.

    Few pairs need more room each: the flat spectrum of an untrained network separates slowly.
    """
    block = default_block(k)
    wanted = max(-(-7 * k // 4), k + _LEAST_ROOM)
    return min(dimension, -(-wanted // block) * block)


def block_krylov(
    operator: Operator, k: int, *, block: int | None = None, columns: int | None = None, seed: int = 0
) -> Eigenpairs:
    """The k eigenpairs of largest |λ| of a symmetric operator, from products in rounds of ``block``.

    The basis Q holds blocks X, HX, H²X, …, each orthogonalised against all earlier ones, twice where it
    matters (block Lanczos with full reorthogonalisation; Golub & Underwood 1977). H Q = Q T + R, with R
    the part of the last round's products outside the basis, so that a Ritz pair T y = λ y, v = Q y has
    the residual ‖Hv − λv‖ = ‖R y‖ in exact arithmetic, at no product. What rounding adds is measured on
    ``CHECKS`` pairs spread over the k, by one more product for each, and the largest is added to all.

    Args:
        operator: Symmetric, D × D.
        k: Number of wanted pairs, at most D.
        block: b, products per round; ``default_block(k)`` when not given.
        columns: m, size of the basis and number of products of the iteration, at most D;
            ``default_columns(k, D)`` when not given.
        seed: Seeds the first block, drawn on the CPU so that it does not depend on the device.

    Returns:
        Eigenpairs with residuals.

    Raises:
        ValueError: Not 1 ≤ k ≤ columns ≤ D, or block < 1.
        SpectrumError: A product is not finite.
    """
    block = default_block(k) if block is None else block
    columns = default_columns(k, operator.shape[0]) if columns is None else columns
    dimension = check_square(operator, k, columns)
    if block < 1:
        raise ValueError(f"The block size must be at least 1; got {block}.")

    generator = torch.Generator().manual_seed(seed)
    basis = torch.empty(columns, dimension, dtype=operator.dtype, device=operator.device)
    projected = torch.zeros(columns, columns, dtype=torch.float64, device=operator.device)
    basis[: min(block, columns)] = _fresh(basis[:0], min(block, columns), generator)
    last = slice(0, min(block, columns))
    while True:
        images = multiply(operator, basis[last].T).T.contiguous()
        scale = float(images.norm(dim=1).max())
        # T couples this block to the earlier ones as the orthogonalisation of the last round found; the
        # block with itself is measured.
        images -= projected[last, : last.start].to(images.dtype) @ basis[: last.start]
        own = images @ basis[last].T
        images -= own @ basis[last]
        projected[last, last] = ((own + own.T) / 2).double()
        size = last.stop
        if size == columns:
            break
        new, coupling = _extend(images, basis[:size], min(block, columns - size), scale, generator)
        basis[size : size + len(new)] = new
        projected[size : size + len(new), last] = coupling
        projected[last, size : size + len(new)] = coupling.T
        last = slice(size, size + len(new))

    values, rotation = by_magnitude(*torch.linalg.eigh(projected))
    tail = rotation[last, :k]
    recurred = (tail * (gram(images) @ tail)).sum(0).clamp_min(0).sqrt()
    pairs = Eigenpairs(basis, rotation[:, :k], values[:k], residuals=None, hvps=columns + min(CHECKS, k))
    checked = torch.linspace(0, k - 1, min(CHECKS, k), device=values.device).long()
    rounding = (residuals(operator, pairs, checked) - recurred[checked]).clamp_min(0).max()
    return replace(pairs, residuals=recurred + rounding, coarser=_ritz(basis[: columns - block], projected, k))


def _ritz(basis: Tensor, projected: Tensor, k: int) -> Eigenpairs:
    """The k Ritz pairs of largest |λ| of a leading part of the basis, without residuals."""
    size = len(basis)
    values, rotation = by_magnitude(*torch.linalg.eigh(projected[:size, :size]))
    return Eigenpairs(basis, rotation[:, :k], values[:k], residuals=None, hvps=size)


def _extend(
    images: Tensor, basis: Tensor, width: int, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The next block, orthonormal and orthogonal to the basis, and its coupling to the last one.

    Args:
        images: (b, D), products of the last block less their parts along the basis; overwritten.
        basis: (n, D).
        width: Vectors in the next block, at most D − n.
        scale: Norm of the products; directions below its rounding error are noise.
        generator: Draws vectors in place of directions that are missing.

    Returns:
        new (width, D) and coupling (width, b) fp64 with images ≈ couplingᵀ @ new.
    """
    images -= (images @ basis.T) @ basis
    squared, directions = torch.linalg.eigh(gram(images))
    lengths = squared.clamp_min(0).sqrt().flip(0)
    directions = directions.flip(1)
    noise = max(
        torch.finfo(images.dtype).eps * len(basis) ** 0.5 * scale,
        resolution(images.dtype) * float(lengths[0]),
    )
    rank = min(width, int((lengths > noise).sum()))
    coupling = torch.zeros(width, len(images), dtype=torch.float64, device=images.device)
    new = ((directions[:, :rank] / lengths[:rank]).T.to(images.dtype)) @ images
    if rank:
        # Normalising short directions blew up what they had left along the basis.
        new = _orthonormal(new, basis)
        coupling[:rank] = (new @ images.T).double()
    if rank < width:
        # The Krylov space is (numerically) invariant in these directions: go on from random ones, which
        # the products so far say nothing about.
        new = torch.cat([new, _fresh(torch.cat([basis, new]), width - rank, generator)])
    return new, coupling


def _fresh(basis: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random orthonormal vectors orthogonal to the basis: (count, D)."""
    random = torch.randn(count, basis.shape[1], generator=generator, dtype=torch.float64)
    return _orthonormal((random / basis.shape[1] ** 0.5).to(basis), basis)


def _orthonormal(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows made orthogonal to the basis and to each other, each staying as close to itself as can be."""
    for _ in range(_MOST_PASSES):
        rows = rows - (rows @ basis.T) @ basis
        squared, vectors = torch.linalg.eigh(gram(rows))
        squared = squared.clamp_min(torch.finfo(torch.float64).tiny)
        rows = ((vectors / squared.sqrt()) @ vectors.T).to(rows.dtype) @ rows
        # Nothing was lost to cancellation, so what is left along the basis is rounding ("twice is enough").
        if squared[0] > _KEPT * squared[-1] and squared[0] > _KEPT:
            break
    return rows
