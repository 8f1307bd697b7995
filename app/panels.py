"""Panels that a page and the report draw alike: pairs of analyses, size and name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from sqlalchemy.orm import Session

from seigh.app import charts
from seigh.app.lines import LINE
from seigh.core.lab import queries
from seigh.core.names import IOU

MASKS_MEASURE = "IoU of masks"


@dataclass(frozen=True)
class Panel:
    """A heatmap: what ``charts.heatmap`` takes, and its names."""

    title: str
    key: str
    measure: str
    values: pd.DataFrame


def heatmaps_found(values: pd.DataFrame, sets: pd.DataFrame) -> Iterator[Panel]:
    """The heatmaps that there are values for: of the masks, which sets of the same parameters share, and of
    each set's eigenspaces."""
    masks = values[values["measure"] == IOU]
    for subset, rows in sets.groupby("subset"):
        # Of the first of them whose masks have been compared.
        for number, each in rows.groupby("set_id"):
            if len(pairs := within(masks, each)):
                title = "Masks" if sets["subset"].nunique() == 1 else f"Masks of {subset}"
                yield Panel(title, f"masks_{number}", MASKS_MEASURE, pairs)
                break
    overlaps = values[values["measure"] == "overlap"]
    for number, rows in sets.groupby("set_id"):
        if len(pairs := within(overlaps, rows)):
            title = f"Eigenspaces, {rows['series'].iloc[0]}"
            yield Panel(title, f"eigenspaces_{number}", "overlap of eigenspaces", pairs)


def within(values: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The pairs of two of these analyses."""
    ids = rows["analysis_id"]
    return values[values["first_id"].isin(ids) & values["second_id"].isin(ids)]


def names_of_sets(sets: pd.DataFrame) -> pd.Series[str]:
    """Return the words that tell the sets of one model apart; their number where no shown setting does."""
    names = charts.name_series(sets).str.removeprefix(sets["model"].iloc[0] + " · ")
    ambiguous = sets.groupby(names)["set_id"].transform("nunique") > 1
    return names.where(
        ~ambiguous, names + ", k = " + sets["k"].astype(str) + " · #" + sets["set_id"].astype(str)
    )


def nearest(frame: pd.DataFrame, k: int) -> pd.DataFrame:
    """The rows of the size nearest to k, of those that the frame has."""
    size: int = min(frame["k"].unique(), key=lambda size: abs(size - k))
    return frame[frame["k"] == size]


# Beyond this ratio of their largest overlaps, a panel beside another one is a line at zero.
SHARED_AXIS = 10.0


def top_of(curves: pd.DataFrame) -> float | None:
    """Where an axis ends that holds the overlaps of all lines, and what ties may make of them; None where the
    lines differ so much that each needs an axis of its own."""
    tops = curves.groupby("series")[["overlap", "greatest"]].max().max(axis=1)
    if tops.max() > SHARED_AXIS * tops.min():
        return None
    return float(tops.max()) * 1.05


def further_points(s: Session, chosen: pd.DataFrame, name: str, k_of: Callable[[int], int]) -> pd.DataFrame:
    """A further curve of these analyses at one size each, of those that have it there.

    Args:
        s: A reading session.
        chosen: analysis_id, parameters, series and group.
        name: Name of the curve.
        k_of: The size of a model of so many parameters.
    """
    found = [
        queries.curves_at(s, rows["analysis_id"].tolist(), name, k_of(int(str(parameters))))
        for parameters, rows in chosen.groupby("parameters")
    ]
    return pd.concat(found, ignore_index=True).merge(chosen[LINE], on="analysis_id")


def masks_at(
    s: Session, chosen: pd.DataFrame, first: str, second: str, k_of: Callable[[int], int]
) -> pd.DataFrame:
    """The IoU of two masks of each of these analyses at one size each, of those that have both there.

    Args:
        s: A reading session.
        chosen: analysis_id, parameters, series and group.
        first: Name of a mask.
        second: The other analysis.
        k_of: The size for a model of so many parameters.
    """
    found = queries.mask_iou(s, chosen["analysis_id"].tolist(), first, second)
    wanted = found["k"] == found["parameters"].map(lambda number: k_of(int(number)))
    return found[wanted].merge(chosen[LINE], on="analysis_id")


def metrics_near(found: pd.DataFrame, k_of: Callable[[int], int]) -> pd.DataFrame:
    """Keep the rows of ``queries.subspace_metrics`` nearest to one size each, of sizes that most have."""
    parts = [nearest(shared(rows), k_of(int(str(number)))) for number, rows in found.groupby("parameters")]
    return pd.concat(parts, ignore_index=True)


def last_steps(points: pd.DataFrame) -> pd.DataFrame:
    """Each line at its last step."""
    return points.sort_values("step").drop_duplicates("series", keep="last")


def shared(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of those sizes k that most analyses, or most pairs of them, have."""
    numbers = frame.groupby("k")["k"].transform("size")
    most: int = numbers.max()
    return frame[numbers == most]
