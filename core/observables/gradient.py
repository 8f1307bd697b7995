"""The gradient's share in the top eigenspaces (Gur-Ari, Roberts & Dyer 2018, arXiv 1812.04754, §2)."""

from __future__ import annotations

from seigh.core.observables.direction import shares
from seigh.core.overlap.observables import GRADIENT, OTHER_GRADIENT, Curve, Observable, Scene


def _own(scene: Scene) -> Curve:
    return shares(scene, scene.landscape.gradient(), "The gradient of the loss")


def _other(scene: Scene) -> Curve:
    other = scene.landscape.other
    remark = f"The gradient is that of the split {other.split}."
    return shares(scene, other.gradient(), f"The gradient on the split {other.split}", remark)


SHARE = Observable(
    "gradient-share",
    "share of the gradient in V_k",
    "the part ‖V_kᵀg‖²/‖g‖² of the squared length of the gradient g of the loss that lies in the top "
    "eigenspace; at 1, the loss falls fastest within it. At chance, k/D, the gradient knows nothing of it.",
    _own,
    lambda _: GRADIENT,
)

OTHER_SHARE = Observable(
    "gradient-share-other-split",
    "share of the other split's gradient in V_k",
    "as the share of the gradient, with the gradient on as many samples of the other split (training for an "
    "analysis of test data): whether the eigenspace of one split is where the loss of the other one falls.",
    _other,
    lambda _: OTHER_GRADIENT,
)
