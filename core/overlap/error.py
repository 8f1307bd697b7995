"""How wrong an overlap curve may be, and up to which size it is resolved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from seigh.core.overlap.curves import MaskCurves
from seigh.core.spectra.eigenpairs import Eigenpairs

# The change still to come is taken for a geometric series up to this ratio. This share of it is then added,
# as masses change by sums of terms of either sign, part of which cancels, and it may be wrong by so many
# times itself. Where nothing is added, by more.
_CONVERGES, _ADDED, _SAFETY, _SAFETY_ALONE = 0.5, 0.5, 2.0, 3.0

# On what residuals alone say.
_ALONE = 2.0

# Extrapolated changes are at most this many times the change, however slow the convergence looks.
_SLOWEST = 50.0

# Changes, and estimates of what is missing, are small at single sizes by accident: the largest at any size
# within k ± (3 + k/10) counts at k.
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
_RESOLUTION = 400 * torch.finfo(torch.float64).eps

# A pair with a residual so many times that of another one has hardly converged beside it.
_COARSER = 4.0

# Pairs on either side of k that are taken to mix across it.
_NEIGHBOURS = 4

# Clusters up to this size are bounded by the eigenvalues of their Gram matrix, larger ones by its trace.
_CLUSTER = 24

# Where |λ| is known to this share of itself, all pairs that cannot be told apart may be one eigenspace. Where
# it is not, they are so many for want of convergence, and only so many on either side of k are taken for one.
_TIGHT, _CLOSEST = 1e-3, 4

# Of so many pairs, one more or less that has hardly converged does not matter.
_MANY = 100

# Sizes k whose clusters are bounded at once.
_SIZES = 256

_TINY = torch.finfo(torch.float64).tiny


# A size is resolved where the stated error is at most this share of the overlap.
RESOLVED = 0.01

# Pairs beyond k that show what lies at and beyond the last size.
FURTHER = 16


class StatedOverlap(NamedTuple):
    """The overlap with every V_k as far as it is known.

    Attributes:
        overlap: (n,) fp64, overlap(M_k, V_k) with the true V_k, as estimated.
        error: (n,) fp64, how far it may be off.
        ahead: (n,) fp64, what was added to the overlap with the computed V_k for the convergence to come.
    """

    overlap: Tensor
    error: Tensor
    ahead: Tensor


def stated_overlap(pairs: Eigenpairs, order: Tensor, residuals: Tensor) -> StatedOverlap:
    """overlap(M_k, V_k) and its stated error e_k, k = 1 … n, on the CPU.

    The statement is |overlap − true overlap| ≤ e_k, where "true" is any choice of V_k that H admits: if
    |λ_k| = |λ_{k+1}|, V_k is ambiguous and e_k covers all choices.

    Near k, Ritz vectors of a basis that resolves the overlap still turn among each other, and the overlap
    approaches its limit from one side, like a geometric series. Where ``pairs.coarser`` is given, the rest of
    that series is added by half to the overlap with the computed V_k (``ahead``): the ratio is that of what
    residuals say is lacking, now and then. e_k combines three parts in quadrature, and is capped by what an
    overlap in [0, 1] allows:

    - What the subspace lacks. With sin φ_j ≤ r_j / (|θ_j| − ¾ |θ_{k+1}|) the angle between a Ritz vector
      and its eigenspace (Davis & Kahan 1970; rigorous with 1 in place of ¾, which assumes that what is
      lacked is not all next to λ_{k+1}), the masked mass is off by 2 √(Σ_j sin²φ_j ‖M_kᵀv_j‖² μ · 16/k) to
      first order, where vectors unrelated to v_j are lacked, and by Σ_j sin²φ_j (‖M_kᵀv_j‖² − μ′) to second,
      μ the mean masked mass of the k eigenvectors and μ′ between that and k/D. The rest of the series, times
      2, counts instead where that is more, with the largest change near k; there is twice the first where
      there is no ``coarser``. *Estimated, not guaranteed.* What a sketch lacks may lie on the mask
      altogether: ‖MᵀV‖_F is off by at most ‖sin Φ‖_F. *Guaranteed, given the angles.*
    - What neighbours on either side of k may exchange, by rotations through (u_i u_j)^½ / (|θ_i| − |θ_j|),
      with u_j the uncertainty of |θ_j|: 2 r_j² / (|θ_j| − a) + rounding and r_j at most, where a is the
      largest |eigenvalue| found outside the basis, or ¾ |θ_{n+1}| where none was looked for; r_j beside pairs
      in whose interval θ_j lies and that have hardly converged; r_j for sketches. *Estimated.*
    - Pairs whose intervals |θ_j| ± u_j do not separate those within k from those beyond. With C all of them,
      p of them within, and G = V_CᵀM_kM_kᵀV_C, the masked mass of any p-dimensional subspace of span(C) lies
      between the sums of the p smallest and of the p largest eigenvalues of G (Ky Fan 1949).
      *Guaranteed, given the intervals* and all of C, so it needs pairs beyond n to be right at n. Of pairs
      that are known to no more than 1e-3 |θ_j|, only the four next to k on either side are in C: so many
      intervals overlap for want of convergence. Where vectors outside the basis have eigenvalues no smaller
      than |θ_j| − u_j, they may take the place of v_j.

    The first two are estimates that are small at single sizes by accident. Where there is ``coarser``, the
    largest at any size near k counts at k, as an overlap or as a share of it, whichever says less.

    ``benchmarks.coverage`` compares the statement with the truth on random operators of twelve kinds and on
    small networks. It is meant to be wrong for at most 0.1 % of the sizes that are claimed to 1 %, and to
    hold for at least 95 % of whole curves of each kind.

    Not seen: errors of the products that are the same whenever they are formed, unless ``residuals`` were
    measured with others.

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
    known = _known(pairs, residuals, n)
    magnitudes, residuals, uncertainty = known.magnitudes, known.residuals, known.uncertainty
    rounding, floor, precision = known.rounding, known.floor, known.precision
    rows = _on_cpu(pairs.rows(order))
    dimension = pairs.basis.shape[1]
    sizes = torch.arange(1, n + 1, dtype=torch.float64)
    masses = rows.square().cumsum(0)  # of every eigenvector on the first k coordinates
    mass = masses.cumsum(1).diagonal()

    repeated = precision * max(_FLOOR, len(pairs.basis) ** 0.5) * mass
    mixing, ambiguity = _mixing(rows, magnitudes, uncertainty), _ambiguity(rows, magnitudes, uncertainty)
    exchanged = torch.hypot(mixing, ambiguity)
    ahead = torch.zeros(n, dtype=torch.float64)
    error = _missing(masses, magnitudes, residuals, dimension)
    if not pairs.ritz:
        error = _anywhere(mass, magnitudes, residuals)
    elif pairs.coarser is None:
        error = _ALONE * error
    else:
        # Rounding errors are in these residuals, not in the coarser ones, and do not converge.
        converging = _missing(masses, magnitudes, (residuals - rounding).clamp_min(floor), dimension)
        tied = _tied(magnitudes, uncertainty)[:n]
        ahead, doubt = _extrapolated(pairs.coarser, order, mass, converging, exchanged, repeated, tied)
        error = _nearby(torch.maximum(error, doubt), mass, tied)
        exchanged = torch.hypot(_nearby(mixing, mass, tied), ambiguity)
    if pairs.outside is not None:
        exchanged = torch.maximum(exchanged, _unseen(masses, magnitudes, uncertainty, pairs.outside))
    error = torch.hypot(error, exchanged) + repeated
    overlap = ((mass + ahead) / sizes).clamp(0, 1)
    return StatedOverlap(
        overlap, torch.minimum(error / sizes, torch.maximum(overlap, 1 - overlap)), ahead / sizes
    )


