"""How wrong an overlap curve may be, and up to which size it is resolved."""

from __future__ import annotations

import torch
from torch import Tensor

from core.spectra.eigenpairs import Eigenpairs

# On the extrapolated change: masses change by sums of terms of either sign.
_SAFETY = 2.0

# Extrapolated changes are at most this many times the change, however slow the convergence looks.
_SLOWEST = 10.0

# The change passes through zero by accident: that at any size within k ± (3 + k/10) counts at k.
_NEAR, _NEAR_SHARE = 3, 0.1

# What computed eigenvectors lack has eigenvalues up to this share of |λ_{k+1}|.
_LACKED = 0.5

# Rounding errors of a product point anywhere: the part along one vector is their norm / √D, times this.
_ALONG = 8.0

# Rounding errors of a product are at most this much of |λ₁|, in units of the precision.
_NOISE = 32.0

# Two fp64 matrices that are equal up to rounding differ in their eigenvalues by this much of |λ₁|.
_RESOLUTION = 100 * torch.finfo(torch.float64).eps

# Pairs on either side of k that are taken to mix across it.
_NEIGHBOURS = 4

# Clusters up to this size are bounded by the eigenvalues of their Gram matrix, larger ones by its trace.
_CLUSTER = 12

# Sizes k whose clusters are bounded at once.
_SIZES = 256
_SQUARED = 1.0
_DRIFT = 0.0

_TINY = torch.finfo(torch.float64).tiny


def overlap_error(pairs: Eigenpairs, order: Tensor, residuals: Tensor) -> Tensor:
    """Stated error e_k of overlap(M_k, V_k), k = 1 … n: (n,) fp64 on the CPU.

    The statement is |computed overlap − true overlap| ≤ e_k, where "true" is any choice of V_k that H
    admits: if |λ_k| = |λ_{k+1}|, V_k is ambiguous and e_k covers all choices. e_k is the sum of three
    estimates, capped by what an overlap in [0, 1] allows:

    - What is missing from the subspace. With sin φ_j ≤ r_j / (|θ_j| − ½|θ_{k+1}|) the angle between a Ritz
      vector and the space (Davis & Kahan 1970; the bound with ½ replaced by 1 is rigorous, this one assumes
      that what is missing is not all next to λ_{k+1}), and missing directions as likely on the mask as those
      found, the masked mass is off by 2 √(Σ_j sin²φ_j ‖M_kᵀv_j‖² μ) to first order and by
      Σ_j sin²φ_j (‖M_kᵀv_j‖² + μ) to second, μ the mean masked mass of an eigenvector. Where
      ``pairs.coarser`` is given, the masked mass's change since then is extrapolated as well, as a geometric
      series with the ratio of that estimate now and then, doubled; the largest change near k counts. The
      larger of both is taken. *Estimated, not guaranteed.*
    - Pairs on either side of k that mix, to first order: by (u_i u_j)^½ / (|θ_i| − |θ_j|) with
      u_j = min(r_j, r_j²/|θ_j| + rounding) the uncertainty of an eigenvalue. *Estimated.*
    - Pairs whose intervals |θ_j| ± u_j do not separate those within k from those beyond. With C all of them,
      p of them within, and G = V_CᵀM_kM_kᵀV_C, the masked mass of any p-dimensional subspace of span(C) lies
      between the sums of the p smallest and of the p largest eigenvalues of G (Ky Fan 1949).
      *Guaranteed, given the intervals* and that C is complete, so it needs pairs beyond n to be right at n.

    Not seen: eigenpairs that the subspace missed altogether (as Krylov does with the copies of an eigenvalue
    of higher multiplicity than its block); errors of the products that are the same whenever they are formed.

    Args:
        pairs: At least n pairs, and a few more if they are at hand. Those of ``pairs.coarser`` with their
            residuals, if it is not None.
        order: (n,), the mask's coordinates, largest |θ| first.
        residuals: ‖Hv − λv‖₂ of all ``pairs``.

    Raises:
        ValueError: Fewer pairs than coordinates, or not one residual per pair.
    """
    n = len(order)
    if len(pairs.values) < n or len(residuals) != len(pairs.values):
        raise ValueError(
            f"Needs a residual for each pair, and a pair for each of {n:,} coordinates; got "
            f"{len(residuals):,} residuals of {len(pairs.values):,} pairs."
        )
    rows, magnitudes = _on_cpu(pairs.rows(order)), _on_cpu(pairs.values).abs()
    floor = _RESOLUTION * float(magnitudes[0])
    residuals = _on_cpu(residuals) + floor
    dimension = pairs.basis.shape[1]
    sizes = torch.arange(1, n + 1, dtype=torch.float64)
    masses = rows.square().cumsum(0)  # of every eigenvector on the first k coordinates
    mass = masses.cumsum(1).diagonal()

    precision = torch.finfo(pairs.basis.dtype).eps
    noise = (
        torch.minimum(_ALONG / dimension**0.5 * residuals.min(), _NOISE * precision * magnitudes[0]) + floor
    )
    shift = _SQUARED * residuals.square() / magnitudes.clamp_min(floor + _TINY)
    if pairs.coarser is not None and _DRIFT:
        cv = pairs.coarser.values.abs(); b = min(len(cv), len(magnitudes))
        shift[:b] = torch.maximum(shift[:b], _DRIFT*(magnitudes[:b] - cv[:b]).abs())
    uncertainty = torch.minimum(residuals, shift + noise)

    exchanged = _mixing(masses, magnitudes, uncertainty) + _ambiguity(rows, magnitudes, uncertainty)
    error = missing = _missing(masses, magnitudes, residuals, dimension)
    if pairs.coarser is not None:
        error = torch.maximum(error, _extrapolated(pairs.coarser, order, mass, missing, exchanged))
    error = error + exchanged + precision * len(pairs.basis) ** 0.5 * mass
    overlap = mass / sizes
    return torch.minimum(error / sizes, torch.maximum(overlap, 1 - overlap))


