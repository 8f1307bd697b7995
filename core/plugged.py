"""Whether there are plug-ins at all, told without importing them, which takes torch and so takes long."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

# The group of entry points in which packages register plug-ins (``seigh.core.problems.plugins``).
GROUP = "seigh.problems"


@cache
def any_plugins() -> bool:
    """Whether any installed package could have registered something."""
    return bool(entry_points(group=GROUP))
