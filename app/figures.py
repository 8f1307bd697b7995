"""Every figure, composed once: pages, reports and downloads show the same ``Figure``.

A function here takes a table of ``seigh.core.lab.queries`` and gives a figure: its words, and the chart
of ``app/charts`` that draws it. Figures of plug-ins (``Registry.figure``) come through ``of_plugins``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from seigh.app import charts
from seigh.app.checks import TIES_ALONG_K, ties_among
from seigh.app.digits import counted_or_measured, number, with_ends, with_error
from seigh.core.errors import UserError, first_line
from seigh.core.figures import Figure
from seigh.core.lab import queries
from seigh.core.lab.listing import Column, is_observable
from seigh.core.names import METRICS

_log = logging.getLogger(__name__)

# --- What the words have in common ------------------------------------------------------------------------

OVERLAP_SYMBOLS = (
    "M: a mask of k of the D weights; unless said otherwise, the k of largest |θ|. Vₖ: the span of the k "
    "eigenvectors of the Hessian of largest |λ|. overlap(M, Vₖ) = ‖MᵀVₖ‖²_F / k, from 0 to 1. Chance is k/D. "
    "ρ: k/D, the mask's share of the parameters. Best mask: the k coordinates that hold most of Vₖ. Stated "
    "error: how far the overlap may be from the overlap with the true eigenspace, given the residuals; it "
    "covers every possible mask if weights of equal magnitude admit several."
)
EIGENVALUE_SYMBOLS = (
    "λ: an eigenvalue of the matrix H of the analysis; λ₁: the one of largest |λ|. v: its computed unit "
    "eigenvector. ‖Hv − λv‖₂: the residual; H has an eigenvalue within this distance of λ, up to rounding "
    "errors, which are measured in float64 on some pairs and added."
)
SCREE_SYMBOLS = (
    "‖H‖²_F: the sum of all squared eigenvalues of H, estimated from products with random vectors. A matrix "
    "of rank r misses the eigenvalues after the r-th. Bounds by Tropp et al., arXiv 1902.08651, §6.5."
)
LAYER_SYMBOLS = (
    "Vₖ: the span of the k eigenvectors of largest |λ|. Its mass on a weight is the squared length of the "
    "weight's row of Vₖ; all masses sum to k. Mask: the k weights of largest |θ|. Overlap: the mass of Vₖ on "
    "the mask. The chart shows each tensor's share of these; the shares of all tensors sum to 1."
)
MAGNITUDE_SYMBOLS = (
    "Mass of Vₖ on a weight: the squared length of the weight's row of Vₖ. Divided by the mean over all "
    "weights, k/D, it is 1 if the eigenspace is unrelated to magnitudes."
)
METRIC_SYMBOLS = (
    "θ: the k principal angles between two k-dimensional subspaces; their cosines are the singular values of "
    "UᵀV for orthonormal bases U and V. All but the overlap are distances. Likeness is 1 − distance ÷ the "
    "largest possible distance, so that for every metric 1 means equal and 0 orthogonal."
)
MASK_SYMBOLS = (
    "IoU of two masks of k weights: the share of the weights in either mask that are in both. Chance: the "
    "mean IoU of two random masks, which have k²/D weights in common on average."
)
PAIR_SYMBOLS = (
    "Mask: the k weights of largest |θ| of a checkpoint. IoU of two masks: the share of the weights in "
    "either mask that are in both. Vₖ: the span of the k eigenvectors of largest |λ|; the overlap of two "
    "such spaces is ‖UₖᵀVₖ‖²_F / k. ρ: k/D. At random, the IoU is about ρ/(2 − ρ) and the overlap is ρ."
)

ZOOM = "Point at the chart for its values; shift + wheel zooms."

# What the columns of the queries' tables mean, for those who download them.
COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "analysis_id": "number of the analysis",
        "first_id": "number of the first analysis of a pair",
        "second_id": "number of the second analysis of a pair",
        "first_step": "training step of the first analysis",
        "second_step": "training step of the second analysis",
        "model": "name of the model",
        "step": "training step of the checkpoint",
        "split": "split of the data on which the matrix was computed, or on which a metric was recorded",
        "curvature": "hessian or ggn",
        "method": "method that computed the eigenpairs",
        "seed": "seed of the analysis",
        "samples": "N, number of samples",
        "parameters": "D, number of parameters; for a tensor, its number of parameters",
        "series": "the line of the chart",
        "group": "the colour of the chart",
        "dash": "the dash of the chart",
        "panel": "the panel of the chart",
        "n": "number of analyses in a mean",
        "spread": "standard deviation over the analyses of a mean (n − 1)",
        "base": "the line that is the baseline",
        "mask": "which mask: magnitude, random or best; for layers, the tensor's share of the mask",
        "k": "size of eigenspace and mask",
        "overlap": "overlap with the eigenspace, 0 to 1; for random masks, the mean; for layers, the share",
        "std": "standard deviation over random masks",
        "std_error": "stated error of the standard deviation over random masks",
        "error": "stated error: how far the value may be from its value for the true eigenspace",
        "least": "least overlap over all choices among equal magnitudes",
        "greatest": "greatest overlap over all choices among equal magnitudes",
        "tied": "number of equal magnitudes that compete for places in the mask",
        "chance": "average value for an unrelated eigenspace or mask",
        "ratio": "overlap ÷ chance",
        **{
            f"{name}_ratio": f"{told} of the ratio, of a mean over several chance levels"
            for name, told in (
                ("std", "standard deviation over random masks"),
                ("std_error", "stated error of the standard deviation over random masks"),
                ("error", "stated error"),
                ("least", "least value over equal magnitudes"),
                ("greatest", "greatest value over equal magnitudes"),
                ("spread", "standard deviation over the analyses"),
            )
        },
        "test_accuracy": "test accuracy that the checkpoint recorded, 0 to 1",
        "lambda_max": "λ₁, the eigenvalue of largest magnitude",
        "position": "rank by descending |λ|, from 1; for tensors and bins, their number from 0",
        "value": "the value",
        "magnitude": "|λ|",
        "sign": "sign of the eigenvalue",
        "residual": "‖Hv − λv‖₂",
        "scree_lower": "share of ‖H‖²_F that this rank misses, at least (95 %)",
        "scree_upper": "share of ‖H‖²_F that this rank misses, at most (95 %)",
        "metric": "which metric",
        "curve": "name of the curve",
        "observable": "name of the profile or quantity",
        "title": "what it is",
        "note": "how to read it",
        "unit": "unit of the value; empty if it has none",
        "x": "place on the profile's own axis",
        "line": "number of the line of a profile, such as that of an eigenvector",
        "lower": "lower end of the error or interval",
        "upper": "upper end of the error or interval",
        "reference": "reference value",
        "x_title": "what x is",
        "line_title": "what the number of a line counts",
        "reference_title": "what the reference is",
        "log": "whether values are drawn on a log axis",
        "random_mean": "mean over random subspaces",
        "random_std": "standard deviation over random subspaces",
        "normalised": "likeness, 1 for equal subspaces and 0 for orthogonal ones",
        "normalised_error": "error of the likeness",
        "normalised_random_mean": "mean likeness of random subspaces",
        "normalised_random_std": "standard deviation of the likeness of random subspaces",
        "height": "what is drawn",
        "low": "lower end of the error, or 10 % quantile",
        "high": "upper end of the error, or 90 % quantile",
        "random_low": "mean of random subspaces less one standard deviation",
        "random_high": "mean of random subspaces plus one standard deviation",
        "measure": "iou of two masks, or a metric of two eigenspaces",
        "name": "name of the parameter tensor",
        "eigenspace": "share of the eigenspace's mass in the tensor",
        "count": "number of weights in the bin",
        "largest": "largest |θ| of the bin",
        "smallest": "smallest |θ| of the bin",
        "mean": "mean mass of the eigenspace on a weight of the bin, or mean over random subspaces",
        "median": "median mass of the eigenspace on a weight of the bin",
        "stage": "stage of the analysis",
        "seconds": "time in s",
        "hvps": "Hessian-vector products",
        "dimension": "D, dimension of the whole space",
        "kind": "subspaces, or masks of k coordinates",
        "draws": "number of draws",
        "normalised_mean": "mean likeness",
        "normalised_std": "standard deviation of the likeness",
    }
)


@dataclass(frozen=True)
class Size:
    """At which k analyses are compared: one for all of them, or a share ρ of the parameters of each."""

    k: int | None = None
    rho: float | None = None

    def __str__(self) -> str:
        return f"k = {self.k:,}" if self.rho is None else f"ρ = {self.rho:g}"

    @property
    def in_url(self) -> dict[str, list[str]]:
        """Return the parameters that stand for it in the address."""
        return {"k": [str(self.k)]} if self.rho is None else {"rho": [f"{self.rho:g}"]}

    def of(self, parameters: int) -> int:
        """The k of a model of so many parameters."""
        return max(1, self.k or 1) if self.rho is None else queries.at_sparsity(self.rho, parameters)


def table_of(figure: Figure) -> pd.DataFrame:
    """Return the table that a figure draws and its downloads contain."""
    return figure.table if isinstance(figure.table, pd.DataFrame) else pd.DataFrame(figure.table)


def chart_of(figure: Figure) -> Any:
    """The chart of a figure, drawn as SVG: its marks are found by screen readers, and stay sharp in print."""
    chart = figure.draw(table_of(figure))
    if chart.usermeta is alt.Undefined:
        chart.usermeta = charts.AS_SVG
    return chart


def told_columns(figure: Figure) -> dict[str, str]:
    """Return the meaning of each column of a figure's table, where it is stated."""
    told = {**COLUMNS, **figure.columns}
    return {str(column): told[column] for column in table_of(figure).columns if column in told}


