"""The methods that find the leading eigenpairs of a Hessian, each declared in one file.

A method is one ``Method``: its name, what is said about it, the settings that belong to it, what it costs and
how it runs. What is here, or registered by a plug-in (``registry.method``), can be asked for by its name;
command line, form, forecast, analysis and charts take everything else from the object. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType

from seigh.core.methods.exact import EXACT, EXACT_MAX_PARAMETERS
from seigh.core.methods.krylov import KRYLOV
from seigh.core.methods.method import MARKERS, Method, Request, UnknownMethod
from seigh.core.methods.sketches import SEIGH, SSVD
from seigh.core.plugged import any_plugins

__all__ = [
    "BUILT_IN",
    "EXACT_MAX_PARAMETERS",
    "MARKERS",
    "OPTIONS",
    "Method",
    "Request",
    "UnknownMethod",
    "available",
    "get",
    "markers",
]

BUILT_IN: Mapping[str, Method] = MappingProxyType({each.name: each for each in (KRYLOV, SEIGH, SSVD, EXACT)})

# Settings of an analysis that belong to some methods only, in the order in which they are checked, and how a
# sentence about each begins.
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "outer": "n_O and n_I belong",
        "inner": "n_O and n_I belong",
        "test_matrix": "test matrices belong",
        "tolerance": "a tolerance belongs",
    }
)


@cache
def available() -> Mapping[str, Method]:
    """All methods by name: what is built in, and what plug-ins have registered."""
    if not any_plugins():  # looking costs the import of torch
        return BUILT_IN
    from seigh.core.problems import plugins

    return MappingProxyType(dict(BUILT_IN) | plugins.registry().methods)


def get(name: str) -> Method:
    """The method of this name.

    Raises:
        UnknownMethod: There is none.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name not in available():
        raise UnknownMethod(f"There is no method '{name}'; there are {', '.join(available())}.")
    return available()[name]


def markers(names: Iterable[str]) -> dict[str, str]:
    """The shape of the points of each method on charts, in a fixed order; unknown methods have one too."""
    known = {name: method.marker for name, method in BUILT_IN.items()}
    further = sorted({*names} - known.keys())
    return known | {name: MARKERS[number % len(MARKERS)] for number, name in enumerate(further)}
