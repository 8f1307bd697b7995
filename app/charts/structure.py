"""Where an overlap lies: in which layers, at which magnitudes; how alike pairs are; and what it cost."""

from __future__ import annotations

from typing import Literal

import altair as alt
import numpy as np
import pandas as pd

from seigh.app.charts.base import (
    MODEL_COLORS,
    NEUTRAL,
    Chart,
    error_bars,
    group_color,
    layered,
    legend,
    log_axis,
    over_steps,
    scale,
    step_axis,
    whole_axis,
    with_legend,
    x_at,
    zoom,
)

BAR_HEIGHT = 26  # px, of a row of bars
ROW_HEIGHT = 26
MOST_LAYERS = 40  # rows before the smallest are left out

MASS_FLOOR = 1e-3  # of a quantile, as ratio to the mean; less is little

SHARE_LABELS = {
    "share": "parameters",
    "mask": "mask",
    "eigenspace": "eigenspace",
    "overlap": "overlap",
}
SHARE_COLORS = {
    "parameters": NEUTRAL,
    "mask": MODEL_COLORS[0],
    "eigenspace": MODEL_COLORS[1],
    "overlap": MODEL_COLORS[2],
}
SHARE_SHAPES = {"mask": "square", "eigenspace": "circle", "overlap": "diamond"}


# Of the Grassmannian metrics, in the order of their labels.
METRIC_COLORS = (*MODEL_COLORS[:6], NEUTRAL)
METRIC_DASHES = ([1, 0], [6, 3], [2, 2], [1, 0], [6, 3], [2, 2], [1, 0])

METRICS_HEIGHT = 480  # px, of which a phone's legend takes much
LIKENESS = alt.Scale(domain=[0, 1], clamp=True)

METRIC_NAMES = {
    "geodesic": "geodesic",
    "chordal_2": "chordal, 2-norm",
    "chordal_f": "chordal, Frobenius",
    "projection_2": "projection, 2-norm",
    "projection_f": "projection, Frobenius",
    "fubini_study": "Fubini–Study",
    "overlap": "overlap",
}
METRIC_FORMULAS = {
    "geodesic": "‖θ‖₂",
    "chordal_2": "2 sin(θ_max/2)",
    "chordal_f": "2 ‖sin(θ/2)‖₂",
    "projection_2": "sin θ_max",
    "projection_f": "‖sin θ‖₂",
    "fubini_study": "arccos ∏ cos θᵢ",
    "overlap": "mean cos² θᵢ",
}


def stages(frame: pd.DataFrame) -> alt.LayerChart:
    """Time of each stage of an analysis, in the order they ran, with its Hessian-vector products.

    Args:
        frame: ``AnalysisDetail.stages``: stage, seconds, hvps.
    """
    frame = frame.assign(
        share=frame["seconds"] / frame["seconds"].sum(),
        words=[
            (f"{seconds:.3g} s" if seconds >= 0.001 else "< 1 ms") + (f" · {hvps:,} products" if hvps else "")
            for seconds, hvps in zip(frame["seconds"], frame["hvps"], strict=True)
        ],
    )
    y = alt.Y("stage:N", sort=frame["stage"].tolist(), title=None, axis=alt.Axis(labelLimit=120))
    # Room on the right for the words beside the longest bar, of which a telephone has less.
    longest = float(frame["seconds"].max()) or 1.0
    room = alt.ExprRef(f"{longest!r} * (width < 450 ? 2.6 : 1.5)")
    x = alt.X(
        "seconds:Q",
        title="time in s",
        scale=alt.Scale(domainMin=0, domainMax=room, nice=False),
        axis=alt.Axis(tickCount=alt.ExprRef("width < 450 ? 3 : 5")),
    )
    tooltip = [
        alt.Tooltip("stage:N"),
        alt.Tooltip("seconds:Q", title="time in s", format=".4g"),
        alt.Tooltip("share:Q", title="share of all", format=".1%"),
        alt.Tooltip("hvps:Q", title="Hessian-vector products", format=",d"),
    ]
    base = alt.Chart(frame).encode(x=x, y=y, tooltip=tooltip)
    bars = base.mark_bar(color=MODEL_COLORS[0])
    words = base.mark_text(align="left", dx=5, color=NEUTRAL).encode(text=alt.Text("words:N"))
    return layered(bars, words, height=BAR_HEIGHT * len(frame) + 60)


