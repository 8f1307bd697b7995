"""Which line of a chart an analysis is a point of, with its colour, dash and panel; means; a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from seigh.app import charts
from seigh.app.digits import counted_or_measured, number

# Which line, colour, dash and panel the rows of an analysis belong to.
LINE = ["analysis_id", "series", "group", "dash", "panel"]

# What ``queries.comparable`` tells of an analysis that a line can be of, and its names in addresses and on
# the page. Everything else is a column of ``core.lab.listing``.
OWN: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "model": ("model", "model"),
        "split": ("split", "split"),
        "curvature": ("curvature", "curvature"),
        "subset": ("subset", "parameters"),
        "loss": ("loss", "loss"),
        "method": ("method", "method"),
        "N": ("samples", "N"),
        "samples": ("sampling", "which samples"),
        "seed": ("seed", "seed"),
        "data": ("data", "data"),
        "D": ("parameters", "D"),
        "architecture": ("architecture", "architecture"),
    }
)
_PREFIXES = {"samples": "N = ", "seed": "seed ", "parameters": "D = "}

# Means over models are never taken over these, unless somebody asks for it.
_OF_NETWORKS = {"architecture": "", "parameters": "D = "}


# What lines of overlaps are compared by, and its words: the ratio where chance differs.
MEASURES: Mapping[str, str] = MappingProxyType({"overlap": "overlap", "ratio": "overlap ÷ chance"})


@dataclass(frozen=True)
class Arrangement:
    """How analyses become lines.

    Attributes:
        color: Column whose values have a colour each; empty: everything that differs, but dash and panel.
        dash: Column whose values have a dash each.
        panel: Column whose values have a panel each; empty: one panel.
        over: Columns whose values become one line, mean and standard deviation; they have no colour, dash or
            panel each then.
        labels: What each of these columns is called.
    """

    color: str = ""
    dash: str = "split"
    panel: str = ""
    over: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that are chosen, each once."""
        return tuple(dict.fromkeys(each for each in (self.color, self.dash, self.panel, *self.over) if each))

    @property
    def further(self) -> tuple[str, ...]:
        """Those of them that make lines and are no column of ``charts.LINE_COLUMNS``."""
        return tuple(each for each in self.named if each not in charts.LINE_COLUMNS)

    def prefix(self, column: str) -> str:
        """What is written before a value of a column where it stands alone."""
        if column in ("model", "split", "architecture"):
            return ""
        return _PREFIXES.get(column, f"{self.labels.get(column, column)} ")


USUAL = Arrangement()


def in_lines(analyses: pd.DataFrame, arrangement: Arrangement = USUAL) -> pd.DataFrame:
    """The analyses with the line, colour, dash and panel that each is a point of.

    Args:
        analyses: ``queries.comparable``, and the further columns of the arrangement as texts.
        arrangement: Which columns decide.
    """
    places = ("color", "dash", "panel")
    merged = [place for place in places if getattr(arrangement, place) in arrangement.over]
    arrangement = replace(arrangement, **dict.fromkeys(merged, ""))  # type: ignore[arg-type]
    of_networks = _OF_NETWORKS if "model" in arrangement.over else {}
    further = {name: arrangement.prefix(name) for name in arrangement.further} | of_networks
    over = set(arrangement.over)
    called = analyses
    if "model" in over:  # lines are called by the architecture in place of the model
        called = analyses.assign(model=analyses["architecture"])
        over -= {"model"}
        further.pop("architecture", None)
    further = {name: prefix for name, prefix in further.items() if name not in over}
    apart = {each for each in (arrangement.dash, arrangement.panel) if each}
    if arrangement.color:
        group = _shown(analyses, arrangement.color, arrangement)
    else:
        group = charts.name_groups(called, without=apart | over, further=further)
    nothing = pd.Series("", analyses.index, dtype=object)
    return analyses.assign(
        series=charts.name_series(called, without=over, further=further),
        group=group.rename("group"),
        dash=_shown(analyses, arrangement.dash, arrangement) if arrangement.dash else nothing,
        panel=_shown(analyses, arrangement.panel, arrangement) if arrangement.panel else nothing,
    )


def points_of(analyses: pd.DataFrame, arrangement: Arrangement = USUAL) -> pd.Series[int]:
    """The number of the point of a line that each analysis could be: those of one number differ neither in
    their step nor in a column that makes lines."""
    by = [*charts.LINE_COLUMNS, *arrangement.further, "step"]
    return analyses.groupby(by, dropna=False, sort=False).ngroup()


def _shown(analyses: pd.DataFrame, column: str, arrangement: Arrangement) -> pd.Series[str]:
    """The values of a column as they stand in a legend."""
    return arrangement.prefix(column) + analyses[column].map(told)


