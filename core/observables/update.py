"""The share of what training has changed that lies in the top eigenspaces."""

from __future__ import annotations

from seigh.core.observables.direction import shares
from seigh.core.overlap.observables import Curve, Observable, Scene


def _last(scene: Scene) -> Curve:
    theta = scene.landscape.theta
    before = scene.earlier("previous").theta.to(theta.device)
    return shares(scene, theta - before, "The update since the checkpoint before")


UPDATE = Observable(
    "update-share",
    "share of the last update in Vₖ",
    "the share of the squared length of θ − θ′ that lies in the top eigenspace, where θ′ is the previous "
    "checkpoint. At chance, k/D, training moves no more along the eigenspace than along other directions.",
    _last,
    earlier="previous",
)
