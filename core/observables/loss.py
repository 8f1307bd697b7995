"""The loss along the leading eigenvectors, beside what their eigenvalues say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from seigh.core.methods import Request
from seigh.core.overlap.observables import Observable, Profile, Scene

Floats = NDArray[np.float64]

DIRECTIONS = 3
_HALF = 10  # places on either side of θ

# At the outermost places, the parabola has risen by this part of the loss.
_RISE = 0.1

# Difference quotients take so many times smaller a step: their errors are of fourth order in it.
_FINER = 100

# Rounding units by which a mean of N losses in float64 may be off.
_UNITS = 2.0**10


def ends(losses: Floats) -> tuple[Floats, Floats]:
    """How low and how high losses may be, whose means were rounded in float64."""
    off = _UNITS * np.finfo(np.float64).eps * (1 + np.abs(losses))
    return losses - off, losses + off


def _along(scene: Scene) -> Profile:
    """L(θ + α v_i), i = 1 … m, and L + α ∇Lᵀv_i + ½ λ_i α²."""
    landscape = scene.landscape
    theta, gradient = landscape.theta, landscape.gradient()
    here = landscape.loss(theta)
    rows, said = [], ""
    for i in range(min(DIRECTIONS, len(scene.values))):
        value = float(scene.values[i])
        vector = scene.vectors[i].to(theta.device).double()
        vector = vector / vector.norm()
        slope = float(gradient @ vector)
        reach = math.sqrt(2 * _RISE * max(abs(here), 1e-12) / max(abs(value), 1e-300))
        places = reach * np.arange(-_HALF, _HALF + 1) / _HALF
        losses = [here if place == 0 else landscape.loss(theta + place * vector) for place in places]
        parabola = here + places * slope + 0.5 * value * places**2
        rows.append(np.column_stack([np.full(len(places), i + 1.0), places, losses, parabola]))
        if i == 0:
            step = reach / _FINER
            beside = [landscape.loss(theta + n * step * vector) for n in (1, -1, 2, -2)]
            near, far = sum(beside[:2]) - 2 * here, sum(beside[2:]) - 2 * here
            bend = (16 * near - far) / (12 * step**2)
            said = (
                f"Along v₁ the loss itself bends by {bend:.5g} at α = 0 (difference "
                f"quotients), and λ₁ = {value:.5g}."
            )
    line, places, losses, parabola = np.concatenate(rows).T
    return Profile(places, losses, *ends(losses), parabola, line, said)


def _cost(request: Request) -> Mapping[str, float]:
    lines = min(DIRECTIONS, request.k)
    return {"gradient": 0.5, "loss along eigenvectors": (2 * _HALF * lines + 5) / 6}


ALONG = Observable(
    "loss-along",
    "loss L(θ + α vᵢ)",
    "the loss after θ is moved by α along each of the first eigenvectors, in float64. Dashed is the parabola "
    "L + α ∇Lᵀvᵢ + ½ λᵢ α² that gradient and eigenvalue predict; near α = 0, the two must agree.",
    _along,
    _cost,
    kind="profile",
    x="α",
    line="eigenvector",
    reference="L + α ∇Lᵀvᵢ + ½ λᵢ α²",
)