# --- Over training ----------------------------------------------------------------------------------------


def overlap_over_training(points: pd.DataFrame, colors: Mapping[str, str], size: Size) -> Figure:
    """The overlap over training, of ``queries.overlap_by_step`` with series and group."""
    ties = ties_among(points)
    return Figure(
        title=f"Overlap over training, {size}",
        how="above the dotted chance level, more of the top eigenspace lies on the largest weights than on "
        "weights drawn at random. Grey: mean ± std of random masks; thin bars: the "
        + (f"numerical error. {ties}" if ties else "stated error."),
        alt="Overlap of the largest |θ| with the top eigenspace against training step.",
        table=points,
        draw=partial(charts.overlap_by_step, colors=dict(colors)),
        symbols=OVERLAP_SYMBOLS,
    )


def ratio_over_training(points: pd.DataFrame, colors: Mapping[str, str], size: Size) -> Figure:
    """The same overlap as ratio to chance."""
    return Figure(
        title=f"Ratio to chance over training, {size}",
        how="at 1, the largest weights have no more of the eigenspace than any others. Click a line in the "
        "legend to fade the others.",
        alt="The overlap divided by the chance level k/D against training step.",
        table=points,
        draw=partial(charts.overlap_by_step, colors=dict(colors), measure="ratio"),
        symbols=OVERLAP_SYMBOLS,
    )


