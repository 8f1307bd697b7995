"""Rows of the queries' tables as objects with typed fields, for what is said or done row by row.

A field has the name of its column in ``seigh.core.lab.queries``, whose functions say what each means.
What is unknown there (NaN, NaT, <NA>) is None here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pandas as pd

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def rows_of(frame: pd.DataFrame, kind: type[T]) -> list[T]:
    """The rows of a table as objects of ``kind``, a dataclass whose fields are among the table's columns."""
    return [_row(record, kind) for record in _records(frame)]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    known = frame.astype(object).where(frame.notna(), None)
    return [dict(zip(frame.columns, row, strict=True)) for row in known.itertuples(index=False, name=None)]


def _row(record: dict[str, Any], kind: type[T]) -> T:
    return kind(**{field.name: record[field.name] for field in fields(kind)})


@dataclass(frozen=True)
class Analysis:
    """A finished analysis: a row of ``queries.comparable``."""

    analysis_id: int
    model: str
    step: int
    split: str
    curvature: str
    subset: str
    parameters: int
    method: str
    k: int
    samples: int
    sampling: str
    seed: int
    data: str
    imported: str | None
    resolved_k: float | None


@dataclass(frozen=True)
class StoredCheckpoint:
    """A row of ``queries.checkpoints``."""

    step: int
    filename: str
    sha256: str
    key: str
    analyses: int


@dataclass(frozen=True)
class DataSet:
    """A row of ``queries.data_sets``."""

    name: str
    data: str
    sha256: str | None
    split: str | None
    filename: str | None
    size: int | None
    uploaded_by: str | None
    uploaded_at: datetime | None
    analyses: int
    models: int
    under_way: int


@dataclass(frozen=True)
class AnalysisOfLine(Analysis):
    """A finished analysis, and the line of a chart that it is a point of."""

    series: str
    model_id: int


@dataclass(frozen=True)
class LatestResult:
    """A row of ``queries.latest_results``."""

    analysis_id: int
    model: str
    step: int
    split: str
    curvature: str
    parameters: int
    k: int
    samples: int
    sampling: str
    data: str
    finished_at: datetime
    overlap: float
    error: float | None
    ratio: float


@dataclass(frozen=True)
class OverlapPoint:
    """The overlap of a mask at one k: a row of ``queries.overlap_curves``."""

    overlap: float
    std: float | None
    error: float | None
    least: float | None
    greatest: float | None
    tied: float | None
    chance: float
    ratio: float


@dataclass(frozen=True)
class Quantity:
    """One number of an analysis: a row of ``queries.quantities``."""

    observable: str
    title: str
    note: str
    unit: str
    reference_title: str
    value: float
    lower: float | None
    upper: float | None
    reference: float | None


@dataclass(frozen=True)
class OverlapAtStep:
    """The overlap of the magnitude mask of one analysis: a row of ``queries.overlap_by_step``."""

    analysis_id: int
    overlap: float
    error: float | None
    ratio: float
    lambda_max: float


@dataclass(frozen=True)
class Comparison:
    """A row of ``queries.comparisons``."""

    id: int
    analysis_ids: list[int]
    ks: list[int]


@dataclass(frozen=True)
class Deed:
    """An entry of the audit: a row of ``audit.of``."""

    at: datetime
    who: str
    what: str
    address: str


# --- What functions of several kinds of rows ask for --------------------------------------------------------


class HasMatrix(Protocol):
    """An analysis, as far as it says which matrix it is of."""

    @property
    def split(self) -> str: ...
    @property
    def curvature(self) -> str: ...


class HasParameters(HasMatrix, Protocol):
    """The same, with the patterns of the parameters that the matrix is restricted to; empty for all."""

    @property
    def subset(self) -> str: ...


class HasSamples(Protocol):
    """An analysis, as far as it says which samples it is of."""

    @property
    def split(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def sampling(self) -> str: ...
    @property
    def data(self) -> str: ...


class HasRemaining(Protocol):
    """Work, as far as it says how long it will go on."""

    @property
    def state(self) -> str: ...
    @property
    def remaining_low(self) -> float | None: ...
    @property
    def remaining_high(self) -> float | None: ...
    @property
    def late(self) -> bool: ...


# --- Work of all kinds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The facts common to all kinds of work: a row of ``queries.runs``."""

    kind: str
    id: int
    model: str
    state: str
    stage: str | None
    progress: float
    remaining_low: float | None
    remaining_high: float | None
    late: bool
    message: str | None
    submitted_by: str
    submitted_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    attempts: int
    worker: str | None
    cancel_requested: bool
    priority: str


@dataclass(frozen=True)
class AnalysisRun(Work):
    """An analysis that waits, runs or has ended."""

    step: int
    split: str
    curvature: str
    subset: str
    method: str
    k: int
    samples: int
    sampling: str
    seed: int
    data: str
    imported: str | None
    hvps: float | None


@dataclass(frozen=True)
class TrainingRun(Work):
    """A training that waits, runs or has ended."""

    problem: str
    steps: int
    steps_done: int | None
    seed: int


@dataclass(frozen=True)
class ComparisonRun(Work):
    """A comparison that waits, runs or has ended."""

    analyses: int
    pairs: int


Run = AnalysisRun | TrainingRun | ComparisonRun

_KINDS: dict[str, type[Run]] = {
    "analysis": AnalysisRun,
    "training": TrainingRun,
    "comparison": ComparisonRun,
}


def runs_of(runs: pd.DataFrame) -> list[Run]:
    """The rows of ``queries.runs``, each as an object of its kind."""
    return [_row(record, _KINDS[record["kind"]]) for record in _records(runs)]
