"""Networks out of one's own code, ``package.module:Net``, for commands that run as whoever wrote it.

Only ``seigh analyze`` calls ``load``. Neither the server nor a worker does: to them a name with a colon is no
architecture, whatever lies on their path.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from seigh.core.curvature.causes import place, reason
from seigh.core.problems.sources import Source
from seigh.core.problems.spec import Value, parse
from seigh.core.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Those that this process has been told to import, by name.
_sources: dict[str, Source] = {}


def is_meant(text: str) -> bool:
    """Whether an architecture is written as ``package.module:Net``, with options or without."""
    return ":" in text.partition("(")[0]


def source(name: str) -> Source | None:
    """The source of a network that ``load`` has imported; None for all others."""
    return _sources.get(name)


def load(text: str) -> None:
    """Import the module of ``package.module:Net(width=3)``, with the current folder on the path.

    Raises:
        SettingsError: There is no such module or network, or it fails.
    """
    name = parse(text).name
    module_name, _, path = name.partition(":")
    with _current_folder():
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise _failing(name, error) from error
            raise SettingsError(
                f"There is no module '{error.name}' for the architecture '{name}'; call seigh from the "
                "folder that has it, or install it beside seigh."
            ) from error
        except (Exception, SystemExit) as error:  # somebody's own code may fail in every way there is
            raise _failing(name, error) from error
    for part in path.split("."):
        if not hasattr(found, part):
            there = [each for each, value in vars(found).items() if _is_network(value)]
            some = f"; it has {', '.join(there[:6])}" if there else ""
            raise SettingsError(f"The module '{module_name}' has no '{path}'{some}.")
        found = getattr(found, part)
    if not callable(found):
        raise SettingsError(f"'{name}' is no network but {type(found).__name__}; name a class or a function.")
    options = _options(found)
    line = (inspect.getdoc(found) or "").partition("\n")[0]

    def build(_: str, given: Mapping[str, Value]) -> nn.Module:
        made = found(**given)
        if not isinstance(made, nn.Module):
            raise SettingsError(f"'{name}' gives {type(made).__name__}, not a torch.nn.Module.")
        return made

    _sources[name] = Source(
        module_name, names=lambda: (name,), build=build, options=lambda _: options, line=lambda _: line
    )


def _failing(name: str, error: BaseException) -> SettingsError:
    where = place(error)
    return SettingsError(
        f"The module of '{name}' fails when it is imported ({reason(error)}{f', {where}' if where else ''}); "
        "mend it first."
    )


def _is_network(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def _options(build: Any) -> dict[str, Value]:
    """The constructor's arguments that have a plain value as their default."""
    try:
        given = inspect.signature(build).parameters
    except (TypeError, ValueError):
        return {}
    return {
        name: each.default
        for name, each in given.items()
        if isinstance(each.default, bool | int | float | str)
    }


@contextmanager
def _current_folder() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
