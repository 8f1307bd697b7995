"""What of the lab depends on an exported network, whose file lies in the artefact store.

Every function works in the transaction of the session it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from seigh.core.lab.models import UNDER_WAY, Analysis, Checkpoint, Model
from seigh.core.lab.store import check_unneeded

_SOURCE = "graph/"


@dataclass(frozen=True)
class Uses:
    """What depends on an exported network.

    Attributes:
        models: Names of the models that have it as their architecture, by id.
        analyses: Number of their analyses.
        waiting: How many of these wait or run.
    """

    models: Mapping[int, str]
    analyses: int
    waiting: int


def uses(s: Session, name: str) -> Uses:
    """What depends on a network.

    Args:
        s: A session.
        name: ``graph/NAME-DIGITS``, of which the digits decide.
    """
    digits = name.rpartition("-")[2]
    found = Model.architecture.like(f"{_SOURCE}%-{digits}")
    models = {model.id: model.name for model in s.scalars(select(Model).where(found).order_by(Model.name))}
    counted = select(func.count(Analysis.id)).join(Analysis.checkpoint).join(Checkpoint.model).where(found)
    waiting = counted.where(Analysis.state.in_(UNDER_WAY))
    return Uses(models, s.scalar(counted) or 0, s.scalar(waiting) or 0)


def check_free(s: Session, name: str) -> None:
    """Refuse to remove a network that work under way needs.

    Raises:
        StoreError: If an analysis that waits or runs is of it.
    """
    check_unneeded(uses(s, name).waiting, f"the network '{name}'")
