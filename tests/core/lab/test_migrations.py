"""Migrations against the models, on both databases."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text

import seigh.core.lab.session as session_module
from seigh.core.lab import queries, store
from seigh.core.lab.models import Analysis, Base, Checkpoint
from seigh.core.lab.session import engine, migrate, sessions
from seigh.core.settings import AnalysisSettings, Settings
from tests.conftest import ROOT, wait_until
from tests.core.lab import lab
from tests.forking import Forked

EMPTY = {"alembic_version"}
TABLES = EMPTY | set(Base.metadata.tables)


def tables(url: str) -> set[str]:
    bind = engine(url)
    try:
        return set(inspect(bind).get_table_names())
    finally:
        bind.dispose()


def revision(url: str) -> str:
    with sessions(url)() as s:
        return str(s.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def test_upgrade_makes_what_the_models_say(empty_url: str) -> None:
    migrate(empty_url)
    bind = engine(empty_url)
    with bind.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    reflected = {
        check["name"]
        for table in ("analysis", "training", "comparison", "pair_value", "overlap_point")
        for check in inspect(bind).get_check_constraints(table)
    }
    # Autogenerate does not compare these.
    assert reflected == {
        "ck_analysis_state",
        "ck_training_state",
        "ck_comparison_state",
        "ck_pair_value_order",
        "ck_overlap_point_mask",
    }
    bind.dispose()


def test_down_to_nothing_and_up_again(empty_url: str) -> None:
    migrate(empty_url)
    assert tables(empty_url) == TABLES
    migrate(empty_url, "base")
    assert tables(empty_url) == EMPTY
    migrate(empty_url)
    assert tables(empty_url) == TABLES


def test_migrating_again_keeps_the_rows(url: str) -> None:
    with sessions(url).begin() as s:
        lab.finished(s)
    migrate(url)
    with sessions(url)() as s:
        assert s.scalars(select(Analysis)).one().checkpoint.step == 100


OLD_SETTINGS = {
    "architecture": "tanh-mlp", "data": "sha256:é", "split": "train", "samples": 500, "k": 3,
    "method": "seigh", "seed": 0, "outer": 9, "inner": None, "random_masks": 10, "precision": "float32",
}  # fmt: skip


def fill_old_database(url: str) -> None:
    """A finished analysis in a database of revision 0001, as the code of that time wrote it."""
    bind = engine(url)
    moment = "2025-01-01 00:00:00+00:00" if bind.dialect.name == "postgresql" else "2025-01-01 00:00:00"
    canonical = json.dumps(OLD_SETTINGS, separators=(",", ":"), ensure_ascii=False)
    rows = {
        "model": {"id": 1, "name": "mlp", "architecture": "tanh-mlp", "created_at": moment},
        "checkpoint": {
            "id": 4, "model_id": 1, "step": 100, "sha256": "a" * 64, "filename": "step_100.pt", "size": 1,
            "parameters": 7030, "uploaded_by": "ada", "uploaded_at": moment,
        },
        "analysis": {
            "id": 7, "checkpoint_id": 4, "settings": json.dumps(OLD_SETTINGS),
            "settings_key": hashlib.sha256(canonical.encode()).hexdigest(), "data": "sha256:é",
            "split": "train", "method": "seigh", "samples": 500, "k": 3, "seed": 0, "state": "finished",
            "progress": 1.0, "attempts": 1, "cancel_requested": False, "submitted_by": "ada",
            "submitted_at": moment, "finished_at": moment, "hvps": 10,
        },
        "eigenvalue": {"analysis_id": 7, "position": 1, "value": -2.0, "residual": 0.1},
        "overlap_point": {"analysis_id": 7, "mask": "magnitude", "k": 1, "overlap": 0.5},
        "stage_timing": {"analysis_id": 7, "position": 0, "stage": "load", "seconds": 0.5, "hvps": 0},
    }  # fmt: skip
    with bind.begin() as connection:
        for table, row in rows.items():
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)
    bind.dispose()


def test_old_results_survive_the_new_columns_and_their_removal(empty_url: str) -> None:
    migrate(empty_url, "0001")
    fill_old_database(empty_url)
    with sessions(empty_url)() as s:
        before = s.execute(text("SELECT settings, settings_key FROM analysis")).one()
    migrate(empty_url)
    with sessions(empty_url)() as s:
        detail = queries.analysis(s, 7)
        curve, spectrum = queries.overlap_curves(s, [7]), queries.spectrum(s, 7)
    assert detail is not None
    assert (detail.parameters, detail.curvature, detail.subset) == (7030, "hessian", "")
    assert (detail.resolved_k, detail.hvps, detail.seconds) == (None, 10, 0.5)
    assert (curve["overlap"].tolist(), curve["error"].isna().all()) == ([0.5], True)
    assert curve[["least", "greatest", "tied"]].isna().all(axis=None)
    assert (spectrum["value"].tolist(), spectrum["scree_upper"].isna().all()) == ([-2.0], True)

    # Who asks for the same again gets it, from this code too.
    with sessions(empty_url).begin() as s:
        checkpoint = s.scalars(select(Checkpoint)).one()
        settings = AnalysisSettings.model_validate(OLD_SETTINGS)
        analysis, created = store.queue_analysis(s, checkpoint, settings, "bob", parameters=7030)
        assert (analysis.id, created) == (7, False)
        # An analysis that this code has made, of defaults that 0001 did not know.
        store.queue_analysis(s, checkpoint, lab.settings(), "bob", parameters=7030)

    while revision(empty_url) != "0001":
        migrate(empty_url, "-1")
    with sessions(empty_url)() as s:
        assert s.execute(text("SELECT settings, settings_key FROM analysis WHERE id = 7")).one() == before
        new = s.execute(text("SELECT settings FROM analysis WHERE id <> 7")).scalar_one()
    assert set(json.loads(new) if isinstance(new, str) else new) == set(OLD_SETTINGS)
    migrate(empty_url)
    with sessions(empty_url)() as s:
        pd.testing.assert_frame_equal(queries.overlap_curves(s, [7]), curve)
        assert len(s.scalars(select(Analysis)).all()) == 2


MIGRATE_WHEN_TOLD = """
import time
from pathlib import Path
from seigh.core.lab.session import migrate
print("ready", flush=True)
while not Path({told!r}).exists():
    time.sleep(0.01)