def stated_extremes(pairs: Eigenpairs, residuals: Tensor, masks: MaskCurves) -> tuple[Tensor, Tensor]:
    """How far ``best`` and ``random_std`` of ``masks`` may be from those of the true V_k: 2 × (n,) fp64.

    Both follow from the row masses m_i = ‖row i of V_k‖², best from the sum of the k largest, random_std from
    their norm. Unlike ``stated_overlap`` they know no mask, so that what V_k lacks may lie where it matters
    most. Let F_k = k · best, and Q_k = Σ_i m_i².

    - With s = ‖sin Φ‖_F between the computed V_k and the true one, √F_k changes by at most s: that holds for
      the ‖MᵀV‖_F of every mask, and so for the largest. √Q_k, the norm of the diagonal of V_kV_kᵀ, changes by
      at most ‖V_kV_kᵀ − U_kU_kᵀ‖_F = √2 s, and by 2 √(max m_i) t + t² with t = √2 s, as a row of V_k changes
      by d_i with Σ d_i² ≤ t². *Guaranteed, given the angles.* These have the parts of ``stated_overlap``:
      r_j / (|θ_j| − ¾ |θ_{k+1}|) for what the subspace lacks, the rotations that neighbours on either side of
      k may exchange, and 1 for each pair that a vector outside the basis may replace. *Estimated.*
    - Pairs a + 1 … b that cannot be told apart across k leave V_k between V_a and V_b. Row masses grow with
      the subspace, and so F_a ≤ F_k ≤ F_b and Q_a ≤ Q_k ≤ Q_b: the curves themselves bound what any choice
      may give, as do min(k − a, b − k) dimensions more. *Guaranteed, given the intervals.*

    Args:
        pairs: As of ``stated_overlap``.
        residuals: ‖Hv − λv‖₂ of all ``pairs``.
        masks: Of the first n of them.
    """
    n, dimension = len(masks.best), pairs.basis.shape[1]
    known = _known(pairs, residuals, n)
    sizes = torch.arange(1, n + 1, dtype=torch.float64)
    k = torch.arange(n) + 1
    least, most = k.clone(), k.clone()  # a and b of every k
    for last, _, member in _clusters(n, known.magnitudes, known.uncertainty):
        first = member.byte().argmax(1)
        least[last] = torch.minimum(first, last + 1)
        most[last] = torch.maximum(member.shape[1] - member.byte().flip(1).argmax(1), last + 1)
    squares = _lacking(n, known.magnitudes, known.residuals) + _turned(known, least, most)
    if pairs.outside is not None:
        squares += _replaceable(n, known.magnitudes, known.uncertainty, pairs.outside).cumsum(0)
    sine = squares.clamp_max(min(n, dimension)).sqrt()

    at = (most - 1).clamp_max(n - 1)
    more = torch.where(most > least, torch.minimum(k - least, most - k), 0).double()
    beyond = torch.where(most > n, torch.inf, 0.0)
    repeated = known.precision * _FLOOR

    mass = sizes * masks.best
    low, high = _before(mass, least), torch.minimum(mass[at] + beyond, mass + more)
    above = ((high.sqrt() + sine).square() - mass).clamp_min(0)
    below = mass - (low.sqrt() - sine).clamp_min(0).square()
    error = torch.maximum(above, below) / sizes + repeated * masks.best
    best = torch.minimum(error, torch.maximum(masks.best, 1 - masks.best))

    # Of the variance (D − k) / (k D (D − 1)) · (Q_k − k²/D); see ``masses.Spread``.
    factor = (dimension - sizes) / (sizes * dimension * max(1, dimension - 1))
    norm = (masks.random_std.square() / factor.clamp_min(_TINY) + sizes.square() / dimension).sqrt()
    low, high = _before(norm, least), torch.minimum(norm[at] + beyond, norm + more.sqrt())
    largest = torch.where(most > n, 1.0, masks.largest[at]).sqrt()
    turn = 2**0.5 * sine
    moved = torch.minimum(turn, 2 * largest * turn + turn.square())
    ends = torch.stack([(low - moved).clamp_min(0), torch.minimum(high + moved, sizes.sqrt())])
    ends = ((ends.square() - sizes.square() / dimension).clamp_min(0) * factor).sqrt()
    error = (ends - masks.random_std).abs().amax(0) + repeated * masks.random_std
    return best, error


