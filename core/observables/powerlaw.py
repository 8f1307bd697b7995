"""Whether the eigenvalues follow a power law (Clauset, Shalizi & Newman 2009, arXiv 0706.1062, §3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seigh.core.overlap.observables import Observable, Quantity, Scene, Unavailable

Floats = NDArray[np.float64]

# Fewer eigenvalues are no sample.
_LEAST = 10


def fit(values: Floats) -> tuple[float, float]:
    """α of p(λ) ∝ λ^−α above the least of these |λ|, and the Kolmogorov–Smirnov distance.

    Args:
        values: (k,) |λ| > 0, descending.
    """
    logs = np.log(values / values[-1])
    exponent = 1 + len(values) / logs.sum()
    return float(exponent), _distance(logs, exponent)


def _distance(logs: Floats, exponent: float) -> float:
    """The largest distance between 1 − (λ/λ_k)^(1 − α) and the share of eigenvalues that are no larger."""
    k = len(logs)
    law = -np.expm1((1 - exponent) * logs[::-1])
    steps = np.arange(1, k + 1) / k
    return float(np.maximum(np.abs(law - steps), np.abs(law - steps + 1 / k)).max())


def _eigenvalues(scene: Scene) -> tuple[Floats, Floats]:
    assert scene.residuals is not None
    k = len(scene.values)
    values = scene.values.double().abs().cpu().numpy()
    residuals = scene.residuals[:k].double().cpu().numpy()
    if k < _LEAST:
        raise Unavailable(f"A power law is fitted to {_LEAST} eigenvalues at least, and there are {k}.")
    if not (residuals < values).all():
        raise Unavailable(
            "Some of these eigenvalues may be 0, which follows no power law; choose a smaller k."
        )
    if values[0] == values[-1]:
        raise Unavailable("All these eigenvalues are equal, so there is no power law to fit.")
    return values, residuals


def _ends(values: Floats, residuals: Floats) -> tuple[float, float]:
    """Between what α lies if every |λ| may be off by its residual: it falls with all and grows with the "
    "last."""
    k, logs = len(values), np.log(values / values[-1]).sum()
    moved = -np.log1p(-residuals / values)
    off = moved[:-1].sum() + (k - 1) * moved[-1]
    return 1 + k / (logs + off), np.inf if logs <= off else 1 + k / (logs - off)


def _exponent(scene: Scene) -> Quantity:
    values, residuals = _eigenvalues(scene)
    exponent, _ = fit(values)
    lower, upper = _ends(values, residuals)
    if not np.isfinite(upper):
        raise Unavailable("These eigenvalues are not known well enough to fit a power law.")
    drawn = (exponent - 1) / len(values) ** 0.5
    remark = (
        f"Of {len(values)} eigenvalues down to {values[-1]:.3g}. Were they drawn from such a law at random, "
        f"the exponent would have the standard error {drawn:.2g}."
    )
    return Quantity(exponent, lower, upper, None, remark)


def _off_the_law(scene: Scene) -> Quantity:
    """Its error: what the law moves with α and with λ, and by how many places eigenvalues may change "
    "theirs."""
    values, residuals = _eigenvalues(scene)
    exponent, distance = fit(values)
    lower, upper = _ends(values, residuals)
    if not np.isfinite(upper):
        raise Unavailable("These eigenvalues are not known well enough to fit a power law.")
    moved = -np.log1p(-residuals / values)
    logs = np.log(values / values[-1])
    # Sorted lists of numbers that are off by so much each differ by no more than the largest of it.
    reach = moved.max() + moved[-1]
    ends = np.stack(
        [
            -np.expm1((1 - a) * np.maximum(logs + shift, 0))
            for a in (lower, upper)
            for shift in (-reach, reach)
        ]
    )
    law = -np.expm1((1 - exponent) * logs)
    off = float(np.abs(ends - law).max())
    return Quantity(distance, max(distance - off, 0.0), min(distance + off, 1.0))


EXPONENT = Observable(
    "power-law",
    "exponent α of a power law of |λ|",
    "the exponent of p(|λ|) ∝ |λ|^−α, fitted to the k eigenvalues of largest |λ| by maximum likelihood; "
    "power-law-distance says how well such a law fits. The interval covers what the residuals allow.",
    _exponent,
    kind="quantity",
)

DISTANCE = Observable(
    "power-law-distance",
    "Kolmogorov–Smirnov distance from the power law",
    "the largest difference between the share of the k eigenvalues below |λ| and the fitted law; it is 0 for "
    "a perfect fit. The interval covers what the residuals allow.",
    _off_the_law,
    kind="quantity",
)
