"""How far numbers can be trusted, in words and tables: ties of equal magnitudes, and checks of analyses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from seigh.app.digits import number
from seigh.app.rows import OverlapPoint

# Of a chart of overlap against k, and of one over training, in which weights tie.
TIES_ALONG_K = (
    "Where weights of equal magnitude leave the mask open, a line is the mean over all masks that they "
    "admit, and the pale band with dashed edges goes from the least to the greatest overlap of such a mask."
)
TIES_AT_K = (
    "Where weights of equal magnitude leave the mask open, a point is the mean over all masks that they "
    "admit, and a pale bar goes from the least to the greatest overlap of such a mask."
)


def ties_at(k: int, point: OverlapPoint) -> str:
    """Say that weights of equal magnitude compete for the last places of the mask of size k.

    Args:
        k: The size.
        point: The overlap there; empty words where nothing ties or it is not known.
    """
    if not point.tied:
        return ""
    return (
        f"{point.tied:,.0f} weights of exactly the same magnitude compete for the last places of the mask "
        f"of k = {k:,}. The overlap is the mean over all choices among them; a single choice gives between "
        f"{number(point.least, 2)} and {number(point.greatest, 2)}, which the stated error includes."
    )


def ties_among(points: pd.DataFrame) -> str:
    """How many analyses have ties, of ``queries.overlap_by_step``; empty where none has."""
    found = points[points["tied"] > 0]
    if found.empty:
        return ""
    number = found["analysis_id"].nunique()
    which = f"{number} of these analyses have" if number > 1 else "One of these analyses has"
    return (
        f"{which} weights of exactly the same magnitude competing for the last places of the mask (up to "
        f"{found['tied'].max():,.0f} weights). " + TIES_AT_K
    )


def checks(record: Mapping[str, Any]) -> pd.DataFrame:
    """How an analysis was checked: a row for each check that its record tells of.

    Columns: check, found, limit, passed ("yes", "no" or empty), what it means. The record of an analysis of
    an earlier version has none of them.
    """
    rows = [_row(each) for each in record.get("certificate") or [] if isinstance(each, Mapping)]
    completeness = record.get("completeness")
    if isinstance(completeness, Mapping) and completeness:
        rows.append(_completeness(completeness))
    ahead = record.get("extrapolated") or []
    if isinstance(record.get("rank"), int):
        rows.append(_rank(record["rank"], len(ahead)))
    if ahead:
        rows.append(
            _row(
                {
                    "name": "overlap followed towards its limit",
                    "value": f"by {_number(max(map(abs, ahead)))} at most",
                    "sentence": "The overlap with the computed eigenvectors was still approaching its limit, "
                    "and half of the rest was added; the stated error includes how far that may be wrong.",
                }
            )
        )
    return pd.DataFrame(rows, columns=["check", "found", "limit", "passed", "what it means"])


def _rank(rank: int, k: int) -> dict[str, str]:
    """How many of the k eigenvalues are larger than rounding errors."""
    sentence = "All computed eigenvalues are larger than what rounding errors make of an eigenvalue 0."
    if rank < k:
        sentence = (
            f"From number {rank + 1:,} on, eigenvalues are no larger than what rounding errors make of an "
            f"eigenvalue 0: their eigenvectors are arbitrary, and so is the overlap beyond k = {rank:,}."
        )
    return _row(
        {"name": "numerical rank", "value": f"{rank:,} of {k:,}" if k else f"{rank:,}", "sentence": sentence}
    )


def _row(check: Mapping[str, Any]) -> dict[str, str]:
    passed = check.get("passed")
    return {
        "check": str(check.get("name", "")).replace("_", " "),
        "found": _number(check.get("value")),
        "limit": _number(check.get("tolerance")),
        "passed": "" if passed is None else "yes" if passed else "no",
        "what it means": str(check.get("sentence") or ""),
    }


def _completeness(found: Mapping[str, Any]) -> dict[str, str]:
    """The search for eigenpairs that the method has missed."""
    sentence = str(found.get("sentence") or "")
    if not sentence and found.get("bound") is not None and found.get("probability") is not None:
        sentence = (
            f"No eigenvalue beyond those found is larger than {_number(found['bound'])} in magnitude, with "
            f"{found['probability']:.0%} probability."
        )
    products = found.get("products")
    searched = f"missed eigenpairs ({products:,} products)" if products else "missed eigenpairs"
    largest = f"largest |λ| outside: {_number(found.get('largest_outside'))}"
    return _row({"name": searched, "value": largest, "sentence": sentence})


def checks_among(records: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """The checks of several analyses, a row for each kind: check, passed, analyses, what it means.

    Args:
        records: The record of each analysis by its number.
    """
    every = [checks(record) for record in records.values()]
    together = pd.concat(every, ignore_index=True) if every else checks({})
    together["check"] = together["check"].str.replace(r" \(.* products\)$", "", regex=True)
    rows = []
    for name, same in together.groupby("check", sort=False):
        judged = same[same["passed"] != ""]
        rows.append(
            {
                "check": name,
                "passed": f"{(judged['passed'] == 'yes').sum()} of {len(judged)}" if len(judged) else "–",
                "analyses": len(same),
                "what it means": same["what it means"].iloc[0]
                if same["what it means"].nunique() == 1
                else "",
            }
        )
    return pd.DataFrame(rows)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    try:
        return number(value, 3)
    except (TypeError, ValueError):
        return str(value)