def _before(values: Tensor, places: Tensor) -> Tensor:
    """The value at size a of each k, 0 where a is 0: (n,)."""
    return torch.cat([values.new_zeros(1), values])[places]


def _turned(known: _Known, least: Tensor, most: Tensor) -> Tensor:
    """Σ sin² of the rotations that neighbours within k and beyond may exchange, but for those among the pairs
    a + 1 … b, which ``least`` and ``most`` have of every k: (n,)."""
    n, total = len(least), len(known.magnitudes)
    found = torch.zeros(n, dtype=torch.float64)
    for distance in range(1, min(_NEIGHBOURS, total - 1) + 1):
        gap = (known.magnitudes[:-distance] - known.magnitudes[distance:]).clamp_min(_TINY)
        product = known.uncertainty[:-distance] * known.uncertainty[distance:]
        angle = (product.sqrt() / gap).clamp_max(1)
        for step in range(distance):
            i = torch.arange(n) - step
            counts = (i >= 0) & (i + distance < total) & ((i < least) | (i + distance >= most))
            found[counts] += angle[i[counts]].square()
    return found


def resolved(overlap: Tensor, error: Tensor, tolerance: float = RESOLVED) -> int:
    """The largest k such that no size up to k has an error above ``tolerance`` · overlap; 0 if there is none.

    Example:
        >>> resolved(torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.001, 0.002, 0.01]))
        2
    """
    exceeded = (~(error <= tolerance * overlap)).nonzero()
    return int(exceeded[0]) if len(exceeded) else len(overlap)


