"""How wrong an overlap curve may be, and up to which size it is resolved."""

from __future__ import annotations

import torch
from torch import Tensor

from core.spectra.eigenpairs import Eigenpairs

# On the extrapolated change: masses change by sums of terms of either sign.
_SAFETY = 3.0

# On what residuals alone say.
_ALONE = 2.0

# Extrapolated changes are at most this many times the change, however slow the convergence looks.
_SLOWEST = 50.0

# The change passes through zero by accident: that at any size within k ± (3 + k/10) counts at k.
_NEAR, _NEAR_SHARE = 3, 0.1

# What computed eigenvectors lack has eigenvalues up to this share of |λ_{k+1}|.
_LACKED = 0.75

# Of the masked parts of two unrelated vectors, cos² is one over the number of coordinates, times this.
_INDEPENDENT = 16.0

# Eigenvalues are off by r²/|θ| for what has eigenvalue 0, and by this many times that for what is larger.
_SHIFT = 2.0

# Rounding errors, as far as residuals show them, in units of the precision times |λ₁|: of a product at most,
# and of the projection beside it. They point anywhere: their part along one vector is their norm / √D, times
# the last number.
_NOISE, _UNITS, _ALONG = 32.0, 4.0, 8.0

# Products in floating point have errors that are the same every time and so show in no residual. The overlap
# has had them up to this much of itself, in units of the precision, on a network in fp32.
_FLOOR = 256.0

# Two fp64 matrices that are equal up to rounding differ in their eigenvalues by this much of |λ₁|.
_RESOLUTION = 100 * torch.finfo(torch.float64).eps

# Pairs on either side of k that are taken to mix across it.
_NEIGHBOURS = 4

# Clusters up to this size are bounded by the eigenvalues of their Gram matrix, larger ones by its trace.
_CLUSTER = 12

# Sizes k whose clusters are bounded at once.
_SIZES = 256

_TINY = torch.finfo(torch.float64).tiny


# Pairs beyond k that show what lies at and beyond the last size.
FURTHER = 16


