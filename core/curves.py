"""The curves that an analysis can be asked for besides the overlap of the largest magnitudes, by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from seigh.core.errors import UserError, first_line
from seigh.core.methods import Request
from seigh.core.names import EARLIER
from seigh.core.observables import BUILT_IN
from seigh.core.overlap.masks.built_in import MASKS
from seigh.core.overlap.masks.own import own_mask
from seigh.core.overlap.observables import Curve, Kind, Observable, Observed, Profile, Quantity, Scene
from seigh.core.problems import plugins
from seigh.core.settings import AnalysisSettings, SettingsError

_log = logging.getLogger(__name__)


@cache
def available() -> Mapping[str, Observable]:
    """All of them: what is built in, and what plug-ins have registered."""
    masks = {each.name: each for each in (mask.observable() for mask in MASKS)}
    return MappingProxyType(dict(BUILT_IN) | masks | plugins.registry().curves)


def asked(settings: AnalysisSettings) -> dict[str, Observable]:
    """The curves that settings ask for, those of the user's own masks included.

    Raises:
        SettingsError: There is no such curve.
    """
    check(settings)
    found = {name: available()[name] for name in settings.curves}
    return dict(sorted({**found, **of_own_masks(settings)}.items()))


def of_own_masks(settings: AnalysisSettings) -> dict[str, Observable]:
    """The curves of the user's own masks that settings name."""
    return {each.name: each for each in (own_mask(name).observable() for name, _ in settings.own_masks)}


def of_earlier(settings: AnalysisSettings) -> dict[str, list[str]]:
    """Names of the curves that are compared with an earlier checkpoint, by the setting that names it."""
    found: dict[str, list[str]] = {}
    for name in settings.curves:
        if name in available() and (setting := available()[name].earlier):
            found.setdefault(setting, []).append(name)
    return found


def check(settings: AnalysisSettings) -> None:
    """Refuse curves that there are none of, and earlier checkpoints that none of them is compared with.

    Raises:
        SettingsError: One of them is unknown, or the user's mask is called like another one.
    """
    for setting in EARLIER:
        if getattr(settings, setting) and setting not in of_earlier(settings):
            them = " or ".join(name for name, each in available().items() if each.earlier == setting)
            raise SettingsError(f"{setting} belongs to {them}; ask for one, or leave {setting} out.")
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


def compute(wanted: Mapping[str, Observable], scene: Scene) -> tuple[dict[str, Observed], dict[str, str]]:
    """What was asked for; and of those that failed, why.

    One that fails takes nothing from the others, or from the analysis: hours of products lie behind it.
    """
    found: dict[str, Observed] = {}
    failed: dict[str, str] = {}
    for name, observable in wanted.items():
        try:
            one = _SOUND[observable.kind](observable.compute(scene), len(scene.values))
            found[name] = _compared(one, observable, scene)
        except UserError as error:
            failed[name] = str(error)
        except Exception as error:  # a plug-in's code may fail in every way there is
            _log.exception("The curve '%s' is left out, because it fails.", name)
            failed[name] = f"The curve {name} cannot be computed ({first_line(error)}); ask who wrote it."
    return found, failed


def _compared(found: Observed, observable: Observable, scene: Scene) -> Observed:
    """What was found, which says with which checkpoint it is compared, if with any."""
    if not observable.earlier:
        return found
    said = f"Compared with {EARLIER[observable.earlier]}: {scene.earlier(observable.earlier)}."
    return replace(found, remark=f"{said} {found.remark}".strip())


def _sound_curve(curve: Any, length: int) -> Curve:
    if not isinstance(curve, Curve):
        raise TypeError(f"it is {type(curve).__name__} and not Curve")
    parts: dict[str, Any] = {}
    for part in curve.parts():
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
    _check_order(parts["lower"], value, parts["upper"])
    return replace(curve, **parts)


def _sound_profile(profile: Any, _: int) -> Profile:
    if not isinstance(profile, Profile):
        raise TypeError(f"it is {type(profile).__name__} and not Profile")
    parts: dict[str, Any] = {}
    for part in ("x", "value", "lower", "upper", "reference", "line"):
        given = getattr(profile, part)
        parts[part] = None if given is None else np.asarray(given, dtype=np.float64)
        if parts[part] is not None and (parts[part].ndim != 1 or parts[part].shape != parts["x"].shape):
            raise ValueError(f"its {part} has the shape {parts[part].shape} and its x {parts['x'].shape}")
    if not all(np.isfinite(parts[part]).all() for part in ("x", "value")):
        raise ValueError("its x and its values are not all finite")
    _check_order(parts["lower"], parts["value"], parts["upper"])
    return Profile(**parts, remark=profile.remark)


def _sound_quantity(quantity: Any, _: int) -> Quantity:
    if not isinstance(quantity, Quantity):
        raise TypeError(f"it is {type(quantity).__name__} and not Quantity")
    given = (getattr(quantity, part) for part in ("value", "lower", "upper", "reference"))
    value, lower, upper, reference = (None if each is None else float(each) for each in given)
    if value is None or not np.isfinite(value):
        raise ValueError("it is not finite")
    _check_order(lower, value, upper)
    return Quantity(value, lower, upper, reference, quantity.remark)


def _check_order(lower: Any, value: Any, upper: Any) -> None:
    """What is not known (NaN) is in order."""
    if (lower is not None and np.any(lower > value)) or (upper is not None and np.any(upper < value)):
        raise ValueError("a value lies outside of its own interval")


_SOUND: Mapping[Kind, Callable[[Any, int], Observed]] = MappingProxyType(
    {"curve": _sound_curve, "profile": _sound_profile, "quantity": _sound_quantity}
)
