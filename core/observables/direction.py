"""How much of one direction lies in the eigenspaces V_1 … V_K, with an error that covers the true ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from seigh.core.linalg.tiles import chunks
from seigh.core.overlap.observables import Curve, Scene, Unavailable
from seigh.core.spectra import Eigenpairs

# Vectors of n coordinates are orthonormal, and multiplied, to so many units of their precision.
_UNITS = 16.0


def shares(scene: Scene, direction: Tensor, what: str, remark: str = "") -> Curve:
    """‖V_kᵀu‖² of the unit vector u along ``direction`` (D,), k = 1 … K, beside chance k/D.

    Let a_k be the largest |eigenvalue| of H outside of the true eigenspace V*_k. An eigenvector with the
    residual r_j has no more than r_j / (|λ_j| − a_k) outside of V*_k, so that the largest angle φ between V_k
    and V*_k has sin²φ ≤ Σ_j≤k of its square (Davis & Kahan 1970, with eigenvalues of both signs: those
    outside lie in an interval). With cos²α the share of u in V_k, the true one lies between cos²(α ± φ). And
    true shares grow with k, so that a size whose V_k is ambiguous is bounded by those on either side that
    are not. a_k is told by the pairs after k with their residuals; a pair that was missed altogether is not
    seen.

    Raises:
        Unavailable: The direction is 0.
    """
    norm = float(torch.linalg.vector_norm(direction.double()))
    if not norm > 0:
        raise Unavailable(f"{what} is exactly 0 here, so no part of it lies anywhere.")
    assert scene.found is not None
    assert scene.residuals is not None
    pairs, residuals = scene.found, scene.residuals.double().cpu()
    values = pairs.values.double().cpu().abs()
    taken = (_components(pairs, direction) / norm).square().cumsum(0).clamp(max=1)
    lower, upper = bounds(taken, values, residuals, pairs.outside, pairs.basis.shape[1], pairs.basis.dtype)
    k, dimension = scene.vectors.shape
    chance = np.arange(1, k + 1) / dimension
    return Curve.between(taken[:k], lower[:k], upper[:k], chance, remark)


def bounds(
    taken: Tensor,
    values: Tensor,
    residuals: Tensor,
    outside: float | None,
    dimension: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Between what the share of a unit vector in the true eigenspace of each size lies: 2 × (n,).

    Args:
        taken: (n,), its share in V_1 … V_n as computed.
        values: (n,), |λ|, descending.
        residuals: (n,).
        outside: The largest |eigenvalue| that was found outside of the basis.
        dimension: D.
        dtype: Floating-point type of the vectors.
    """
    n = len(values)
    angle = tilted(values, residuals, outside, dimension).clamp_max(1).sqrt().asin()
    own = taken.sqrt().acos()
    rounding = _UNITS * torch.finfo(dtype).eps * torch.arange(1, n + 1).double().sqrt()
    upper = (own - angle).clamp_min(0).cos().square() + rounding
    lower = (own + angle).clamp_max(torch.pi / 2).cos().square() - rounding
    lower = lower.cummax(0).values.clamp_min(0)
    upper = upper.flip(0).cummin(0).values.flip(0).clamp_max(1)
    return torch.minimum(lower, taken), torch.maximum(upper, taken)


def tilted(values: Tensor, residuals: Tensor, outside: float | None, dimension: int) -> Tensor:
    """Σ_j≤k sin²φ_j for every k, with φ_j a bound of the angle of v_j to the true eigenspace of size k: (n,).

    Args:
        values: As of ``bounds``, like the rest.
        residuals: Likewise.
        outside: Likewise.
        dimension: Likewise.
    """
    # The largest |eigenvalue| that those after k may have; after the last pair, none is larger than it.
    reach = torch.cat([values[1:] + residuals[1:], values[-1:] + residuals[-1:]])
    if outside is not None:
        reach[-1] = max(float(reach[-1]), outside)
    beyond = reach.flip(0).cummax(0).values.flip(0)
    if len(values) == dimension:  # nothing is outside
        beyond[-1] = -torch.inf
    gaps = (values - beyond[:, None]).clamp_min(0)  # (k, j)
    sines = torch.where(gaps > 0, residuals / gaps.clamp_min(1e-300), 1.0).clamp_max(1)
    return sines.square().tril().sum(1)


def _components(pairs: Eigenpairs, direction: Tensor) -> Tensor:
    """v_jᵀ direction of all pairs: (n,) fp64 on the CPU."""
    device = direction.device
    inner = torch.zeros(len(pairs.basis), dtype=torch.float64, device=device)
    for part in chunks(pairs.basis.shape[1], len(pairs.basis), cached=device):
        inner += pairs.basis[:, part].to(device).double() @ direction[part].double()
    return (pairs.coefficients.to(device, torch.float64).T @ inner).cpu()