def told(value: Any) -> str:
    """A value of any column as a text."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value == "":
        return "–"
    if isinstance(value, float | np.floating):
        value = float(value)
        return number(counted_or_measured(value))
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


# --- Means ------------------------------------------------------------------------------------------------

# By which columns a line at a step is told, and a point, or a point of a curve, of it; and what is drawn of a
# point, the first that is there.
LINES_AND_STEPS = ("series", "group", "dash", "panel", "step")
_PLACES = (*LINES_AND_STEPS, "mask", "k", "position", "curve", "observable", "line", "x", "name")
_DRAWN = ("overlap", "magnitude", "value")


def averaged(points: pd.DataFrame) -> pd.DataFrame:
    """Rows of the same place of the same line become one: their mean, with n and the standard deviation.

    The stated error of a mean is the mean of the stated errors, which bounds it however they come together;
    it is not known if one of them is not. Where overlaps of several chance levels come together, the columns
    ``…_ratio`` have the same of the ratios. Ends of intervals are averaged in the same way. What is no number
    stays where all agree.

    Args:
        points: A table of ``queries`` with ``LINE``.

    Returns:
        The same columns, and n (how many a row is the mean of) and spread (their standard deviation, n − 1;
        NaN of a single one). ``analysis_id`` is that of the first.
    """
    by = [each for each in _PLACES if each in points]
    drawn = next(each for each in _DRAWN if each in points)
    groups = points.groupby(by, sort=False, dropna=False)
    columns: dict[str, Any] = {}
    for name in points.columns:
        if name in by:
            continue
        of = groups[name]
        if name == "analysis_id":
            columns[name] = of.min()
        elif pd.api.types.is_bool_dtype(points[name]) or not pd.api.types.is_numeric_dtype(points[name]):
            columns[name] = of.first().where(of.nunique(dropna=False) == 1, "several")
        else:
            columns[name] = of.mean().where(of.count() == of.size())
    if "magnitude" in points:  # eigenvalues of different signs have no mean that says anything
        product: Any = groups["value"].min() * groups["value"].max()
        columns["value"] = columns["value"].where(product > 0)
    columns |= {"spread": groups[drawn].std(ddof=1), "n": groups.size()}
    if "ratio" in points and (groups["chance"].nunique() > 1).any():
        # Of networks of several sizes the mean ratio is not the ratio of the means, nor are their errors.
        keys = [points[each] for each in by]
        for name in (each for each in charts.IN_UNITS_OF_OVERLAP if each in points):
            scaled = (points[name] / points["chance"]).groupby(keys, sort=False, dropna=False)
            columns[f"{name}_ratio"] = scaled.mean().where(scaled.count() == scaled.size())
        columns["spread_ratio"] = groups["ratio"].std(ddof=1)
    return pd.DataFrame(columns).reset_index()


def whole_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Of the means of curves, the points that all curves of a line and step reach: a mean over fewer would
    jump where one of them ends."""
    most = curves.groupby(["series", "step"])["n"].transform("max")
    return curves[curves["n"] == most]


def at_shared_places(profiles: pd.DataFrame) -> pd.DataFrame:
    """Profiles whose places x differ between the analyses of a line and step, all at the places of all.

    Between two places a profile is the straight line that charts draw. Beyond its own places it is known only
    if it is a density of eigenvalues, which has places wherever it is not 0; other profiles are cut to what
    all of them reach. Tensors have numbers for places and stay as they are.

    Args:
        profiles: ``queries.profiles`` with ``LINE``.
    """
    parts = []
    for _, rows in profiles.groupby([*LINES_AND_STEPS, "observable", "line"], sort=False, dropna=False):
        each = [part.sort_values("x") for _, part in rows.groupby("analysis_id")]
        places = [part["x"].to_numpy() for part in each]
        if rows["x_title"].iloc[0] == "tensor" or all(np.array_equal(places[0], other) for other in places):
            parts.append(rows)
            continue
        beyond = 0.0 if rows["x_title"].iloc[0] == "λ" else np.nan
        together = np.unique(np.concatenate(places))
        if np.isnan(beyond):
            low, high = max(one[0] for one in places), min(one[-1] for one in places)
            together = together[(together >= low) & (together <= high)]
        parts += [_at_places(part, together, beyond) for part in each]
    return pd.concat(parts, ignore_index=True) if parts else profiles


def _at_places(profile: pd.DataFrame, places: Any, beyond: float) -> pd.DataFrame:
    """One profile of one analysis at other places, and what it is beyond its own."""
    whole = profile.iloc[np.zeros(len(places), dtype=int)].assign(x=places)
    told = {
        name: np.interp(places, profile["x"], profile[name], left=beyond, right=beyond)
        for name in ("value", "lower", "upper", "reference")
    }
    return whole.assign(**told)


