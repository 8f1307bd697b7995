"""Charts of quantities beside the overlap, over training and over models of different size."""

from __future__ import annotations

from typing import Literal

import altair as alt
import pandas as pd

from seigh.app.charts.base import (
    NEUTRAL,
    error_bars,
    few,
    group_color,
    layered,
    log_axis,
    over_steps,
    spreads,
    step_axis,
    step_colors,
    told_spread,
    whole_axis,
    whole_scale,
    with_legend,
    wrapped,
    x_at,
    zoom,
)

TREND_HEIGHT = 340

Recording = Literal["accuracy", "loss"]


def lambda_by_step(frame: pd.DataFrame, colors: dict[str, str]) -> alt.LayerChart:
    """λ₁, the eigenvalue of largest |λ|, against training step, with its residual as a bar.

    Args:
        frame: ``queries.eigenvalues`` at position 1, with a column ``series``.
        colors: Colour of every group.
    """
    title = "λ₁"
    found = frame.assign(height=frame["value"])
    known = found.dropna(subset="residual")
    known = known.assign(low=known["value"] - known["residual"], high=known["value"] + known["residual"])
    tooltip = [
        alt.Tooltip("series:N", title="line"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("value:Q", title=title, format=".4g"),
        alt.Tooltip("residual:Q", title="residual ‖Hv − λv‖₂", format=".2e"),
        *told_spread(found),
    ]
    lines, points = over_steps(found, title, colors, tooltip)
    x, color = step_axis(found), group_color(colors, found)
    bars = error_bars(known, x, title, color)
    return layered(
        *spreads(found, x, title, color),
        bars,
        lines,
        points,
        height=with_legend(TREND_HEIGHT, found["group"]),
    )


def recorded_by_step(frame: pd.DataFrame, colors: dict[str, str], metric: Recording) -> alt.LayerChart:
    """Accuracy or loss against training step, as the checkpoints recorded it.

    Args:
        frame: ``queries.recorded_metrics``.
        colors: Colour of every group.
        metric: Which of the two.
    """
    found = frame[frame["metric"] == metric].assign(
        height=lambda rows: rows["value"],
        series=lambda rows: rows["model"] + " · " + rows["split"],
        group=lambda rows: rows["model"],
    )
    form = ".2%" if metric == "accuracy" else ".4g"
    tooltip = [
        alt.Tooltip("series:N", title="line"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("value:Q", title=metric, format=form),
    ]
    axis = alt.Axis(format="~p") if metric == "accuracy" else alt.Axis()
    lines, points = over_steps(found, metric, colors, tooltip, of=f"{metric} on", axis=axis)
    return layered(lines, points, height=with_legend(TREND_HEIGHT, found["group"]))


def relative_by_step(frame: pd.DataFrame, colors: dict[str, str], title: str, level: float) -> alt.LayerChart:
    """How lines lie to a baseline over training, with bars of what is known of it.

    Args:
        frame: ``lines.relative``: series, group, dash, step, height, low and high, and spread where lines are
            means.
        colors: Colour of every group.
        title: Title of the vertical axis.
        level: Where a line lies that is the baseline itself: 0 of differences, 1 of ratios.
    """
    tooltip = [
        alt.Tooltip("series:N", title="line"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("height:Q", title=title, format=".4g"),
        alt.Tooltip("low:Q", title="at least", format=".4g"),
        alt.Tooltip("high:Q", title="at most", format=".4g"),
        *told_spread(frame),
    ]
    up = wrapped(title)
    lines, points = over_steps(frame, up, colors, tooltip, zero=level == 0)
    x, color = step_axis(frame), group_color(colors, frame)
    at = alt.Chart(pd.DataFrame({"level": [level]}))
    rule = at.mark_rule(color=NEUTRAL, strokeDash=[2, 3], strokeWidth=2).encode(y=alt.Y("level:Q"))
    words = at.mark_text(align="right", baseline="bottom", dy=-5, color=NEUTRAL, text="baseline")
    words = words.encode(x=x_at("width"), y=alt.Y("level:Q"))
    bars = error_bars(frame, x, up, color)
    return layered(
        rule, *spreads(frame, x, up, color), bars, lines, points, words,
        height=with_legend(TREND_HEIGHT, frame["group"]),
    )  # fmt: skip


def spectra_by_step(frame: pd.DataFrame) -> alt.LayerChart:
    """|λ| on a log axis against position, a curve for each training step of one model.

    Args:
        frame: ``queries.eigenvalues`` of one line: step, position, value, magnitude, residual. Exact zeros
            have no place on a log axis and are left out.
    """
    drawn = ["step", "position", "value", "magnitude", "residual", *(["spread"] * ("spread" in frame))]
    frame = frame.loc[frame["magnitude"] > 0, drawn]
    x = alt.X(
        "position:Q",
        title="position, by descending |λ|",
        scale=whole_scale(frame["position"]),
        axis=whole_axis(),
    )
    ends = [float(frame["magnitude"].min()) / 1.3, float(frame["magnitude"].max()) * 1.3]
    y = alt.Y(
        "magnitude:Q", title="|λ|", scale=alt.Scale(type="log", domain=ends, nice=False), axis=log_axis()
    )
    curves = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2, point=few(frame["position"]))
        .encode(
            x=x,
            y=y,
            color=step_colors(frame),
            tooltip=[
                alt.Tooltip("step:Q", format=",d"),
                alt.Tooltip("position:Q"),
                alt.Tooltip("value:Q", title="eigenvalue λ", format=".4g"),
                alt.Tooltip("residual:Q", title="residual ‖Hv − λv‖₂", format=".2e"),
            ],
        )
    )
    low = frame["magnitude"].min()
    around = []
    if "spread" in frame and frame["spread"].notna().any():
        spread = frame.dropna(subset="spread").assign(
            low=lambda rows: (rows["magnitude"] - rows["spread"]).clip(lower=low),
            high=lambda rows: rows["magnitude"] + rows["spread"],
        )
        area = alt.Chart(spread).mark_area(opacity=0.15)
        around = [
            area.encode(x=x, y=alt.Y("low:Q", title="|λ|"), y2=alt.Y2("high:Q"), color=step_colors(frame))
        ]
    known = frame.dropna(subset="residual").assign(
        low=lambda rows: (rows["magnitude"] - rows["residual"]).clip(lower=low),
        high=lambda rows: rows["magnitude"] + rows["residual"],
    )
    errors = alt.Chart(known).mark_area(opacity=0.25)
    band = errors.encode(x=x, y=alt.Y("low:Q", title="|λ|"), y2=alt.Y2("high:Q"), color=step_colors(frame))
    return layered(*around, band, curves.add_params(zoom()), height=TREND_HEIGHT)
