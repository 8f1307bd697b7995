"""All masks that are built in."""

from __future__ import annotations

from seigh.core.overlap.masks.diagonal import FISHER, GGN, HESSIAN, OBD
from seigh.core.overlap.masks.gradient import ASAM, GRADIENT, SAM, SNIP
from seigh.core.overlap.masks.magnitude import LAYERWISE
from seigh.core.overlap.masks.movement import MOVEMENT, UPDATE

MASKS = (LAYERWISE, GRADIENT, SNIP, GGN, HESSIAN, FISHER, OBD, MOVEMENT, UPDATE, SAM, ASAM)
