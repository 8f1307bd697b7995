"""The data files that people have brought: what each is called, and which split of their data it is.

The file lies in the artefact store under its hash, and analyses name it ``sha256:<digest>``
(``seigh.core.lab.naming``). Every function works in the transaction of the session it is given.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePath

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from seigh.core.lab.keys import data_key
from seigh.core.lab.models import UNDER_WAY, Analysis, DataFile
from seigh.core.lab.naming import of_file
from seigh.core.lab.store import StoreError, check_unneeded
from seigh.core.names import NO_SPLIT
from seigh.core.settings import MARK, SPLITS

# The splits that somebody can say a file is of.
DECLARED: tuple[str, ...] = (*SPLITS, NO_SPLIT)

_LONGEST = 200  # characters of a name


def add(
    s: Session,
    sha256: str,
    *,
    filename: str,
    size: int,
    user: str,
    name: str = "",
    split: str = NO_SPLIT,
    reserved: Collection[str] = (),
) -> DataFile:
    """The data file of this content, added if it is new.

    A known one keeps its name and split; one whose file had been deleted has it again.

    Args:
        s: A writing session.
        sha256: Hash of the file.
        filename: Its original name.
        size: Bytes.
        user: Who brought it.
        name: What it is to be called; as its file when empty, with a number where that is taken.
        split: One of ``DECLARED``.
        reserved: Names of data sets, which no file can have.

    Raises:
        StoreError: If the name cannot be one, or is that of another file.
    """
    filename = PurePath(filename).name[-255:]
    found = s.get(DataFile, sha256)
    if found is not None:
        if not found.size:
            found.filename, found.size = filename, size
        return found
    if not name.strip():
        name, number = filename[-_LONGEST + 10 :], 1
        while _taken(s, name) or name in reserved:
            number += 1
            name = f"{filename[-_LONGEST + 10 :]} ({number})"
    found = DataFile(
        sha256=sha256,
        name=_checked(s, name, reserved),
        filename=filename,
        split=_known(split),
        size=size,
        uploaded_by=user[:100],
    )
    s.add(found)
    s.flush()
    return found


def change(s: Session, sha256: str, name: str, split: str, reserved: Collection[str] = ()) -> None:
    """Give a data file another name, and say of which split it is; its analyses are shown accordingly.

    Raises:
        StoreError: If the name cannot be one, or is that of another file, or the file is gone.
    """
    file = _file(s, sha256)
    if name.strip() != file.name:
        file.name = _checked(s, name, reserved)
    file.split = _known(split)
    s.execute(update(Analysis).where(of_file(sha256)).values(split=split))
    s.flush()


def delete(s: Session, sha256: str) -> list[str]:
    """Remove a data file; the keys of the files to delete after the commit.

    The analyses of it keep their numbers, and its name as long as there are any.

    Raises:
        StoreError: If it is gone already, or work that is under way needs it.
    """
    file = _file(s, sha256)
    states = list(s.scalars(select(Analysis.state).where(of_file(sha256))))
    check_unneeded(sum(state in UNDER_WAY for state in states), f"the data '{file.name}'")
    key = data_key(sha256, file.filename)
    if states:
        file.size = 0
    else:
        s.delete(file)
    s.flush()
    return [key]


def _file(s: Session, sha256: str) -> DataFile:
    file = s.get(DataFile, sha256, with_for_update=True, populate_existing=True)
    if file is None:
        raise StoreError("This data file no longer exists; reload the page.")
    return file


def _taken(s: Session, name: str) -> bool:
    return s.scalars(select(DataFile.sha256).where(DataFile.name == name)).one_or_none() is not None


def _checked(s: Session, name: str, reserved: Collection[str]) -> str:
    name = name.strip()
    if not name or len(name) > _LONGEST or not name.isprintable():
        raise StoreError(
            f"The name of a data file has 1 to {_LONGEST} characters and all of them are printable; choose "
            "another one."
        )
    if name in reserved or name.startswith((MARK, "random(", "memory:")):
        raise StoreError(f"'{name[:80]}' is the name of a data set; call the file something else.")
    if _taken(s, name):
        raise StoreError(f"There is a data file '{name}' already; choose another name.")
    return name


def _known(split: str) -> str:
    if split not in DECLARED:
        raise StoreError(f"A data file is of {', '.join(SPLITS)} or none, not of '{split[:40]}'.")
    return split
