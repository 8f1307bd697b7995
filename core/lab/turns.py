"""The order in which queued work is started.

Each piece of work has a *due time*, and what is due first is begun first:

    due = since + shift(priority) + position · slack,    slack = min(SLACK · expected seconds, LONGEST_SLACK)

``since`` is when it was submitted, or when its user's last work was begun if that was later. ``position``
counts its user's work that runs or comes before it, from 1. So short work is due before long work of the same
age, and the tenth piece of one user after the first of another. Among the work of one user the order is that
of ``submitted_at + shift + slack``.

Nothing starves. The order of one user's work depends on nothing that happens later, and slacks and shifts are
bounded; so only finitely much of it comes before a given piece. Once that piece is its user's first, its
``since`` no longer moves, and whatever is submitted later than its due time, less the smallest shift, comes
after it. ``bound`` says how long that is.

This is deadline scheduling with a fair share in the manner of start-time fair queueing (Goyal, Vin & Cheng,
1996): ``since`` is the start tag, the deadline a multiple of the expected length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from seigh.core.lab.models import WORK, State, Work
from seigh.core.names import Place, Priority

# Work may be overtaken by what is submitted within so many times its expected length after it …
SLACK = 10.0
# … but not by what is submitted later than this.
LONGEST_SLACK = timedelta(hours=12)

# How long work is taken to be of which nothing is known.
USUAL_SECONDS = 300.0

SHIFTS: Mapping[Priority, timedelta] = {
    "high": -timedelta(hours=24),
    "normal": timedelta(0),
    "low": timedelta(hours=24),
}


@dataclass(frozen=True)
class Waiting:
    """A queued piece of work, as far as its turn depends on it.

    Attributes:
        kind: Name of its kind.
        number: Its id within its kind.
        user: Who submitted it.
        submitted_at: When.
        seconds: How long it is expected to take; None if nothing is known.
        priority: As its user, or an administrator, has set it.
    """

    kind: str
    number: int
    user: str
    submitted_at: datetime
    seconds: float | None = None
    priority: Priority = "normal"

    @property
    def slack(self) -> timedelta:
        """By how much the due time of its user's only work is later than its submission."""
        seconds = USUAL_SECONDS if self.seconds is None else max(self.seconds, 0.0)
        return min(timedelta(seconds=SLACK * min(seconds, LONGEST_SLACK.total_seconds())), LONGEST_SLACK)


@dataclass(frozen=True)
class Served:
    """The share of the workers' time that a user has had.

    Attributes:
        running: How many pieces of work run.
        last: When the last one was begun; None if none was.
    """

    running: int = 0
    last: datetime | None = None


def in_turn(waiting: Iterable[Waiting], served: Mapping[str, Served]) -> list[Waiting]:
    """Queued work in the order in which it is to be begun."""
    of_user: dict[str, list[Waiting]] = {}
    for each in waiting:
        of_user.setdefault(each.user, []).append(each)
    due = []
    for user, own in of_user.items():
        had = served.get(user, Served())
        own.sort(key=_own_order)
        for position, each in enumerate(own, start=had.running + 1):
            since = each.submitted_at if had.last is None else max(each.submitted_at, had.last)
            due.append((since + SHIFTS[each.priority] + position * each.slack, each))
    due.sort(key=lambda pair: (pair[0], *_own_order(pair[1])))
    # A due time is its user's turn; whose work among the user's own has it, is a matter of their own order.
    turns = {user: iter(own) for user, own in of_user.items()}
    return [next(turns[each.user]) for _, each in due]


def _own_order(each: Waiting) -> tuple[datetime, datetime, str, int]:
    key = each.submitted_at + SHIFTS[each.priority] + each.slack
    return key, each.submitted_at, each.kind, each.number


def bound(slack: timedelta, priority: Priority, running: int) -> timedelta:
    """How much later than ``since`` of its user's first work other work has to be submitted so that it cannot
    be begun before it, while so many others of the user run."""
    return (running + 1) * slack + SHIFTS[priority] - min(SHIFTS.values())


def queue(s: Session, place: Place | None = None, most_per_user: int | None = None) -> list[Waiting]:
    """The queued work of all kinds, for a place or for all, in the order in which it is to be begun.

    Analyses of users of whom ``most_per_user`` analyses run are left out.
    """
    waiting: list[Waiting] = []
    for name, kind in WORK.items():
        statement = select(
            kind.id, kind.submitted_by, kind.submitted_at, kind.expected_seconds, kind.priority
        ).where(kind.state == State.queued, kind.cancel_requested.is_(False))
        if place is not None:
            statement = statement.where(kind.place == place)
        waiting += [Waiting(name, *row) for row in s.execute(statement)]
    if not waiting:
        return []
    if most_per_user is not None:
        analyses = _running(s, WORK["analysis"])
        full = {user for user, number in analyses.items() if number >= most_per_user}
        waiting = [each for each in waiting if each.kind != "analysis" or each.user not in full]
    return in_turn(waiting, _served(s, {each.user for each in waiting}))


def _running(s: Session, kind: type[Work]) -> dict[str, int]:
    rows: Any = s.execute(
        select(kind.submitted_by, func.count()).where(kind.state == State.running).group_by(kind.submitted_by)
    )
    return dict(rows.all())


def _served(s: Session, users: set[str]) -> dict[str, Served]:
    running: dict[str, int] = dict.fromkeys(users, 0)
    last: dict[str, datetime] = {}
    for kind in WORK.values():
        for user, number in _running(s, kind).items():
            running[user] = running.get(user, 0) + number
        begun = select(kind.submitted_by, func.max(kind.started_at)).where(
            kind.submitted_by.in_(users), kind.started_at.is_not(None)
        )
        for user, moment in s.execute(begun.group_by(kind.submitted_by)):
            if moment is not None:
                last[user] = max(moment, last.get(user, moment))
    return {user: Served(running[user], last.get(user)) for user in users}
