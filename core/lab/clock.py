"""The one clock that all workers share.

It tells people when something happened. It does not decide who is alive: clocks are set back and forth, and
machines sleep (``seigh.core.lab.watch``).
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Double, func, select
from sqlalchemy.orm import Session

from seigh.core.lab.models import UTCDateTime

_EPOCH = 2440587.5  # the Julian day on which Unix time begins


def present(s: Session) -> datetime:
    """The present by the database server's clock, or, of a SQLite file, by its machine's."""
    if s.get_bind().dialect.name == "postgresql":
        return s.execute(select(func.clock_timestamp(type_=UTCDateTime))).scalar_one()
    days = s.execute(select(func.julianday("now", type_=Double))).scalar_one()
    return datetime.fromtimestamp(round((days - _EPOCH) * 86_400, 3), UTC)
