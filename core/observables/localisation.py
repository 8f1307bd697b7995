"""The participation ratio of every eigenvector (Thouless 1974; of networks' Hessians, Sagun et al. 2016)."""

from __future__ import annotations

import numpy as np

from seigh.core.overlap.observables import Observable, Profile, Scene, participations


def _each(scene: Scene) -> Profile:
    value, error, uniform = (part.numpy() for part in participations(scene))
    places = np.arange(1.0, len(value) + 1)
    return Profile(places, value, np.maximum(value - error, 0), np.minimum(value + error, 1), uniform)


EACH = Observable(
    "participation-each",
    "participation ratio of vᵢ",
    "the sum of the fourth powers of the coordinates of each eigenvector: 1 if it lies on one coordinate, "
    "1/D if it is spread evenly over all D, and 3/(D + 2) for a random vector (dashed). The band covers the "
    "true eigenvector.",
    _each,
    kind="profile",
    x="i",
    reference="random vector",
    log=True,
)
