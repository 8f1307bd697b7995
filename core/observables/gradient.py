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
    "share of the gradient in Vₖ",
    "the share ‖Vₖᵀg‖²/‖g‖² of the squared length of the loss gradient g that lies in the top eigenspace. "
    "At 1, the whole gradient lies in it; at chance, k/D, the gradient is unrelated to it.",
    _own,
    lambda _: GRADIENT,
)

OTHER_SHARE = Observable(
    "gradient-share-other-split",
    "share of the other split's gradient in Vₖ",
    "the share of the gradient on the other split (training, if test data are analysed) that lies in the "
    "top eigenspace, on the same number of samples. It shows whether the loss of the other split falls in "
    "this eigenspace. Chance is k/D.",
    _other,
    lambda _: OTHER_GRADIENT,
)
