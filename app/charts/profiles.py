"""Profiles, which have an axis of their own: of one analysis, and over training."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from seigh.app.charts.base import (
    MODEL_COLORS,
    NEUTRAL,
    layered,
    legend,
    log_axis,
    scale,
    step_colors,
    told_spread,
    wrapped,
    zoom,
)

PROFILE_HEIGHT = 340

# An axis is symmetric-logarithmic where its farthest place is so many times as far as the median one.
_FAR = 8.0

# Cells of a heat map are coloured on a log scale where the largest value is so many times the least.
_DECADES = 30.0

# Cells across a heat map of densities, and the least density that has one, as a share of the largest.
_CELLS, _FLOOR = 90, 1e-5
_FINE = 32  # places in a cell

# How many cells a browser draws quickly, and how few a row has in any case; and a row's height where a tensor
# has several.
_MOST_RECTANGLES, _LEAST_CELLS = 6000, 45
_STEP_ROW = 6  # px

# The part of an axis that a label takes, on a telephone's screen.
_LABEL = 0.09

# Labels beside a short legend of colours: 1e-6 for 0.000001.
_SHORT = (
    "datum.value != 0 && abs(datum.value) < 0.001 ? format(datum.value, '.0e') : format(datum.value, '~g')"
)

# On a log axis the values of an observable reach at most this far down: a tenth of one coordinate's share.
_BELOW_ONE = 0.1


def profile(frame: pd.DataFrame, color: str) -> alt.LayerChart:
    """One profile of one analysis with the band of its error or interval, its reference dashed.

    Args:
        frame: ``queries.profiles`` of one analysis and one name.
        color: The model's colour.
    """
    frame, y = _drawn(frame)
    x = _axis(frame)
    numbers = sorted(frame["line"].unique())
    others = [each for each in MODEL_COLORS if each != color]
    tints = {str(line): others[i % len(others)] for i, line in enumerate(numbers)}
    tint: Any = alt.ColorValue(color)
    if len(numbers) > 1:
        title = str(frame["line_title"].iloc[0])
        tint = alt.Color("line:N", scale=scale(list(tints), tints), legend=legend(title, column_width=50))
    own = tint if len(numbers) > 1 else alt.ColorValue(NEUTRAL)
    compared = frame.dropna(subset="beside")
    place = alt.Tooltip("x:Q", title=str(frame["x_title"].iloc[0]), format=".4g")
    beside = alt.Tooltip("reference:Q", title=str(frame["reference_title"].iloc[0]), format=".4g")
    tooltip = [
        place,
        alt.Tooltip("told:Q", title="value", format=".4g"),
        alt.Tooltip("lower:Q", title="at least", format=".4g"),
        alt.Tooltip("upper:Q", title="at most", format=".4g"),
    ]
    at = frame.groupby("x")["told"].agg(["nunique", "size"])
    if len(numbers) > 1 and at.eq([1, len(numbers)]).all(axis=None):
        # The lines have one curve, and differ in what it is compared with.
        frame, tint = frame.drop_duplicates("x"), alt.ColorValue(color)
    else:
        tooltip.append(beside)
    few = len(frame) <= 100
    layers = [
        alt.Chart(frame)
        .mark_line(strokeWidth=2.5, point=few)
        .encode(x=x, y=y, color=tint, detail=alt.Detail("line:N"), tooltip=tooltip)
        .add_params(zoom())
    ]
    known = frame.dropna(subset=["low", "high"])
    if len(known):
        area = alt.Chart(known).mark_area(opacity=0.3)
        layers.insert(
            0,
            area.encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=tint, detail=alt.Detail("line:N")),
        )
    if len(compared):
        dashed = alt.Chart(compared).mark_line(strokeDash=[5, 4], strokeWidth=1.5)
        layers.append(
            dashed.encode(
                x=x,
                y=alt.Y("beside:Q"),
                color=own,
                detail=alt.Detail("line:N"),
                tooltip=[alt.Tooltip("line:N", title=str(frame["line_title"].iloc[0])), place, beside],
            )
        )
    return layered(*layers, height=PROFILE_HEIGHT)


def tensors(frame: pd.DataFrame, color: str) -> alt.LayerChart:
    """A number of every parameter tensor with its interval, by their names from the top.

    Args:
        frame: ``queries.profiles`` of one analysis and one name, whose places are tensors.
        color: The model's colour.
    """
    frame = frame[["title", "x", "name", "value", "lower", "upper", "reference", "reference_title"]]
    names = frame.sort_values("x")["name"].tolist()
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=180))
    tooltip = [
        alt.Tooltip("name:N", title="tensor"),
        alt.Tooltip("value:Q", format=".4g"),
        alt.Tooltip("lower:Q", title="at least", format=".4g"),
        alt.Tooltip("upper:Q", title="at most", format=".4g"),
    ]
    x = alt.X(
        "value:Q",
        title=str(frame["title"].iloc[0]),
        axis=alt.Axis(tickCount=alt.ExprRef("width < 450 ? 4 : 8")),
    )
    points = alt.Chart(frame).mark_point(color=color, filled=True, size=70, opacity=1)
    bars = alt.Chart(frame.dropna(subset=["lower", "upper"])).mark_rule(color=color, strokeWidth=2)
    beside = str(frame["reference_title"].iloc[0])
    level = alt.Chart(frame.dropna(subset="reference")).mark_tick(color=NEUTRAL, thickness=2, size=16)
    if frame["reference"].notna().any():
        tooltip.append(alt.Tooltip("reference:Q", title=beside, format=".4g"))
    zero = alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(color=NEUTRAL, strokeDash=[2, 3])
    return layered(
        zero.encode(x=x),
        level.encode(x=alt.X("reference:Q"), y=y, tooltip=tooltip),
        bars.encode(x=alt.X("lower:Q"), x2=alt.X2("upper:Q"), y=y, tooltip=tooltip),
        points.encode(x=x, y=y, tooltip=tooltip),
        height=max(120, 26 * len(names) + 60),
    )


def tensors_by_step(frame: pd.DataFrame, values: pd.Series[float] | None = None) -> alt.LayerChart:
    """A number of every parameter tensor at several training steps, as a heat map.

    Args:
        frame: ``queries.profiles`` of one line and one name, whose places are tensors.
        values: Those of all lines that are drawn side by side, which share a scale of colours.
    """
    frame = frame[["title", "step", "x", "name", "value", "lower", "upper", *_means(frame)]]
    names = frame.sort_values("x")["name"].drop_duplicates().tolist()
    steps = [str(step) for step in sorted(frame["step"].unique())]
    frame = frame.assign(at=frame["step"].astype(str))
    values = frame["value"] if values is None else values
    low, high = float(values.min()), float(values.max())
    positive = values[values > 0]
    told: dict[str, Any] = {"tickCount": 4, "format": ".6~g"}
    if low >= 0 and len(positive) and high > _DECADES * float(positive.min()):
        colors = alt.Scale(type="log", scheme="viridis", domain=[float(positive.min()), high])
        told = {"values": _decades(float(positive.min()), high), "labelExpr": _SHORT}
    elif low < 0 < high:
        far, near = max(-low, high), float(values.abs().median())
        if far > _FAR * near > 0:  # else one tensor leaves no colour to the others
            colors = alt.Scale(type="symlog", constant=near, scheme="blueorange", domain=[-far, far])
            outermost = 10.0 ** math.floor(math.log10(far))
            told = {"values": [-outermost, 0.0, outermost], "labelExpr": _SHORT}
        else:
            colors = alt.Scale(scheme="blueorange", domain=[-far, far], domainMid=0)
    else:
        colors = alt.Scale(scheme="viridis", domain=[low, high])
    cells = alt.Chart(frame).mark_rect()
    return layered(
        cells.encode(
            x=alt.X(
                "at:O", sort=steps, title="training step", axis=alt.Axis(labelOverlap=True, labelAngle=0)
            ),
            y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=150)),
            color=alt.Color(
                "value:Q",
                scale=colors,
                legend=alt.Legend(
                    title=wrapped(str(frame["title"].iloc[0])),
                    orient="top",
                    gradientLength=160,
                    **told,
                ),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="tensor"),
                alt.Tooltip("step:Q", format=",d"),
                alt.Tooltip("value:Q", format=".4g"),
                alt.Tooltip("lower:Q", title="at least", format=".4g"),
                alt.Tooltip("upper:Q", title="at most", format=".4g"),
                *told_spread(frame),
            ],
        ),
        height=_of_rows(24 * len(names)),
    )


def _of_rows(height: int) -> int:
    """Height of a heat map of tensors whose rows take so much: with its legend and axis, in px."""
    return height + 170


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten from low to high, four at most, so that their labels beside a short legend stay apart."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**power for power in powers[:: max(1, -(-len(powers) // 4))]] or [low, high]


def densities_of_tensors(frame: pd.DataFrame, color: str) -> alt.LayerChart:
    """The density of eigenvalues of every parameter tensor's block, as a heat map of tensors over λ.

    Args:
        frame: ``queries.profiles`` of one analysis and one name, whose lines are tensors.
        color: That of the least; the scale of colours is one for all models.
    """
    del color
    y = _tensor_axis(frame)
    return _densities(frame, {"y": y}, ["name"], height=_of_rows(24 * len(y["sort"])))


def densities_by_step(frame: pd.DataFrame) -> alt.LayerChart:
    """The same at several training steps: a tensor has a row for each step, the first one on top.

    Args:
        frame: ``queries.profiles`` of one line and one name, whose lines are tensors.
    """
    y = _tensor_axis(frame)
    steps = [str(step) for step in sorted(frame["step"].unique())]
    rows = {"y": y, "yOffset": alt.YOffset("at:O", sort=steps)}
    each = max(24, _STEP_ROW * len(steps) + 4)
    return _densities(
        frame.assign(at=frame["step"].astype(str)),
        rows,
        ["name", "step", "at"],
        height=_of_rows(each * len(y["sort"])),
    )


def _tensor_axis(frame: pd.DataFrame) -> alt.Y:
    """A row for each tensor that is a line of a profile, in the model's order."""
    names = frame.sort_values("line")["name"].drop_duplicates().tolist()
    return alt.Y(
        "name:N",
        sort=names,
        title=None,
        axis=alt.Axis(labelLimit=150),
        scale=alt.Scale(paddingInner=0.08),
    )


