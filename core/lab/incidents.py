"""Incidents: faults of the installation itself that the pages report, each under its key.

A process that keeps ending, messages that were none: whoever notices tells the database, and the pages show
it until it is over, or for a day.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from seigh.core.lab.clock import present
from seigh.core.lab.models import Incident

_SHOWN_FOR = timedelta(days=1)
_LONGEST_KEY = 200


def tell(s: Session, key: str, message: str, times: int = 1) -> None:
    """Record that something happened, so many times more; of several messages, the last one is shown."""
    time = present(s)
    incident = s.get(Incident, key[:_LONGEST_KEY], with_for_update=True)
    if incident is None:
        incident = Incident(key=key[:_LONGEST_KEY], times=0, first_at=time)
        s.add(incident)
    incident.message, incident.last_at = message, time
    incident.times += times


def over(s: Session, key: str) -> None:
    """Record that an incident is over."""
    s.execute(delete(Incident).where(Incident.key == key[:_LONGEST_KEY]))


def recent(s: Session) -> list[Incident]:
    """The incidents that are not over, of the last day, the latest first; older ones are nobody's concern."""
    return list(
        s.scalars(
            select(Incident)
            .where(Incident.last_at > present(s) - _SHOWN_FOR)
            .order_by(Incident.last_at.desc(), Incident.key)
        )
    )