def relative_to_baseline(
    found: pd.DataFrame, colors: Mapping[str, str], what: str, baseline: str, *, ratio: bool
) -> Figure:
    """The differences or the ratios of ``lines.relative``.

    Args:
        found: What is drawn.
        colors: Colour of every group.
        what: The value that is compared, with its size.
        baseline: What it is compared with.
        ratio: Which of the two.
    """
    kind, sign = ("Ratio", "÷") if ratio else ("Difference", "−")
    measure = what.partition(",")[0]
    bounds = (
        "the least and the greatest quotient that the stated errors of both allow"
        if ratio
        else "the sum of the stated errors of both"
    )
    pale = (
        " The pale band adds the standard deviations of both means in quadrature, as for independent draws."
        if "spread" in found
        else ""
    )
    return Figure(
        title=f"{kind} to {baseline}: {what}",
        how="a line minus the baseline at the same step; the baseline itself lies at 0. "
        f"Bars: {bounds}.{pale}"
        if not ratio
        else "a line divided by the baseline at the same step; the baseline itself lies at 1. "
        f"Bars: {bounds}.{pale}",
        alt=f"{kind} of the {measure} of each line to that of {baseline}, against training step.",
        table=found,
        draw=partial(
            charts.relative_by_step,
            colors=dict(colors),
            title=f"{measure} {sign} baseline",
            level=1.0 if ratio else 0.0,
        ),
        symbols=OVERLAP_SYMBOLS if "overlap" in what else "",
    )


def of_panel(whole: Figure, of: str) -> Figure:
    """The part of a figure that is of one panel, on the axes of all of them."""
    table = table_of(whole)
    rows = table[table["panel"] == of]
    return replace(
        whole,
        table=rows,
        of=of,
        alt=f"{whole.alt.rstrip('.')}: {of}.",
        draw=partial(_panel, whole=whole),
    )


def _panel(table: pd.DataFrame, whole: Figure) -> Any:
    return charts.on_axes_of(whole.draw(table_of(whole)), whole.draw(table))


def overlap_against_k(
    curves: pd.DataFrame, series: str, *, log_k: bool = False, top: float | None = None
) -> Figure:
    """Overlap against k at several steps of one line, of ``queries.overlap_curves`` of the magnitude mask."""
    tied = bool((curves["tied"] > 0).any())
    return Figure(
        title="Overlap against k, over training",
        how="each curve is a training step, early ones dark, with a band of its error; the dotted line is "
        "chance. "
        + (f"{TIES_ALONG_K} The narrower band is the numerical error; the stated error has both. " * tied)
        + ("Each panel has an axis of its own, as values differ more than tenfold. " * (top is None))
        + ZOOM,
        alt=f"Overlap against k at several training steps: {series}.",
        table=curves,
        draw=partial(charts.overlap_by_k, log_k=log_k, top=top),
        symbols=OVERLAP_SYMBOLS,
        of=series,
    )


def largest_eigenvalue(leading: pd.DataFrame, colors: Mapping[str, str]) -> Figure:
    """λ₁ over training, of ``queries.eigenvalues`` at position 1 with series and group."""
    return Figure(
        title="Largest eigenvalue over training",
        how="a point is the eigenvalue of largest |λ| at a checkpoint, with its sign; a bar is its residual.",
        alt="The eigenvalue of largest magnitude against training step.",
        table=leading,
        draw=partial(charts.lambda_by_step, colors=dict(colors)),
        symbols=EIGENVALUE_SYMBOLS,
    )


def recorded(metrics: pd.DataFrame, colors: Mapping[str, str], metric: charts.Recording) -> Figure:
    """Accuracy or loss over training, of ``queries.recorded_metrics``."""
    return Figure(
        title=f"{metric.capitalize()} over training",
        how="the values are as recorded in the checkpoints.",
        alt=f"Recorded {metric} against training step.",
        table=metrics[metrics["metric"] == metric],
        draw=partial(charts.recorded_by_step, colors=dict(colors), metric=metric),
    )


def spectrum_over_training(values: pd.DataFrame, series: str) -> Figure:
    """The leading |λ| at several steps of one line, of ``queries.eigenvalues``."""
    return Figure(
        title="Spectrum over training",
        how="a curve shows the leading |λ| of one training step in descending order, early steps dark, with "
        f"a band of the residuals. {ZOOM}",
        alt=f"Magnitudes of the leading eigenvalues at several training steps: {series}.",
        table=values,
        draw=charts.spectra_by_step,
        symbols=EIGENVALUE_SYMBOLS,
        of=series,
    )


