"""Homes of any name; databases and folders that cannot be used, of which one sentence tells; passwords."""

from __future__ import annotations

import io
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import kombu.exceptions
import pandas as pd
import pytest
from sqlalchemy import text

from seigh.app.cli.doctor import examine_service
from seigh.core import logs, private
from seigh.core.lab.session import close, migrate, newest_revision, sessions
from seigh.core.results.csv import to_csv
from seigh.core.settings import Settings
from seigh.tasks.celery_app import app as celery
from tests.conftest import redis_of

STRANGE = "a ?b%41;c#d é ü"


def seigh(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEIGH_")}
    return subprocess.run(
        [sys.executable, "-m", "seigh.app.cli", *arguments],
        env=kept | {"SEIGH_HOME": str(home), "SEIGH_DEVICE": "cpu"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One sentence, no traceback."""
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def test_a_home_of_any_name_has_its_database_and_queue_in_it(tmp_path: Path) -> None:
    home = tmp_path / STRANGE
    done = seigh(home, "migrate")
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / "seigh.db").is_file()
    assert list(tmp_path.iterdir()) == [home]  # and nowhere else
    env = Settings(home=home, device="cpu")
    with sessions(env.database)() as s:
        assert s.execute(text("SELECT version_num FROM alembic_version")).scalar() == newest_revision()
    close(env.database)
    with redis_of(env), celery.connection_for_read(env.redis) as connection:
        connection.ensure_connection(max_retries=1)


def test_what_is_made_is_the_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert seigh(home, "migrate").returncode == 0
    for path in (home, *home.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2770)
    assert seigh(shared, "migrate").returncode == 0
    assert stat.S_IMODE((shared / "seigh.db").stat().st_mode) & 0o077  # as the lab's umask has it


def test_the_home_that_nobody_named_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEIGH_HOME", raising=False)
    (tmp_path / ".seigh").mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        private.begin(Settings())
        assert stat.S_IMODE((tmp_path / ".seigh").stat().st_mode) == 0o700
        (tmp_path / "export.csv").touch()
        private.open_to_others(tmp_path / "export.csv")
        assert stat.S_IMODE((tmp_path / "export.csv").stat().st_mode) == 0o644
    finally:
        os.umask(before)
        monkeypatch.setattr(private, "_before", None)


def test_a_damaged_database_gets_one_sentence_everywhere(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path / 'seigh.db'}")
    close(f"sqlite:///{tmp_path / 'seigh.db'}")
    content = (tmp_path / "seigh.db").read_bytes()
    for damaged in (b"no database at all" * 100, content[:100] + os.urandom(4000) + content[4100:]):
        (tmp_path / "seigh.db").write_bytes(damaged)
        refused(seigh(tmp_path, "export", "all"), "The database is damaged (", "restore a copy")
        found = next(examine_service(Settings(home=tmp_path, device="cpu"), "app", 1))
        assert (found.check, found.verdict) == ("database", "bad")
        assert found.found.startswith("The database is damaged (")
        assert found.fix.startswith("Restore a copy")
    close(f"sqlite:///{tmp_path / 'seigh.db'}")


def test_an_older_program_leaves_a_newer_database_alone(home: Settings) -> None:
    with sessions(home.database).begin() as s:
        s.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    refused(seigh(home.root, "migrate"), "of a newer version (9999)", "install the newer version")


def test_a_name_that_is_too_long_gets_one_sentence(tmp_path: Path) -> None:
    refused(seigh(tmp_path / ("é" * 128), "migrate"), "File name too long")
    name = "x" * 256
    done = seigh(tmp_path, "analyze", f"{name}.pt", "--architecture", "tanh-mlp", "--data", "digits")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


PASSWORD = "s3/cr@et%21"


def test_no_password_is_logged_whoever_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEIGH_REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:9/0")
    monkeypatch.setenv("SEIGH_DATABASE_URL", "postgresql://ada:other-word@db/lab")
    for form in ("text", "json"):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        before = logging.root.handlers[:], logging.root.level
        try:
            logs.configure(form)
            logger = logging.getLogger("kombu.connection")
            logger.warning("cannot connect to %s", f"redis://:{PASSWORD}@127.0.0.1:9/0")
            logger.warning("cannot connect to amqp://u:third-word@host and s3/cr@et!")
            try:
                raise kombu.exceptions.OperationalError(f"{Settings().redis}, {Settings().database}")
            except kombu.exceptions.OperationalError:
                logger.exception("it failed")
        finally:
            logging.root.handlers[:], logging.root.level = before
        said = stream.getvalue()
        assert said.count("***") >= 5
        for word in (PASSWORD, "s3/cr@et!", "other-word", "third-word"):
            assert word not in said


def test_cells_that_would_be_formulas_are_inert_and_numbers_are_not_touched() -> None:
    table = pd.DataFrame(
        {
            "=name": ["=1+1", "+1", "-2", "@SUM(A1)", "\tx", "\rx", "plain", "a=b", None],
            "number": [-1.5, 2, -3, 4, 5, 6, 7, 8, float("nan")],
        }
    )
    read = pd.read_csv(io.StringIO(to_csv(table)), lineterminator="\n")
    assert list(read.columns) == ["'=name", "number"]
    assert read["'=name"].tolist()[:5] == ["'=1+1", "'+1", "'-2", "'@SUM(A1)", "'\tx"]
    assert read["'=name"].tolist()[6:8] == ["plain", "a=b"]
    pd.testing.assert_series_equal(read["number"], table["number"])