class _Known(NamedTuple):
    """What is known of the pairs: all (N,) fp64 on the CPU, and two numbers.

    Attributes:
        magnitudes: |θ|.
        residuals: ‖Hv − λv‖₂, and the resolution of fp64.
        uncertainty: How far each |θ| may be off.
        rounding: The part of each residual that rounding errors are.
        floor: The resolution of fp64 beside |λ₁|.
        precision: That of the products.
    """

    magnitudes: Tensor
    residuals: Tensor
    uncertainty: Tensor
    rounding: Tensor
    floor: float
    precision: float


def _known(pairs: Eigenpairs, residuals: Tensor, n: int) -> _Known:
    """What is known of the pairs if the first n are wanted."""
    magnitudes = _on_cpu(pairs.values).abs()
    floor = _RESOLUTION * float(magnitudes[0])
    residuals = _on_cpu(residuals) + floor
    precision = pairs.precision or torch.finfo(pairs.basis.dtype).eps
    unit = precision * magnitudes[0]
    if pairs.rounding is None:
        rounding = residuals.min().clamp_max(_NOISE * unit).expand(len(residuals))
        noise = _ALONG / pairs.basis.shape[1] ** 0.5 * (rounding + _UNITS * unit)
    else:
        rounding = noise = _on_cpu(pairs.rounding)
    shift = _shift(magnitudes, residuals, _LACKED * float(magnitudes[min(n, len(magnitudes) - 1)]), floor)
    if pairs.outside is not None:
        # Beside what lies outside, a pair that looks well known may not be.
        close = _shift(magnitudes, residuals, pairs.outside, floor)
        shift = torch.where(shift <= _TIGHT * magnitudes, torch.maximum(shift, close), shift)
    uncertainty = _uncertainty(magnitudes, residuals, shift + noise + floor) if pairs.ritz else residuals
    return _Known(magnitudes, residuals, uncertainty, rounding, floor, precision)


def _shift(magnitudes: Tensor, residuals: Tensor, beyond: float, floor: float) -> Tensor:
    """Second-order error of each |λ|, if what the pairs lack has eigenvalues up to ``beyond``: (N,)."""
    return _SHIFT * residuals.square() / (magnitudes - beyond).clamp_min(floor + _TINY)