def further_over_training(points: pd.DataFrame, colors: Mapping[str, str], size: Size) -> Figure:
    """A further curve at one size over training, of ``panels.further_points``."""
    title = str(points["title"].iloc[0])
    chance = "; dotted: chance" if points["chance"].notna().any() else ""
    return Figure(
        title=f"{capitalised(title)}, {size}",
        how=f"{points['note'].iloc[0]} Bars: the stated error{chance}.",
        alt=f"{title} against training step.",
        table=points,
        draw=partial(charts.curve_by_step, colors=dict(colors)),
        symbols=MASK_SYMBOLS if "IoU" in title else "",
    )


def masks_over_training(points: pd.DataFrame, colors: Mapping[str, str], size: Size) -> Figure:
    """The overlap of several masks at one size over training, of ``panels.overlap_of_each``."""
    return Figure(
        title=f"Overlap of every mask over training, {size}",
        how="a line is a mask, of the same colour in every panel. Above the dotted chance level, it has "
        "more of the top eigenspace than weights drawn at random. Bars: the stated error, where it is known.",
        alt="Overlap of several masks with the top eigenspace against training step.",
        table=points,
        draw=partial(charts.curve_by_step, colors=dict(colors)),
        symbols=OVERLAP_SYMBOLS,
    )


def masks_in_common_over_training(found: pd.DataFrame, series: str) -> Figure:
    """How alike two masks are against k at several steps of one line, of ``panels.masks_of_steps``."""
    points = found.assign(
        x=found["k"], x_title="k", line=np.nan, line_title="", unit="", log=False,
        reference=found["chance"],
        reference_title="chance",
    )  # fmt: skip
    return profile_over_training(points, series)


def quantity_over_training(points: pd.DataFrame, colors: Mapping[str, str]) -> Figure:
    """A quantity over training, of ``queries.quantities``, with series and group."""
    title, unit = str(points["title"].iloc[0]), str(points["unit"].iloc[0])
    reference = points["reference"].notna().any()
    beside = f" Dotted: {points['reference_title'].iloc[0]}." if reference else ""
    is_exact = bool((points["lower"] == points["upper"]).all())
    bars = "" if is_exact else " Bars: the stated error or interval."
    return Figure(
        title=f"{capitalised(title)}{f', {unit}' if unit else ''}",
        how=f"{points['note'].iloc[0]}{bars}{beside}",
        alt=f"{title} against training step.",
        table=points,
        draw=partial(charts.curve_by_step, colors=dict(colors)),
    )


def by_tensor(points: pd.DataFrame) -> bool:
    """Whether the places of a profile, of ``queries.profiles``, are parameter tensors."""
    return bool((points["x_title"] == "tensor").all())


def lines_of_tensors(points: pd.DataFrame) -> bool:
    """Whether the lines of a profile, of ``queries.profiles``, are parameter tensors."""
    return bool((points["line_title"] == "tensor").all())


def profile_over_training(
    points: pd.DataFrame, series: str, values: pd.Series[float] | None = None
) -> Figure:
    """A profile at several steps of one line, of ``queries.profiles``; ``values`` are those of all lines that
    are drawn side by side."""
    title, lines = str(points["title"].iloc[0]), points["line"].nunique()
    is_mean = "n" in points
    if by_tensor(points):
        told = "the mean, its standard deviation and its interval" if is_mean else "its interval"
        return Figure(
            title=f"{capitalised(title)} of every tensor",
            how=f"{points['note'].iloc[0]} A column is a training step, a row a parameter tensor in the "
            f"model's order; point at a cell for {told}.",
            alt=f"{title} of every parameter tensor at several training steps: {series}.",
            table=points,
            draw=partial(charts.tensors_by_step, values=values),
            of=series,
        )
    if lines_of_tensors(points):
        told = "the mean, its standard deviation and its interval" if is_mean else "its interval"
        return Figure(
            title=f"{capitalised(title)} of every tensor",
            how=f"{points['note'].iloc[0]} A parameter tensor, in the model's order, has a row of cells for "
            "each training step, the first one on top. The brighter a cell, the more eigenvalues lie there; "
            f"point at it for {told}.",
            alt=f"{title} of every parameter tensor against λ at several training steps: {series}.",
            table=points,
            draw=charts.densities_by_step,
            of=series,
        )
    first = ""
    if lines > 1:
        first = f" Of {lines} lines, {points['line_title'].iloc[0]} {points['line'].min():g} is drawn."
    beside = ""
    if charts.has_common_reference(points):
        beside = f" Dashed: {points['reference_title'].iloc[0]}."
    elif points["reference"].notna().any():
        beside = f" Dashed, in the colour of its step: {points['reference_title'].iloc[0]}."
    band = "with the band of its stated error or interval"
    if is_mean:
        band = (
            "the mean of several analyses. Its pale band is ± one standard deviation (n − 1), the darker one "
            "the mean of the stated errors or intervals"
        )
    return Figure(
        title=capitalised(title),
        how=f"{points['note'].iloc[0]} A line is a training step, early ones dark, {band}.{beside}{first} "
        f"{ZOOM}",
        alt=f"{title} at several training steps: {series}.",
        table=points,
        draw=charts.profile_by_step,
        of=series,
    )


def label_of(column: Column) -> str:
    """What a column of ``core.lab.listing`` is called beside others."""
    prefix, dot, _ = column.name.partition(".")
    return f"{prefix}: {column.label}" if dot and not is_observable(column.name) else column.label


