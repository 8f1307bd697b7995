"""How far work has come and how long it will go on, with how uncertain that is.

The part that is done is a share of the time. It is learnt from an earlier analysis that was like this one
(``Pace``): what each of its stages took. How long work goes on is a range (``remaining``) that counts down
between two signs of progress and never grows by mere waiting: when it is over, the work takes longer than
expected, and that is what is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

# By what factor the time may still be wrong when half of it has passed; the factor shrinks to 1 as the work
# ends.
_SPREAD_HALFWAY = 1.4

# Without an earlier run, an analysis counts its products, and the stages after them take a time that nobody
# knows. It may take this much longer than its products tell until its very end.
_AFTER_PRODUCTS = 1.4

# With less than this behind it, the course of work tells nothing of its length.
_LEAST_SECONDS, _LEAST_SHARE = 2.0, 0.02

# A forecast that may be wrong by more than this factor is none.
_MOST_SPREAD = 5.0


@dataclass(frozen=True)
class StageTime:
    """The time and products that an earlier analysis spent on one stage."""

    name: str
    seconds: float
    hvps: int


@dataclass
class Pace:
    """The share of its time that an analysis has spent, by what an earlier one spent on its stages.

    Attributes:
        stages: Stages of the earlier one, in order.
        products: How many times the products of the earlier one this one makes.
    """

    stages: Sequence[StageTime]
    products: float = 1.0
    _stage: str = field(default="", init=False)
    _hvps: int = field(default=0, init=False)
    _done: float = field(default=0.0, init=False)

    def __call__(self, stage: str, hvps: int, fraction: float) -> float:
        """The share that is done, in [0, 1]; it never falls.

        Args:
            stage: The stage that runs.
            hvps: All products so far.
            fraction: What the analysis itself takes its share to be, for stages that the earlier one had not.
        """
        times: dict[str, float] = {}
        for each in self.stages:
            times[each.name] = times.get(each.name, 0.0) + self._seconds(each)
        whole = sum(times.values())
        if not whole or stage not in times:
            self._done = max(self._done, fraction)
            return self._done
        if stage != self._stage:
            self._stage, self._hvps = stage, hvps
        names = list(times)
        before = sum(times[name] for name in names[: names.index(stage)])
        products = self.products * sum(each.hvps for each in self.stages if each.name == stage)
        within = min(1.0, (hvps - self._hvps) / products) if products else 0.0
        self._done = min(1.0, max(self._done, (before + within * times[stage]) / whole))
        return self._done

    def _seconds(self, stage: StageTime) -> float:
        return stage.seconds * (self.products if stage.hvps else 1.0)


@dataclass(frozen=True)
class Remaining:
    """Seconds that work will go on, at its last sign of life.

    Attributes:
        low: At least, most likely.
        high: At most, most likely.
        late: Whether it takes longer than expected: then both are 0, and how long is not known.
    """

    low: float
    high: float
    late: bool = False


def remaining(
    *,
    progress: float,
    started_at: datetime | None,
    progress_at: datetime | None,
    heartbeat_at: datetime | None,
    seconds: float | None,
    spread: float | None,
    even: bool = True,
) -> Remaining | None:
    """How long running work will go on; None while nothing tells.

    All times come from the clock of the store, so a reader's clock plays no part.

    Args:
        progress: The share that is done.
        started_at: When the attempt began.
        progress_at: When it last came further; None if it has not.
        heartbeat_at: The last sign of life.
        seconds: That it was expected to take before it began, if that is known.
        spread: The factor by which that may be wrong.
        even: Whether the share that is done is one of the time even without an earlier run, as the steps of a
            training are and the products of an analysis are not.
    """
    if started_at is None or heartbeat_at is None:
        return None
    forecast = seconds if seconds and spread and spread <= _MOST_SPREAD else None
    behind = 0.0 if progress_at is None else (progress_at - started_at).total_seconds()
    waits = max(0.0, (heartbeat_at - (progress_at or started_at)).total_seconds())
    observed = behind / progress if progress >= _LEAST_SHARE and behind >= _LEAST_SECONDS else None
    if observed is not None and forecast is not None:
        # The course counts as much as there is of it.
        whole = math.exp((1 - progress) * math.log(forecast) + progress * math.log(observed))
        factor = (spread or 1.0) ** (1 - progress) * _SPREAD_HALFWAY ** (2 * (1 - progress) * progress)
    elif observed is not None:
        whole, factor = observed, _SPREAD_HALFWAY ** (2 * (1 - progress))
    elif forecast is not None:
        whole, factor = forecast, spread or 1.0
    else:
        return None
    left = max(whole * (1 - progress), 0.0)
    most = left * factor
    if forecast is None and not even:
        most = max(most, _AFTER_PRODUCTS * whole - behind)
    low, high = left / factor - waits, most - waits
    if high <= 0:
        return Remaining(0.0, 0.0, late=progress < 1)
    return Remaining(max(low, 0.0), high)
