"""Charts: tidy data from ``core.results.queries`` in, Altair chart out.

Every chart keeps chance level and error in sight, names its values in tooltips, and is drawn as SVG so that
screen readers and tests find its marks. Colours: a model keeps its own on every page (``model_color``), the
neutral grey is chance, and nothing is told apart by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

# Okabe & Ito (2008), without the yellow and the black that vanish on a light or a dark page.
MODEL_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
NEUTRAL = "#808080"  # at least 3.9:1 against both page backgrounds

HEIGHT = 400  # px, legends and axes included
SCREE_HEIGHT = 260
SCREE_FLOOR = 1e-6  # a smaller share is none
MOST_POINTS = 300  # per drawn curve; more than a screen resolves, few enough for 200 curves

MASK_LABELS = {"magnitude": "largest |θ|", "best": "best mask", "random": "random masks, mean ± std"}
CHANCE_LABEL = "chance k/D"
CURVE_LABELS = (*MASK_LABELS.values(), CHANCE_LABEL)
CURVE_DASHES = ([1, 0], [8, 3, 2, 3], [1, 0], [2, 3])
CURVE_WIDTHS = (3, 2, 1.5, 2)  # px

SPLIT_DASHES = {"test": [1, 0], "train": [5, 4]}
METHOD_SHAPES = {"krylov": "circle", "seigh": "square", "ssvd": "triangle-up", "exact": "diamond"}
SIGN_LABELS = {"positive": "λ > 0", "negative": "λ < 0"}
RESIDUAL_LABEL = "residual ‖Hv − λv‖₂"
SPECTRUM_COLORS = {"λ > 0": "#0072B2", "λ < 0": "#D55E00", RESIDUAL_LABEL: NEUTRAL}
SPECTRUM_SHAPES = {"λ > 0": "circle", "λ < 0": "triangle-down", RESIDUAL_LABEL: "cross"}

# What makes a line over training.
LINE_COLUMNS = ["model", "split", "curvature", "subset", "method", "samples", "seed", "data"]

OVERLAP_TITLE = "overlap(M, Vₖ)"
ERROR_LABEL = "stated error"

Measure = Literal["overlap", "ratio"]


def model_color(model_id: int) -> str:
    """The colour of a model: a function of its database id, so it never changes as models come and go."""
    return MODEL_COLORS[(model_id - 1) % len(MODEL_COLORS)]


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
    kinds = _present(SPECTRUM_COLORS, points["kind"])
    x = alt.X(
        "position:Q",
        title="position, by descending |λ|",
        scale=_whole_scale(frame["position"]),
        axis=_whole_axis(),
    )
    color = alt.Color("kind:N", scale=_scale(kinds, SPECTRUM_COLORS), legend=_legend())
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
                axis=alt.Axis(format="~g", tickCount=6),
            ),
            color=color,
            shape=alt.Shape("kind:N", scale=_scale(kinds, SPECTRUM_SHAPES), legend=_legend()),
            tooltip=tooltip,
        )
    )
    error = alt.Chart(bars).mark_rule(opacity=0.4).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color)
    # Where hundreds of points touch, a row of ticks for each sign still shows which is which.
    rows = [
        alt.Chart(frame[frame["kind"] == kind])
        .mark_tick(orient="vertical", size=7, thickness=1, opacity=1)
        .encode(x=x, y=alt.value(height), color=color, tooltip=tooltip)
        for kind, height in zip(SIGN_LABELS.values(), (6, 15), strict=True)  # px from the top
        if kind in kinds
    ]
    return _layered(*rows, error, marks.add_params(_zoom()))


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
    x = alt.X("position:Q", title="rank r", scale=_whole_scale(bounds["position"]), axis=_whole_axis())
    y = alt.Y(
        "low:Q",
        title="share of ‖H‖²_F missed",
        scale=alt.Scale(type="log", domain=[bounds["low"].min() / 1.5, 1.0], nice=False),
        axis=alt.Axis(format="~p", tickCount=5),
    )
    tooltip = [
        alt.Tooltip("position:Q", title="rank r", format=",d"),
        alt.Tooltip("scree_lower:Q", title="at least", format=".3%"),
        alt.Tooltip("scree_upper:Q", title="at most", format=".3%"),
    ]
    base = alt.Chart(bounds).encode(x=x, y=y, tooltip=tooltip)
    band = base.mark_area(color=MODEL_COLORS[0], opacity=0.3).encode(y2="high:Q")
    ends = [
        base.mark_line(color=MODEL_COLORS[0], strokeWidth=1.5, point=_few(bounds["position"])).encode(y=end)
        for end in (y, alt.Y("high:Q"))
    ]
    return _layered(band, ends[0].add_params(_zoom()), ends[1], height=SCREE_HEIGHT)


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
        frame: ``queries.overlap_curves`` of one analysis, all masks: mask, k, overlap, std, error, chance.
        color: The model's colour, for the magnitude mask and the band of its stated error.
        resolved_k: Beyond it not every overlap is known to 1 %, and the chart is shaded; None: not known.
        log_k: Log axis for k.
        log_overlap: Log axis for the overlap.
    """
    frame = _thin(frame, log_k)
    chance = frame.drop_duplicates("k").assign(series=CHANCE_LABEL, overlap=lambda rows: rows["chance"])
    lines = pd.concat([frame.assign(series=frame["mask"].map(MASK_LABELS)), chance])
    names = _present(CURVE_LABELS, lines["series"])
    colors = dict.fromkeys(CURVE_LABELS, NEUTRAL) | {MASK_LABELS["magnitude"]: color}
    x = _k_axis(frame, log_k)
    legend = _legend(column_width=180)
    curves = (
        alt.Chart(lines)
        .mark_line(point=_few(frame["k"]))
        .encode(
            x=x,
            y=_overlap_axis(frame, log_overlap),
            color=alt.Color("series:N", scale=_scale(names, colors), legend=legend),
            strokeDash=alt.StrokeDash(
                "series:N", scale=_scale(names, _by_label(CURVE_DASHES)), legend=legend
            ),
            strokeWidth=alt.StrokeWidth(
                "series:N", scale=_scale(names, _by_label(CURVE_WIDTHS)), legend=None
            ),
        )
    )
    random, magnitude = frame[frame["mask"] == "random"], frame[frame["mask"] == "magnitude"]
    floor = _log_floor(frame) if log_overlap else 0.0
    spread = _band(_bounds(random, "std", floor), x)
    known = _bounds(magnitude.dropna(subset="error"), "error", floor)
    error = [] if known.empty else [_band(known, x, color=color, opacity=0.35)]
    values = frame.pivot(index="k", columns="mask", values="overlap")[_present(MASK_LABELS, frame["mask"])]
    values = values.rename(columns=MASK_LABELS | {"random": "random masks, mean"})
    values.insert(1, ERROR_LABEL, magnitude.set_index("k")["error"])
    values = values.dropna(axis="columns", how="all").assign(
        **{
            "random masks, std": random.set_index("k")["std"],
            CHANCE_LABEL: frame.drop_duplicates("k").set_index("k")["chance"],
            "largest |θ| ÷ chance": magnitude.set_index("k")["ratio"],
        }
    )
    return _layered(*_unresolved(frame["k"], resolved_k, x), spread, *error, curves, _reading(values, x))


