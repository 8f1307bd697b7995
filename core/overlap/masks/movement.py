"""Masks of the weights that training has moved most, which need an earlier checkpoint."""

from __future__ import annotations

from torch import Tensor

from seigh.core.overlap.masks.magnitude import flat
from seigh.core.overlap.observables import Scene, ScoredMask


def _moved_since(earlier: str, scene: Scene) -> Tensor:
    now = flat(scene).double()
    return (now - scene.earlier(earlier).theta.to(now.device)).abs()


MOVEMENT = ScoredMask(
    "movement",
    "the largest |θₜ − θ₀|",
    "the mask takes the weights that have moved farthest since the initial checkpoint (Zhou et al. 2019, "
    "§3, 'movement').",
    lambda scene: _moved_since("initial", scene),
    earlier="initial",
)

UPDATE = ScoredMask(
    "update",
    "the largest |θₜ − θ of the step before|",
    "the mask takes the weights that have moved farthest since the previous checkpoint.",
    lambda scene: _moved_since("previous", scene),
    earlier="previous",
)
