"""The curves that an analysis can be asked for besides the overlap of the largest magnitudes, by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

import numpy as np

from seigh.core.errors import UserError, first_line
from seigh.core.methods import Request
from seigh.core.overlap.masks.built_in import MASKS
from seigh.core.overlap.masks.own import own_mask
from seigh.core.overlap.observables import OBSERVABLES, Curve, Observable, Scene
from seigh.core.problems import plugins
from seigh.core.settings import AnalysisSettings, SettingsError

_log = logging.getLogger(__name__)


@cache
def available() -> Mapping[str, Observable]:
    """All of them: what is built in, and what plug-ins have registered."""
    masks = {each.name: each for each in (mask.observable() for mask in MASKS)}
    return MappingProxyType(dict(OBSERVABLES) | masks | plugins.registry().curves)


def asked(settings: AnalysisSettings) -> dict[str, Observable]:
    """The curves that settings ask for, those of the user's own masks included.

    Raises:
        SettingsError: There is no such curve.
    """
    check(settings)
    found = {name: available()[name] for name in settings.curves}
    found |= {each.name: each for each in (own_mask(name).observable() for name, _ in settings.own_masks)}
    return dict(sorted(found.items()))


def check(settings: AnalysisSettings) -> None:
    """Refuse curves that there are none of.

    Raises:
        SettingsError: One of them is unknown, or the user's mask is called like another one.
    """
    for name in settings.curves:
        if name not in available():
            known = ", ".join(available())
            raise SettingsError(f"There is no curve '{name}'; there are {known}.")
    for name, _ in settings.own_masks:
        if own_mask(name).observable().name in available():
            raise SettingsError(f"There is a mask '{name}' already; give yours another name, as NAME=FILE.")


def products(names: Sequence[str], request: Request) -> float:
    """What the curves of these names cost beyond the eigenpairs, in products; what they share counts once."""
    parts: dict[str, float] = {}
    for name in set(names) & available().keys():
        for what, number in available()[name].cost(request).items():
            parts[what] = max(number, parts.get(what, 0.0))
    return sum(parts.values())


def compute(wanted: Mapping[str, Observable], scene: Scene) -> tuple[dict[str, Curve], dict[str, str]]:
    """These curves; and of those that failed, why.

    One that fails takes nothing from the others, or from the analysis: hours of products lie behind it.
    """
    found: dict[str, Curve] = {}
    failed: dict[str, str] = {}
    for name, observable in wanted.items():
        try:
            found[name] = _sound(observable.compute(scene), len(scene.values))
        except UserError as error:
            failed[name] = str(error)
        except Exception as error:  # a plug-in's code may fail in every way there is
            _log.exception("The curve '%s' is left out, because it fails.", name)
            failed[name] = f"The curve {name} cannot be computed ({first_line(error)}); ask who wrote it."
    return found, failed


def _sound(curve: Curve, length: int) -> Curve:
    parts = {}
    for part in ("value", "error", "chance"):
        given = getattr(curve, part)
        numbers = None if given is None else np.asarray(given, dtype=np.float64)
        if numbers is not None and numbers.shape != (length,):
            raise ValueError(f"its {part} has the shape {numbers.shape} and not ({length},)")
        parts[part] = numbers
    value, error = parts["value"], parts["error"]
    if value is None or not np.isfinite(value).all():
        raise ValueError("its values are not all finite")
    if error is not None and not (error >= 0).all():
        raise ValueError("its errors are not all numbers ≥ 0")
    return Curve(value, error, parts["chance"], curve.mask)