migrate({url!r})
"""


def test_several_processes_may_migrate_at_once(empty_url: str, tmp_path: Path) -> None:
    program = MIGRATE_WHEN_TOLD.format(told=str(tmp_path / "told"), url=empty_url)
    logs = [tmp_path / f"{number}.log" for number in range(4)]
    processes = [Forked(program, ROOT, log) for log in logs]
    wait_until(lambda: all(log.read_text() == "ready\n" for log in logs), 60, "all are ready")
    (tmp_path / "told").touch()
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0], [log.read_text() for log in logs]
    assert tables(empty_url) == TABLES


def test_a_migration_that_fails_changes_nothing(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(empty_url)
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    original = Path(session_module.__file__).parents[2] / "migrations"
    files = [Path("env.py"), *(Path("versions", file.name) for file in original.glob("versions/0*.py"))]
    for name in files:
        (folder / name).write_text((original / name).read_text())
    (folder / "versions" / "9999_broken.py").write_text(
        f'from alembic import op\nrevision, down_revision = "9999", "{revision(empty_url)}"\n'
        'def upgrade():\n    op.execute("CREATE TABLE half (id INTEGER)")\n    op.execute("nonsense")\n'
    )
    monkeypatch.setattr(session_module, "_MIGRATIONS", folder)
    with pytest.raises(Exception, match="nonsense"):
        migrate(empty_url)
    assert tables(empty_url) == TABLES


def test_the_command_line_of_alembic_works_on_the_configured_database(home: Settings) -> None:
    command = [sys.executable, "-m", "alembic", "check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "No new upgrade operations detected" in checked.stdout + checked.stderr
    migrate(home.database, "base")
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Target database is not up to date" in checked.stdout + checked.stderr
