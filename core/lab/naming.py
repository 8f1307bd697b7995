"""What the data of an analysis are called on pages, and the split that they are of."""

from __future__ import annotations

import re

from sqlalchemy import ColumnElement, String, case, func, literal, select
from sqlalchemy.orm import Session

from seigh.core.lab.models import Analysis, DataFile
from seigh.core.settings import MARK, AnalysisSettings

_DIGEST = re.compile(rf"{MARK}([0-9a-f]{{64}})(\(.*\))?", re.DOTALL)
_NAMELESS = "own data "  # followed by the first digits of the hash


def digest_of(data: str) -> str | None:
    """The hash of the data file that settings name, None where they name none of the artefact store.

    >>> digest_of("digits"), digest_of("sha256:" + 64 * "a" + "(block=4)")[:3]
    (None, 'aaa')
    """
    found = _DIGEST.fullmatch(data)
    return None if found is None else found[1]


def nameless(digest: str) -> str:
    """What a data file is called that is from before files had names."""
    return f"{_NAMELESS}{digest[:8]}"


def split_of(s: Session, settings: AnalysisSettings) -> str:
    """The split that an analysis is of, as pages call it: a file has the one that was declared, if any."""
    sha256 = digest_of(settings.data)
    if sha256 is not None and (file := s.get(DataFile, sha256)) is not None:
        return file.split
    return settings.said_split


def name_of() -> ColumnElement[str]:
    """What the data of an analysis are called, in SQL: a file by its name, others as settings have them."""
    digest = func.substr(Analysis.data, len(MARK) + 1, 64)
    named = select(DataFile.name).where(DataFile.sha256 == digest).correlate(Analysis).scalar_subquery()
    short = literal(_NAMELESS, String) + func.substr(Analysis.data, len(MARK) + 1, 8)
    options = func.substr(Analysis.data, len(MARK) + 65)
    return case((Analysis.data.startswith(MARK), func.coalesce(named, short) + options), else_=Analysis.data)


def of_file(sha256: str) -> ColumnElement[bool]:
    """Whether an analysis is of a data file, in SQL."""
    return Analysis.data.startswith(f"{MARK}{sha256}")
