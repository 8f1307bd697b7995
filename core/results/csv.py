"""Tables as CSV that a spreadsheet program may open."""

from __future__ import annotations

import pandas as pd

# What a spreadsheet program takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV, in which no text is a formula: what would be one has an apostrophe before it.

    Numbers are left as they are.
    """
    inert = table.copy()
    for name in inert.columns:
        if not pd.api.types.is_numeric_dtype(inert[name].dtype):
            inert[name] = inert[name].map(_inert)
    inert.columns = pd.Index([_inert(name) for name in inert.columns])
    return str(inert.to_csv(index=False))


def _inert(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
