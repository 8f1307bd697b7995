"""What an analysis can be asked for besides the overlap of the largest magnitudes: one file a question.

Each is an ``Observable``, declared in its file and listed here; what it may look at is a ``Scene``
(``seigh.core.overlap.observables``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from seigh.core.observables import (
    adam,
    approximations,
    between,
    density,
    gradient,
    layers,
    localisation,
    loss,
    powerlaw,
    sharpness,
    trace,
    update,
)
from seigh.core.overlap.observables import OBSERVABLES, Observable

_HERE = (
    gradient.SHARE,
    gradient.OTHER_SHARE,
    update.UPDATE,
    trace.TRACE,
    trace.SHARE_OF_TRACE,
    trace.ENERGY,
    trace.NEGATIVE,
    trace.NEGATIVE_MASS,
    trace.MOST_NEGATIVE,
    density.DENSITY,
    sharpness.EDGE,
    adam.SHARPNESS,
    loss.ALONG,
    between.FROM_PREVIOUS,
    between.FROM_INITIAL,
    layers.SHARPNESS,
    layers.TRACE,
    layers.MISSED,
    layers.OVERLAP,
    layers.DENSITY,
    *approximations.OBSERVABLES,
    powerlaw.EXPONENT,
    powerlaw.DISTANCE,
    localisation.EACH,
)

BUILT_IN: Mapping[str, Observable] = MappingProxyType(dict(OBSERVABLES) | {each.name: each for each in _HERE})
"""All that are here without a plug-in, by name."""
