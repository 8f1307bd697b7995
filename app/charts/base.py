"""Shared parts of all charts: colours, scales, axes, legends, the pointer's rule, and their assembly."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import altair as alt
import numpy as np
import pandas as pd
from altair.utils import schemapi

from seigh.app.digits import with_error
from seigh.core.methods import markers

# Altair validates every part of a chart when it is made, which takes longer than all else. The tests validate
# whole charts instead, and figures of plug-ins are validated when they are shown. For the same reason no
# channel is given as a text here: Altair reads its whole schema to find what a text means.
schemapi.disable_debug_mode()

# Twenty that stay apart: at least 10 in CIEDE2000 from each other, and at least 4 for people who see no red,
# green or blue, for whom shapes tell the closest apart (``COLOR_SHAPES``); at least 3:1 against both page
# backgrounds. The first are close to those of Okabe & Ito (2008); each is as far as possible from the others
# before it.
MODEL_COLORS = (
    *("#0070AD", "#D65C00", "#008F66", "#C25C99", "#8514FF"),
    *("#8585FF", "#FF29E0", "#855C00", "#FF0066", "#B829CC"),
    *("#3399CC", "#855285", "#C21F47", "#858533", "#1F7AFF"),
    *("#CC008F", "#C28585", "#29703D", "#707AB8", "#CC8500"),
)
MOST_COLORS = len(MODEL_COLORS)
NEUTRAL = "#808080"  # at least 3.9:1 against both page backgrounds; text in it has the page's own colour

# Marks are found by screen readers and tests, and stay sharp when printed.
AS_SVG = {"embedOptions": {"renderer": "svg"}}

HEIGHT = 400  # px, legends and axes included
LEGEND_ROW = 24
FLUSH = 20  # px from the ends of an axis within which labels are aligned with their tick, not centred
_AXIS_CHARACTERS = 32
MOST_TICKED = 100  # error bars with ticks
MOST_POINTS = 300  # per drawn curve; more than a screen resolves, few enough for 200 curves

SPLIT_DASHES = {"test": [1, 0], "train": [5, 4]}
DASHES = ([1, 0], [5, 4], [1.5, 2.5], [9, 3, 2, 3], [12, 5], [6, 2, 1.5, 2, 1.5, 2])
MOST_DASHES = len(DASHES)

# The shape of the points of each of ``MODEL_COLORS``, where shapes do not say the method: colours that are
# alike for people who see no red, green or blue (CIEDE2000 below 8) have different ones.
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
COLOR_SHAPES = dict(
    zip(
        MODEL_COLORS,
        (SHAPES[place] for place in (0, 0, 1, 2, 3, 4, 5, 4, 3, 1, 3, 5, 5, 2, 2, 4, 4, 3, 4, 1)),
        strict=True,
    )
)

CHANCE_LABEL = "chance k/D"
OVERLAP_TITLE = "overlap(M, Vₖ)"
ERROR_LABEL = "stated error"


def model_color(model_id: int) -> str:
    """The colour of a model that stands alone: that of its place in the order in which models came."""
    return MODEL_COLORS[(model_id - 1) % MOST_COLORS]


def group_colors(analyses: pd.DataFrame) -> dict[str, str]:
    """The colour of every group of lines that is compared; no two have the same one up to ``MOST_COLORS``.

    A model has the colour of its place in the order in which models came; where another one that is compared
    has it already, the next that is free.

    Args:
        analyses: model_id, model and group (``name_groups``) of everything that is compared.

    Returns:
        Colour by group; and by model, that of its first group.
    """
    groups = analyses.drop_duplicates("group").sort_values(["model_id", "group"])
    free = list(range(MOST_COLORS))
    colors: dict[str, str] = {}
    for place, model, group in zip(groups["model_id"], groups["model"], groups["group"], strict=True):
        free = free or list(range(MOST_COLORS))
        wanted = (int(place) - 1) % MOST_COLORS
        slot = min(free, key=lambda each: (each - wanted) % MOST_COLORS)
        free.remove(slot)
        colors[group] = MODEL_COLORS[slot]
        colors.setdefault(model, MODEL_COLORS[slot])
    return colors


def group_color(colors: dict[str, str], frame: pd.DataFrame) -> alt.Color:
    """Colour by group, of those that occur in ``frame``."""
    names = present(colors, frame["group"])
    return alt.Color("group:N", scale=scale(names, colors), legend=group_legend(names))


def group_shape(colors: dict[str, str], frame: pd.DataFrame) -> alt.Shape:
    """Shape of the points by group: the second thing beside the colour that tells groups apart."""
    names = present(colors, frame["group"])
    shapes = {name: COLOR_SHAPES.get(colors[name], SHAPES[0]) for name in names}
    return alt.Shape("group:N", scale=scale(names, shapes), legend=group_legend(names))


def group_legend(names: Sequence[str]) -> alt.Legend:
    """The legend of these groups: a few long names have a row each, many share rows and are cut."""
    if _have_rows(names):
        return legend(column_width=215, shown=shortened(names, 28))
    return legend(column_width=135, shown=shortened(names))


def _have_rows(names: Sequence[str]) -> bool:
    return len(names) <= 3 and max(map(len, names), default=0) > 18


def shortened(names: Sequence[str], most: int = 18) -> dict[str, str]:
    """Names as a legend has room for them: long ones are cut in the middle, but where they would then be the
    same, in what they have in common.

    Args:
        names: Different ones.
        most: Characters of each.
    """
    found = {name: _middle_cut(name, most) for name in names}
    for short in list(found.values()):
        same = [name for name in names if found[name] == short]
        if len(same) > 1:
            start, end = _alike(same), _alike([name[::-1] for name in same])
            end = min(end, min(map(len, same)) - start)
            for name in same:
                found[name] = _around(name, start, len(name) - end, most)
    taken: set[str] = set()
    for name, short in found.items():
        number, unique = 2, short
        while unique in taken:
            unique, number = f"{short} ({number})", number + 1
        found[name] = unique
        taken.add(unique)
    return found


def _middle_cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return text[: most // 2] + "…" + text[len(text) - (most - most // 2 - 1) :]


def _around(name: str, start: int, end: int, most: int) -> str:
    """A name with its part from ``start`` to ``end``, which tells it from others, and some of the rest."""
    own = name[start:end]
    room = most - len(own) - 2
    if room < 0:
        return _middle_cut(own, most)
    behind = min(len(name) - end, room // 3)
    before = min(start, room - behind)
    head = name[:start] if before == start else name[:before] + "…"
    tail = name[end:] if behind == len(name) - end else "…" + name[len(name) - behind :]
    return head + own + tail


def _alike(names: Sequence[str]) -> int:
    """How many characters all names begin with, up to the end of a word or number."""
    same = 0
    for characters in zip(*names, strict=False):
        if len(set(characters)) > 1:
            break
        same += 1
    while same and names[0][same - 1].isalnum():
        same -= 1
    return same


def step_colors(frame: pd.DataFrame) -> alt.Color:
    """Colour by training step, the early ones dark: viridis without its ends, which vanish on a dark and on a
    light page."""
    steps = sorted(frame["step"].unique())
    shown = {str(step): f"{step:,}" for step in steps}
    width = max(62, 22 + 8 * max(map(len, shown.values()), default=0))
    return alt.Color(
        "step:O",
        scale=alt.Scale(domain=steps, scheme=alt.SchemeParams("viridis", extent=[0.15, 0.85])),
        legend=legend("training step", column_width=width, shown=shown),
    )


def step_axis(frame: pd.DataFrame) -> alt.X:
    """The training step."""
    return alt.X("step:Q", title="training step", scale=whole_scale(frame["step"]), axis=whole_axis())


def over_steps(
    frame: pd.DataFrame,
    title: str | list[str],
    colors: dict[str, str],
    tooltip: list[alt.Tooltip],
    *,
    zero: bool = True,
    of: str = "Hessian on",
    axis: alt.Axis | None = None,
    log: bool = False,
) -> tuple[alt.Chart, alt.Chart]:
    """Lines and points over training, in the colour of their group, dashed by split or what ``dash`` has; a
    click on a group in the legend leaves the others pale.

    Args:
        frame: group (lines of one colour), split or dash, series (which line a row belongs to), step, height,
            and method, which the shape of the points tells where there are several, else the group.
        title: Title of the vertical axis.
        colors: Colour of every group.
        tooltip: Tooltip of the points.
        zero: Whether the vertical axis starts at 0.
        of: What is taken on the splits, for the legend.
        axis: The vertical one.
        log: Whether the vertical axis is logarithmic.
    """
    frame = frame if "dash" in frame else frame.assign(dash=frame["split"])
    dashes = dash_patterns(frame["dash"])
    highlighted = alt.selection_point(fields=["group"], bind="legend")
    base = alt.Chart(frame).encode(
        x=step_axis(frame),
        y=alt.Y(
            "height:Q",
            title=title,
            scale=alt.Scale(type="log") if log else alt.Scale(zero=zero),
            axis=axis or (log_axis() if log else alt.Axis()),
        ),
        color=group_color(colors, frame),
        opacity=depending(highlighted, 1.0, 0.15),
    )
    lines = base.mark_line(strokeWidth=2.5).encode(
        detail=alt.Detail("series:N"),
        strokeDash=alt.StrokeDash(
            "dash:N",
            scale=scale(list(dashes), dashes),
            legend=None
            if set(dashes) == {""}  # dashes tell nothing
            else legend(of, column_width=70, orient="bottom", titleOrient="left")
            if dashes.keys() <= SPLIT_DASHES.keys()
            else legend(column_width=120, orient="bottom"),
        ),
    )
    shapes = markers(frame["method"]) if "method" in frame else {}
    methods = present(shapes, frame["method"]) if shapes else []
    keys = legend(
        "method",
        column_width=80,
        orient="bottom",
        beside=60,
        titleOrient="left",
        symbolFillColor=NEUTRAL,
    )
    if len(methods) > 1:
        shape = alt.Shape("method:N", scale=scale(methods, shapes), legend=keys)
    else:
        shape = group_shape(colors, frame)
    points = base.mark_point(filled=True, size=60).encode(tooltip=tooltip, shape=shape)
    return lines, points.add_params(highlighted)


def depending(selected: alt.Parameter, opacity: float, otherwise: float) -> alt.OpacityValue:
    """The opacity of what is selected and of all else. ``alt.condition`` would be looked up in Altair's whole
    schema, which takes longer than the rest of a layer."""
    condition: dict[str, Any] = {"param": selected.name, "value": opacity}
    if selected.empty is not alt.Undefined:
        condition["empty"] = selected.empty
    return alt.OpacityValue(otherwise, condition=condition)


def x_at(place: float | str) -> Any:
    """A fixed horizontal place, in px or as ``width``; ``alt.value`` takes as long as ``alt.condition``."""
    return alt.XValue(place)  # type: ignore[no-untyped-call]


def y_at(place: float) -> Any:
    """A fixed vertical place in px."""
    return alt.YValue(place)  # type: ignore[no-untyped-call]


def dash_patterns(values: pd.Series[str]) -> dict[str, list[float]]:
    """The pattern of every value that dashes tell apart: those of the splits, else one after the other."""
    if not set(values) - SPLIT_DASHES.keys():
        return {name: list(SPLIT_DASHES[name]) for name in present(SPLIT_DASHES, values)}
    return {name: list(DASHES[place % MOST_DASHES]) for place, name in enumerate(sorted(values.unique()))}


def told_spread(frame: pd.DataFrame) -> list[alt.Tooltip]:
    """What a tooltip says of a mean; nothing where the rows are none."""
    if "spread" not in frame:
        return []
    return [
        alt.Tooltip("n:Q", title="mean of", format=",d"),
        alt.Tooltip("spread:Q", title="standard deviation", format=".2g"),
    ]


def spreads(frame: pd.DataFrame, x: alt.X, title: str | list[str], color: alt.Color) -> list[alt.Chart]:
    """A pale band of one standard deviation to both sides of the mean, or a bar where a line has one step;
    nothing where ``frame`` has no means.

    Args:
        frame: series, step, height, and spread (NaN of a single one).
        x: The axis of steps.
        title: Title of the vertical axis.
        color: Colour by group.
    """
    if "spread" not in frame or frame["spread"].isna().all():
        return []
    frame = frame.dropna(subset="spread").assign(
        low=lambda rows: rows["height"] - rows["spread"], high=lambda rows: rows["height"] + rows["spread"]
    )
    y = alt.Y("low:Q", title=title)
    once = frame.groupby("series")["step"].transform("nunique") == 1
    area = alt.Chart(frame[~once]).mark_area(opacity=0.15)
    bar = alt.Chart(frame[once]).mark_rule(opacity=0.25, strokeWidth=7)
    return [
        mark.encode(x=x, y=y, y2=alt.Y2("high:Q"), color=color, detail=alt.Detail("series:N"))
        for mark in (area, bar)
    ]


def on_axes_of(whole: alt.LayerChart, part: alt.LayerChart) -> alt.LayerChart:
    """``part`` with axes that hold all of ``whole``, a chart of the same layers: so that panels that stand
    side by side can be compared."""
    for axis in ("x", "y"):
        values = [value for layer in whole.layer for value in _extent(layer, whole.data, axis)]
        if not values:
            continue
        low, high = min(values), max(values)
        margin = 0.03 * (high - low) or 0.03 * abs(high) or 0.3
        ends = [0.0 if axis == "y" and 0 <= low < 0.5 * high else low - margin, high + margin]
        above = [value for value in values if value > 0]
        for layer in part.layer:
            found: Any = getattr(layer.encoding, axis)
            if isinstance(found, alt.X | alt.Y):
                before = found["scale"]
                kind = alt.Undefined if before is alt.Undefined else before["type"]
                around = [min(above) / 1.3, max(above) * 1.3] if kind == "log" and above else ends
                found["scale"] = alt.Scale(domain=around, nice=False, type=kind)
    return part


def _extent(layer: Any, common: Any, axis: Literal["x", "y"]) -> list[float]:
    """The least and the largest value that a layer, or the data that all layers have, has along an axis;
    nothing where it has none."""
    found: list[float] = []
    for name in (axis, f"{axis}2"):
        field = str(getattr(getattr(layer.encoding, name), "shorthand", "")).partition(":")[0]
        data = layer.data if isinstance(layer.data, pd.DataFrame) else common
        if isinstance(data, pd.DataFrame) and field in data:
            values = data[field].dropna()
            found += [float(values.min()), float(values.max())] if len(values) else []
    return found


def with_legend(height: int, groups: pd.Series[str]) -> int:
    """Height of a chart whose legend of groups takes more than a row, two of them to a row."""
    names = groups.unique().tolist()
    rows = len(names) if _have_rows(names) else -(-len(names) // 2)
    return height + LEGEND_ROW * max(0, rows - 1)


def error_bars(errors: pd.DataFrame, x: alt.X, title: str | list[str], color: alt.Color) -> alt.Chart:
    """A bar from ``low`` to ``high`` through every point; ``title`` as the axis has it, or it has both.

    Few of them have ticks at their ends. Among many these would be lost in each other, and the browser would
    have three marks for one.
    """
    bars: alt.Chart = alt.Chart(errors)
    if len(errors) <= MOST_TICKED:
        bars = bars.mark_errorbar(ticks=True, thickness=1.5)
    else:
        bars = bars.mark_rule(strokeWidth=1.5)
    return bars.encode(
        x=x,
        y=alt.Y("low:Q", title=title),
        y2=alt.Y2("high:Q"),
        color=color,
        detail=alt.Detail("series:N"),
        tooltip=[
            alt.Tooltip("series:N", title="line"),
            alt.Tooltip("step:Q", format=",d"),
            alt.Tooltip("low:Q", title="at least", format=".4g"),
            alt.Tooltip("high:Q", title="at most", format=".4g"),
        ],
    )


def reading(values: pd.DataFrame, x: alt.X) -> alt.Chart:
    """A vertical line at the k under the pointer, whose tooltip lists every column of ``values`` there."""
    nearest = alt.selection_point(
        nearest=True, on="pointerover", fields=["k"], empty=False, clear="pointerout"
    )
    # Fields have names of ours: one with a quote, dot or bracket, as a plug-in's title may have, is no field.
    fields = {name: f"value_{number}" for number, name in enumerate(values.columns)}
    named = [
        alt.Tooltip(field=field, type="quantitative", title=str(name), format=".3g")
        if pd.api.types.is_numeric_dtype(values[name])
        else alt.Tooltip(field=field, type="nominal", title=str(name))
        for name, field in fields.items()
    ]
    rule: alt.Chart = alt.Chart(values.rename(columns=fields).reset_index()).mark_rule(color=NEUTRAL)
    return rule.encode(
        x=x,
        opacity=depending(nearest, 0.8, 0.0),
        tooltip=[alt.Tooltip("k:Q", format=",d"), *named],
    ).add_params(nearest, zoom())


def bounds(frame: pd.DataFrame, around: str, floor: float = 0.0, top: float = 1.0) -> pd.DataFrame:
    """``frame`` with ``low`` and ``high``, overlap ± the column ``around``, within [``floor``, ``top``]."""
    return frame.assign(
        low=(frame["overlap"] - frame[around]).clip(floor, top),
        high=(frame["overlap"] + frame[around]).clip(floor, top),
    )


def band(
    bounds: pd.DataFrame,
    x: alt.X,
    detail: str = "mask:N",
    *,
    color: str = NEUTRAL,
    opacity: float = 0.25,
) -> alt.Chart:
    """Area between ``low`` and ``high``; the grey ones are random masks, mean ± standard deviation."""
    area: alt.Chart = alt.Chart(bounds).mark_area(color=color, opacity=opacity)
    return area.encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), detail=alt.Detail(detail))


def numerical(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of known error, which has become the numerical one: without what ties add to it."""
    known = frame.dropna(subset="error")
    above, below = known["greatest"] - known["overlap"], known["overlap"] - known["least"]
    reach = pd.Series(np.maximum(above, below), known.index)
    return known.assign(error=(known["error"] - reach.fillna(0)).clip(lower=0))