def told(rows: pd.DataFrame, column: Column) -> list[str]:
    """The numbers of a column of ``listing.rows`` in words, each with its error or between its ends."""
    values = [counted_or_measured(value) for value in rows[column.name].astype(float)]
    if column.ends is not None:
        ends = (rows[end] for end in column.ends)
        return [with_ends(*each) for each in zip(values, *ends, strict=True)]
    if column.error is not None:
        return [with_error(*each) for each in zip(values, rows[column.error], strict=True)]
    return [number(value) for value in values]


def scatter(
    points: pd.DataFrame,
    colors: Mapping[str, str],
    axes: tuple[Column, Column],
    log: tuple[bool, bool],
    size: Size,
) -> Figure:
    """Any column of the analyses against any other.

    Args:
        points: ``scattered.points``.
        colors: Colour of every group.
        axes: The columns of the horizontal and the vertical axis.
        log: Whether each axis is logarithmic.
        size: The k of overlaps and of observables over k.
    """
    names = ["overlap ÷ chance" if each.name == "ratio" else label_of(each) for each in axes]
    at = f", {size}" if any(each.at_k for each in axes) else ""
    bars = ""
    if any(each.error or each.ends for each in axes):
        bars = " Bars: the stated error or interval, of λ₁ the residual."
    level = 1.0 if axes[1].name == "ratio" else None
    what, ends = "a point is an analysis", {}
    click = "; click it to open its result" if "address" in points else ""
    if "n" in points:
        what = "a point is the mean of the analyses of a line at a step"
        click = "; click it to see them by themselves" if click else ""
        bars += " Pale bars: ± one standard deviation (n − 1)."
        ends = {
            f"{axis}_{end}": f"{name}, mean {sign} standard deviation"
            for axis, name in zip("xy", names, strict=True)
            for end, sign in (("below", "−"), ("above", "+"))
        }
    return Figure(
        title=capitalised(f"{names[1]} against {names[0]}{at}"),
        how=f"{what}{click}.{charts.said_fills(points)}{bars}",
        alt=f"{names[1]} against {names[0]}, a point for each analysis.",
        table=points,
        draw=partial(charts.scatter, colors=dict(colors), titles=(names[0], names[1]), log=log, level=level),
        columns={
            "x": names[0], "y": names[1], "x_low": f"{names[0]}, at least", "x_high": f"{names[0]}, at most",
            "y_low": f"{names[1]}, at least", "y_high": f"{names[1]}, at most",
            "x_told": f"{names[0]}, in words", "y_told": f"{names[1]}, in words",
            "address": "page of the result",
        }
        | ends,
        symbols=OVERLAP_SYMBOLS if at else "",
    )  # fmt: skip


# Of a likeness, which is 1 less a quotient: some units in its last place.
LIKENESS_ROUNDING = 16 * float(np.finfo(np.float64).eps)


def mask_and_eigenspace(
    found: pd.DataFrame, colors: Mapping[str, str], *, raw: bool = False
) -> tuple[dict[str, Figure], str]:
    """Mask and eigenspace by every metric over training, of ``queries.subspace_metrics`` at one size.

    Returns:
        A figure by metric for each that tells something; and about the others, whose likeness is nowhere
        larger than its rounding error, a sentence, empty where there are none.
    """
    sizes = sorted(found["k"].unique())
    size = f"k = {sizes[0]:,}" if len(sizes) == 1 else f"k = {sizes[0]:,} to {sizes[-1]:,}"
    figures: dict[str, Figure] = {}
    silent: list[str] = []
    for metric in METRICS:
        rows, name = found[found["metric"] == metric], charts.METRIC_NAMES[metric]
        if rows.empty:
            continue
        if (rows["normalised"].abs() <= LIKENESS_ROUNDING).all():
            silent.append(name)
            continue
        figures[metric] = _metric(metric, charts.metric_heights(rows, raw=raw), colors, size, raw)
    said = ""
    if silent:
        said = (
            f"Not drawn: {', '.join(silent)}. At {size}, mask and eigenspace are as far apart by "
            f"{'it' if len(silent) == 1 else 'them'} as two subspaces can be, in all of these analyses: the "
            f"likeness is 0 within its rounding error of {number(LIKENESS_ROUNDING, 1)}."
        )
    return figures, said


def _metric(metric: str, table: pd.DataFrame, colors: Mapping[str, str], size: str, raw: bool) -> Figure:
    name, formula = charts.METRIC_NAMES[metric], charts.METRIC_FORMULAS[metric]
    return Figure(
        title=f"Mask and eigenspace by {name}, {size}",
        how="the mask of the k weights of largest |θ|, as the span of its coordinates, is compared with Vₖ, "
        "the span of the top k eigenvectors of the same checkpoint. Grey: mean ± std of random subspaces. "
        "Bars: the error, which is known for the overlap and the projection Frobenius norm. "
        + ("Small distances mean similar subspaces." if raw else "1 means equal, 0 orthogonal."),
        alt=f"{name} between mask and eigenspace against training step.",
        table=table,
        draw=partial(charts.metric_by_step, colors=dict(colors), title=formula if raw else "likeness"),
        symbols=f"{formula}. {METRIC_SYMBOLS}",
        file=f"metric-{metric}-{size}",
    )