def overlap_error(pairs: Eigenpairs, order: Tensor, residuals: Tensor) -> Tensor:
    """Stated error e_k of overlap(M_k, V_k), k = 1 … n: (n,) fp64 on the CPU.

    The statement is |computed overlap − true overlap| ≤ e_k, where "true" is any choice of V_k that H
    admits: if |λ_k| = |λ_{k+1}|, V_k is ambiguous and e_k covers all choices. e_k is the sum of three
    estimates, capped by what an overlap in [0, 1] allows:

    - What the subspace lacks. With sin φ_j ≤ r_j / (|θ_j| − ¾ |θ_{k+1}|) the angle between a Ritz vector
      and its eigenspace (Davis & Kahan 1970; rigorous with 1 in place of ¾, which assumes that what is
      lacked is not all next to λ_{k+1}), the masked mass is off by 2 √(Σ_j sin²φ_j ‖M_kᵀv_j‖² μ · 16/k) to
      first order, where vectors unrelated to v_j are lacked, and by Σ_j sin²φ_j (‖M_kᵀv_j‖² − μ′) to second,
      μ the mean masked mass of the k eigenvectors and μ′ between that and k/D. Where ``pairs.coarser`` is
      given, the change of the masked mass since then is extrapolated as well, as a geometric series whose
      ratio is that of this estimate now and then, tripled; the largest change near k counts. The larger of
      the two is taken, or twice the first where there is no second. *Estimated, not guaranteed.*
    - What neighbours on either side of k may exchange, by rotations through (u_i u_j)^½ / (|θ_i| − |θ_j|),
      with u_j = min(r_j, 2 r_j²/|θ_j| + rounding) the uncertainty of |θ_j|. *Estimated.*
    - Pairs whose intervals |θ_j| ± u_j do not separate those within k from those beyond. With C all of them,
      p of them within, and G = V_CᵀM_kM_kᵀV_C, the masked mass of any p-dimensional subspace of span(C) lies
      between the sums of the p smallest and of the p largest eigenvalues of G (Ky Fan 1949).
      *Guaranteed, given the intervals* and all of C, so it needs pairs beyond n to be right at n.

    On random spectra of nine kinds, with subspaces from generous to far too small, both precisions and 16
    further pairs, the statement holds for 99 % of the sizes k and 95 % of whole curves at least, leaving out
    the sizes that the next paragraph is about (the tests hold it to that).
    Sketches have no ``coarser`` to learn from: 98 % of sizes, but only 78 % of whole curves.

    Not seen: eigenpairs that the subspace missed altogether (as Krylov does with the copies of an eigenvalue
    of higher multiplicity than its block); errors of the products that are the same whenever they are formed.

    Args:
        pairs: At least n pairs, best ``FURTHER`` more. ``pairs.coarser``, if it is
            not None, is best a subspace with 15 % of the columns left out (one round at least), with its
            residuals; without those its error is taken to halve.
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
    unit = precision * magnitudes[0]
    noise = _ALONG / dimension**0.5 * (residuals.min().clamp_max(_NOISE * unit) + _UNITS * unit)
    shift = _SHIFT * residuals.square() / magnitudes.clamp_min(floor + _TINY)
    uncertainty = torch.minimum(residuals, shift + noise + floor)

    repeated = precision * max(_FLOOR, len(pairs.basis) ** 0.5) * mass
    exchanged = _mixing(rows, magnitudes, uncertainty) + _ambiguity(rows, magnitudes, uncertainty)
    error = _missing(masses, magnitudes, residuals, dimension)
    if pairs.coarser is None:
        error = _ALONE * error
    else:
        # Rounding errors are in these residuals, not in the coarser ones, and do not converge.
        rounding = residuals.min().clamp_max(_NOISE * unit)
        converging = _missing(masses, magnitudes, residuals - rounding + floor, dimension)
        ahead = _extrapolated(pairs.coarser, order, mass, converging, exchanged, repeated)
        error = torch.maximum(error, ahead)
    error = error + exchanged + repeated
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
    first = 2 * (own * typical * (_INDEPENDENT / sizes).clamp_max(1)).sqrt()
    foreign = lacking.sum(1)
    chance = foreign * sizes / dimension
    return first + torch.maximum((chance - own).abs(), (foreign * typical - own).abs())


def _extrapolated(
    coarser: Eigenpairs,
    order: Tensor,
    mass: Tensor,
    missing: Tensor,
    exchanged: Tensor,
    repeated: Tensor,
) -> Tensor:
    """Change of the masked mass that is still to come: (n,)."""
    n = len(order)
    masses = _on_cpu(coarser.rows(order)).square().cumsum(0)
    change = ((masses[:, :n].cumsum(1).diagonal() - mass).abs() - repeated).clamp_min(0)
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


def _mixing(rows: Tensor, magnitudes: Tensor, uncertainty: Tensor) -> Tensor:
    """Masked mass that neighbours within k and beyond exchange by a small rotation: (n,)."""
    n, total = rows.shape
    masses = rows.square().cumsum(0)
    exchanged = torch.zeros(n, dtype=torch.float64)
    for distance in range(1, min(_NEIGHBOURS, total - 1) + 1):
        # V_iᵀ M_k M_kᵀ V_j of the pairs (i, i + distance), for every k.
        shared = (rows[:, :-distance] * rows[:, distance:]).cumsum(0)
        gap = (magnitudes[:-distance] - magnitudes[distance:]).clamp_min(_TINY)
        angle = ((uncertainty[:-distance] * uncertainty[distance:]).sqrt() / gap).clamp_max(1)
        for step in range(distance):  # the pairs that k separates
            within = torch.arange(n) - step
            known = (within >= 0) & (within + distance < total)
            k, i = torch.arange(n)[known], within[known]
            j = i + distance
            turned = (
                2 * angle[i] * shared[k, i].abs() + angle[i].square() * (masses[k, i] - masses[k, j]).abs()
            )
            exchanged[k] += turned.square()
    return exchanged.sqrt()


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
