"""Charts of the study of sketches: the error of each method by its sizes."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from seigh.app.charts.base import MODEL_COLORS, NEUTRAL, layered, legend, log_axis, scale, x_at
from seigh.core.methods import markers

HEIGHT = 380

# The methods of the study, each with a colour that stays apart in both themes.
METHOD_COLORS = dict(zip(("seigh", "ssvd", "krylov"), MODEL_COLORS, strict=False))

_ERROR = "‖H − Ĥ‖ ÷ ‖H‖"


def error_by_sizes(frame: pd.DataFrame, outer: int, inner: int) -> alt.LayerChart:
    """The relative error of SEIGH as a cell for each n_O and n_I, on a log colour scale.

    Args:
        frame: Rows of ``seigh.core.spectra.study.study`` of SEIGH.
        outer: The chosen n_O, which is marked.
        inner: The chosen n_I.
    """
    # Below this an error is rounding, and the colours are for what a method does.
    frame = frame.assign(shown=frame["error"].clip(lower=1e-12), label=frame["error"].map("{:.2g}".format))
    axis = alt.Axis(labelAngle=0, grid=False)
    x = alt.X("inner:O", title="n_I, inner measurements = products with H", axis=axis)
    y = alt.Y("outer:O", title="n_O, outer measurements = rank", sort="descending", axis=axis)
    tooltip = [
        alt.Tooltip("outer:Q", title="n_O", format=",d"),
        alt.Tooltip("inner:Q", title="n_I", format=",d"),
        alt.Tooltip("error:Q", title=f"{_ERROR}, mean", format=".3g"),
        alt.Tooltip("error_std:Q", title="standard deviation", format=".2g"),
        alt.Tooltip("best:Q", title="least of this rank", format=".3g"),
        alt.Tooltip("overlap:Q", title="overlap with the true Vₖ", format=".4f"),
    ]
    cells = (
        alt.Chart(frame)
        .mark_rect()
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "shown:Q",
                scale=alt.Scale(type="log", scheme="viridis", reverse=True),
                legend=alt.Legend(title=_ERROR, orient="top", gradientLength=220, tickCount=3, format="~g"),
            ),
            tooltip=tooltip,
        )
    )
    middle = (float(frame["shown"].min()) * float(frame["shown"].max())) ** 0.5
    words = (
        alt.Chart(frame)
        .mark_text(fontSize=alt.ExprRef("width < 330 ? 0 : 11"))
        .encode(
            x=x,
            y=y,
            text=alt.Text("label:N"),
            color=alt.ColorValue(
                "#ffffff", condition={"test": f"datum.shown < {middle!r}", "value": "#000000"}
            ),
            tooltip=tooltip,
        )
    )
    chosen = frame[(frame["outer"] == outer) & (frame["inner"] == inner)]
    mark = alt.Chart(chosen).mark_rect(fillOpacity=0, stroke="#D65C00", strokeWidth=3).encode(x=x, y=y)
    return layered(cells, words, mark, height=HEIGHT)


def error_by_products(frame: pd.DataFrame) -> alt.LayerChart:
    """The relative error against the products that it takes, a line for each method, with the best possible.

    Args:
        frame: Rows of ``seigh.core.spectra.study.study`` of one n_O.
    """
    frame = frame.assign(
        low=frame["error_least"].clip(lower=1e-16),
        high=frame["error_greatest"].clip(lower=1e-16),
        shown=frame["error"].clip(lower=1e-16),
    )
    names = [name for name in METHOD_COLORS if name in set(frame["method"])]
    color = alt.Color("method:N", scale=scale(names, METHOD_COLORS), legend=legend())
    shape = alt.Shape("method:N", scale=scale(names, markers(names)), legend=None)
    x = alt.X(
        "products:Q",
        title="products with H",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=log_axis(form="~s"),
    )
    least = float(frame["best"].iloc[0])
    ends = [min(float(frame["low"].min()), least or math.inf) / 2, float(frame["high"].max()) * 1.5]
    y = alt.Y("shown:Q", title=_ERROR, scale=alt.Scale(type="log", domain=ends, nice=False), axis=log_axis())
    points = (
        alt.Chart(frame)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=x,
            y=y,
            color=color,
            shape=shape,
            tooltip=[
                alt.Tooltip("method:N"),
                alt.Tooltip("products:Q", format=",.0f"),
                alt.Tooltip("inner:Q", title="n_I", format=",d"),
                alt.Tooltip("error:Q", title=f"{_ERROR}, mean", format=".3g"),
                alt.Tooltip("error_std:Q", title="standard deviation", format=".2g"),
                alt.Tooltip("overlap:Q", title="overlap with the true Vₖ", format=".4f"),
            ],
        )
    )
    lines = alt.Chart(frame).mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    band = (
        alt.Chart(frame)
        .mark_area(opacity=0.2)
        .encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=color)
    )
    parts = [band, lines, points]
    if least > 0:
        level = alt.Chart(pd.DataFrame({"best": [least]}))
        parts.insert(
            0, level.mark_rule(color=NEUTRAL, strokeDash=[2, 3], strokeWidth=2).encode(y=alt.Y("best:Q"))
        )
        words = level.mark_text(
            align="right", baseline="top", dy=5, color=NEUTRAL, text="least error of this rank"
        )
        parts.append(words.encode(x=x_at("width"), y=alt.Y("best:Q")))
    return layered(*parts, height=HEIGHT)