@dataclass(frozen=True)
class Panel:
    """A heatmap: what ``charts.heatmap`` takes, and its names."""

    title: str
    key: str
    measure: str
    values: pd.DataFrame


def heatmap(panel: Panel, model: str) -> Figure:
    """How alike all pairs of steps are, of ``panels.heatmaps_found``."""
    k = int(panel.values["k"].iloc[0])
    rho = k / int(panel.values["parameters"].iloc[0])
    return Figure(
        title=f"All pairs of steps of {model}, k = {k:,}",
        of=panel.title,
        how="each cell compares two training steps, from 0 (dark, nothing in common) to 1 (light, the same); "
        f"large light blocks mean that little changes any more. Chance at k = {k:,} is "
        f"{number(rho / (2 - rho), 3)} for masks and {number(rho, 3)} for eigenspaces.",
        alt=f"{panel.title}: {panel.measure} of all pairs of training steps of {model} at k = {k}.",
        table=panel.values,
        draw=partial(charts.heatmap, title=panel.measure),
        symbols=PAIR_SYMBOLS,
    )


# --- Two analyses, and random subspaces -------------------------------------------------------------------


def two_eigenspaces(values: pd.DataFrame, first: str, second: str) -> Figure:
    """Every metric between two eigenspaces against k, as ``charts.pair_metrics`` takes it."""
    return Figure(
        title="Two eigenspaces, by every metric",
        how=f"Vₖ of {first} is compared with Vₖ of {second}: a line per metric against the dimension k "
        "of both, from 0 (orthogonal) to 1 (equal); the faint line of the same colour is what random "
        "subspaces give.",
        alt=f"Grassmannian metrics between the eigenspaces of {first} and {second} against k.",
        table=values,
        draw=lambda table: charts.pair_metrics(table, charts.METRIC_NAMES),
        symbols=METRIC_SYMBOLS,
        file=f"metrics-{first}-{second}",
    )


def random_subspaces(study: pd.DataFrame, dimension: int, k: int, kind: str) -> Figure:
    """How every metric sees two random subspaces of R^D by k, of
    ``seigh.core.overlap.metrics.random_study``."""
    return Figure(
        title=f"Random {kind} of D = {dimension:,} dimensions",
        how="a metric is useful where its line stays away from both 0 and 1 and its band is narrow: then its "
        "value distinguishes similar subspaces from random ones. Lines at 0 for all k carry no information. "
        "A line is the median, a band contains 90 % of the draws, and the vertical line marks k.",
        alt=f"Likeness of two random {kind} by every metric, against their dimension k, D = {dimension}.",
        table=study,
        draw=lambda table: charts.random_study(table, charts.METRIC_NAMES, k),
        symbols=METRIC_SYMBOLS,
        file=f"random-{kind}-D{dimension}",
    )


def random_by_size(study: pd.DataFrame, dimension: int, rho: float, kind: str) -> Figure:
    """How every metric sees two random subspaces by D at one ρ = k/D, of
    ``seigh.core.overlap.metrics.random_study``."""
    return Figure(
        title=f"Random {kind} at ρ = {rho:.3g}",
        how="use a metric whose line is level to compare networks of different sizes: it depends on ρ = k/D "
        "alone, and not on D. A line is the median, and a band contains 90 % of the draws and gets narrower "
        "with D; the vertical line marks the chosen D.",
        alt=f"Likeness of two random {kind} by every metric, against D, at k/D = {rho:.3g}.",
        table=study,
        draw=lambda table: charts.random_study(table, charts.METRIC_NAMES, dimension, "dimension"),
        symbols=METRIC_SYMBOLS,
        file=f"random-{kind}-rho{rho:.3g}",
    )


SKETCH_SYMBOLS = (
    "H: a matrix with a known spectrum. Ĥ: a method's approximation of H, of rank n_O. ‖·‖: the Frobenius "
    "norm. n_O: columns of the outer sketch, which takes the memory of n_O vectors. n_I: inner measurements; "
    "SEIGH takes n_I products with H, SSVD 2·n_O + n_I. Vₖ: the span of the k eigenvectors of largest |λ|."
)


def sketches_by_sizes(study: pd.DataFrame, outer: int, inner: int, of: str) -> Figure:
    """SEIGH's error by n_O and n_I, of ``seigh.core.spectra.study.study``; ``of`` is the matrix."""
    return Figure(
        title="SEIGH by its sizes",
        how="a cell is the error for one choice of n_O and n_I, the mean over draws of its test matrices; "
        "brighter is better. Moving right costs products, moving up costs memory. Near n_I = n_O the core "
        "cannot be recovered well; the paper takes n_I = 2·n_O. The frame marks your choice.",
        alt=f"Relative error of SEIGH for each n_O and n_I on a matrix with {of}.",
        table=study[study["method"] == "seigh"],
        draw=lambda table: charts.error_by_sizes(table, outer, inner),
        symbols=SKETCH_SYMBOLS,
        file="seigh-by-sizes",
    )


def methods_by_products(study: pd.DataFrame, outer: int, of: str) -> Figure:
    """The error of every method at one n_O by its products, of ``seigh.core.spectra.study.study``."""
    return Figure(
        title=f"Error per product, n_O = {outer:,}",
        how="each line is a method at this n_O, its points are values of n_I, and its band reaches from the "
        "smallest to the largest error of the draws. Krylov chooses its number of products itself. The "
        "dotted line is the smallest error of any matrix of rank n_O.",
        alt=f"Relative error of SEIGH, SSVD and Krylov against products with H, for a matrix with {of}.",
        table=study[study["outer"] == outer],
        draw=charts.error_by_products,
        symbols=SKETCH_SYMBOLS,
        file=f"methods-by-products-nO{outer}",
    )