def _densities(frame: pd.DataFrame, rows: dict[str, Any], by: list[str], height: int) -> alt.LayerChart:
    """Densities of eigenvalues as a heat map over λ.

    Args:
        frame: ``queries.profiles`` whose x is λ.
        rows: Which row a cell is in, as encodings.
        by: Columns that tell the densities apart.
        height: Of the chart, in px.
    """
    groups = list(frame.groupby(by, sort=False))
    number = min(_CELLS, max(_LEAST_CELLS, _MOST_RECTANGLES // len(groups)))
    near = float(frame["x"].abs().median()) or 1.0
    low, high = (math.asinh(float(end) / near) for end in (frame["x"].min(), frame["x"].max()))
    edges = near * np.sinh(np.linspace(low, high, number + 1))
    middle = (edges[1:] + edges[:-1]) / 2
    # Of each cell the mean, so that no bump falls between two places.
    fine = edges[:-1, None] + np.diff(edges)[:, None] * (np.arange(_FINE) + 0.5) / _FINE
    found = []
    for place, part in groups:
        part = part.sort_values("x")
        told = {
            column: np.interp(fine, part["x"], part[column], left=0.0, right=0.0).mean(1)
            for column in ("value", "lower", "upper", *(["spread"] * ("spread" in part)))
        }
        if "n" in part:
            told["n"] = np.full(number, part["n"].iloc[0])
        which = dict(zip(by, place, strict=True))
        found.append(pd.DataFrame(which | {"x": middle, "from": edges[:-1], "to": edges[1:]} | told))
    cells = pd.concat(found, ignore_index=True)
    top = float(cells["value"].max())
    floor = max(top * _FLOOR, 1e-300)
    cells = cells[cells["upper"] > floor].assign(height=lambda each: each["value"].clip(lower=floor))
    drawn = alt.Chart(cells).mark_rect()
    return layered(
        drawn.encode(
            x=alt.X(
                "from:Q",
                title=str(frame["x_title"].iloc[0]),
                scale=alt.Scale(type="symlog", constant=near, nice=False, domain=[edges[0], edges[-1]]),
                axis=alt.Axis(
                    values=_ticks(float(edges[0]), float(edges[-1]), near), format=".6~g", labelOverlap=True
                ),
            ),
            x2=alt.X2("to:Q"),
            **rows,
            color=alt.Color(
                "height:Q",
                scale=alt.Scale(type="log", scheme="viridis", domain=[floor, top]),
                legend=alt.Legend(
                    title=wrapped(str(frame["title"].iloc[0])),
                    orient="top",
                    gradientLength=160,
                    values=_decades(floor, top),
                    labelExpr=_SHORT,
                ),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="tensor"),
                *([alt.Tooltip("step:Q", format=",d")] if "step" in by else []),
                alt.Tooltip("x:Q", title="λ", format=".4g"),
                alt.Tooltip("value:Q", title="density", format=".4g"),
                alt.Tooltip("lower:Q", title="at least", format=".4g"),
                alt.Tooltip("upper:Q", title="at most", format=".4g"),
                *told_spread(cells),
            ],
        ),
        height=height,
    )


def profile_by_step(frame: pd.DataFrame) -> alt.LayerChart:
    """One profile at several training steps of one model, early ones dark.

    Args:
        frame: ``queries.profiles`` of one line and one name; of several lines, the first is drawn.
    """
    frame, y = _drawn(frame[(frame["line"] == frame["line"].min()) | frame["line"].isna()])
    x = _axis(frame)
    tint = step_colors(frame)
    lines = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=tint,
            tooltip=[
                alt.Tooltip("step:Q", format=",d"),
                alt.Tooltip("x:Q", title=str(frame["x_title"].iloc[0]), format=".4g"),
                alt.Tooltip("told:Q", title="value", format=".4g"),
                alt.Tooltip("lower:Q", title="at least", format=".4g"),
                alt.Tooltip("upper:Q", title="at most", format=".4g"),
                *told_spread(frame),
            ],
        )
    )
    known = frame.dropna(subset=["low", "high"])
    layers = [lines.add_params(zoom())]
    around = frame.dropna(subset=["below", "above"]) if "spread" in frame else frame.iloc[:0]
    if len(around):
        pale = alt.Chart(around).mark_area(opacity=0.15)
        layers.insert(0, pale.encode(x=x, y=alt.Y("below:Q"), y2=alt.Y2("above:Q"), color=tint))
    if len(known):
        area = alt.Chart(known).mark_area(opacity=0.3 if len(around) else 0.15)
        layers.insert(len(layers) - 1, area.encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=tint))
    if has_common_reference(frame):
        dashed = alt.Chart(frame.dropna(subset="beside").drop_duplicates("x"))
        line = dashed.mark_line(strokeDash=[5, 4], strokeWidth=1.5, color=NEUTRAL)
        layers.append(line.encode(x=x, y=alt.Y("beside:Q")))
    elif frame["beside"].notna().any():  # as far as the axis of the values reaches
        drawn = frame.assign(beside=frame["beside"].where(frame["beside"].between(*_reach(frame))))
        line = alt.Chart(drawn).mark_line(strokeDash=[5, 4], strokeWidth=1.5, opacity=0.8)
        layers.append(line.encode(x=x, y=alt.Y("beside:Q"), color=tint))
    return layered(*layers, height=PROFILE_HEIGHT)


