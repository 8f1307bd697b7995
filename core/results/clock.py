"""The one clock that all workers share."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.results.models import UTCDateTime, now


def present(s: Session) -> datetime:
    """The present by the database server's clock, or, of a SQLite file, by this machine's."""
    if s.get_bind().dialect.name == "postgresql":
        return s.execute(select(func.clock_timestamp(type_=UTCDateTime))).scalar_one()
    return now()
