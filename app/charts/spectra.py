"""Eigenvalues: with their residuals, what they miss of the whole matrix, and over training."""

from __future__ import annotations

import altair as alt
import pandas as pd

from seigh.app.charts.base import (
    MODEL_COLORS,
    NEUTRAL,
    few,
    layered,
    legend,
    log_axis,
    present,
    scale,
    whole_axis,
    whole_scale,
    y_at,
    zoom,
)

SCREE_HEIGHT = 260
SCREE_FLOOR = 1e-6  # a smaller share is none

SIGN_LABELS = {"positive": "λ > 0", "negative": "λ < 0"}
RESIDUAL_LABEL = "residual ‖Hv − λv‖₂"
SPECTRUM_COLORS = {"λ > 0": "#0072B2", "λ < 0": "#D55E00", RESIDUAL_LABEL: NEUTRAL}
SPECTRUM_SHAPES = {"λ > 0": "circle", "λ < 0": "triangle-down", RESIDUAL_LABEL: "cross"}


def spectrum(frame: pd.DataFrame) -> alt.LayerChart:
    """|λ| on a log axis against position, with the residual of every pair.

    Args:
        frame: ``queries.spectrum``: position, value, magnitude, sign, residual. Exact zeros have no place on
            a log axis and are left out.
    """
    frame = frame[frame["magnitude"] > 0].assign(kind=lambda rows: rows["sign"].map(SIGN_LABELS))
    residuals = frame[frame["residual"] > 0].assign(kind=RESIDUAL_LABEL, height=lambda rows: rows["residual"])
    points = pd.concat([residuals, frame.assign(height=frame["magnitude"])])
    low, high = points["height"].min(), points["height"].max()
    bars = frame[frame["residual"] > 0.05 * frame["magnitude"]]  # shorter ones hide behind their point
    bars = bars.assign(
        low=(bars["magnitude"] - bars["residual"]).clip(lower=low), high=bars["magnitude"] + bars["residual"]
    )
    kinds = present(SPECTRUM_COLORS, points["kind"])
    x = alt.X(
        "position:Q",
        title="position, by descending |λ|",
        scale=whole_scale(frame["position"]),
        axis=whole_axis(),
    )
    color = alt.Color("kind:N", scale=scale(kinds, SPECTRUM_COLORS), legend=legend())
    tooltip = [
        alt.Tooltip("position:Q", title="position"),
        alt.Tooltip("value:Q", title="eigenvalue λ", format=".4g"),
        alt.Tooltip("residual:Q", title=RESIDUAL_LABEL, format=".2e"),
    ]
    marks = (
        alt.Chart(points)
        .mark_point(filled=True, opacity=0.9, size=min(40.0, max(9.0, 5000 / len(frame))))
        .encode(
            x=x,
            y=alt.Y(
                "height:Q",
                title="|λ|",
                # The decade on top is for the rows of ticks.
                scale=alt.Scale(type="log", nice=False, domain=[low / 2, high * 12]),
                axis=log_axis(),
            ),
            color=color,
            shape=alt.Shape("kind:N", scale=scale(kinds, SPECTRUM_SHAPES), legend=legend()),
            tooltip=tooltip,
        )
    )
    error = (
        alt.Chart(bars).mark_rule(opacity=0.4).encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=color)
    )
    # Where hundreds of points touch, a row of ticks for each sign still shows which is which.
    rows = [
        alt.Chart(frame[frame["kind"] == kind])
        .mark_tick(orient="vertical", size=7, thickness=1, opacity=1)
        .encode(x=x, y=y_at(height), color=color, tooltip=tooltip)
        for kind, height in zip(SIGN_LABELS.values(), (6, 15), strict=True)  # px from the top
        if kind in kinds
    ]
    return layered(*rows, error, marks.add_params(zoom()))


def scree(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of ‖H‖²_F that a matrix of each rank misses, as the band in which it lies, on a log axis.

    Args:
        frame: ``queries.spectrum``: position, scree_lower, scree_upper, known at one position at least.
    """
    bounds = frame.dropna(subset=["scree_lower", "scree_upper"], how="all")
    bounds = bounds.assign(
        low=bounds["scree_lower"].fillna(0.0).clip(SCREE_FLOOR, 1.0),
        high=bounds["scree_upper"].fillna(1.0).clip(SCREE_FLOOR, 1.0),
    )
    x = alt.X("position:Q", title="rank r", scale=whole_scale(bounds["position"]), axis=whole_axis())
    y = alt.Y(
        "low:Q",
        title="share of ‖H‖²_F missed",
        scale=alt.Scale(type="log", domain=[bounds["low"].min() / 1.5, 1.0], nice=False),
        axis=log_axis(5, "~p"),
    )
    tooltip = [
        alt.Tooltip("position:Q", title="rank r", format=",d"),
        alt.Tooltip("scree_lower:Q", title="at least", format=".3%"),
        alt.Tooltip("scree_upper:Q", title="at most", format=".3%"),
    ]
    base = alt.Chart(bounds).encode(x=x, y=y, tooltip=tooltip)
    band = base.mark_area(color=MODEL_COLORS[0], opacity=0.3).encode(y2=alt.Y2("high:Q"))
    ends = [
        base.mark_line(color=MODEL_COLORS[0], strokeWidth=1.5, point=few(bounds["position"])).encode(y=end)
        for end in (y, alt.Y("high:Q"))
    ]
    return layered(band, ends[0].add_params(zoom()), ends[1], height=SCREE_HEIGHT)
