"""Migrations against the models, on both databases."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select

import core.results.session as session_module
from core.results.models import Analysis, Base
from core.results.session import engine, migrate, sessions
from core.settings import Settings
from tests.conftest import ROOT
from tests.core.results import lab

EMPTY = {"alembic_version"}
TABLES = EMPTY | set(Base.metadata.tables)


def tables(url: str) -> set[str]:
    bind = engine(url)
    try:
        return set(inspect(bind).get_table_names())
    finally:
        bind.dispose()


def test_upgrade_makes_what_the_models_say(empty_url: str) -> None:
    migrate(empty_url)
    bind = engine(empty_url)
    with bind.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    reflected = {
        check["name"]
        for table in ("analysis", "overlap_point")
        for check in inspect(bind).get_check_constraints(table)
    }
    assert reflected == {"ck_analysis_state", "ck_overlap_point_mask"}  # autogenerate does not compare these
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


def migrate_together(barrier: Barrier, url: str) -> None:
    barrier.wait(60)
    migrate(url)


def test_several_processes_may_migrate_at_once(empty_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [context.Process(target=migrate_together, args=(barrier, empty_url)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert tables(empty_url) == TABLES


def test_a_migration_that_fails_changes_nothing(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(empty_url)
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    original = Path(session_module.__file__).parents[2] / "migrations"
    for name in ("env.py", "versions/0001_tables.py"):
        (folder / name).write_text((original / name).read_text())
    (folder / "versions" / "0002_broken.py").write_text(
        'from alembic import op\nrevision, down_revision = "0002", "0001"\n'
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
