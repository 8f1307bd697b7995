"""Sessions: who waits for whom, and what happens at a fork."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import queries
from seigh.core.lab.session import close, engine, migrate, newest_revision, revision, sessions
from tests.core.lab import lab


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_postgresql_goes_through_psycopg(scheme: str) -> None:
    bind = engine(f"{scheme}://ada:secret@host:5433/lab")
    assert bind.url.drivername == "postgresql+psycopg"
    assert (bind.url.password, bind.url.port, bind.url.database) == ("secret", 5433, "lab")


def test_sqlite_makes_the_folder_and_keeps_a_log_ahead(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'folder' / 'lab.db'}"
    migrate(url)
    with sessions(url)() as s:
        assert s.scalar(text("PRAGMA journal_mode")) == "wal"
        assert s.scalar(text("PRAGMA foreign_keys")) == 1
        assert s.scalar(text("PRAGMA busy_timeout")) >= 30_000


def test_an_error_rolls_back(maker: sessionmaker[Session]) -> None:
    def stumble() -> None:
        with maker.begin() as s:
            lab.queue(s)
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        stumble()
    with maker() as s:
        assert queries.models(s).empty
        assert queries.runs(s).empty


def test_a_reader_neither_waits_for_a_writer_nor_sees_half_of_it(maker: sessionmaker[Session]) -> None:
    with maker.begin() as writer:
        lab.queue(writer)
        with maker() as reader:
            assert queries.runs(reader).empty
    with maker() as reader:
        assert len(queries.runs(reader)) == 1


def test_writers_that_read_first_wait_for_each_other(maker: sessionmaker[Session]) -> None:
    """On SQLite a transaction that begins by reading may not write any more once another one has."""
    with maker.begin() as s:
        lab.queue(s)
    with maker() as s:
        lock = " FOR UPDATE" if s.get_bind().dialect.name == "postgresql" else ""
    errors: list[Exception] = []

    def count_up() -> None:
        try:
            for _ in range(20):
                with maker.begin() as s:
                    read = s.execute(text(f"SELECT attempts FROM analysis{lock}")).scalar_one()
                    s.execute(text("UPDATE analysis SET attempts = :n"), {"n": read + 1})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with maker() as s:
        assert s.scalar(text("SELECT attempts FROM analysis")) == 80


def write_as_child(url: str, parents_maker: int) -> None:
    maker = sessions(url)
    assert id(maker) != parents_maker
    for step in range(20):
        with maker.begin() as s:
            lab.queue(s, model="child", step=step)


def test_a_forked_child_has_connections_of_its_own(url: str) -> None:
    maker = sessions(url)
    with maker() as s:
        assert queries.runs(s).empty
    close(url)
    process = multiprocessing.get_context("fork").Process(target=write_as_child, args=(url, id(maker)))
    process.start()
    for step in range(20):
        with maker.begin() as s:
            lab.queue(s, model="parent", step=step)
    process.join(60)
    assert process.exitcode == 0
    with maker() as s:
        assert queries.models(s).set_index("name")["checkpoints"].to_dict() == {"child": 20, "parent": 20}


def test_a_database_tells_its_revision(empty_url: str) -> None:
    assert revision(empty_url) is None
    migrate(empty_url, "0002")
    assert revision(empty_url) == "0002"
    migrate(empty_url)
    assert revision(empty_url) == newest_revision()


def test_the_newest_revision_is_the_one_that_alembic_ends_at() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[3] / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == newest_revision()
