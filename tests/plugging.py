"""Plug-ins that come and go during one test run."""

from __future__ import annotations

from pathlib import Path

from seigh.core import curves, methods
from seigh.core.problems import architectures, plugins, training


def forget() -> None:
    """Let plug-ins be looked for again: everything that was derived from those known so far is dropped."""
    for module in (plugins, architectures, training, curves, methods):
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def put_package(site: Path, name: str, source: str) -> None:
    """Leave a package of one module in ``site`` as an installer does; ``register`` is its entry point."""
    site.mkdir(exist_ok=True)
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[seigh.problems]\n{name} = {name}:register\n")
    forget()
