"""How this project starts processes of its own."""

from __future__ import annotations

import sys


def ours(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules.

    Whatever lies in the current folder is not imported: a lab starts its server in folders of its own, which
    have a ``core`` or a ``tasks.py`` too.
    """
    return [sys.executable, "-P", "-W", "ignore", "-m", module, *arguments]
