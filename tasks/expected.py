"""How long work is expected to take: from earlier work of its kind in the database, else from arithmetic.

Nothing but the order of the queue and what is said of time depends on it, so it may be wrong by a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from seigh.core import forecast
from seigh.core.analysis import cost
from seigh.core.errors import UserError
from seigh.core.forecast import SPEEDS, UNCERTAINTY, Forecast, Kind, Timed
from seigh.core.lab.models import Analysis
from seigh.core.lab.pace import Pace, StageTime
from seigh.core.lab.store import Expected
from seigh.core.lab.workers import alive
from seigh.core.problems import architectures, data, training
from seigh.core.problems.data import DataError
from seigh.core.settings import AnalysisSettings, Settings, SettingsError, TrainingSettings

if TYPE_CHECKING:
    import pandas as pd

_PASSES_OF_A_STEP = 3.0  # forward passes that a step of training is worth
_BEGINNING = 1.0  # seconds of whatever no step and no pair takes


def of_analyses(
    s: Session, wanted: Sequence[AnalysisSettings], parameters: Sequence[int], env: Settings
) -> list[Expected | None]:
    """The time of an analysis with each of these settings, of so many parameters; None where unknown."""
    from seigh.core.lab import queries  # brings pandas, which a worker that waits does not need

    kind = kind_of({worker.device for worker in alive(s)}, env)
    timings: dict[tuple[str, tuple[str, ...]], pd.DataFrame] = {}
    found: list[Expected | None] = []
    for each, number in zip(wanted, parameters, strict=True):
        of = each.architecture, each.parameters
        if of not in timings:
            timings[of] = queries.timings(s, *of)
        try:
            range_ = of_one(each, number, timed_like(timings[of], each, kind), kind, env)
        except (UserError, ArithmeticError):
            range_ = None
        found.append(None if range_ is None else _middle(range_))
    return found


def pace(s: Session, chosen: AnalysisSettings, parameters: int, env: Settings) -> Pace | None:
    """Return the stage times of the most similar earlier analysis; None if there is none."""
    from seigh.core.lab import queries  # brings pandas, which a worker that waits does not need

    kind = kind_of(set(), env)
    timed = timed_like(queries.timings(s, chosen.architecture, chosen.parameters), chosen, kind)
    try:
        found = forecast.from_timed(chosen, parameters, timed)
        if found is None or found.source is None:
            return None
        products = cost(chosen, parameters).hvps / found.source.hvps
    except UserError:
        return None
    stages = queries.stages(s, found.source.analysis_id)[["stage", "seconds", "hvps"]]
    return Pace([StageTime(*row) for row in stages.itertuples(index=False, name=None)], products)


def _middle(range_: Forecast) -> Expected:
    return Expected(math.sqrt(range_.low * range_.high), math.sqrt(range_.high / range_.low))


def of_one(
    chosen: AnalysisSettings, parameters: int, timed: Sequence[Timed], kind: Kind, env: Settings
) -> Forecast | None:
    """Seconds of one analysis, from an earlier one if there is one like it; None if nothing is known."""
    if found := forecast.from_timed(chosen, parameters, timed):
        return found
    shape = shape_of(chosen, env)
    try:
        return None if shape is None else forecast.from_arithmetic(chosen, parameters, shape, kind)
    except SettingsError:
        return None


def timed_like(timings: pd.DataFrame, chosen: AnalysisSettings, kind: Kind) -> list[Timed]:
    """Keep the analyses of ``queries.timings`` with the same curvature and precision on such a device."""
    same = timings[
        (timings["curvature"] == chosen.curvature)
        & (timings["precision"] == chosen.precision)
        & timings["device"].fillna("").str.startswith(kind)
    ]
    columns = same[["analysis_id", "samples", "k", "method", "hvps", "seconds"]]
    return [Timed(*row) for row in columns.astype(object).itertuples(index=False, name=None)]


def kind_of(devices: set[str], env: Settings) -> Kind:
    """Return the kind of device that analyses will run on: a GPU if a live worker has one."""
    devices = devices or {env.device.partition(":")[0]}
    return "cuda" if "cuda" in devices else "cpu"


def shape_of(chosen: AnalysisSettings, env: Settings) -> tuple[int, ...] | None:
    """Shape of a sample: as the data set has it, else as the architecture takes it."""
    try:
        shape = data.describe(chosen.data, env=env).shape
    except DataError:
        shape = None
    return shape or architectures.describe(chosen.architecture).takes


def of_training(s: Session, chosen: TrainingSettings, env: Settings) -> Expected | None:
    """The time of a training: as many a step as the last one of its problem, else by operations."""
    from seigh.core.lab import queries  # brings pandas, which a worker that waits does not need

    per_step = queries.seconds_per_step(s, chosen.problem)
    if per_step is not None:
        return Expected(_BEGINNING + per_step * chosen.steps, UNCERTAINTY)
    recipe = training.known(chosen.problem)
    try:
        about = data.describe(recipe.data, env=env)
        shape = about.shape or architectures.describe(recipe.architecture).takes
        if shape is None:
            return None
        forward = architectures.forward_operations(recipe.architecture, shape)
    except UserError:
        return None
    kind = kind_of({worker.device for worker in alive(s)}, env)
    batch = recipe.batch if chosen.batch is None else chosen.batch
    operations = _PASSES_OF_A_STEP * forward * batch * chosen.steps
    return _by_arithmetic(operations, kind, _BEGINNING + 1e-4 * chosen.steps)


def of_comparison(s: Session, ids: Sequence[int], ks: Sequence[int]) -> Expected | None:
    """The time of the comparison of all pairs of these analyses: products of their bases at the largest k."""
    number = len(set(ids))
    parameters = s.scalar(select(Analysis.parameters).where(Analysis.id.in_(ids)).limit(1))
    if not parameters or not ks:
        return None
    operations = 2.0 * max(ks) ** 2 * parameters * number * (number + 1) / 2
    return _by_arithmetic(operations, "cpu", _BEGINNING)


def _by_arithmetic(operations: float, kind: Kind, more: float) -> Expected:
    slow, fast = SPEEDS[kind]
    return Expected(more + operations / math.sqrt(slow * fast), math.sqrt(fast / slow))