def _unresolved(ks: pd.Series[int], resolved_k: int | None, x: alt.X) -> list[alt.Chart]:
    """A shade over the values of k beyond the resolved ones, and the words for it."""
    last = int(ks.max())
    if resolved_k is None or resolved_k >= last:
        return []
    start = max(resolved_k + 0.5, float(ks.min()))
    ends = alt.Chart(pd.DataFrame({"k": [start], "end": [last + 0.5]}))
    words = f"k > {resolved_k:,}: not all resolved to 1 %" if resolved_k else "not resolved to 1 %"
    shade = ends.mark_rect(color=NEUTRAL, opacity=0.14).encode(x=x, x2="end:Q")
    text = ends.mark_text(text=words, align="right", baseline="bottom", color=NEUTRAL, clip=False)
    return [shade, text.encode(x=alt.value("width"), y=alt.value(-3))]  # above the curves


def overlap_by_step(
    frame: pd.DataFrame, colors: dict[str, str], measure: Measure = "overlap"
) -> alt.LayerChart:
    """Overlap of the magnitude mask against training step at one k, absolute or as ratio to chance.

    Args:
        frame: ``queries.overlap_by_step`` with the masks ``magnitude`` and ``random``, and a column
            ``series`` that names the line each row belongs to (``name_series``).
        colors: Colour of every model by name.
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
    unit = random["chance"] if ratio else 1.0
    random = _bounds(random, "std")
    random[["low", "high"]] = random[["low", "high"]].div(unit, axis="index")
    # One band a model and D: splits and methods draw their random masks from the same D coordinates.
    random = random.groupby(["model", "chance", "step"], as_index=False).agg(
        low=("low", "min"), high=("high", "max")
    )
    errors = _bounds(found.dropna(subset="error"), "error")
    errors[["low", "high"]] = errors[["low", "high"]].div(errors["chance"] if ratio else 1.0, axis="index")
    chance = found.drop_duplicates("chance").assign(level=lambda rows: 1.0 if ratio else rows["chance"])
    chance = chance.drop_duplicates("level")

    title = "overlap ÷ chance" if ratio else OVERLAP_TITLE
    models = _present(colors, found["model"])
    methods = _present(METHOD_SHAPES, found["method"])
    highlighted = alt.selection_point(fields=["model"], bind="legend")
    color = alt.Color("model:N", scale=_scale(models, colors), legend=_legend())
    x = alt.X("step:Q", title="training step", scale=_whole_scale(found["step"]), axis=_whole_axis())
    base = alt.Chart(found).encode(
        x=x,
        y=alt.Y(
            "height:Q",
            title=title,
            scale=alt.Scale(zero=True),
        ),
        color=color,
        opacity=alt.condition(highlighted, alt.value(1.0), alt.value(0.15)),
    )
    lines = base.mark_line(strokeWidth=2.5).encode(
        detail="series:N",
        strokeDash=alt.StrokeDash(
            "split:N",
            scale=_scale(_present(SPLIT_DASHES, found["split"]), SPLIT_DASHES),
            legend=_legend("Hessian on", column_width=70, orient="bottom"),
        ),
    )
    points = (
        base.mark_point(filled=True, size=60)
        .encode(
            shape=alt.Shape(
                "method:N",
                scale=_scale(methods, METHOD_SHAPES),
                legend=_legend(
                    "method", column_width=80, orient="bottom", beside=170, symbolFillColor=NEUTRAL
                )
                if len(methods) > 1
                else None,
            ),
            tooltip=[
                alt.Tooltip("series:N", title="line"),
                alt.Tooltip("step:Q", format=",d"),
                alt.Tooltip("k:Q", format=",d"),
                alt.Tooltip("overlap:Q", format=".3g"),
                alt.Tooltip("error:Q", title=ERROR_LABEL, format=".2g"),
                alt.Tooltip("chance:Q", title=CHANCE_LABEL, format=".3g"),
                alt.Tooltip("ratio:Q", title="overlap ÷ chance", format=".3g"),
                alt.Tooltip("overlap_random:Q", title="random masks, mean", format=".3g"),
                alt.Tooltip("std_random:Q", title="random masks, std", format=".3g"),
                alt.Tooltip("test_accuracy:Q", title="test accuracy", format=".2%"),
                alt.Tooltip("lambda_max:Q", title="λ₁", format=".4g"),
            ],
        )
        .add_params(highlighted)
    )
    bars = (
        alt.Chart(errors)
        .mark_errorbar(ticks=True, thickness=1.5)
        .encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=color, detail="series:N")
    )
    level = (
        alt.Chart(chance)
        .mark_rule(strokeDash=[2, 3], strokeWidth=2)
        .encode(
            y=alt.Y("level:Q"),
            color=color if len(chance) > 1 else alt.value(NEUTRAL),
            tooltip=[alt.Tooltip("level:Q", title="chance" if ratio else CHANCE_LABEL, format=".3g")],
        )
    )
    text = (
        alt.Chart(chance if len(chance) == 1 else chance.head(0))  # several would hide the lines
        .mark_text(
            align="right", baseline="bottom", dy=-5, color=NEUTRAL, text="chance" if ratio else CHANCE_LABEL
        )
        .encode(x=alt.value("width"), y="level:Q")
    )
    return _layered(_band(random, x, detail=["model:N", "chance:N"]), level, bars, lines, points, text)


def overlap_by_k(frame: pd.DataFrame, *, log_k: bool = False, top: float | None = None) -> alt.LayerChart:
    """Overlap against k at several training steps of one model, coloured by step, above chance.

    Args:
        frame: ``queries.overlap_curves`` with the mask ``magnitude``, one analysis a step: step, k,
            overlap, chance.
        log_k: Log axis for k.
        top: Upper end of the overlap axis, to give neighbouring panels the same one.
    """
    frame = _thin(frame, log_k)
    steps = sorted(frame["step"].unique())
    x = _k_axis(frame, log_k)
    # Viridis without its ends, which vanish on a dark and on a light page.
    color = alt.Color(
        "step:O",
        scale=alt.Scale(domain=steps, scheme=alt.SchemeParams("viridis", extent=[0.15, 0.85])),
        legend=_legend("training step", column_width=62),
    )
    curves = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2, point=_few(frame["k"]))
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
    errors = _band(_bounds(frame.dropna(subset="error"), "error"), x, opacity=0.3).encode(color=color)
    chance = frame.drop_duplicates("k")
    level = alt.Chart(chance).mark_line(color=NEUTRAL, strokeDash=[2, 3], strokeWidth=2)
    text = alt.Chart(chance.nlargest(1, "k")).mark_text(
        align="right", baseline="top", dy=16, color=NEUTRAL, text=CHANCE_LABEL
    )
    values = frame.assign(value=_with_errors(frame)).pivot(index="k", columns="step", values="value")
    values.columns = [f"step {step:,}" for step in values.columns]
    values[CHANCE_LABEL] = chance.set_index("k")["chance"]
    return _layered(
        level.encode(x=x, y="chance:Q"), errors, curves, text.encode(x=x, y="chance:Q"), _reading(values, x)
    )


def distinct_lines(analyses: pd.DataFrame) -> pd.DataFrame:
    """``queries.comparable`` with one analysis for each point of a line.

    Of analyses that differ in none of ``LINE_COLUMNS`` the one with the largest k stays, then the latest.
    """
    ranked = analyses.sort_values(["k", "analysis_id"])
    kept = ranked.drop_duplicates([*LINE_COLUMNS, "step"], keep="last")
    return analyses[analyses["analysis_id"].isin(kept["analysis_id"])]


def name_series(analyses: pd.DataFrame) -> pd.Series[str]:
    """Name each row's line by what tells it from the others.

    That is model and split, and those of curvature, chosen parameters, method, N, seed and data that differ
    somewhere in ``analyses``.
    """
    names = analyses["model"].astype(str) + " · " + analyses["split"].astype(str)
    differing = {"curvature": "", "subset": "", "method": "", "samples": "N = ", "seed": "seed ", "data": ""}
    for column, prefix in differing.items():
        if analyses[column].nunique() > 1:
            names = names + " · " + prefix + analyses[column].astype(str).str.slice(0, 15)
    return names.rename("series")


def _reading(values: pd.DataFrame, x: alt.X) -> alt.Chart:
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
    return (
        alt.Chart(values.reset_index())
        .mark_rule(color=NEUTRAL)
        .encode(
            x=x,
            opacity=alt.condition(nearest, alt.value(0.8), alt.value(0.0)),
            tooltip=[alt.Tooltip("k:Q", format=",d"), *named],
        )
        .add_params(nearest, _zoom())
    )


def _bounds(frame: pd.DataFrame, around: str, floor: float = 0.0) -> pd.DataFrame:
    """``frame`` with ``low`` and ``high``, overlap ± the column ``around``, but within [``floor``, 1]."""
    return frame.assign(
        low=(frame["overlap"] - frame[around]).clip(floor, 1.0),
        high=(frame["overlap"] + frame[around]).clip(floor, 1.0),
    )


def _band(
    bounds: pd.DataFrame,
    x: alt.X,
    detail: str | list[str] = "mask:N",
    *,
    color: str = NEUTRAL,
    opacity: float = 0.25,
) -> alt.Chart:
    """Area between ``low`` and ``high``; the grey ones are random masks, mean ± standard deviation."""
    area = alt.Chart(bounds).mark_area(color=color, opacity=opacity)
    return area.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", detail=detail)


def _with_errors(frame: pd.DataFrame) -> list[str]:
    """Every overlap with its stated error where there is one."""
    return [
        f"{overlap:.3g}" + ("" if np.isnan(error) else f" ± {error:.1g}")
        for overlap, error in zip(frame["overlap"], frame["error"], strict=True)
    ]


def _overlap_axis(frame: pd.DataFrame, log: bool) -> alt.Y:
    """The overlap, from 0, or on a log axis that starts a decade below the smallest chance level."""
    scale = alt.Scale(type="log", domain=[_log_floor(frame), 1], clamp=True) if log else alt.Scale()
    return alt.Y("overlap:Q", title=OVERLAP_TITLE, scale=scale)


def _log_floor(frame: pd.DataFrame) -> float:
    return float(frame["chance"].min()) / 10


def _k_axis(frame: pd.DataFrame, log_k: bool) -> alt.X:
    scale = alt.Scale(type="log", nice=False) if log_k else _whole_scale(frame["k"])
    return alt.X("k:Q", title="k, size of eigenspace and mask", scale=scale, axis=_whole_axis())


def _thin(frame: pd.DataFrame, log_k: bool) -> pd.DataFrame:
    """Keep about ``MOST_POINTS`` values of k, evenly spaced as drawn, the first and the last among them."""
    ks = np.sort(frame["k"].unique())
    if len(ks) <= MOST_POINTS:
        return frame
    spaced = np.geomspace if log_k else np.linspace
    wanted = np.rint(spaced(ks[0], ks[-1], MOST_POINTS))
    return frame[frame["k"].isin(ks[np.searchsorted(ks, wanted)])]


def _whole_scale(values: pd.Series[int]) -> alt.Scale:
    """A linear scale from just below the least to just above the largest value, one value included."""
    low, high = values.min(), values.max()
    return alt.Scale(domain=[low - 0.02 * (high - low) - 0.3, high + 0.02 * (high - low) + 0.3], nice=False)


def _whole_axis() -> alt.Axis:
    """An axis of whole numbers."""
    return alt.Axis(format=",d", tickMinStep=1, tickCount=alt.ExprRef("width < 450 ? 5 : 10"))


def _few(values: pd.Series[int]) -> bool:
    """Whether a line through these values is better drawn with its points."""
    return values.nunique() <= 12


def _present(names: Iterable[str], values: pd.Series[str]) -> list[str]:
    """Those of ``names`` that occur in ``values``, in the order of ``names``."""
    found = set(values)
    return [name for name in names if name in found]


def _by_label(values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(CURVE_LABELS, values, strict=True))


def _zoom() -> alt.Parameter:
    """Shift + wheel zooms along x, dragging pans, a double click resets; the plain wheel scrolls the page."""
    return alt.selection_interval(bind="scales", encodings=["x"], zoom="wheel![event.shiftKey]")


def _scale(domain: list[str], values: dict[str, Any]) -> alt.Scale:
    return alt.Scale(domain=domain, range=[values[name] for name in domain])


def _legend(
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


def _layered(*layers: alt.Chart, height: int = HEIGHT) -> alt.LayerChart:
    # SVG: marks are found by screen readers and tests, and stay sharp when printed.
    return alt.LayerChart(layer=list(layers), height=height, usermeta={"embedOptions": {"renderer": "svg"}})