# --- Of one analysis --------------------------------------------------------------------------------------

# The best mask has so much more than the largest weights that a linear axis would make these a line at zero.
DEMANDS_LOG = 10.0


def best_over_largest(curves: pd.DataFrame) -> float:
    """How many times the largest overlap of the magnitude mask the largest of the best mask is."""
    most = curves.groupby("mask")["overlap"].max()
    return float(most.get("best", 0.0) / max(most.get("magnitude", 0.0), 1e-300))


def overlap_of_masks(
    curves: pd.DataFrame,
    color: str,
    *,
    resolved_k: int | None = None,
    log_k: bool = False,
    log_overlap: bool = False,
    of: str = "",
    file: str = "",
) -> Figure:
    """Overlap against k beside best and random masks and chance, of ``queries.overlap_curves``."""
    more = ""
    known = {
        mask: curves.loc[curves["mask"] == mask, "error"].notna().any() for mask in ("magnitude", "best")
    }
    if bool((curves["tied"] > 0).any()):
        more = f" {TIES_ALONG_K} The narrower band is the numerical error; the stated error has both."
    elif known["magnitude"]:
        more = " The band around that line is its stated error."
    if known["best"]:
        more += " The grey band around the best mask is its stated error."
    times = best_over_largest(curves)
    if log_overlap and times > DEMANDS_LOG:
        more += f" The overlap axis is logarithmic, as the best mask reaches {times:,.0f} times as much."
    elif times > DEMANDS_LOG:
        more += (
            f" The best mask reaches {times:,.0f} times as much as the coloured line, which this linear axis "
            "shows near zero, whatever its ratio to chance."
        )
    return Figure(
        title="Overlap against k",
        how="the farther the coloured line is above chance, the more of the top eigenspace lies on the "
        f"largest weights. The grey band is the mean ± standard deviation over random masks. {ZOOM}{more}",
        alt="Overlap of the largest |θ| with the top eigenspace against k; best mask, random masks, chance.",
        table=curves,
        draw=partial(
            charts.overlap_curve,
            color=color,
            resolved_k=resolved_k,
            log_k=log_k,
            log_overlap=log_overlap,
        ),
        symbols=OVERLAP_SYMBOLS,
        of=of,
        file=file,
    )


def spectrum(values: pd.DataFrame, *, of: str = "", file: str = "") -> Figure:
    """The eigenvalues with their residuals, of ``queries.spectrum``."""
    zeros = int((values["magnitude"] == 0).sum())
    residuals = "; residuals are not known"
    if values["residual"].notna().any():
        residuals = ", and a cross its residual; a pair whose cross comes near its point is not resolved"
    return Figure(
        title="Spectrum",
        how=f"a point is an eigenvalue, by descending |λ|{residuals}. The ticks on top sort the eigenvalues "
        "by sign."
        + (f" {zeros} eigenvalues are exactly 0 and have no place on a log axis." if zeros else ""),
        alt=f"Magnitudes of the {len(values)} leading eigenvalues, and residuals, on a log axis.",
        table=values,
        draw=charts.spectrum,
        symbols=EIGENVALUE_SYMBOLS,
        of=of,
        file=file,
    )


def missed(values: pd.DataFrame, *, of: str = "", file: str = "") -> Figure:
    """Figure of the part of the whole matrix outside the leading eigenpairs, from ``queries.spectrum``."""
    return Figure(
        title="What the leading eigenvalues miss",
        how="the curve is the share of ‖H‖²_F that belongs to the eigenvalues after the r-th; with 95 % "
        "probability, the whole curve lies in the band.",
        alt="Share of the squared Frobenius norm that a matrix of each rank misses, as a band.",
        table=values[["position", "scree_lower", "scree_upper"]],
        draw=charts.scree,
        symbols=SCREE_SYMBOLS,
        of=of,
        file=file,
    )


def layers(shares: pd.DataFrame, *, of: str = "", file: str = "") -> Figure:
    """In which layers eigenspace, mask and overlap lie, of ``queries.layer_shares`` at one k."""
    hidden = len(shares) - charts.MOST_LAYERS
    return Figure(
        title=f"In which layers, k = {int(shares['k'].iloc[0]):,}",
        how="a grey bar is a tensor's share of the parameters, which is its chance level; a point beyond the "
        "end of the bar means that the tensor has more of the mask, eigenspace or overlap than chance."
        + (f" The {hidden} tensors with the smallest shares are left out." if hidden > 0 else ""),
        alt="Shares that each parameter tensor has of parameters, mask, eigenspace and overlap.",
        table=shares,
        draw=charts.layer_shares,
        symbols=LAYER_SYMBOLS,
        of=of,
        file=file,
    )


