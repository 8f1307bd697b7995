"""The tables that can be exported: what the pages show of the finished analyses of some models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd
from sqlalchemy.orm import Session

from seigh.core.lab import queries
from seigh.core.names import TableName

# Of a session, the ids of the analyses and the names of their models, a table.
_Query = Callable[[Session, list[int], list[str]], pd.DataFrame]


def _each(query: Callable[[Session, int], pd.DataFrame]) -> _Query:
    """The rows of a query for one analysis, of all of them, with ``analysis_id`` in front."""

    def rows(s: Session, ids: list[int], _: list[str]) -> pd.DataFrame:
        frames = [query(s, number) for number in ids] or [query(s, 0)]
        numbers = [number for number, frame in zip(ids, frames, strict=False) for _ in range(len(frame))]
        table = pd.concat(frames, ignore_index=True)
        table.insert(0, "analysis_id", pd.Series(numbers, dtype=int))
        return table

    return rows


def _analyses(s: Session, ids: list[int], _: list[str]) -> pd.DataFrame:
    frame = queries.comparable(s)
    frame = frame[frame["analysis_id"].isin(ids)].reset_index(drop=True)
    frame["version"] = frame["analysis_id"].map(queries.versions(s)).astype(object)
    return frame


# By name: analyses, one row each, to join the others on ``analysis_id``; and what was found of them.
TABLES: Mapping[TableName, _Query] = MappingProxyType(
    {
        "overlap": lambda s, _, names: queries.export_table(s, names),
        "analyses": _analyses,
        "curves": lambda s, ids, _: queries.curves(s, ids),
        "eigenvalues": lambda s, ids, _: queries.eigenvalues(s, ids),
        "layers": _each(queries.layer_shares),
        "magnitudes": _each(queries.magnitude_bins),
        "masks": lambda s, ids, _: queries.masks(s, ids),
        "metrics": lambda s, ids, _: queries.subspace_metrics(s, ids),
        "pairs": lambda s, ids, _: queries.pair_values(s, ids),
        "profiles": lambda s, ids, _: queries.profiles(s, ids),
        "quantities": lambda s, ids, _: queries.quantities(s, ids),
        "stages": _each(queries.stages),
        "training": lambda s, _, names: queries.recorded_metrics(s, names),
    }
)


def export(s: Session, table: TableName, names: Sequence[str] | None = None) -> pd.DataFrame:
    """One of ``TABLES``, of the finished analyses of the models of these names, or of all.

    Raises:
        StoreError: If there is no model of one of the names.
    """
    chosen = queries.model_names(s, names)
    finished = queries.comparable(s)
    ids = finished.loc[finished["model"].isin(chosen), "analysis_id"].tolist()
    return TABLES[table](s, ids, chosen)
