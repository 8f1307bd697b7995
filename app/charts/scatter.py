"""Any column of the analyses against any other."""

from __future__ import annotations

from itertools import cycle
from typing import Any, Literal

import altair as alt
import pandas as pd

from seigh.app.charts.base import (
    NEUTRAL,
    dash_patterns,
    group_color,
    group_shape,
    layered,
    scale,
    with_legend,
    x_at,
    zoom,
)

SCATTER_HEIGHT = 460

# How full the points of the first, second, … value are that dashes tell apart where there are lines, in words
# and as opacity.
FILLS = {"filled": 1.0, "hollow": 0.0, "half full": 0.5, "a quarter full": 0.25, "three quarters full": 0.75}

# How the standard deviation of a mean looks.
PALE: dict[str, Any] = {"strokeWidth": 7, "opacity": 0.25}


def scatter(
    frame: pd.DataFrame,
    colors: dict[str, str],
    titles: tuple[str, str],
    log: tuple[bool, bool],
    level: float | None = None,
) -> alt.LayerChart:
    """Points with their errors along both axes; a click on one opens its result.

    Args:
        frame: analysis_id, series, group, dash, step, x, y, x_low, x_high, y_low, y_high (NaN without an
            error) and, on a page, address, where a point leads to; where points are means, n and the ends of
            one standard deviation, x_below, x_above, y_below and y_above. On a log axis all is positive.
        colors: Colour of every group.
        titles: Titles of the axes.
        log: Whether each axis is logarithmic.
        level: Value of y by chance, where there is one.
    """
    x, y = (
        alt.Axis(format="~s" if is_log or frame[name].abs().max() >= 10_000 else ".6~g", tickCount=6)
        for name, is_log in zip("xy", log, strict=True)
    )
    scales = [
        alt.Scale(type="log", nice=False, padding=12) if each else alt.Scale(zero=False, padding=12)
        for each in log
    ]
    along = alt.X("x:Q", title=titles[0], scale=scales[0], axis=x)
    up = alt.Y("y:Q", title=titles[1], scale=scales[1], axis=y)
    color = group_color(colors, frame)
    fills = {name: FILLS[told] for name, told in _fills(frame).items()}
    leads = {"href": alt.Href("address:N")} if "address" in frame else {}
    cursor: Literal["pointer", "default"] = "pointer" if leads else "default"
    points = (
        alt.Chart(frame)
        .mark_point(filled=True, size=90, opacity=0.9, strokeWidth=1.8, cursor=cursor)
        .encode(
            x=along,
            y=up,
            color=color,
            stroke=alt.Stroke("group:N", scale=color["scale"], legend=None),
            # Legends know no fullness; the figure's words say it, see ``said_fills``.
            fillOpacity=alt.FillOpacity("dash:N", scale=scale(list(fills), fills), legend=None),
            shape=group_shape(colors, frame),
            **leads,
            tooltip=[
                alt.Tooltip("analysis_id:Q", title="analysis", format="d"),
                alt.Tooltip("series:N", title="line"),
                alt.Tooltip("step:Q", format=",d"),
                alt.Tooltip("x_told:N", title=titles[0]),
                alt.Tooltip("y_told:N", title=titles[1]),
                *([alt.Tooltip("n:Q", title="mean of", format=",d")] if "n" in frame else []),
            ],
        )
    )
    layers: list[alt.Chart] = []
    if level is not None:
        at = alt.Chart(pd.DataFrame({"level": [level]}))
        layers.append(
            at.mark_rule(color=NEUTRAL, strokeDash=[2, 3], strokeWidth=2).encode(y=alt.Y("level:Q"))
        )
        words = at.mark_text(align="right", baseline="bottom", dy=-5, color=NEUTRAL, text="chance")
        layers.append(words.encode(x=x_at("width"), y=alt.Y("level:Q")))
    for ends, looks in ((("low", "high"), {"strokeWidth": 1.5}), (("below", "above"), PALE)):
        for axis, place, reach, other in (("y", alt.Y, alt.Y2, along), ("x", alt.X, alt.X2, up)):
            first, last = (f"{axis}_{end}" for end in ends)
            if first not in frame or frame[first].isna().all():
                continue
            title, of = (titles[0], scales[0]) if axis == "x" else (titles[1], scales[1])
            spans: dict[str, Any] = {
                axis: place(f"{first}:Q", title=title, scale=of),
                f"{axis}2": reach(f"{last}:Q"),
                "y" if axis == "x" else "x": other,
            }
            bars = alt.Chart(frame.dropna(subset=[first, last])).mark_rule(**looks)
            layers.append(bars.encode(color=color, **spans))
    return layered(*layers, points.add_params(zoom()), height=with_legend(SCATTER_HEIGHT, frame["group"]))


def said_fills(frame: pd.DataFrame) -> str:
    """Which points of a scatter are filled and which are not, as a sentence with a space before it; empty if
    all are."""
    found = _fills(frame)
    if len(found) < 2:
        return ""
    return f" Points are {', '.join(f'{told} for {name}' for name, told in found.items())}."


def _fills(frame: pd.DataFrame) -> dict[str, str]:
    """How full the points of every value of ``dash`` are, in the words of ``FILLS``."""
    return dict(zip(dash_patterns(frame["dash"]), cycle(FILLS), strict=False))
