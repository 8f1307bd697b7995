"""Overlap of masks and eigenspaces: against k, over training, and which analyses make a line of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import altair as alt
import pandas as pd

from seigh.app.charts.base import (
    CHANCE_LABEL,
    ERROR_LABEL,
    HEIGHT,
    NEUTRAL,
    OVERLAP_TITLE,
    band,
    bounds,
    error_bars,
    few,
    group_color,
    k_axis,
    layered,
    legend,
    log_axis,
    numerical,
    over_steps,
    present,
    reading,
    scale,
    spreads,
    step_axis,
    step_colors,
    thin,
    tie_range,
    tied,
    told_spread,
    with_errors,
    with_legend,
    x_at,
    y_at,
)
from seigh.core.names import MASKS_CALLED

MASK_LABELS = {**MASKS_CALLED, "random": "random masks, mean ± std"}
CURVE_LABELS = (*MASK_LABELS.values(), CHANCE_LABEL)
CURVE_DASHES = ([1, 0], [8, 3, 2, 3], [1, 0], [2, 3])
CURVE_WIDTHS = (3, 2, 1.5, 2)  # px

# What is known of how far an overlap may be off, and how the columns about ties are called.
ERROR_COLUMNS = ("error", "least", "greatest", "tied")

# Columns beside an overlap that are divided by chance with it.
IN_UNITS_OF_OVERLAP = ("std", "std_error", "error", "least", "greatest")
TIE_LABELS = {"least": "least over ties", "greatest": "greatest over ties", "tied": "weights that tie"}

# What makes a line over training.
LINE_COLUMNS = [
    *("model", "split", "curvature", "subset", "loss", "method", "samples", "sampling", "seed", "data")
]

MOST_CHARACTERS = 24  # of each thing that tells a line from others
RANDOM_DATA = "random("  # with this start the names of random data, which are for trials only

NOTHING: Mapping[str, str] = MappingProxyType({})

Measure = Literal["overlap", "ratio"]


def overlap_curve(
    frame: pd.DataFrame,
    color: str,
    *,
    resolved_k: int | None = None,
    log_k: bool = False,
    log_overlap: bool = False,
) -> alt.LayerChart:
    """Overlap against k for the magnitude mask, beside the best mask, random masks and chance.

    Args:
        frame: ``queries.overlap_curves`` of one analysis, all masks.
        color: The model's colour, for the magnitude mask and the bands of its error and of ties.
        resolved_k: Beyond it not every overlap is known to 1 %, and the chart is shaded; None: not known.
        log_k: Log axis for k.
        log_overlap: Log axis for the overlap.
    """
    frame = thin(frame, log_k)[
        ["mask", "k", "overlap", "std", "std_error", *ERROR_COLUMNS, "chance", "ratio"]
    ]
    chance = frame.drop_duplicates("k").assign(series=CHANCE_LABEL, overlap=lambda rows: rows["chance"])
    lines = pd.concat([frame.assign(series=frame["mask"].map(MASK_LABELS)), chance])
    names = present(CURVE_LABELS, lines["series"])
    colors = dict.fromkeys(CURVE_LABELS, NEUTRAL) | {MASK_LABELS["magnitude"]: color}
    x = k_axis(frame, log_k)
    keys = legend(column_width=180)
    curves = (
        alt.Chart(lines)
        .mark_line(point=few(frame["k"]))
        .encode(
            x=x,
            y=_overlap_axis(frame, log_overlap),
            color=alt.Color("series:N", scale=scale(names, colors), legend=keys),
            strokeDash=alt.StrokeDash("series:N", scale=scale(names, _by_label(CURVE_DASHES)), legend=keys),
            strokeWidth=alt.StrokeWidth("series:N", scale=scale(names, _by_label(CURVE_WIDTHS)), legend=None),
        )
    )
    random, magnitude = frame[frame["mask"] == "random"], frame[frame["mask"] == "magnitude"]
    floor = _log_floor(frame) if log_overlap else 0.0
    spread = band(bounds(random, "std", floor), x)
    known = bounds(numerical(magnitude), "error", floor)
    error = [] if known.empty else [band(known, x, color=color, opacity=0.35)]
    best = frame[(frame["mask"] == "best") & frame["error"].notna()]
    if len(best):
        error.append(band(bounds(best, "error", floor), x, opacity=0.35))
    ties = tie_range(magnitude, x, floor=floor, color=color)
    values = frame.pivot(index="k", columns="mask", values="overlap")[present(MASK_LABELS, frame["mask"])]
    errors = frame[frame["mask"] == "best"].set_index("k")["error"]
    values = values.rename(columns=MASK_LABELS | {"random": "random masks, mean"})
    values.insert(1, ERROR_LABEL, magnitude.set_index("k")["error"])
    if ties:
        for place, (column, label) in enumerate(TIE_LABELS.items(), start=2):
            values.insert(place, label, magnitude.set_index("k")[column])
    values = values.assign(
        **{
            "best mask, stated error": errors,
            "random masks, std": random.set_index("k")["std"],
            "std, stated error": random.set_index("k")["std_error"],
            CHANCE_LABEL: frame.drop_duplicates("k").set_index("k")["chance"],
            "largest |θ| ÷ chance": magnitude.set_index("k")["ratio"],
        }
    ).dropna(axis="columns", how="all")
    shade = _unresolved(frame["k"], resolved_k, x)
    return layered(*shade, spread, *ties, *error, curves, reading(values, x))


def over_chance(frame: pd.DataFrame) -> pd.DataFrame:
    """The overlaps, their errors and ranges in units of chance: means of several chance levels bring their
    own (``lines.averaged``).

    Args:
        frame: With ratio, chance and some of ``IN_UNITS_OF_OVERLAP`` and spread.
    """
    there = [each for each in (*IN_UNITS_OF_OVERLAP, "spread") if each in frame]
    parts = {
        name: frame[f"{name}_ratio"] if f"{name}_ratio" in frame else frame[name] / frame["chance"]
        for name in there
    }
    return frame.assign(overlap=frame["ratio"], **parts)


def overlap_by_step(
    frame: pd.DataFrame, colors: dict[str, str], measure: Measure = "overlap"
) -> alt.LayerChart:
    """Overlap of the magnitude mask against training step at one k, absolute or as ratio to chance.

    Args:
        frame: ``queries.overlap_by_step`` with the masks ``magnitude`` and ``random``, and a column
            ``series`` that names the line each row belongs to (``name_series``).
        colors: Colour of every group.
        measure: ``overlap``, or ``ratio`` = overlap / (k/D).
    """
    ratio = measure == "ratio"
    found = frame[frame["mask"] == "magnitude"].assign(height=lambda rows: rows[measure])
    random = frame[frame["mask"] == "random"]
    found = found.merge(
        random[["analysis_id", "overlap", "std"]],
        on="analysis_id",
        how="left",
        suffixes=("", "_random"),
    )
    scaled, random = (over_chance(each) if ratio else each for each in (found, random))
    if "spread" in found:
        found = found.assign(spread=scaled["spread"])
    random = bounds(random, "std", top=math.inf if ratio else 1.0)
    # One band for all of the same D: whatever they are of, random masks are of the same D coordinates.
    random = random.groupby(["chance", "step"], as_index=False).agg(low=("low", "min"), high=("high", "max"))
    errors = bounds(numerical(scaled), "error", top=math.inf if ratio else 1.0)
    ties = tied(scaled).assign(low=lambda rows: rows["least"], high=lambda rows: rows["greatest"])
    chance = found.drop_duplicates("chance").assign(level=lambda rows: 1.0 if ratio else rows["chance"])
    chance = chance.drop_duplicates("level")

    title = "overlap ÷ chance" if ratio else OVERLAP_TITLE
    x, color = step_axis(found), group_color(colors, found)
    tooltip = [
        alt.Tooltip("series:N", title="line"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("k:Q", format=",d"),
        alt.Tooltip("overlap:Q", format=".3g"),
        alt.Tooltip("error:Q", title=ERROR_LABEL, format=".2g"),
        *(
            alt.Tooltip(f"{column}:Q", title=label, format=".3g")
            for column, label in TIE_LABELS.items()
            if len(ties)
        ),
        alt.Tooltip("chance:Q", title=CHANCE_LABEL, format=".3g"),
        alt.Tooltip("ratio:Q", title="overlap ÷ chance", format=".3g"),
        alt.Tooltip("overlap_random:Q", title="random masks, mean", format=".3g"),
        alt.Tooltip("std_random:Q", title="random masks, std", format=".3g"),
        alt.Tooltip("test_accuracy:Q", title="test accuracy", format=".2%"),
        alt.Tooltip("lambda_max:Q", title="λ₁", format=".4g"),
        *told_spread(found),
    ]
    lines, points = over_steps(found, title, colors, tooltip)
    bars = error_bars(errors, x, title, color)
    pale = alt.Chart(ties).mark_rule(opacity=0.3, strokeWidth=8)
    choices = [pale.encode(x=x, y=alt.Y("low:Q", title=title), y2=alt.Y2("high:Q"), color=color)] * (
        len(ties) > 0
    )
    level = (
        alt.Chart(chance)
        .mark_rule(strokeDash=[2, 3], strokeWidth=2)
        .encode(
            y=alt.Y("level:Q"),
            color=color if len(chance) > 1 else alt.ColorValue(NEUTRAL),
            tooltip=[alt.Tooltip("level:Q", title="chance" if ratio else CHANCE_LABEL, format=".3g")],
        )
    )
    text = (
        alt.Chart(chance if len(chance) == 1 else chance.head(0))  # several would hide the lines
        .mark_text(
            align="right", baseline="bottom", dy=-5, color=NEUTRAL, text="chance" if ratio else CHANCE_LABEL
        )
        .encode(x=x_at("width"), y=alt.Y("level:Q"))
    )
    grey = band(random, x, detail="chance:N")
    height = with_legend(HEIGHT, found["group"])
    return layered(
        grey, level, *spreads(found, x, title, color), *choices, bars, lines, points, text, height=height
    )


def overlap_by_k(frame: pd.DataFrame, *, log_k: bool = False, top: float | None = None) -> alt.LayerChart:
    """Overlap against k at several training steps of one model, coloured by step, above chance.

    Args:
        frame: ``queries.overlap_curves`` with the mask ``magnitude``, one analysis a step.
        log_k: Log axis for k.
        top: Upper end of the overlap axis, to give neighbouring panels the same one.
    """
    drawn = ["step", "k", "overlap", *ERROR_COLUMNS, "chance", *(["spread"] * ("spread" in frame))]
    frame = thin(frame, log_k)[drawn]  # a browser needs no more
    x, color = k_axis(frame, log_k), step_colors(frame)
    curves = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2, point=few(frame["k"]))
        .encode(
            x=x,
            y=alt.Y(
                "overlap:Q",
                title=OVERLAP_TITLE,
                scale=alt.Scale(zero=True) if top is None else alt.Scale(domain=[0, top]),
            ),
            color=color,
        )
    )
    errors = [band(bounds(numerical(frame), "error"), x, opacity=0.3).encode(color=color)]
    if "spread" in frame and frame["spread"].notna().any():
        around = bounds(frame.dropna(subset="spread"), "spread")
        errors.insert(0, band(around, x, opacity=0.15).encode(color=color))
    ties = tie_range(frame, x, by=color)
    chance = frame.drop_duplicates("k")
    level = alt.Chart(chance).mark_line(color=NEUTRAL, strokeDash=[2, 3], strokeWidth=2)
    # Below the line, but not where it would lie on the axis.
    low = float(chance["chance"].max()) < 0.2 * (top or float(frame["overlap"].max()))
    text = alt.Chart(chance.nlargest(1, "k")).mark_text(
        align="right",
        baseline="bottom" if low else "top",
        dy=-5 if low else 16,
        color=NEUTRAL,
        text=CHANCE_LABEL,
    )
    values = frame.assign(value=with_errors(frame)).pivot(index="k", columns="step", values="value")
    values.columns = [f"step {step:,}" for step in values.columns]
    values[CHANCE_LABEL] = chance.set_index("k")["chance"]
    words = text.encode(x=x, y=alt.Y("chance:Q"))
    return layered(level.encode(x=x, y=alt.Y("chance:Q")), *ties, *errors, curves, words, reading(values, x))


def distinct_lines(analyses: pd.DataFrame, further: Sequence[str] = ()) -> pd.DataFrame:
    """``queries.comparable`` with one analysis for each point of a line.

    Of analyses that differ in none of ``LINE_COLUMNS`` and ``further`` columns the one with the largest k
    stays, then the latest.
    """
    ranked = analyses.sort_values(["k", "analysis_id"])
    kept = ranked.drop_duplicates([*LINE_COLUMNS, *further, "step"], keep="last")
    return analyses[analyses["analysis_id"].isin(kept["analysis_id"])]


def name_groups(
    analyses: pd.DataFrame, *, without: Collection[str] = ("split",), further: Mapping[str, str] = NOTHING
) -> pd.Series[str]:
    """Name each row's group, the lines of one colour: as ``name_series``, without what dashes, panels and the
    shapes of points tell apart, which are ``without`` and the method."""
    return name_series(analyses, without={*without, "method"}, further=further).rename("group")


def name_series(
    analyses: pd.DataFrame, *, without: Collection[str] = (), further: Mapping[str, str] = NOTHING
) -> pd.Series[str]:
    """Name each row's line by what tells it from the others.

    That is model and split, and those of curvature, parameters, loss, method, N, which samples these are,
    seed, data and ``further`` columns that differ somewhere in ``analyses``; random data are always named.

    Args:
        analyses: With ``LINE_COLUMNS`` and the further columns.
        without: Columns that are left out.
        further: What is written before the values of further columns, by name of the column.
    """
    prefixes = dict.fromkeys(LINE_COLUMNS, "") | {"samples": "N = ", "seed": "seed "} | dict(further)
    names = pd.Series("", analyses.index, dtype=object)
    for column, prefix in prefixes.items():
        if column in without:
            continue
        values = analyses[column].astype(str)
        always = column in ("model", "split")
        random = column == "data" and values.str.startswith(RANDOM_DATA).any()
        if always or random or values.nunique() > 1:
            shown = values if always else values.str.slice(0, MOST_CHARACTERS)
            names = names.where(names == "", names + " · ") + prefix + shown
    return names.where(names != "", "all").rename("series")


def _unresolved(ks: pd.Series[int], resolved_k: int | None, x: alt.X) -> list[alt.Chart]:
    """A shade over the values of k beyond the resolved ones, and the words for it."""
    last = int(ks.max())
    if resolved_k is None or resolved_k >= last:
        return []
    start = max(resolved_k + 0.5, float(ks.min()))
    ends = alt.Chart(pd.DataFrame({"k": [start], "end": [last + 0.5]}))
    words = f"k > {resolved_k:,}: not all resolved to 1 %" if resolved_k else "not resolved to 1 %"
    shade = ends.mark_rect(color=NEUTRAL, opacity=0.14).encode(x=x, x2=alt.X2("end:Q"))
    text = ends.mark_text(text=words, align="right", baseline="bottom", color=NEUTRAL, clip=False)
    return [shade, text.encode(x=x_at("width"), y=y_at(-3))]  # above the curves


def _overlap_axis(frame: pd.DataFrame, log: bool) -> alt.Y:
    """The overlap, from 0, or on a log axis that starts a decade below the smallest chance level."""
    if not log:
        return alt.Y("overlap:Q", title=OVERLAP_TITLE, scale=alt.Scale())
    scale = alt.Scale(type="log", domain=[_log_floor(frame), 1], clamp=True)
    return alt.Y("overlap:Q", title=OVERLAP_TITLE, scale=scale, axis=log_axis())


def _log_floor(frame: pd.DataFrame) -> float:
    return float(frame["chance"].min()) / 10


def _by_label(values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(CURVE_LABELS, values, strict=True))
