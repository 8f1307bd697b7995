"""The order in which people expect names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"([0-9]+)")


def natural(name: str) -> tuple[tuple[str, int, str], ...]:
    """A key that sorts names with the numbers in them as numbers, and capitals beside small letters.

    >>> sorted(["run 10", "Run 2", "run 1"], key=natural)
    ['run 1', 'Run 2', 'run 10']
    """
    parts = _NUMBER.split(name)
    words = zip(parts[::2], [*parts[1::2], "-1"], strict=True)
    return tuple((word.casefold(), int(digits), word + digits) for word, digits in words)


def in_order(names: Iterable[str]) -> list[str]:
    """Names in their ``natural`` order."""
    return sorted(names, key=natural)
