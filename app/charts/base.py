"""What all charts share: colours, scales, axes, legends, the pointer's rule, and how one is put together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from seigh.core.methods import markers

# Okabe & Ito (2008), without the yellow and the black that vanish on a light or a dark page.
MODEL_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
NEUTRAL = "#808080"  # at least 3.9:1 against both page backgrounds

HEIGHT = 400  # px, legends and axes included
LEGEND_ROW = 24
MOST_POINTS = 300  # per drawn curve; more than a screen resolves, few enough for 200 curves

SPLIT_DASHES = {"test": [1, 0], "train": [5, 4]}

CHANCE_LABEL = "chance k/D"
OVERLAP_TITLE = "overlap(M, Vₖ)"
ERROR_LABEL = "stated error"


def model_color(model_id: int) -> str:
    """The colour of a model: a function of its database id, so it never changes as models come and go."""
    return MODEL_COLORS[(model_id - 1) % len(MODEL_COLORS)]


def model_colors(colors: dict[str, str], frame: pd.DataFrame) -> alt.Color:
    """Colour by model, of those that occur in ``frame``."""
    return alt.Color("model:N", scale=scale(present(colors, frame["model"]), colors), legend=legend())


def step_colors(frame: pd.DataFrame) -> alt.Color:
    """Colour by training step, the early ones dark: viridis without its ends, which vanish on a dark and on a
    light page."""
    steps = sorted(frame["step"].unique())
    return alt.Color(
        "step:O",
        scale=alt.Scale(domain=steps, scheme=alt.SchemeParams("viridis", extent=[0.15, 0.85])),
        legend=legend("training step", column_width=62),
    )


def step_axis(frame: pd.DataFrame) -> alt.X:
    """The training step."""
    return alt.X("step:Q", title="training step", scale=whole_scale(frame["step"]), axis=whole_axis())


def over_steps(
    frame: pd.DataFrame,
    title: str,
    colors: dict[str, str],
    tooltip: list[alt.Tooltip],
    *,
    zero: bool = True,
    of: str = "Hessian on",
    axis: alt.Axis | None = None,
) -> tuple[alt.Chart, alt.Chart]:
    """Lines and points over training, in the colour of their model, dashed by split; a click on a model in
    the legend leaves the others pale.

    Args:
        frame: model, split, series (which line a row belongs to), step, height, and method where methods are
            to be told apart by the shape of the points.
        title: Of the vertical axis.
        colors: Colour of every model by name.
        tooltip: Of the points.
        zero: Whether the vertical axis starts at 0.
        of: What is taken on the splits, for the legend.
        axis: The vertical one.
    """
    highlighted = alt.selection_point(fields=["model"], bind="legend")
    base = alt.Chart(frame).encode(
        x=step_axis(frame),
        y=alt.Y("height:Q", title=title, scale=alt.Scale(zero=zero), axis=axis or alt.Axis()),
        color=model_colors(colors, frame),
        opacity=alt.condition(highlighted, alt.value(1.0), alt.value(0.15)),
    )
    lines = base.mark_line(strokeWidth=2.5).encode(
        detail="series:N",
        strokeDash=alt.StrokeDash(
            "split:N",
            scale=scale(present(SPLIT_DASHES, frame["split"]), SPLIT_DASHES),
            legend=legend(of, column_width=70, orient="bottom", titleOrient="left"),
        ),
    )
    shapes = markers(frame["method"]) if "method" in frame else {}
    methods = present(shapes, frame["method"]) if shapes else []
    keys = legend(
        "method",
        column_width=80,
        orient="bottom",
        beside=290,
        titleOrient="left",
        symbolFillColor=NEUTRAL,
    )
    points = base.mark_point(filled=True, size=60).encode(tooltip=tooltip)
    if methods:
        points = points.encode(
            shape=alt.Shape(
                "method:N", scale=scale(methods, shapes), legend=keys if len(methods) > 1 else None
            )
        )
    return lines, points.add_params(highlighted)


def with_legend(height: int, models: pd.Series[str]) -> int:
    """Height of a chart whose legend of models takes more than a row, two of them to a row."""
    return height + LEGEND_ROW * max(0, -(-models.nunique() // 2) - 1)


def error_bars(errors: pd.DataFrame, x: alt.X, title: str, color: alt.Color) -> alt.Chart:
    """A bar from ``low`` to ``high`` through every point; ``title`` as the axis has it, or it has both."""
    bars: alt.Chart = alt.Chart(errors).mark_errorbar(ticks=True, thickness=1.5)
    return bars.encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=color, detail="series:N")


def reading(values: pd.DataFrame, x: alt.X) -> alt.Chart:
    """A vertical line at the k under the pointer, whose tooltip lists every column of ``values`` there."""
    nearest = alt.selection_point(
        nearest=True, on="pointerover", fields=["k"], empty=False, clear="pointerout"
    )
    named = [
        alt.Tooltip(field=name, type="quantitative", title=name, format=".3g")
        if pd.api.types.is_numeric_dtype(values[name])
        else alt.Tooltip(field=name, type="nominal", title=name)
        for name in values.columns
    ]
    rule: alt.Chart = alt.Chart(values.reset_index()).mark_rule(color=NEUTRAL)
    return rule.encode(
        x=x,
        opacity=alt.condition(nearest, alt.value(0.8), alt.value(0.0)),
        tooltip=[alt.Tooltip("k:Q", format=",d"), *named],
    ).add_params(nearest, zoom())


def bounds(frame: pd.DataFrame, around: str, floor: float = 0.0) -> pd.DataFrame:
    """``frame`` with ``low`` and ``high``, overlap ± the column ``around``, but within [``floor``, 1]."""
    return frame.assign(
        low=(frame["overlap"] - frame[around]).clip(floor, 1.0),
        high=(frame["overlap"] + frame[around]).clip(floor, 1.0),
    )


def band(
    bounds: pd.DataFrame,
    x: alt.X,
    detail: str | list[str] = "mask:N",
    *,
    color: str = NEUTRAL,
    opacity: float = 0.25,
) -> alt.Chart:
    """Area between ``low`` and ``high``; the grey ones are random masks, mean ± standard deviation."""
    area: alt.Chart = alt.Chart(bounds).mark_area(color=color, opacity=opacity)
    return area.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", detail=detail)


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
        color: Of all of it.
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
    drawn = [area.encode(y="low:Q", y2="high:Q"), edge.encode(y="low:Q"), edge.encode(y="high:Q")]
    if few(frame["k"]):
        bars = along_k(alt.Chart(tied(frame)).mark_rule(opacity=0.3, strokeWidth=6, color=fixed))
        drawn.append(bars.encode(y="low:Q", y2="high:Q"))
    return drawn


def with_errors(frame: pd.DataFrame) -> list[str]:
    """Every overlap with its stated error where there is one."""
    return [
        f"{overlap:.3g}" + ("" if np.isnan(error) else f" ± {error:.1g}")
        for overlap, error in zip(frame["overlap"], frame["error"], strict=True)
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
    """An axis of whole numbers."""
    return alt.Axis(format=",d", tickMinStep=1, tickCount=alt.ExprRef("width < 450 ? 5 : 10"))


def few(values: pd.Series[int]) -> bool:
    """Whether a line through these values is better drawn with its points."""
    return values.nunique() <= 12


def present(names: Iterable[str], values: pd.Series[str]) -> list[str]:
    """Those of ``names`` that occur in ``values``, in the order of ``names``."""
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
    **more: Any,
) -> alt.Legend:
    """A legend in as many columns as the chart's width holds, ``beside`` px of it being taken by another."""
    return alt.Legend(
        title=title,
        orient=orient,
        direction="horizontal",
        columns=alt.ExprRef(f"max(1, floor((width - {beside}) / {column_width}))"),
        labelLimit=column_width - 20,
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
        return found


def layered(*layers: alt.Chart, height: int = HEIGHT) -> Chart:
    """A chart of layers on common axes, ``height`` px high with legends and axes."""
    # SVG: marks are found by screen readers and tests, and stay sharp when printed.
    return Chart(layer=list(layers), height=height, usermeta={"embedOptions": {"renderer": "svg"}})
