"""One list of columns, and one way to write a result and read it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from seigh import AnalysisSettings, Result, analyse
from seigh.core.lab import queries, store
from seigh.core.lab.session import migrate, sessions
from seigh.core.lab.tables import TABLES
from seigh.core.methods import BUILT_IN
from seigh.core.problems import architectures
from seigh.core.results import schema
from seigh.core.results.result import ResultError
from seigh.core.settings import Settings
from tests.core.lab import lab

# Which the database has otherwise.
OPTIONAL = {"overlap": {"chance", "random_mean", "random_std", "random_std_error", "best", "best_error"}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "step_3.safetensors"
    save_file(dict(architectures.build("tanh-mlp(width=4,depth=2)").state_dict()), path)
    return path


@pytest.mark.parametrize("method", BUILT_IN)
def test_a_result_is_the_same_when_read_again(method: str, checkpoint: Path, home: Settings) -> None:
    settings = AnalysisSettings(
        architecture="tanh-mlp(width=4,depth=2)",
        data="digits",
        samples=30,
        k=4,
        method=method,
        curves=("participation", "overlap-layerwise", "trace", "participation-each", "loss-along"),
    )
    result = analyse(checkpoint, settings, environment=home)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    again = Result.from_json(document)
    assert again.to_json() == result.to_json()
    assert again.settings == settings
    assert [stage.hvps for stage in again.stages] == [stage.hvps for stage in result.stages]
    for name in (
        "eigenvalues",
        "residuals",
        "overlap",
        "overlap_error",
        "tied",
        "scree_lower",
        "best",
        "best_error",
    ):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    assert again.quantities == result.quantities
    assert again.profiles.keys() == {"participation-each", "loss-along"}
    for name, profile in again.profiles.items():
        np.testing.assert_array_equal(profile["value"], result.profiles[name]["value"])
    assert again.eigenvectors.shape == (0, result.parameters)
    # As releases up to 0.1.0 wrote it.
    for name in ("stages", "curves", "profiles", "quantities", "layers", "magnitudes", "metrics"):
        document.pop(name)
    for point in document["overlap"]:
        for name in ("least", "greatest", "tied", "random_std_error", "best_error"):
            point.pop(name)
    old = Result.from_json(document)
    np.testing.assert_array_equal(old.overlap, result.overlap)
    assert np.isnan([old.least, old.best_error, old.random_std_error]).all()
    assert sum(stage.seconds for stage in old.stages) == pytest.approx(document["seconds"]["total"])


@pytest.mark.parametrize("wrong", [{}, {"overlap": 3}, {"overlap": [], "eigenvalues": ["x"]}, []])
def test_what_is_no_result_gets_a_sentence(wrong: Any) -> None:
    with pytest.raises(ResultError, match="This is no result of an analysis"):
        Result.from_json(wrong)


def test_a_stored_result_is_read_as_a_written_one(home: Settings) -> None:
    migrate(home.database)
    with sessions(home.database).begin() as s:
        number = lab.finished(s)
        document = json.loads(json.dumps(queries.export_result(s, number), allow_nan=False))
    result = Result.from_json(document)
    assert result.overlap.tolist() == [0.5, 0.4, 0.3]
    assert np.isnan(result.residuals).tolist() == [False, True, False]
    assert [(each.name, each.seconds, each.hvps) for each in result.stages] == [
        ("load", 0.5, 0),
        ("eigenpairs", 2.0, 10),
    ]
    assert result.to_json() == {
        name: value for name, value in document.items() if name not in ("model", "step", "settings")
    } | {"settings": result.settings.model_dump(mode="json")}


@pytest.mark.parametrize("table", schema.TABLES.values(), ids=lambda table: table.name)
def test_the_database_has_the_columns_of_the_schema(table: schema.Table) -> None:
    (model,) = [each for each in store.RESULTS if each.__tablename__ == table.sql]
    columns = {each.name: each for each in model.__table__.columns}
    if table in (schema.CURVES, schema.PROFILES, schema.QUANTITIES):  # packed
        assert {"name", "points"} <= columns.keys()
        return
    for column in table.columns:
        if column.name in OPTIONAL.get(table.name, set()):
            continue
        there = columns.pop(column.name)
        assert there.type.python_type is {"int": int, "float": float, "text": str}[column.kind]
        assert column.known is not there.nullable
    assert {each for each in columns if each not in ("analysis_id", "position")} <= {"mask", "std"}
    assert table.name in TABLES