# --- A baseline -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Relative:
    """How lines lie to a baseline.

    Attributes:
        differences: series, group, dash, panel, step, split, height (value − baseline), low, high, and spread
            and n where lines are means.
        ratios: The same of value ÷ baseline.
        unmatched: Lines and steps that have nothing to be compared with.
        unknown: Lines and steps that are left out, as their error, or that of the baseline, is not known.
        unresolved: Lines and steps without a ratio, as the error of the baseline is not below it.
    """

    differences: pd.DataFrame
    ratios: pd.DataFrame
    unmatched: list[str]
    unknown: list[str]
    unresolved: list[str]


def relative(points: pd.DataFrame, base_of: Mapping[str, str]) -> Relative:
    """Difference and ratio to a baseline at the same step, or at its only one.

    Stated errors are bounds and may come together in the worst way. So that of a difference is their sum, and
    a ratio lies between the least and the greatest quotient. Standard deviations of means add in quadrature,
    as those of independent draws.

    Args:
        points: LINE, step, split, height, low, high (ends of what is known; NaN where nothing is), and
            spread and n where lines are means.
        base_of: The series that is the baseline of each; a series without one is left out.
    """
    means = "spread" in points
    columns = ["height", "low", "high", *(["spread", "n"] if means else [])]
    base = points[points["series"].isin(set(base_of.values()))]
    only = base.groupby("series")["step"].transform("nunique") == 1
    rows = points.assign(base=points["series"].map(base_of)).reset_index(drop=True)
    rows = rows[rows["base"] != rows["series"]]
    once = base[only].set_index("series")[columns]
    each = base[~only].set_index(["series", "step"])[columns]
    found = {
        name: rows["base"].map(once[name]).fillna(
            pd.Series(
                each[name].reindex(pd.MultiIndex.from_frame(rows[["base", "step"]])).to_numpy(), rows.index
            )
        )
        for name in columns
    }  # fmt: skip
    b = pd.DataFrame(found, rows.index)
    matched = b["height"].notna()
    unmatched = _where(rows[~matched])
    rows, b = rows[matched], b[matched]
    is_known = rows[["low", "high"]].notna().all(axis=1) & b[["low", "high"]].notna().all(axis=1)
    unknown = _where(rows[~is_known])
    rows, b = rows[is_known], b[is_known]
    differences = rows.assign(
        height=rows["height"] - b["height"], low=rows["low"] - b["high"], high=rows["high"] - b["low"]
    )
    resolved = (b["low"] > 0) | (b["high"] < 0)
    unresolved = _where(rows[~resolved])
    x, d = rows[resolved], b[resolved]
    ends = np.array([x[one] / d[other] for one in ("low", "high") for other in ("low", "high")])
    ends = ends.reshape(4, len(x))
    ratios = x.assign(height=x["height"] / d["height"], low=ends.min(axis=0), high=ends.max(axis=0))
    if means:
        both = np.hypot(rows["spread"], b["spread"])
        differences = differences.assign(spread=both)
        parts = np.hypot(x["spread"], ratios["height"] * d["spread"]) / d["height"].abs()
        ratios = ratios.assign(spread=parts)
    return Relative(differences, ratios, unmatched, unknown, unresolved)


def _where(rows: pd.DataFrame) -> list[str]:
    steps = [f"{step:,}" for step in rows["step"]]
    return [f"{series}, step {step}" for series, step in zip(rows["series"], steps, strict=True)]


def heights(points: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A table of ``queries`` with height, the column ``measure``, and low and high, the ends of what is known
    of it: stated errors, residuals or intervals."""
    height = points[measure]
    if "lower" in points:
        return points.assign(height=height, low=points["lower"], high=points["upper"])
    if measure == "ratio":
        points = charts.over_chance(points)
    error = points["residual" if "residual" in points else "error"]
    found = points.assign(height=height, low=height - error, high=height + error)
    if "mask" in points:  # no overlap is negative
        found = found.assign(low=found["low"].clip(lower=0))
    return found


def baselines(chosen: pd.DataFrame, *, model: str | None = None, series: str | None = None) -> dict[str, str]:
    """The baseline of every line: one line for all of them, or that of a model which differs in nothing else.

    Args:
        chosen: ``in_lines``.
        model: Name of the model whose lines are the baselines.
        series: Or the one line.
    """
    names = chosen.drop_duplicates("series")
    if series is not None:
        return dict.fromkeys(names["series"], series)
    others = [each for each in (*charts.LINE_COLUMNS, "dash", "panel") if each != "model"]
    keys = names[others].astype(str).agg("\x1f".join, axis=1)
    of = dict(zip(keys[names["model"] == model], names.loc[names["model"] == model, "series"], strict=False))
    return {line: of[key] for line, key in zip(names["series"], keys, strict=True) if key in of}