def _uncertainty(magnitudes: Tensor, residuals: Tensor, second_order: Tensor) -> Tensor:
    """How far each |λ| may be off: (N,).

    An eigenvalue is off by r²/gap, where the gap is to what the subspace lacks. A pair that has hardly
    converged may stand for an eigenvalue anywhere in its interval: to pairs within it there is no gap, and
    these are off by up to r.
    """
    quadratic = torch.minimum(residuals, second_order)
    highest = magnitudes + quadratic
    reaches = highest >= (magnitudes - quadratic)[:, None]
    coarser = residuals >= _COARSER * residuals[:, None]
    return torch.where((reaches & coarser).triu(1).any(1), residuals, quadratic)


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


def _anywhere(mass: Tensor, magnitudes: Tensor, residuals: Tensor) -> Tensor:
    """Masked mass that is wrong if what the vectors lack may lie on the mask altogether: (n,).

    ‖MᵀV‖_F differs by at most ‖sin Φ‖_F between two subspaces.
    """
    sine = _lacking(len(mass), magnitudes, residuals).sqrt()
    return 2 * mass.sqrt() * sine + sine.square()


def _lacking(n: int, magnitudes: Tensor, residuals: Tensor) -> Tensor:
    """‖sin Φ‖²_F between the first k vectors and the eigenspace, for what the subspace lacks: (n,)."""
    following = magnitudes[torch.arange(1, n + 1).clamp_max(len(magnitudes) - 1)]
    gaps = (magnitudes[:n] - _LACKED * following[:, None]).clamp_min(_TINY)
    return (residuals[:n] / gaps).clamp_max(1).square().tril().sum(1)


def _extrapolated(
    coarser: Eigenpairs,
    order: Tensor,
    mass: Tensor,
    missing: Tensor,
    exchanged: Tensor,
    repeated: Tensor,
    tied: Tensor,
) -> tuple[Tensor, Tensor]:
    """Change of the masked mass that is still to come, and how far that may be wrong: 2 × (n,)."""
    n = len(order)
    masses = _on_cpu(coarser.rows(order)).square().cumsum(0)
    change = mass - masses[:, :n].cumsum(1).diagonal()
    seen = (change.abs() - repeated).clamp_min(0)
    # What neighbours exchange at one k says nothing of the others.
    largest = torch.maximum(seen, _largest_near(seen - exchanged))
    rate = torch.full_like(change, 0.5)
    if coarser.residuals is not None:
        before = _missing(
            masses, _on_cpu(coarser.values).abs(), _on_cpu(coarser.residuals), coarser.basis.shape[1]
        )
        rate = missing / before.clamp_min(_TINY)
    slow = torch.where(rate < 1, rate / (1 - rate).clamp_min(_TINY), _SLOWEST).clamp_max(_SLOWEST)
    # A series that hardly converges says where it goes no better than that it is there; one of tied pairs,
    # which turn at random, says nothing.
    ahead = torch.where((rate <= _CONVERGES) & ~tied, _ADDED * slow * seen * change.sign(), 0.0)
    return ahead, torch.where(rate <= _CONVERGES, _SAFETY, _SAFETY_ALONE) * slow * largest


def _largest_near(values: Tensor) -> Tensor:
    """The largest value at sizes near each size, 0 at least: (n,)."""
    index = torch.arange(len(values))
    near = (index - index[:, None]).abs() <= _NEAR + (_NEAR_SHARE * index[:, None]).long()
    return torch.where(near, values, 0.0).amax(1)


