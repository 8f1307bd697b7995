"""Engines, sessions and migrations of the lab's database, SQLite or PostgreSQL.

>>> maker = sessions("sqlite:////tmp/lab.db")        # doctest: +SKIP
>>> with maker() as s:                               # a reader: sees one snapshot, blocks nobody
...     frame = queries.runs(s)
>>> with maker.begin() as s:                         # a writer: commits at the end, rolls back on an error
...     store.request_cancel(s, 7)
"""

from __future__ import annotations

import fcntl
import functools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError
from sqlalchemy.orm import Session, SessionTransaction, SessionTransactionOrigin, sessionmaker

from seigh.core.errors import UserError
from seigh.core.logs import redact
from seigh.core.results import number
from seigh.core.settings import SettingsError

# How long a writer waits for the one before it. SQLite has one writer at a time; ours take milliseconds.
_BUSY_SECONDS = 60

# Any constant of our own: it names the lock that two migrating processes compete for in PostgreSQL.
_MIGRATION_LOCK = 0x5E16_4001

_DISK_FULL = "53100"  # PostgreSQL's code

_MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def engine(url: str) -> Engine:
    """A new engine for ``url``: ``sqlite:///path`` (the folder is made) or ``postgres[ql]://…``."""
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        return _sqlite(address)
    if address.drivername in ("postgres", "postgresql"):
        address = address.set(drivername="postgresql+psycopg")
    return create_engine(address, pool_pre_ping=True, connect_args={"connect_timeout": 10})


def sessions(url: str) -> sessionmaker[Session]:
    """The sessions of the database at ``url``, one pool of connections per process and URL.

    ``sessions(url)()`` reads. ``sessions(url).begin()`` writes: on SQLite it takes the write lock at once,
    so that what a writer has read still holds when it writes.

    A child that was forked gets a pool of its own. At the moment of the fork its parent should have no
    connection (``close``): SQLite's locks would seem to be the child's.
    """
    return _sessions(url, os.getpid())


def close(url: str) -> None:
    """Close this process's idle connections to the database at ``url``; ``sessions`` opens new ones."""
    bind: Engine = _sessions(url, os.getpid()).kw["bind"]
    bind.dispose()


# The process id is only a part of the cache's key: a forked child gets a pool of its own.
@functools.cache
def _sessions(url: str, _pid: int) -> sessionmaker[Session]:
    maker = sessionmaker(engine(url))
    event.listen(maker, "after_begin", _begin)
    return maker


def _sqlite(address: URL) -> Engine:
    if address.database:
        Path(address.database).parent.mkdir(0o700, parents=True, exist_ok=True)
    result = create_engine(address, connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(result, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # sqlite3 would begin transactions by itself, too late and never IMMEDIATE: _begin does it.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        # With a write-ahead log NORMAL cannot corrupt; a power cut may lose the last moments.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.create_function(number.NAME, 2, number.read, deterministic=True)

    return result


def _begin(_: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if connection.dialect.name == "sqlite" and not transaction.nested:  # nested: a savepoint
        writes = transaction.origin is SessionTransactionOrigin.BEGIN
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


# What SQLAlchemy raises where the database cannot be used at all.
FAULTS = (ArgumentError, DatabaseError, InterfaceError)


def in_words(error: Exception) -> str:
    """Turn an exception of SQLAlchemy into one sentence for the user."""
    cause = getattr(error, "orig", None) or error
    reason = redact(str(cause).strip().partition("\n")[0])
    code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return (
            f"The database is damaged ({reason}); restore a copy of its file, or move it away to begin with "
            "an empty one."
        )
    if code == sqlite3.SQLITE_READONLY:
        return f"The database cannot be written ({reason}); make its file and folder writable for this user."
    if is_full(error):
        return f"The disk of the database is full ({reason}); make room on it."
    return f"The database cannot be used ({reason}); check SEIGH_HOME and SEIGH_DATABASE_URL."


class DatabaseFull(UserError):
    """The database has no room to write; the message is one sentence for the user."""


def is_full(error: BaseException) -> bool:
    """Whether a database error says that the database's disk, or a quota of it, is full."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) == _DISK_FULL or (
        isinstance(cause, sqlite3.Error)
        and (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL
    )


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` to ``revision``: up to ``"head"`` or one by name, down to ``"base"``, or
    one step down (``"-1"``).

    All or nothing, and safe when several processes do it at the same time: one works, the others wait
    and find it done.
    """
    from alembic import command  # what only looks into the database need not wait for Alembic
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with migration_connection(url) as connection:
        _check_not_newer(connection)
        config.attributes["connection"] = connection
        move = command.downgrade if revision in ("base", "-1") else command.upgrade
        move(config, revision)


def _check_not_newer(connection: Connection) -> None:
    """Refuse a database that a newer version of this program has migrated.

    Raises:
        SettingsError: If it is one.
    """
    present, newest = _revision(connection), newest_revision()
    if present is not None and present > newest:
        raise SettingsError(
            f"The database is of a newer version ({present}) than this program, which knows {newest}; "
            "install the newer version, or set SEIGH_HOME or SEIGH_DATABASE_URL to another database."
        )


def revision(url: str) -> str | None:
    """The revision that the database at ``url`` is at; None if it has never been migrated."""
    with sessions(url)() as s:
        return _revision(s.connection())


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def newest_revision() -> str:
    """The revision that this program needs; those of migrations are their files' first four digits."""
    return max(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))


@contextmanager
def migration_connection(url: str) -> Iterator[Connection]:
    """A connection in a transaction that no other migration of this database can run beside."""
    bind = engine(url)
    try:
        with _alone_sqlite(bind) if bind.dialect.name == "sqlite" else _alone_postgresql(bind) as connection:
            yield connection
    finally:
        bind.dispose()


@contextmanager
def _alone_postgresql(bind: Engine) -> Iterator[Connection]:
    with bind.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        yield connection


@contextmanager
def _alone_sqlite(bind: Engine) -> Iterator[Connection]:
    with open(f"{bind.url.database}.migrate", "w") as lock, bind.connect() as connection:
        # The switch to WAL, kept in the file, ignores the busy timeout: hence a lock before it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        # SQLite alters a table by rebuilding it; dropping the old one must not cascade.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.commit()
