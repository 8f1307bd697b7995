"""Who did what, when, and from where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from seigh.core.access import Actor
from seigh.core.lab.clock import present
from seigh.core.lab.models import Audit

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("at", "who", "what", "kind", "number", "about", "address")


def record(
    s: Session, actor: Actor, what: str, kind: str | None = None, number: int | None = None, about: str = ""
) -> Audit:
    """Write down that somebody does something, in the transaction in which it is done.

    Args:
        s: A writing session.
        actor: Who.
        what: In the past tense: ``submitted``, ``deleted``.
        kind: Kind of the thing: a kind of work, ``model`` or ``account``.
        number: Its id.
        about: What it is called at the time.
    """
    row = Audit(
        at=present(s),
        who=actor.name[:100],
        what=what,
        kind=kind,
        number=number,
        about=about[:255],
        address=actor.address[:64],
    )
    s.add(row)
    s.flush()
    return row


def of(s: Session, things: Sequence[tuple[str, int]]) -> pd.DataFrame:
    """Read the audit entries of some things, given as (kind, number), the earliest first.

    Columns: at, who, what, kind, number, about, address.
    """
    wanted = tuple_(Audit.kind, Audit.number).in_(list(things))
    return _frame(s, select(Audit).where(wanted).order_by(Audit.id))


def latest(s: Session, most: int) -> pd.DataFrame:
    """Read the latest audit entries, the latest first; columns as of ``of``."""
    return _frame(s, select(Audit).order_by(Audit.id.desc()).limit(most))


def _frame(s: Session, statement: Select[Audit]) -> pd.DataFrame:
    import pandas as pd

    rows = s.scalars(statement)
    return pd.DataFrame(
        [{name: getattr(row, name) for name in _COLUMNS} for row in rows], columns=list(_COLUMNS)
    )