def _nearby(error: Tensor, mass: Tensor, tied: Tensor) -> Tensor:
    """The error of the masked mass that counts at each size, from the estimates at sizes near it: (n,).

    Without this a third of the curves of 355 sizes left their band somewhere, mostly at a few sizes at which
    the estimate was smaller than at those beside them.

    Args:
        error: (n,), as estimated at each size.
        mass: (n,), the masked mass.
        tied: (n,), sizes that cut a multiple eigenvalue: their error is their own.
    """
    sizes = torch.arange(1, len(error) + 1, dtype=torch.float64)
    shared = torch.where(tied, 0.0, error)
    absolute = sizes * _largest_near(shared / sizes)
    relative = mass * _largest_near(shared / mass.clamp_min(_TINY))
    return torch.maximum(error, torch.minimum(absolute, relative))


def _tied(magnitudes: Tensor, uncertainty: Tensor) -> Tensor:
    """Whether a pair and the next one are both known well, and not told apart: (N,)."""
    tight = uncertainty <= _TIGHT * magnitudes
    apart = magnitudes[:-1] - magnitudes[1:] > uncertainty[:-1] + uncertainty[1:]
    none = torch.zeros(1, dtype=torch.bool)
    return torch.cat([~apart & tight[:-1] & tight[1:], none])


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
    """Change of the masked mass if pairs that cannot be told apart are rotated among each other: (n,)."""
    n = len(rows)
    ambiguity = torch.zeros(n, dtype=torch.float64)
    masses = rows.square().cumsum(0)
    for last, within, member in _clusters(n, magnitudes, uncertainty):
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
        largest = torch.linalg.eigvalsh(cluster @ cluster.mT).clamp_min(0).flip(1)
        largest = torch.cat([largest.new_zeros(len(largest), 1), largest.cumsum(1)], 1)
        most[small] = largest.gather(1, taken[small, None])[:, 0]
        least[small] = trace[small] - largest.gather(1, (size - taken)[small, None])[:, 0]
        ambiguity[last] = torch.maximum(most - now, now - least).clamp_min(0)
    return ambiguity


def _clusters(n: int, magnitudes: Tensor, uncertainty: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The sizes at which pairs within k and beyond cannot be told apart, some at a time.

    Yields:
        (m,) int64, the index k − 1 of the last pair within; (m, N) bool, which pairs are within; and (m, N)
        bool, which of all pairs cannot be told from one on the other side.
    """
    above, below = magnitudes + uncertainty, magnitudes - uncertainty
    highest_beyond = above.flip(0).cummax(0).values.flip(0)[1:]
    lowest_within = below.cummin(0).values[:-1]
    ambiguous = (highest_beyond >= lowest_within)[:n].nonzero().flatten()
    tight = uncertainty <= _TIGHT * magnitudes
    place = torch.arange(len(magnitudes))
    for last in torch.split(ambiguous, _SIZES):
        within = place <= last[:, None]
        member = torch.where(within, below <= highest_beyond[last, None], above >= lowest_within[last, None])
        yield last, within, member & (tight | ((place - last[:, None] - 0.5).abs() <= _CLOSEST))


def _replaceable(n: int, magnitudes: Tensor, uncertainty: Tensor, outside: float) -> Tensor:
    """Which of the first n pairs vectors outside the basis may replace: (n,) bool; see ``_unseen``."""
    smaller = magnitudes - uncertainty <= outside
    if n >= _MANY:
        # What has hardly converged is outside in part, with an eigenvalue like its own: its residual tells.
        smaller &= uncertainty <= _TIGHT * magnitudes
    return smaller[:n]


def _unseen(masses: Tensor, magnitudes: Tensor, uncertainty: Tensor, outside: float) -> Tensor:
    """Change of the masked mass if vectors outside the basis replace pairs no larger than they: (n,).

    Args:
        masses: (n, N), of every eigenvector on the first k coordinates.
        magnitudes: (N,), |θ|.
        uncertainty: (N,), of them.
        outside: The largest |eigenvalue| found outside.
    """
    n = len(masses)
    smaller = _replaceable(n, magnitudes, uncertainty, outside)
    replaceable = torch.ones(n, n, dtype=torch.float64).tril() * smaller
    now = (masses[:, :n] * replaceable).sum(1)
    return torch.maximum(replaceable.sum(1) - now, now)


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().double().cpu()