def resolved(overlap: Tensor, error: Tensor, tolerance: float = 0.01) -> int:
    """The largest k such that no size up to k has an error above ``tolerance`` · overlap; 0 if there is none.

    Example:
        >>> resolved(torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.001, 0.002, 0.01]))
        2
    """
    exceeded = (~(error <= tolerance * overlap)).nonzero()
    return int(exceeded[0]) if len(exceeded) else len(overlap)


def _missing(masses: Tensor, magnitudes: Tensor, residuals: Tensor, dimension: int) -> Tensor:
    """Masked mass that is wrong for want of directions outside the subspace: (n,)."""
    n = len(masses)
    sizes = torch.arange(1, n + 1, dtype=torch.float64)
    following = magnitudes[torch.arange(1, n + 1).clamp_max(len(magnitudes) - 1)]
    gaps = (magnitudes[:n] - _LACKED * following[:, None]).clamp_min(_TINY)
    lacking = (residuals[:n] / gaps).clamp_max(1).square().tril()
    own = (lacking * masses[:, :n]).sum(1)
    typical = torch.maximum(sizes / dimension, masses.cumsum(1).diagonal() / sizes)
    return 2 * (own * typical).sqrt() + own + lacking.sum(1) * typical


def _extrapolated(
    coarser: Eigenpairs, order: Tensor, mass: Tensor, missing: Tensor, exchanged: Tensor
) -> Tensor:
    """Change of the masked mass that is still to come: (n,)."""
    n = len(order)
    masses = _on_cpu(coarser.rows(order)).square().cumsum(0)
    change = (masses[:, :n].cumsum(1).diagonal() - mass).abs()
    index = torch.arange(n)
    near = (index - index[:, None]).abs() <= _NEAR + (_NEAR_SHARE * index[:, None]).long()
    # What neighbours exchange at one k says nothing of the others.
    change = torch.maximum(change, torch.where(near, change - exchanged, 0.0).amax(1))
    rate = torch.full_like(change, 0.5)
    if coarser.residuals is not None:
        before = _missing(
            masses, _on_cpu(coarser.values).abs(), _on_cpu(coarser.residuals), coarser.basis.shape[1]
        )
        rate = missing / before.clamp_min(_TINY)
    ahead = torch.where(rate < 1, rate / (1 - rate).clamp_min(_TINY), _SLOWEST).clamp_max(_SLOWEST)
    return _SAFETY * ahead * change


def _mixing(masses: Tensor, magnitudes: Tensor, uncertainty: Tensor) -> Tensor:
    """Masked mass that neighbours within k and beyond exchange, to first order: (n,)."""
    n, total = len(masses), len(magnitudes)
    row = torch.arange(n)[:, None]
    steps = torch.arange(_NEIGHBOURS)
    within, beyond = row - steps, row + 1 + steps
    exist = (within >= 0)[:, :, None] & (beyond < total)[:, None, :]
    within, beyond = within.clamp_min(0), beyond.clamp_max(total - 1)
    gap = (magnitudes[within][:, :, None] - magnitudes[beyond][:, None, :]).clamp_min(_TINY)
    coupling = (uncertainty[within][:, :, None] * uncertainty[beyond][:, None, :]).sqrt()
    angle = torch.where(exist, (coupling / gap).clamp_max(1), 0.0)
    exchanged = angle.square() * masses[row, within][:, :, None] * masses[row, beyond][:, None, :]
    return 2 * exchanged.sum((1, 2)).sqrt()


def _ambiguity(rows: Tensor, magnitudes: Tensor, uncertainty: Tensor) -> Tensor:
    """Change of the masked mass if any pairs that cannot be told apart are rotated among each other: (n,)."""
    n, total = rows.shape
    ambiguity = torch.zeros(n, dtype=torch.float64)
    above, below = magnitudes + uncertainty, magnitudes - uncertainty
    highest_beyond = above.flip(0).cummax(0).values.flip(0)[1:]
    lowest_within = below.cummin(0).values[:-1]
    ambiguous = (highest_beyond >= lowest_within)[:n].nonzero().flatten()
    masses = rows.square().cumsum(0)
    for last in torch.split(ambiguous, _SIZES):  # index of the last pair within k
        within = torch.arange(total) <= last[:, None]
        member = torch.where(within, below <= highest_beyond[last, None], above >= lowest_within[last, None])
        size, taken = member.sum(1), (within & member).sum(1)
        now = (masses[last] * (within & member)).sum(1)
        trace = (masses[last] * member).sum(1)
        most = torch.minimum(trace, taken.double())
        least = (trace - (size - taken)).clamp_min(0)

        small = (size <= _CLUSTER).nonzero().flatten()
        index = member[small].byte().argsort(dim=1, descending=True, stable=True)[:, :_CLUSTER]
        cluster = rows.T[index] * member[small].gather(1, index)[:, :, None]
        cluster = cluster * (torch.arange(n) <= last[small, None])[:, None, :]
        # Places that a smaller cluster leaves empty add zeros, the last to be summed.
        largest = torch.linalg.eigvalsh(cluster @ cluster.mT).clamp_min(0).flip(1).cumsum(1)
        most[small] = largest.gather(1, taken[small, None] - 1)[:, 0]
        least[small] = trace[small] - largest.gather(1, (size - taken)[small, None] - 1)[:, 0]
        ambiguity[last] = torch.maximum(most - now, now - least).clamp_min(0)
    return ambiguity


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().double().cpu()
