"""The trace, how much of it and of ‖H‖²_F lies in the top eigenspaces, and negative eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seigh.core.overlap.observables import Curve, Observable, Quantity, Scene, Unavailable
from seigh.core.spectra.aposteriori import APosteriori, Interval

PROBABILITY = 0.95


def _found(scene: Scene) -> tuple[Tensor, Tensor]:
    """The eigenvalues that were found, further ones among them, and their residuals."""
    assert scene.found is not None
    assert scene.residuals is not None
    return scene.found.values.double().cpu(), scene.residuals.double().cpu()


def _estimate(scene: Scene) -> APosteriori:
    assert scene.estimate is not None
    return scene.estimate


def is_known(scene: Scene) -> bool:
    """Whether residuals tell how far each eigenvalue may be from that of its rank.

    They do of Ritz pairs of which none is missing; of a sketch's, some eigenvalue lies within each residual,
    and others may have been missed.
    """
    assert scene.found is not None
    whole = scene.found.completeness is None or scene.found.completeness.complete
    return scene.found.ritz and whole


def beyond(scene: Scene) -> float:
    """How far the largest or the least eigenvalue may lie beyond those of the K pairs.

    Eigenvalues of H and Ĥ differ by no more than ‖H − Ĥ‖₂ (Weyl 1912), which is at most the upper end of
    ‖H − Ĥ‖_F. It is 0 where residuals tell all (``is_known``).
    """
    return 0.0 if is_known(scene) else _estimate(scene).interval(PROBABILITY).error.upper


def _interval(scene: Scene) -> Interval:
    values, residuals = _found(scene)
    assert scene.found is not None
    k = len(scene.values)
    largest = None
    if is_known(scene):  # then what is outside is known to be no larger than the next one
        following = min(k, len(values) - 1)
        reach = float((values.abs() + residuals)[following:].max())
        largest = max(reach, scene.found.outside or 0.0) + float(residuals[:k].norm())
    found = _estimate(scene).trace_interval(PROBABILITY, largest)
    rounding = float(residuals[:k].sum())  # of Σ λ_j itself: products are rounded
    return Interval(found.lower - rounding, found.upper + rounding)


def _trace(scene: Scene) -> Quantity:
    found = _interval(scene)
    return Quantity(_estimate(scene).trace, found.lower, found.upper)


def _share_of_trace(scene: Scene) -> Curve:
    found, (values, residuals) = _interval(scene), _found(scene)
    k, trace = len(scene.values), _estimate(scene).trace
    if found.lower <= 0 <= found.upper:
        raise Unavailable(
            f"The trace lies between {found.lower:.3g} and {found.upper:.3g}, so it may be 0 and there is no "
            "share of it; more test vectors (error_tests) narrow that down."
        )
    taken = values[:k].cumsum(0)
    off = residuals[:k].cumsum(0) + 2 * _signs(scene).mass  # what takes a place may be of the other sign
    ends = torch.stack([(taken + sign * off) / end for sign in (1, -1) for end in (found.lower, found.upper)])
    chance = np.arange(1, k + 1) / scene.vectors.shape[1]
    return Curve.between(taken / trace, ends.amin(0), ends.amax(0), chance)


def _energy(scene: Scene) -> Curve:
    """1 less the scree curve, whose band holds for any H."""
    values, residuals = _found(scene)
    k, estimate = len(scene.values), _estimate(scene)
    if not estimate.norm > 0:
        raise Unavailable("‖H‖_F is exactly 0 here, so no part of it lies anywhere.")
    band = estimate.scree(values[:k], residuals[:k] if is_known(scene) else None, PROBABILITY)
    value = values[:k].square().cumsum(0) / estimate.norm**2
    return Curve.between(value, 1 - band.upper, 1 - band.lower)


@dataclass(frozen=True)
class _Signs:
    """What is known of the signs of the k eigenvalues of largest |λ|, k = 1 … K.

    Attributes:
        off: (K,), how far each |λ| may be off.
        count: (K,), how many may be negative that seem positive, or the other way round.
        mass: (K,), how far the sum of |λ| of negative ones may be off.
    """

    off: Tensor
    count: Tensor
    mass: Tensor


def _signs(scene: Scene) -> _Signs:
    """A pair is among the first k for certain if no |λ| after it may be as large; else it may have to make
    room for another one, which matters where those that compete are not of one sign."""
    values, off = _found(scene)
    assert scene.found is not None
    k, dimension = len(scene.values), scene.vectors.shape[1]
    off = (off + beyond(scene)).clamp_max(1e300)
    low, high = values.abs() - off, values.abs() + off
    count, mass = torch.zeros(2, k, dtype=torch.float64)
    for last in range(k):
        after = float(high[last + 1 :].max()) if last + 1 < len(values) else 0.0
        unseen = len(values) < dimension  # what was not found is no larger than the least that was
        after = max(after, float(high[-1])) if unseen else after
        inside = low[: last + 1] <= after
        least = float(low[: last + 1].min())
        outside = high[last + 1 :] >= least
        compete = torch.cat([values[: last + 1][inside], values[last + 1 :][outside]])
        clear = torch.cat([low[: last + 1][inside], low[last + 1 :][outside]]) > 0
        alike = bool(clear.all()) and bool((compete > 0).all() or (compete < 0).all())
        if (unseen and float(high[-1]) >= least) or not alike:
            doubtful = inside | (low[: last + 1] <= 0)
            count[last] = float(doubtful.sum())
            mass[last] = float((after + off[: last + 1])[doubtful].sum())
        else:
            count[last] = float((low[: last + 1] <= 0).sum())
    return _Signs(off[:k], count, mass)


def _negative(scene: Scene) -> Curve:
    values, known = _found(scene)[0][: len(scene.values)], _signs(scene)
    count = (values < 0).double().cumsum(0)
    sizes = torch.arange(1, len(values) + 1, dtype=torch.float64)
    return Curve.between(count, (count - known.count).clamp_min(0), torch.minimum(count + known.count, sizes))


def _negative_mass(scene: Scene) -> Curve:
    """Σ |λ| of the negative ones over Σ |λ| of all, each off by no more than is known of it."""
    values, known = _found(scene)[0][: len(scene.values)], _signs(scene)
    off = known.off.cumsum(0)
    whole, negative = values.abs().cumsum(0), (-values).clamp_min(0).cumsum(0)
    value = negative / whole
    # Moving any eigenvalue by r moves the fraction by at most r / whole, whichever of its two terms it is in.
    error = torch.where(whole > off, (off + known.mass) / (whole - off).clamp_min(1e-300), 1.0)
    return Curve.between(value, (value - error).clamp_min(0), (value + error).clamp_max(1))


def _most_negative(scene: Scene) -> Quantity:
    values, residuals = _found(scene)
    at = int(values.argmin())
    value, reach = float(values[at]), float(residuals[at])
    if value >= 0:
        last = float(values.abs()[-1] + residuals[-1])
        raise Unavailable(
            f"None of the {len(values):,} eigenvalues found is negative, so none lies below −{last:.3g}; "
            "ask for more of them."
        )
    upper = min(value + reach, 0.0)
    return Quantity(value, value - reach - beyond(scene), upper)


TRACE = Observable(
    "trace",
    "trace of H",
    "the sum of all D eigenvalues: the sum of the k computed ones, plus an estimate for the others from "
    "products with random vectors (Hutchinson's estimate, deflated). The interval holds with at least 95 % "
    "probability, for any H.",
    _trace,
    kind="quantity",
)

SHARE_OF_TRACE = Observable(
    "trace-share",
    "share of the trace in the top k",
    "the sum of the first k eigenvalues divided by the trace; it may exceed 1 if eigenvalues have both "
    "signs. The error holds with 95 % probability for all k at once.",
    _share_of_trace,
)

ENERGY = Observable(
    "energy-share",
    "share of ‖H‖²_F in the top k",
    "the sum of the first k squared eigenvalues divided by the sum of all D: the most of ‖H‖²_F that a "
    "matrix of rank k can capture. The interval, within 0 and 1, holds with 95 % probability for all k at "
    "once.",
    _energy,
)

NEGATIVE = Observable(
    "negative-count",
    "negative eigenvalues among the first k",
    "the number of negative eigenvalues among the k of largest |λ|. The error counts eigenvalues whose sign "
    "is not known, and those that may not be among the first k.",
    _negative,
)

NEGATIVE_MASS = Observable(
    "negative-mass",
    "negative share of Σ|λ| of the first k",
    "the sum of |λ| over the negative eigenvalues divided by the sum over all, among the k of largest |λ|.",
    _negative_mass,
)

MOST_NEGATIVE = Observable(
    "most-negative",
    "most negative eigenvalue",
    "the smallest of the computed eigenvalues: how steeply the loss bends down at a saddle. It is off by no "
    "more than its residual; a sketch may have missed a lower eigenvalue, and the interval then reaches "
    "lower by the bound on ‖H − Ĥ‖.",
    _most_negative,
    kind="quantity",
)