def _reach(frame: pd.DataFrame) -> tuple[float, float]:
    """From where to where references are drawn beside values: a quarter of their range further."""
    ends = frame[["height", "low", "high"]]
    low, high = float(ends.min().min()), float(ends.max().max())
    return low - 0.25 * (high - low), high + 0.25 * (high - low)


def has_common_reference(frame: pd.DataFrame) -> bool:
    """Whether what a profile is to be compared with is known, and the same at all training steps."""
    known = frame.dropna(subset="reference")
    return len(known) > 0 and bool((known.groupby("x")["reference"].nunique() == 1).all())


def _axis(frame: pd.DataFrame) -> alt.X:
    """The axis of x; symmetric-logarithmic where most places lie close to 0 beside the farthest."""
    title, far = str(frame["x_title"].iloc[0]), float(frame["x"].abs().max())
    near = float(frame["x"].abs().median())
    if not (near > 0 and far > _FAR * near and (frame["x"] < 0).any()):
        return alt.X("x:Q", title=title, scale=alt.Scale(nice=False, padding=4))
    low, high = float(frame["x"].min()), float(frame["x"].max())
    shown = _ticks(low, high, near)
    return alt.X(
        "x:Q",
        title=title,
        scale=alt.Scale(type="symlog", constant=near, nice=False, padding=4),
        axis=alt.Axis(values=shown, format=".6~g", labelOverlap=True),
    )


