"""Plug-ins that come and go during one test run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seigh.core import curves, methods, plugged
from seigh.core.problems import architectures, plugins, training


def forget() -> None:
    """Let plug-ins be looked for again: everything that was derived from those known so far is dropped."""
    for module in (plugins, architectures, training, curves, methods, plugged):
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


@contextmanager
def installed(name: str, source: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of one module is there as long as this lasts, for processes that are started too."""
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{path}" if path else str(site))
    monkeypatch.syspath_prepend(str(site))
    put_package(site, name, source)
    yield
    sys.modules.pop(name, None)
    monkeypatch.undo()
    forget()


def put_package(site: Path, name: str, source: str) -> None:
    """Leave a package of one module in ``site`` as an installer does; ``register`` is its entry point."""
    site.mkdir(exist_ok=True)
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[seigh.problems]\n{name} = {name}:register\n")
    forget()
