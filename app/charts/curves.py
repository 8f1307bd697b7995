"""Further curves of an eigenspace: against k, and over training at one k."""

from __future__ import annotations

import altair as alt
import pandas as pd

from seigh.app.charts.base import (
    NEUTRAL,
    band,
    error_bars,
    few,
    group_color,
    k_axis,
    layered,
    over_steps,
    reading,
    spreads,
    step_axis,
    thin,
    told_spread,
    with_legend,
    wrapped,
)

CURVE_HEIGHT = 340


def curve(frame: pd.DataFrame, color: str, *, log_k: bool = False) -> alt.LayerChart:
    """One further curve of one analysis against k, in a band of its error, above chance where it has one.

    Args:
        frame: ``queries.curves`` of one analysis and one name.
        color: The model's colour.
        log_k: Log axis for k.
    """
    frame = thin(frame, log_k)[["curve", "title", "k", "value", "error", "chance", "lower", "upper"]]
    title = str(frame["title"].iloc[0])
    x, y = k_axis(frame, log_k), alt.Y("value:Q", title=wrapped(title))
    line = alt.Chart(frame).mark_line(color=color, strokeWidth=3, point=few(frame["k"])).encode(x=x, y=y)
    layers = [line]
    known = _between(frame)
    if len(known):
        layers.insert(0, band(known, x, "curve:N", color=color, opacity=0.35))
    chance = frame.dropna(subset="chance")
    if len(chance):
        level = alt.Chart(chance).mark_line(color=NEUTRAL, strokeDash=[2, 3], strokeWidth=2)
        words = alt.Chart(chance.nlargest(1, "k")).mark_text(
            align="right", baseline="bottom", dy=-5, color=NEUTRAL, text="chance"
        )
        layers += [level.encode(x=x, y=alt.Y("chance:Q")), words.encode(x=x, y=alt.Y("chance:Q"))]
    numbers = frame.set_index("k")[["value", "lower", "upper", "chance"]].dropna(axis="columns", how="all")
    values = numbers.rename(columns={"value": title, "lower": "at least", "upper": "at most"})
    return layered(*layers, reading(values, x), height=CURVE_HEIGHT)


# Errors so many times the largest value make a linear axis useless.
_DWARFED = 4.0


def curve_by_step(frame: pd.DataFrame, colors: dict[str, str]) -> alt.LayerChart:
    """A curve at one k, or a quantity, against training step, with bars of its error, and its reference.

    Args:
        frame: ``queries.curves_at`` or ``queries.quantities``, with a column ``series`` that names the line
            each row belongs to.
        colors: Colour of every group.
    """
    title = str(frame["title"].iloc[0])
    found = frame.assign(height=frame["value"], low=frame["lower"], high=frame["upper"])
    told = [
        alt.Tooltip("low:Q", title="at least", format=".4g"),
        alt.Tooltip("high:Q", title="at most", format=".4g"),
    ]
    if "k" in frame:
        told.insert(0, alt.Tooltip("k:Q", format=",d"))
    else:  # a quantity
        found = found.assign(chance=found["reference"])
    reference = "chance" if "k" in frame else str(frame["reference_title"].iloc[0])
    tooltip = [
        alt.Tooltip("series:N", title="line"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("value:Q", title=title, format=".4g"),
        *told,
        alt.Tooltip("chance:Q", title=reference, format=".3g"),
        *told_spread(found),
    ]
    lines, points = over_steps(found, wrapped(title), colors, tooltip, log=dwarfed(found))
    layers: list[alt.Chart] = []
    chance = found.dropna(subset="chance").drop_duplicates("chance")
    color = group_color(colors, found)
    if len(chance):
        level = alt.Chart(chance).mark_rule(strokeDash=[2, 3], strokeWidth=2)
        tint = color if len(chance) > 1 else alt.ColorValue(NEUTRAL)
        layers.append(
            level.encode(
                y=alt.Y("chance:Q"),
                color=tint,
                tooltip=[alt.Tooltip("chance:Q", title=reference, format=".3g")],
            )
        )
    x = step_axis(found)
    bars = error_bars(_between(found), x, wrapped(title), color)
    return layered(
        *layers,
        *spreads(found, x, wrapped(title), color),
        bars,
        lines,
        points,
        height=with_legend(CURVE_HEIGHT, found["group"]),
    )


def dwarfed(frame: pd.DataFrame) -> bool:
    """Whether positive values would lie at 0 on a linear axis that holds their errors."""
    least = float(frame[["height", "low", "high"]].min().min())
    return least > 0 and float(frame["high"].max()) > _DWARFED * float(frame["height"].max())


def _between(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of known error, with ``low`` and ``high``."""
    known = frame.dropna(subset=["lower", "upper"])
    return known.assign(low=known["lower"], high=known["upper"])