def magnitudes(bins: pd.DataFrame, parameters: int, color: str, *, of: str = "", file: str = "") -> Figure:
    """At which magnitudes the eigenspace lies, of ``queries.magnitude_bins`` at one k."""
    return Figure(
        title=f"At which magnitudes, k = {int(bins['k'].iloc[0]):,}",
        how="a point is the mean over weights of similar |θ|, and the band reaches from their 10 % to their "
        "90 % quantile; where the line rises above 1 to the right, large weights have more of the eigenspace "
        "than others.",
        alt="Mass of the eigenspace on weights by magnitude, as ratio to the mean of all weights.",
        table=bins,
        draw=partial(charts.magnitude_bins, parameters=parameters, color=color),
        symbols=MAGNITUDE_SYMBOLS,
        of=of,
        file=file,
    )


def masks_in_common(rows: pd.DataFrame, color: str, *, log_k: bool = False, file: str = "") -> Figure:
    """How alike two masks of one analysis are against k, of ``queries.mask_iou``."""
    title = str(rows["title"].iloc[0])
    return Figure(
        title=title,
        how=f"{rows['note'].iloc[0]} The band around the line shows how far ties and estimated scores may "
        "move it.",
        alt=f"{title} against k.",
        table=rows,
        symbols=MASK_SYMBOLS,
        draw=partial(charts.curve, color=color, log_k=log_k),
        file=file,
    )


def further_curve(
    rows: pd.DataFrame, color: str, *, log_k: bool = False, remark: str = "", file: str = ""
) -> Figure:
    """One further curve against k, of ``queries.curves`` of one analysis and one name."""
    title = str(rows["title"].iloc[0])
    errors = " The band around the line is its stated error." if rows["error"].notna().any() else ""
    errors += f" {remark}" if remark else ""
    return Figure(
        title=capitalised(title),
        how=f"{rows['note'].iloc[0]}{errors}",
        alt=f"{title} against k.",
        table=rows,
        draw=partial(charts.curve, color=color, log_k=log_k),
        file=file,
    )


def profile(rows: pd.DataFrame, color: str, *, remark: str = "", file: str = "") -> Figure:
    """A profile, of ``queries.profiles`` of one analysis and one name; ``remark`` is said of this one "
    "alone."""
    title = str(rows["title"].iloc[0])
    said = f" {remark}" if remark else ""
    draw, how = charts.profile, ""
    if by_tensor(rows):
        draw = charts.tensors
        how = f" Grey: {rows['reference_title'].iloc[0]}." if rows["reference"].notna().any() else ""
    elif lines_of_tensors(rows):
        draw = charts.densities_of_tensors
        how = " The brighter a cell, the more eigenvalues lie there; point at it for its interval."
    elif rows["reference"].notna().any() and "dashed" not in str(rows["note"].iloc[0]).lower():
        how = f" Dashed: {rows['reference_title'].iloc[0]}."
    return Figure(
        title=capitalised(title),
        how=f"{rows['note'].iloc[0]}{how}{said}",
        alt=f"{title} against {rows['x_title'].iloc[0]}.",
        table=rows,
        draw=partial(draw, color=color),
        file=file,
    )


def stages(table: pd.DataFrame, memory: str = "", *, file: str = "") -> Figure:
    """Time by stage, of ``AnalysisDetail.stages``; ``memory`` is a sentence about the room that it took."""
    return Figure(
        title="Time by stage",
        how="a bar is the time of a stage, with its Hessian-vector products; stages are in the order in "
        "which they ran." + memory,
        alt="Time and Hessian-vector products of each stage of the analysis.",
        table=table,
        draw=charts.stages,
        file=file,
    )


def capitalised(title: str) -> str:
    """A title that begins with a capital letter; the rest stays as it is."""
    return title[:1].upper() + title[1:]


# --- Of plug-ins ------------------------------------------------------------------------------------------


def of_plugins(
    result: Mapping[str, Any], *, of: str = "", file: str = ""
) -> tuple[list[tuple[str, Figure]], list[str]]:
    """The figures that plug-ins have registered, of one result.

    Args:
        result: What ``queries.export_result`` gives.
        of: Which analysis it is, where several figures stand side by side.
        file: The start of the names of the downloads.

    Returns:
        Name and figure of each that has something to draw; and of each that fails, why: it takes nothing from
        the others.
    """
    from seigh.core.problems import plugins  # brings torch, which pages without plug-ins do not need

    found: list[tuple[str, Figure]] = []
    failed: list[str] = []
    for name, register in plugins.registry().figures.items():
        try:
            figure = register(result)
            if figure is not None:
                found.append((name, _sound(figure, of, f"{file}-{name}" if file else name)))
        except UserError as error:
            failed.append(str(error))
        except Exception as error:  # a plug-in's code may fail in every way there is
            _log.exception("The figure '%s' is left out, because it fails.", name)
            failed.append(f"The figure {name} cannot be drawn ({first_line(error)}); ask who wrote it.")
    return found, failed


def _sound(figure: Figure, of: str, file: str) -> Figure:
    """A plug-in's figure as a page can rely on it: its table is a frame, its chart has been drawn once."""
    if not isinstance(figure, Figure):
        raise TypeError(f"it is a {type(figure).__name__} and not a seigh.Figure")
    table = table_of(figure)
    if absent := [column for column in figure.columns if column not in table]:
        raise ValueError(f"its table has no column {', '.join(map(repr, absent))}")
    sound = Figure(**(vars(figure) | {"table": table, "of": figure.of or of, "file": figure.file or file}))
    chart_of(sound).to_dict()
    return sound
