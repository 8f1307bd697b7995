"""Whole numbers as text: ``0-99,105`` for 0, 1, …, 99 and 105."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

# More numbers than a subset has that somebody lists: the settings of an analysis hold them.
MOST = 100_000

_RANGE = re.compile(r"(\d{1,12})(?:\s*-\s*(\d{1,12}))?")


def parse(text: str) -> list[int]:
    """The numbers of a text, in its order; commas, blanks or new lines stand between them.

    >>> parse("0-3, 7"), parse("5 6\\n9")
    ([0, 1, 2, 3, 7], [5, 6, 9])

    Raises:
        ValueError: If it is no such text, or has more than ``MOST`` numbers.
    """
    numbers: list[int] = []
    for part in re.split(r"[\s,;]+", re.sub(r"\s*-\s*", "-", text.strip())):
        if not part:
            continue
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"'{part[:40]}' is no index; write whole numbers and ranges like 0-99,105")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part} ends before it starts; write {last}-{first}")
        if len(numbers) + last - first + 1 > MOST:
            raise ValueError(f"more than {MOST:,} indices are listed; list fewer")
        numbers += range(first, last + 1)
    return numbers


def text(numbers: Iterable[int]) -> str:
    """Ascending numbers as the shortest text that ``parse`` takes.

    >>> text([0, 1, 2, 3, 7])
    '0-3,7'
    """
    listed = list(numbers)
    if not listed:
        return ""
    starts = [0, *(i for i, (one, next_) in enumerate(pairwise(listed), start=1) if next_ != one + 1)]
    parts = []
    for start, end in pairwise([*starts, len(listed)]):
        first, last = listed[start], listed[end - 1]
        parts.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(parts)
