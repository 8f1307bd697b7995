"""The sharpness against the learning rate: the edge of stability (Cohen et al. 2021, arXiv 2103.00065)."""

from __future__ import annotations

from seigh.core.observables.trace import beyond
from seigh.core.overlap.observables import Observable, Quantity, Scene, Unavailable


def _edge(scene: Scene) -> Quantity:
    rate = scene.landscape.learning_rate
    if rate is None:
        raise Unavailable(
            "The checkpoint does not say its learning rate; give it as learning_rate, or save the "
            "optimizer's state with the weights."
        )
    assert scene.found is not None
    assert scene.residuals is not None
    values, residuals = scene.found.values.double().cpu(), scene.residuals.double().cpu()
    at = int(values.argmax())
    sharpness, off = float(values[at]), float(residuals[at])
    if sharpness <= 0 and len(values) < scene.vectors.shape[1]:
        last = float(values.abs()[-1] + residuals[-1])
        raise Unavailable(
            f"None of the {len(values):,} eigenvalues found is positive, so the largest one lies below "
            f"{last:.3g} and is not known; ask for more of them."
        )
    value, reach = 0.5 * rate * sharpness, 0.5 * rate * off
    above = value + reach + 0.5 * rate * beyond(scene)
    return Quantity(value, value - reach, above, 1.0, f"With the learning rate η = {rate:.6g}.")


EDGE = Observable(
    "edge-of-stability",
    "largest eigenvalue · η/2",
    "the largest (most positive) eigenvalue of H times half the learning rate η. Above 1, the edge of "
    "stability, gradient descent on these samples overshoots along the eigenvector; with momentum β, the "
    "edge is at 1 + β.",
    _edge,
    kind="quantity",
    reference="edge of stability",
)