def _ticks(low: float, high: float, constant: float) -> list[float]:
    """0, powers of ten, and twice and five times these on a symmetric-logarithmic axis, as many as have room
    for their labels."""

    def place(tick: float) -> float:
        return math.copysign(math.log1p(abs(tick) / constant), tick)

    room = _LABEL * (place(high) - place(low))
    decades = range(math.floor(math.log10(constant)), math.floor(math.log10(max(high, -low))) + 1)
    kept = [0.0]
    for times in (1, 2, 5):
        for decade in reversed(decades):
            for tick in (times * 10.0**decade, -times * 10.0**decade):
                if low <= tick <= high and all(abs(place(tick) - place(other)) >= room for other in kept):
                    kept.append(tick)
    return sorted(kept)


def _means(frame: pd.DataFrame) -> list[str]:
    """The columns that a frame has beside a profile's if it is a mean."""
    return [name for name in ("spread", "n") if name in frame]


def _drawn(frame: pd.DataFrame) -> tuple[pd.DataFrame, alt.Y]:
    """The frame with what is drawn of each number, and the vertical axis: on a log one, above its floor."""
    names = ["x_title", "line_title", "reference_title", "step", "line", "x", "lower", "upper", "reference"]
    shown = frame[[*names, *_means(frame)]].assign(
        line=frame["line"].fillna(0.0).map("{:g}".format), told=frame["value"]
    )
    columns = {"height": "value", "low": "lower", "high": "upper", "beside": "reference"}
    shown = shown.assign(**{name: frame[column] for name, column in columns.items()})
    edges = ["height", "low", "high", "beside"]
    if "spread" in frame:
        shown = shown.assign(below=frame["value"] - frame["spread"], above=frame["value"] + frame["spread"])
        edges += ["below", "above"]
    title, log = wrapped(str(frame["title"].iloc[0])), bool(frame["log"].iloc[0])
    positive = frame["value"] > 0
    if not (log and positive.any()):
        return shown, alt.Y("height:Q", title=title, scale=alt.Scale(zero=False))
    top = float(frame["value"].max())
    floor = max(
        float(frame.loc[positive, "value"].min()), top * _BELOW_ONE / float(frame["parameters"].iloc[0])
    )
    for edge in edges:
        shown[edge] = shown[edge].clip(lower=floor)  # a gap would be drawn across, as if it were level
    domain = [floor, max(top, float(shown[[each for each in edges if each != "beside"]].max().max())) * 1.5]
    return shown, alt.Y(
        "height:Q", title=title, scale=alt.Scale(type="log", domain=domain, nice=False), axis=log_axis()
    )
