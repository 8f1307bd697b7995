"""Who has fallen silent, by what this process has itself seen: no clock is compared with another one.

A wall clock can be set, and the machine can sleep; so neither says that somebody is dead. A ``Watch`` looks
at the last sign of life of each owner again and again and counts, by its own monotonic clock, for how long
that has not changed. Time in which it did not watch, as it was stopped itself, does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Watch(Generic[K]):
    """Watches owners by their signs of life.

    Args:
        patience: Who shows no new sign for this long is taken for dead.
        step: The most that the time between two looks counts. About what lies between two looks when nothing
            is wrong: after a longer pause of this process, the others have had one as well.
        clock: Seconds that never go back.
    """

    def __init__(
        self, patience: timedelta, step: timedelta, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience, self._step = patience.total_seconds(), step.total_seconds()
        self._clock = clock
        self._looked: float | None = None
        # The last sign of each owner, and the seconds for which it has been watched unchanged.
        self._signs: dict[K, tuple[Hashable, float]] = {}

    def silent(self, signs: Mapping[K, Hashable]) -> set[K]:
        """Look at the last sign of life of every owner; those who are taken for dead."""
        moment = self._clock()
        passed = 0.0 if self._looked is None else min(moment - self._looked, self._step)
        self._looked = moment
        before, self._signs = self._signs, {}
        for owner, sign in signs.items():
            last, seconds = before.get(owner, (None, 0.0))
            self._signs[owner] = sign, seconds + passed if owner in before and last == sign else 0.0
        return {owner for owner, (_, seconds) in self._signs.items() if seconds >= self._patience}
