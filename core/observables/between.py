"""The loss along the straight line from an earlier checkpoint, beside what its derivatives say at both ends.

The line is that of Goodfellow, Vinyals & Saxe 2015 (arXiv 1412.6544); curvature along it is told by one
product with the Hessian at either end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from seigh.core.methods import Request
from seigh.core.names import EARLIER
from seigh.core.observables.loss import ends
from seigh.core.overlap.observables import GRADIENT, Observable, Profile, Scene, Unavailable

# Places from the earlier checkpoint at 0 to this one at 1, and a quarter beyond either.
PLACES = 25
_FIRST, _LAST = -0.25, 1.25


def _between(which: str) -> Callable[[Scene], Profile]:
    """L(θ′ + αΔ) with Δ = θ − θ′, and L + (α − a) ∇LᵀΔ + ½ (α − a)² ΔᵀHΔ about a = 0 and about a = 1."""

    def compute(scene: Scene) -> Profile:
        landscape = scene.landscape
        theta = landscape.theta
        before = scene.earlier(which).theta.to(theta.device)
        step = theta - before
        length = float(step.norm())
        if not length > 0:
            raise Unavailable(
                f"These weights are those of {EARLIER[which]}, so there is no line between them."
            )
        places = np.linspace(_FIRST, _LAST, PLACES)
        losses = np.array([landscape.loss(before + place * step) for place in places])
        lines, models, bends = [], [], []
        for end, at in enumerate((before, theta)):
            here = landscape.loss(at)
            slope = float(landscape.gradient(None if end else at) @ step)
            bend = float(step @ landscape.product(step, at))
            away = places - end
            models.append(here + away * slope + 0.5 * away**2 * bend)
            lines.append(np.full(PLACES, end + 1.0))
            bends.append(bend / length**2)
        line, model = np.concatenate(lines), np.concatenate(models)
        value, x = np.tile(losses, 2), np.tile(places, 2)
        remark = (
            f"Δ has the length {length:.4g}; along it the loss bends by ΔᵀHΔ/‖Δ‖² = {bends[0]:.4g} there and "
            f"{bends[1]:.4g} here, where λ₁ = {float(scene.values[0]):.4g}."
        )
        return Profile(x, value, *ends(value), model, line, remark)

    return compute


def _cost(_: Request) -> Mapping[str, float]:
    return {**GRADIENT, "loss along a line": PLACES / 6 + 0.5 + 2 * 2}


def _observable(name: str, which: str, start: str) -> Observable:
    return Observable(
        name,
        f"loss along the line from {start}",
        f"the loss on the straight line θ′ + α(θ − θ′) from {start} (α = 0) to this one (α = 1), in float64. "
        "Dashed are the parabolas L + δ∇LᵀΔ + ½δ²ΔᵀHΔ that gradient and Hessian predict about end 1 (α = 0) "
        "and end 2 (α = 1). Where they follow the line, the loss is quadratic between the two.",
        _between(which),
        _cost,
        kind="profile",
        x="α",
        line="parabola about end",
        reference="parabola of gradient and Hessian",
        earlier=which,
    )


FROM_PREVIOUS = _observable("loss-between", "previous", "the checkpoint before")
FROM_INITIAL = _observable("loss-from-initial", "initial", "the initial checkpoint")