def tied(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows whose mask has to choose among weights of equal magnitude."""
    return frame[frame["tied"] > 0]


def tie_range(
    frame: pd.DataFrame,
    x: alt.X,
    *,
    floor: float = 0.0,
    color: str | None = None,
    by: alt.Color | None = None,
) -> list[alt.Chart]:
    """From the least to the greatest overlap over all ways to break ties, along k: a pale band with dashed
    edges; nothing where there are no ties.

    Args:
        frame: mask, k, overlap, least, greatest, tied, of the magnitude mask.
        x: The axis of k.
        floor: The least overlap that is drawn.
        color: Colour of all of it.
        by: Or the encoding that colours each curve.
    """
    if tied(frame).empty:
        return []
    # Where nothing is tied the range is the curve, so that the band does not reach from one tie to the next.
    ends = {"low": frame["least"], "high": frame["greatest"]}
    ends = {name: end.fillna(frame["overlap"]).clip(floor, 1.0) for name, end in ends.items()}
    frame = frame.assign(**ends)
    fixed = alt.Undefined if color is None else color

    def along_k(chart: alt.Chart) -> alt.Chart:
        """The marks of a chart along k, those of each curve apart."""
        if by is None:
            return chart.encode(x=x, detail=[alt.Detail("mask:N")])
        return chart.encode(x=x, detail=[alt.Detail(by.shorthand)], color=by)

    area = along_k(alt.Chart(frame).mark_area(opacity=0.14, color=fixed))
    edge = along_k(alt.Chart(frame).mark_line(strokeDash=[3, 3], strokeWidth=1.2, color=fixed))
    drawn = [
        area.encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        edge.encode(y=alt.Y("low:Q")),
        edge.encode(y=alt.Y("high:Q")),
    ]
    if few(frame["k"]):
        bars = along_k(alt.Chart(tied(frame)).mark_rule(opacity=0.3, strokeWidth=6, color=fixed))
        drawn.append(bars.encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")))
    return drawn


def with_errors(frame: pd.DataFrame) -> list[str]:
    """Every overlap with its stated error where there is one."""
    return [
        with_error(overlap, error, 3) for overlap, error in zip(frame["overlap"], frame["error"], strict=True)
    ]


def k_axis(frame: pd.DataFrame, log_k: bool) -> alt.X:
    along = alt.Scale(type="log", nice=False) if log_k else whole_scale(frame["k"])
    return alt.X("k:Q", title="k, size of eigenspace and mask", scale=along, axis=whole_axis())


def thin(frame: pd.DataFrame, log_k: bool) -> pd.DataFrame:
    """Keep about ``MOST_POINTS`` values of k, evenly spaced as drawn, the first and the last among them."""
    ks = np.sort(frame["k"].unique())
    if len(ks) <= MOST_POINTS:
        return frame
    spaced = np.geomspace if log_k else np.linspace
    wanted = np.rint(spaced(ks[0], ks[-1], MOST_POINTS))
    return frame[frame["k"].isin(ks[np.searchsorted(ks, wanted)])]


def whole_scale(values: pd.Series[int]) -> alt.Scale:
    """A linear scale from just below the least to just above the largest value, one value included."""
    low, high = values.min(), values.max()
    return alt.Scale(domain=[low - 0.02 * (high - low) - 0.3, high + 0.02 * (high - low) + 0.3], nice=False)


def whole_axis() -> alt.Axis:
    """An axis of whole numbers. Labels stay within its ends: one that stuck out would take room of the chart,
    which the browser would lay out once more."""
    return alt.Axis(
        format=",d", tickMinStep=1, tickCount=alt.ExprRef("width < 450 ? 5 : 10"), labelFlush=FLUSH
    )


def log_axis(count: Any = 6, form: str = "~g") -> alt.Axis:
    """A logarithmic axis of about ``count`` labels, none of which touches the next."""
    return alt.Axis(format=form, tickCount=count, labelOverlap="greedy", labelSeparation=5)


def few(values: pd.Series[int]) -> bool:
    """Whether a line through these values is better drawn with its points."""
    return values.nunique() <= 12


def present(names: Iterable[str], values: pd.Series[str]) -> list[str]:
    """Return the ``names`` that occur in ``values``, in their order."""
    found = set(values)
    return [name for name in names if name in found]


def zoom() -> alt.Parameter:
    """Shift + wheel zooms along x, dragging pans, a double click resets; the plain wheel scrolls the page."""
    return alt.selection_interval(bind="scales", encodings=["x"], zoom="wheel![event.shiftKey]")


def scale(domain: list[str], values: dict[str, Any]) -> alt.Scale:
    return alt.Scale(domain=domain, range=[values[name] for name in domain])


def legend(
    title: str | None = None,
    *,
    column_width: int = 150,
    orient: Literal["top", "bottom"] = "top",
    beside: int = 0,
    shown: dict[str, str] | None = None,
    **more: Any,
) -> alt.Legend:
    """A legend in as many columns as the chart's width holds, ``beside`` px of it being taken by another;
    ``shown`` are shorter labels by value."""
    if shown and any(name != label for name, label in shown.items()):
        more["labelExpr"] = f"({json.dumps(shown)})[datum.label] || datum.label"
    return alt.Legend(
        title=title,
        orient=orient,
        direction="horizontal",
        columns=alt.ExprRef(f"max(1, floor((width - {beside}) / {column_width}))"),
        labelLimit=column_width - 15,
        symbolSize=160,  # px², wide enough for a dash pattern to show
        symbolStrokeWidth=2,
        symbolOpacity=1,
        **more,
    )


class Chart(alt.LayerChart):
    """A chart of layers that is not validated again for every reader, which would take longer than all else:
    the tests do that."""

    def to_dict(self, validate: bool = False, **more: Any) -> dict[str, Any]:
        """The chart's Vega-Lite."""
        found: dict[str, Any] = super().to_dict(validate=validate, **more)
        # Side by side, two legends would be cut on a telephone. Vega has this option, Vega-Lite's schema not.
        below = {"bottom": {"direction": "vertical", "anchor": "start"}}
        found.setdefault("config", {}).setdefault("legend", {})["layout"] = below
        return found


def wrapped(title: str) -> str | list[str]:
    """The title of an axis in lines as short as the axis of a low chart."""
    lines = textwrap.wrap(title, _AXIS_CHARACTERS)
    return lines if len(lines) > 1 else title


class _Layer(alt.Chart):
    """A layer of which a copy has the same parts.

    Altair makes two copies of each with all that is in it, which takes a tenth of the time of a page of
    charts, and changes nothing that is in them.
    """

    def copy(self, deep: bool | Iterable[Any] = True, ignore: list[str] | None = None) -> Self:
        """As Altair's, which copies the parts that are named, but none where all are asked for."""
        return super().copy(False if deep is True else deep, ignore)


def layered(*layers: alt.Chart, height: int = HEIGHT) -> Chart:
    """A chart of layers on common axes, ``height`` px high with legends and axes."""
    # Streamlit aligns the first and the last label of an axis with its ends, which rows of cells do not have.
    config = alt.Config(axisBand=alt.AxisConfig(labelFlush=False))
    shared = [_Layer(*each._args, **each._kwds) for each in layers]
    return Chart(layer=shared, height=height, usermeta=AS_SVG, config=config)