def layer_shares(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the share of each parameter tensor in the parameters (a bar), the mask, the eigenspace and their
    overlap (points), a row each, in the model's order.

    Args:
        frame: ``queries.layer_shares`` at one k: position, name, parameters, mask, eigenspace, overlap. The
            ``MOST_LAYERS`` tensors with the largest of these shares are drawn.
    """
    frame = frame.assign(share=frame["parameters"] / frame["parameters"].sum())
    largest = frame[list(SHARE_LABELS)].max(axis=1)
    frame = frame.loc[largest.nlargest(MOST_LAYERS).index].sort_values("position")
    y = alt.Y(
        "name:N",
        sort=frame["name"].tolist(),
        title=None,
        axis=alt.Axis(labelLimit=alt.ExprRef("width < 300 ? 100 : 220"), labelOverlap=False),
    )
    top = float(frame[list(SHARE_LABELS)].max().max()) * 1.05
    axis = alt.Axis(format="~p", tickCount=alt.ExprRef("width < 450 ? 4 : 8"))
    x = alt.X("value:Q", title="share of all", scale=alt.Scale(domain=[0, top], nice=False), axis=axis)
    tooltip = [
        alt.Tooltip("name:N", title="tensor"),
        alt.Tooltip("parameters:Q", format=",d"),
        *(
            alt.Tooltip(f"{column}:Q", title=f"share of the {label}", format=".2%")
            for column, label in SHARE_LABELS.items()
        ),
    ]
    rows = pd.concat(frame.assign(kind=label, value=frame[column]) for column, label in SHARE_LABELS.items())
    bars = rows[rows["kind"] == "parameters"]
    points = rows[rows["kind"] != "parameters"].dropna(subset="value")
    names = list(SHARE_SHAPES)
    keys = legend("share of", column_width=105)
    return layered(
        alt.Chart(bars).mark_bar(color=NEUTRAL, opacity=0.3).encode(x=x, y=y, tooltip=tooltip),
        alt.Chart(points)
        .mark_point(filled=True, size=75, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=alt.Color("kind:N", scale=scale(names, SHARE_COLORS), legend=keys),
            shape=alt.Shape("kind:N", scale=scale(names, SHARE_SHAPES), legend=keys),
            tooltip=tooltip,
        ),
        height=ROW_HEIGHT * len(frame) + 175,
    )


def magnitude_bins(frame: pd.DataFrame, parameters: int, color: str) -> alt.LayerChart:
    """Mass of the eigenspace on parameters of about the same |θ|, as ratio to the mean of all, on log axes.

    Args:
        frame: ``queries.magnitude_bins`` at one k: smallest and largest |θ| of each bin, count, and mean,
            low, median and high (10 %, 50 % and 90 % quantiles) of the mass, which is 1/D on average.
        parameters: D.
        color: The model's colour.
    """
    masses = ["mean", "low", "median", "high"]
    frame = frame[frame["largest"] > 0]
    frame = frame.assign(**{name: frame[name] * parameters for name in masses})
    middle = np.sqrt(frame["largest"] * frame["smallest"].clip(lower=frame["largest"] * 1e-3))
    frame = frame.assign(magnitude=middle)
    drawn = frame["mean"] > 0
    floor = float(frame.loc[drawn, ["mean", "low"]].min().min()) if drawn.any() else 0.1
    floor = max(floor, MASS_FLOOR)
    bands = frame.assign(low=frame["low"].clip(lower=floor), high=frame["high"].clip(lower=floor))
    # With room for the first and the last point.
    ends = [float(middle.min()) / 1.1, float(middle.max()) * 1.1]
    x = alt.X(
        "magnitude:Q",
        title="|θ|, magnitude of the weight",
        scale=alt.Scale(type="log", domain=ends, nice=False),
        axis=log_axis(alt.ExprRef("width < 450 ? 4 : 8")),
    )
    y = alt.Y(
        "mean:Q",
        title="mass of Vₖ ÷ mean",
        scale=alt.Scale(type="log", domain=[floor / 1.5, float(bands[["mean", "high"]].max().max()) * 2]),
        axis=log_axis(),
    )
    tooltip = [
        alt.Tooltip("smallest:Q", title="|θ| from", format=".3g"),
        alt.Tooltip("largest:Q", title="|θ| to", format=".3g"),
        alt.Tooltip("count:Q", title="parameters", format=",d"),
        alt.Tooltip("mean:Q", title="mean mass ÷ mean of all", format=".3g"),
        alt.Tooltip("median:Q", title="median", format=".3g"),
        alt.Tooltip("low:Q", title="10 % quantile", format=".3g"),
        alt.Tooltip("high:Q", title="90 % quantile", format=".3g"),
    ]
    band = (
        alt.Chart(bands)
        .mark_area(color=color, opacity=0.2)
        .encode(x=x, y=alt.Y("low:Q", title="mass of Vₖ ÷ mean"), y2=alt.Y2("high:Q"))
    )
    shown = alt.Chart(frame[drawn])
    line = shown.mark_line(color=color, strokeWidth=2.5).encode(x=x, y=y)
    points = shown.mark_point(filled=True, color=color, size=45, opacity=1).encode(x=x, y=y, tooltip=tooltip)
    chance = pd.DataFrame({"level": [1.0]})
    level = (
        alt.Chart(chance)
        .mark_rule(color=NEUTRAL, strokeDash=[2, 3], strokeWidth=2)
        .encode(y=alt.Y("level:Q"))
    )
    words = alt.Chart(chance).mark_text(
        align="left", baseline="bottom", dx=4, dy=-4, color=NEUTRAL, text="chance: the mean of all"
    )
    return layered(
        band,
        level,
        line,
        points.add_params(zoom()),
        words.encode(x=x_at(0), y=alt.Y("level:Q")),
        height=360,
    )


LABEL_DIGIT = 6  # px of a digit in a label of an axis


def heatmap(frame: pd.DataFrame, title: str) -> alt.LayerChart:
    """How alike two training steps are, for all pairs, from 0 to 1 on one colour scale for all heatmaps.

    Args:
        frame: first_step, second_step, value; both orders of every pair; chance, and error where it is known.
        title: Title of the value.
    """
    steps = [str(step) for step in sorted(set(frame["first_step"]) | set(frame["second_step"]))]
    frame = frame.assign(first=frame["first_step"].astype(str), second=frame["second_step"].astype(str))
    axis = alt.Axis(labelOverlap=True, labelAngle=0, grid=False)
    # Labels that have too little room are left out by where they stand: the browser lets some of them touch.
    last, room = len(steps) - 1, LABEL_DIGIT * max(map(len, steps)) + 4
    apart = f"ceil({room * len(steps)} / width)"
    shown = alt.Axis(
        labelExpr=f"round(datum.index * {last}) % {apart} ? '' : datum.label", labelAngle=0, grid=False
    )
    x = alt.X("first:O", sort=steps, title="training step", axis=shown)
    y = alt.Y("second:O", sort=steps[::-1], title="training step", axis=axis)
    tooltip = [
        alt.Tooltip("first_step:Q", title="step", format=",d"),
        alt.Tooltip("second_step:Q", title="and step", format=",d"),
        alt.Tooltip("value:Q", title=title, format=".3f"),
        *([alt.Tooltip("error:Q", title="stated error", format=".2g")] if "error" in frame else []),
        alt.Tooltip("chance:Q", title="chance", format=".3g"),
    ]
    cells = (
        alt.Chart(frame)
        .mark_rect()
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "value:Q",
                scale=alt.Scale(domain=[0, 1], scheme="viridis"),
                legend=alt.Legend(title=title, orient="top", gradientLength=160, tickCount=5, format="~g"),
            ),
            tooltip=tooltip,
        )
    )
    if len(steps) > 12:
        return _with_last_label(layered(cells, height=360))
    words = (
        alt.Chart(frame)
        .mark_text(fontSize=alt.ExprRef("width < 330 ? 0 : 10"))
        .encode(
            x=x,
            y=y,
            text=alt.Text("value:Q", format=".2f"),
            color=alt.ColorValue("#ffffff", condition={"test": "datum.value > 0.6", "value": "#000000"}),
            tooltip=tooltip,
        )
    )
    return _with_last_label(layered(cells, words, height=380))


def _with_last_label(chart: Chart) -> Chart:
    """The chart with room on the right for the half of the last step that its narrow cell has no room for."""
    chart.padding = {"left": 5, "top": 5, "right": 14, "bottom": 5}
    return chart


def metric_heights(metrics: pd.DataFrame, *, raw: bool) -> pd.DataFrame:
    """The columns that ``metric_by_step`` draws, of one metric: raw, or as likeness from 0 to 1.

    Ends of errors and bands are within what the metric can be.
    """
    if raw:
        height, error = metrics["value"], metrics["error"]
        mean, std = metrics["random_mean"], metrics["random_std"]
    else:
        height, error = metrics["normalised"], metrics["normalised_error"]
        mean, std = metrics["normalised_random_mean"], metrics["normalised_random_std"]
    most = None if raw else 1.0
    return metrics.assign(
        height=height,
        low=(height - error).clip(lower=0),
        high=(height + error).clip(upper=most),
        random_mean=mean,
        random_low=(mean - std).clip(lower=0),
        random_high=(mean + std).clip(upper=most),
    )


def metric_by_step(frame: pd.DataFrame, colors: dict[str, str], title: str) -> alt.LayerChart:
    """A Grassmannian metric against training step, with that of random subspaces as a band.

    Args:
        frame: model, split, series, step, height, low and high (both ends of the stated error; NaN where
            unknown), random_mean, random_low and random_high, k, parameters.
        colors: Colour of every group.
        title: Title of the metric.
    """
    x = step_axis(frame)
    tooltip = [
        alt.Tooltip("series:N", title="line"),
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("k:Q", format=",d"),
        alt.Tooltip("height:Q", title=title, format=".4g"),
        alt.Tooltip("random_mean:Q", title="random subspaces, mean", format=".4g"),
    ]
    axis = alt.Axis(format=".6~g")
    lines, points = over_steps(frame, title, colors, tooltip, zero=False, axis=axis)
    drawn = frame.drop_duplicates(["random_mean", "step"])
    y = alt.Y("random_low:Q", title=title, scale=alt.Scale(zero=False))
    band = alt.Chart(drawn).mark_area(color=NEUTRAL, opacity=0.25)
    level = alt.Chart(drawn).mark_line(color=NEUTRAL, strokeDash=[2, 3], strokeWidth=2)
    by = alt.Detail("random_mean:N")
    known = frame.dropna(subset=["low", "high"])
    return layered(
        band.encode(x=x, y=y, y2=alt.Y2("random_high:Q"), detail=by),
        level.encode(x=x, y=alt.Y("random_mean:Q", title=title), detail=by),
        error_bars(known, x, title, group_color(colors, frame)),
        lines,
        points,
        height=with_legend(300, frame["group"]),
    )


Along = Literal["k", "dimension"]


def metric_looks(labels: dict[str, str]) -> tuple[alt.Color, alt.StrokeDash]:
    """Colour and dashes of every metric, by its name in the column ``label``."""
    names, keys = list(labels.values()), legend(column_width=150, symbolType="stroke")
    colors = dict(zip(names, METRIC_COLORS, strict=True))
    dashes = dict(zip(names, METRIC_DASHES, strict=True))
    return (
        alt.Color("label:N", scale=scale(names, colors), legend=keys),
        alt.StrokeDash("label:N", scale=scale(names, dashes), legend=keys),
    )


def dimension_axis() -> alt.X:
    """The dimension of two subspaces, on a log axis."""
    log = alt.Scale(type="log", nice=False)
    return alt.X("k:Q", title="k, dimension of both", scale=log, axis=whole_axis())


def pair_metrics(frame: pd.DataFrame, labels: dict[str, str]) -> alt.LayerChart:
    """Every metric between two analyses' eigenspaces as likeness, against k, above what random ones give.

    Args:
        frame: ``queries.pair_values`` of one pair: k, measure, value, normalised; and of random subspaces,
            NaN where unknown, normalised_random_mean and random_mean.
        labels: Name of every metric.
    """
    frame = frame.assign(label=frame["measure"].map(labels))
    color, dash = metric_looks(labels)
    y = alt.Y("normalised:Q", title="likeness, from 0 to 1", scale=LIKENESS)
    base = alt.Chart(frame).encode(x=dimension_axis(), y=y, color=color)
    tooltip = [
        alt.Tooltip("label:N", title="metric"),
        alt.Tooltip("k:Q", format=",d"),
        alt.Tooltip("normalised:Q", title="likeness", format=".4g"),
        alt.Tooltip("normalised_random_mean:Q", title="of random subspaces", format=".4g"),
        alt.Tooltip("value:Q", title="raw", format=".4g"),
        alt.Tooltip("random_mean:Q", title="raw, of random subspaces", format=".4g"),
    ]
    known = alt.Chart(frame.dropna(subset="normalised_random_mean"))
    chance = known.mark_line(strokeWidth=1.5, opacity=0.4).encode(
        x=dimension_axis(),
        y=alt.Y("normalised_random_mean:Q", title="likeness, from 0 to 1"),
        color=color,
        detail=alt.Detail("label:N"),
    )
    lines = base.mark_line(strokeWidth=2.5).encode(strokeDash=dash)
    points = base.mark_point(filled=True, size=40).encode(tooltip=tooltip)
    return layered(chance, lines, points, height=METRICS_HEIGHT)


def random_study(
    frame: pd.DataFrame, labels: dict[str, str], mark: int, along: Along = "k"
) -> alt.LayerChart:
    """How every metric sees two random subspaces of R^D: median and 90 % of the draws.

    Args:
        frame: ``random_study``: dimension, k, metric, mean, std, and normalised_median, …_low and …_high.
        labels: Name of every metric.
        mark: The value of ``along`` to mark.
        along: What the horizontal axis is: the subspaces' dimension k, or D.
    """
    frame = frame.assign(label=frame["metric"].map(labels))
    x, (color, dash) = dimension_axis() if along == "k" else _space_axis(), metric_looks(labels)
    y = alt.Y("normalised_median:Q", title="likeness, from 0 to 1", scale=LIKENESS)
    tooltip = [
        alt.Tooltip("label:N", title="metric"),
        alt.Tooltip("dimension:Q", title="D", format=",d"),
        alt.Tooltip("k:Q", format=",d"),
        alt.Tooltip("normalised_median:Q", title="likeness, median", format=".4g"),
        alt.Tooltip("normalised_low:Q", title="5 %", format=".4g"),
        alt.Tooltip("normalised_high:Q", title="95 %", format=".4g"),
        alt.Tooltip("mean:Q", title="raw, mean", format=".4g"),
        alt.Tooltip("std:Q", title="raw, std", format=".2g"),
    ]
    base = alt.Chart(frame)
    lines = base.mark_line(strokeWidth=2.5).encode(x=x, y=y, color=color, strokeDash=dash)
    points = base.mark_point(filled=True, size=35).encode(x=x, y=y, color=color, tooltip=tooltip)
    ends = {"y": alt.Y("normalised_low:Q", title="likeness, from 0 to 1"), "y2": "normalised_high:Q"}
    band = base.mark_area(opacity=0.2).encode(x=x, color=color, **ends)
    rule = alt.Chart(pd.DataFrame({along: [mark]})).mark_rule(color=NEUTRAL, strokeWidth=1.5)
    return layered(band, rule.encode(x=f"{along}:Q"), lines, points, height=METRICS_HEIGHT)


def _space_axis() -> alt.X:
    """The dimension of the space, on a log axis."""
    axis = log_axis(form="~s")
    return alt.X("dimension:Q", title="D", scale=alt.Scale(type="log", nice=False), axis=axis)
