"""Whether everything that is stored is whole: ``seigh doctor --deep``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from seigh.core.checksum import sha256_of
from seigh.core.lab.keys import checkpoint_key, data_key
from seigh.core.lab.leftovers import temporary_files
from seigh.core.lab.models import Analysis, Base, Checkpoint, DataFile, State
from seigh.core.lab.naming import digest_of

Trouble = Literal["damaged", "missing", "unreadable", "orphaned", "temporary"]

_SHOWN = 5  # of the lines in which a database says what is wrong with it


@dataclass(frozen=True)
class Flaw:
    """A file that is not as it should be.

    Attributes:
        key: Key of the file in the artefact store.
        trouble: What is wrong with it. An orphaned file is one that no row of the database refers to.
        of: What it belongs to, in words; empty for what belongs to nothing.
    """

    key: str
    trouble: Trouble
    of: str = ""


def database(s: Session) -> list[str]:
    """Return the faults of the database's pages and references; every row is read."""
    if s.get_bind().dialect.name == "sqlite":
        said = [row[0] for row in s.execute(text("PRAGMA integrity_check")) if row[0] != "ok"]
        said += [
            f"a row of {row[0]} refers to none of {row[2]}"
            for row in s.execute(text("PRAGMA foreign_key_check"))
        ]
        return said[:_SHOWN]
    for table in Base.metadata.sorted_tables:  # PostgreSQL checks each page as it is read, where it can
        for _ in s.execute(select(table).execution_options(yield_per=1000)):
            pass
    return []


def artifacts(s: Session, folder: Path) -> Iterator[Flaw]:
    """Every artefact that is not what was stored, is gone, or belongs to nothing.

    Files are read as a whole, which takes as long as the disk needs.
    """
    wanted = _wanted(s)
    for key, (sha256, of) in wanted.items():
        file = folder / key
        if not file.is_file():
            yield Flaw(key, "missing", of)
            continue
        try:
            if sha256 is not None and sha256_of(file) != sha256:
                yield Flaw(key, "damaged", of)
        except OSError:
            yield Flaw(key, "unreadable", of)
    running = set(s.scalars(select(Analysis.eigenvectors).where(Analysis.state != State.finished)))
    data = {digest_of(analysis) for analysis in s.scalars(select(Analysis.data).distinct())}
    temporary = set(temporary_files(folder))
    for file in sorted((folder / "graphs").glob("*")):  # architectures, which are kept without being used
        if file not in temporary and sha256_of(file) != file.name.partition(".")[0]:
            yield Flaw(f"graphs/{file.name}", "damaged", "an exported network")
    for kind in ("checkpoints", "data", "eigenvectors"):
        for file in sorted((folder / kind).glob("*")):
            key = f"{kind}/{file.name}"
            if file in temporary or key in wanted or key in running:
                continue
            if kind == "data" and file.stem in data:
                if sha256_of(file) != file.stem:
                    yield Flaw(key, "damaged", "the data of analyses")
                continue
            yield Flaw(key, "orphaned")
    for file in sorted(temporary):
        yield Flaw(file.relative_to(folder).as_posix(), "temporary")


def _wanted(s: Session) -> dict[str, tuple[str | None, str]]:
    """The files that rows refer to, with their checksums and what they belong to."""
    found: dict[str, tuple[str | None, str]] = {}
    stored = select(Checkpoint.sha256, Checkpoint.filename).where(Checkpoint.size > 0)
    for sha256, filename in s.execute(stored):
        found[checkpoint_key(sha256, filename)] = (
            sha256,
            f"checkpoint '{filename}'",
        )
    for file in s.scalars(select(DataFile).where(DataFile.size > 0)):
        found[data_key(file.sha256, file.filename)] = file.sha256, f"data file '{file.name}'"
    rows = select(Analysis.id, Analysis.eigenvectors, Analysis.eigenvectors_sha256).where(
        Analysis.state == State.finished, Analysis.eigenvectors.is_not(None)
    )
    for number, vectors, checksum in s.execute(rows):
        found[str(vectors)] = checksum, f"analysis {number}"
    return found
