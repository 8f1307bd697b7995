from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd
import pytest
from sqlalchemy.orm import Session

from seigh.app import rows
from seigh.app.rows import AnalysisRun, ComparisonRun, TrainingRun, rows_of, runs_of
from seigh.core.access import OPERATOR
from seigh.core.lab import audit, queries, store
from seigh.core.lab.models import Analysis, Mask
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings
from tests.core.lab import lab


def every_curve(s: Session) -> pd.DataFrame:
    return queries.overlap_curves(s, queries.comparable(s)["analysis_id"].tolist())


# Where rows of each kind come from.
TABLES: dict[type[Any], Callable[[Session], pd.DataFrame]] = {
    rows.Analysis: queries.comparable,
    rows.LatestResult: lambda s: queries.latest_results(s, 10),
    rows.OverlapPoint: every_curve,
    rows.OverlapAtStep: lambda s: queries.overlap_by_step(s, 3),
    rows.Comparison: queries.comparisons,
    rows.Deed: lambda s: audit.latest(s, 10),
}


@pytest.fixture
def filled(home: Settings) -> Settings:
    """Work of every kind; errors that are known, and some that are not."""
    with sessions(home.database).begin() as s:
        lab.queue_training(s)
        ids = [lab.finished(s, step=step) for step in (0, 100)]
        store.queue_comparison(s, ids, [2, 3], "ada")
        running = lab.queue(s, step=200).id
        assert lab.claim(s, running)
        store.report(s, Analysis, running, "mine", stage="eigenpairs", progress=0.5, hvps=4)
        audit.record(s, OPERATOR, "submitted", "analysis", running)
    return home


@pytest.mark.parametrize("kind", TABLES)
def test_fields_have_their_declared_types(filled: Settings, kind: type[Any]) -> None:
    with sessions(filled.database)() as s:
        found = rows_of(TABLES[kind](s), kind)
    assert found
    check_types(found)


def test_work_of_every_kind_has_the_fields_of_its_kind(filled: Settings) -> None:
    with sessions(filled.database)() as s:
        frame = queries.runs(s)
    runs = runs_of(frame)
    check_types(runs)
    assert [(run.kind, run.id) for run in runs] == list(zip(frame["kind"], frame["id"], strict=True))
    assert {type(run) for run in runs} == {AnalysisRun, TrainingRun, ComparisonRun}
    (running,) = (run for run in runs if run.state == "running")
    assert isinstance(running, AnalysisRun)
    assert (running.step, running.stage, running.hvps) == (200, "eigenpairs", 4)
    (training,) = (run for run in runs if isinstance(run, TrainingRun))
    assert (training.steps, training.steps_done, training.started_at) == (100, None, None)
    (comparison,) = (run for run in runs if isinstance(run, ComparisonRun))
    assert (comparison.analyses, comparison.pairs) == (2, 1)


def test_what_is_unknown_is_none(filled: Settings) -> None:
    with sessions(filled.database)() as s:
        curves = every_curve(s)
    of_one = curves[(curves["analysis_id"] == curves["analysis_id"].iloc[0])]
    found = rows_of(of_one[of_one["mask"] == Mask.magnitude], rows.OverlapPoint)
    assert [point.error for point in found] == [0.001, 0.01, None]
    assert [point.std for point in found] == [None] * 3
    random = rows_of(of_one[of_one["mask"] == Mask.random], rows.OverlapPoint)
    assert [point.std for point in random] == [0.001, 0.002, 0.003]
    assert [point.tied for point in random] == [None] * 3


def test_of_no_rows_there_are_no_objects(home: Settings) -> None:
    with sessions(home.database)() as s:
        assert runs_of(queries.runs(s)) == []
        assert rows_of(queries.comparable(s), rows.Analysis) == []


def check_types(found: list[Any]) -> None:
    """Every field of every row is of the type that its class declares."""
    for row in found:
        declared = get_type_hints(type(row))
        for field in fields(row):
            kind, value = declared[field.name], getattr(row, field.name)
            allowed = get_args(kind) if isinstance(kind, UnionType) else (kind,)
            assert isinstance(value, tuple(get_origin(each) or each for each in allowed)), (field.name, value)
