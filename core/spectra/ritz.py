"""Rayleigh–Ritz in a subspace that is given by vectors which span it."""

from __future__ import annotations

import torch
from torch import Tensor

from seigh.core.linalg.orthogonal import gram, inner, orthonormaliser
from seigh.core.linalg.tiles import form
from seigh.core.spectra.eigenpairs import Eigenpairs, by_magnitude
from seigh.core.spectra.operators import Operator, SpectrumError, multiply, typed


def rayleigh_ritz(operator: Operator, vectors: Tensor) -> Eigenpairs:
    """The Ritz pairs of a symmetric operator in the span of some vectors, by descending |λ|, with residuals.

    With Q an orthonormal basis of the span and QᵀHQ = Y diag(θ) Yᵀ, the pairs are θ and QY, and
    ‖HQy − θQy‖ their residuals (Parlett, The Symmetric Eigenvalue Problem, 1998, §11.3). Costs a product for
    each dimension of the span.

    Args:
        operator: Symmetric, D × D.
        vectors: (D, n), in any basis, scaled in any way; their numerical rank may be less than n.

    Returns:
        As many pairs as the vectors have numerical rank.

    Raises:
        SpectrumError: The vectors, or the products, are not all finite, or the vectors are zero.
    """
    operator = typed(operator)
    rows = vectors.T.to(operator.device, operator.dtype).contiguous()
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not bool(torch.isfinite(lengths).all()):
        raise SpectrumError("they are not all finite numbers.")
    rows = rows[lengths.flatten() > 0] / lengths[lengths.flatten() > 0]
    if not len(rows):
        raise SpectrumError("they are all zero.")
    whitening = orthonormaliser(rows, gram(rows))
    basis = form(rows, whitening, torch.empty(whitening.shape[1], rows.shape[1]).to(rows))
    # What rounding of the first pass left is taken out by the second.
    whitening = orthonormaliser(basis, gram(basis))
    basis = form(basis, whitening, torch.empty(whitening.shape[1], rows.shape[1]).to(rows))
    images = multiply(operator, basis.T).T.contiguous()
    projected = inner(basis, images)
    values, rotation = by_magnitude(*torch.linalg.eigh((projected + projected.T) / 2))
    # ‖HQy − θQy‖² column by column, from HQ and Q side by side.
    both = torch.cat([images, basis])
    left = form(both, torch.cat([rotation, -rotation * values]), torch.empty_like(basis))
    residuals = torch.linalg.vector_norm(left, dim=1).double()
    return Eigenpairs(basis, rotation, values, residuals, hvps=len(basis))
