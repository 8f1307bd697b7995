"""A study in one file: an HTML page with its charts, which needs a browser and nothing else."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html import escape

import pandas as pd
import vl_convert
from sqlalchemy.orm import Session

from seigh.app import charts, figures
from seigh.app.charts import MOST_COLORS, pictures
from seigh.app.checks import checks_among
from seigh.app.common import matrix, samples_of
from seigh.app.digits import number, with_error
from seigh.app.figures import Size
from seigh.app.lines import LINE, MEASURES, in_lines
from seigh.app.lines_form import Lines, lines_of
from seigh.app.panels import (
    EACH_BESIDE,
    Masks,
    further_masks,
    further_points,
    having_observable,
    heatmaps_found,
    heatmaps_of_masks,
    last_steps,
    masks_beside,
    masks_of,
    masks_of_steps,
    metrics_near,
    names_of_sets,
    nearest,
    overlap_of_each,
    shared,
    top_of,
    within,
)
from seigh.app.rows import Analysis, AnalysisOfLine, OverlapAtStep, rows_of
from seigh.app.scattered import SIZES, Axes, scattered
from seigh.core.figures import Figure
from seigh.core.lab import queries
from seigh.core.lab.models import Mask
from seigh.core.lab.store import StoreError
from seigh.core.names import IOU
from seigh.core.order import in_order
from seigh.core.plugged import any_plugins

PANEL_POINTS = 150  # values of k of a curve, evenly spaced and on a log axis
MOST_PANELS = 24
MOST_ROWS = 500  # of the table of analyses

QUESTION = (
    "Overlap is the share of the squared entries of the top k Hessian eigenvectors on the k largest weights; "
    "its chance level is k/D, with D the number of parameters. Every number is shown with its error: "
    "residuals ‖Hv − λv‖ for eigenvalues, a stated error for overlaps."
)


def report(
    s: Session,
    title: str,
    ids: Sequence[int],
    k: int | None = None,
    rho: float | None = None,
    *,
    lines: Lines | None = None,
    masks: Masks | None = None,
    axes: Axes | None = None,
) -> str:
    """The HTML page of these finished analyses.

    Args:
        s: A reading session.
        title: Title of the page.
        ids: The analyses.
        k: Size at which they are compared over training; the largest that all of them reach if neither this
            nor ``rho`` is given.
        rho: Sparsity k/D to compare at instead.
        lines: The analyses as lines, with colours, panels, means and a baseline; as *Compare* shows them at
            first if not given.
        masks: Which masks are compared, where the analyses have further ones; likewise.
        axes: The scatter to draw; that of the ratio to chance against D if not given, where sizes differ.

    Raises:
        StoreError: If none of them is finished.
    """
    if lines is None:
        every = queries.comparable(s)
        lines = lines_of(every[every["analysis_id"].isin(ids)])
    else:
        lines = replace(lines, chosen=lines.chosen[lines.chosen["analysis_id"].isin(ids)])
    analyses = lines.chosen
    if analyses.empty:
        raise StoreError("There is no finished analysis to report; wait for one, or choose other models.")
    if k is None and rho is None:
        k = int(analyses["k"].min())
    masks = masks or masks_of(s, lines.every)
    found = list(_figures(s, lines, Size(k, rho), masks, axes))
    tables = {
        "Analyses": _analyses(s, analyses, k, rho),
        "How they were checked": checks_among(queries.records(s, analyses["analysis_id"].tolist())),
    }
    return _page(title, _models(s, analyses), found, tables)


def _figures(s: Session, lines: Lines, size: Size, masks: Masks, axes: Axes | None) -> Iterator[Figure | str]:
    """The figures of the report in order; a sentence stands for what there is no figure of."""
    parts = _of_few_colors(lines.chosen)
    for place, part in enumerate(parts, start=1):
        of_part = replace(lines, chosen=part)
        yield from _part(_over_training(s, of_part, size, axes), place, len(parts))
        yield from _part(_masks(s, of_part, size, masks), place, len(parts))
    yield from _against_k(s, lines, masks)
    # What follows is of single analyses, whatever their means.
    alone = in_lines(lines.chosen, replace(lines.arrangement, over=()))
    parts = _of_few_colors(alone)
    for place, part in enumerate(parts, start=1):
        yield from _part(_metrics(s, part, size), place, len(parts))
    yield from _heatmaps(s, alone, size)
    yield from _of_single_analyses(s, alone, size)


def _of_few_colors(analyses: pd.DataFrame) -> list[pd.DataFrame]:
    """The analyses in parts, so that no two groups of lines in a chart have the same colour."""
    groups = analyses["group"].unique()
    starts = range(0, len(groups), MOST_COLORS)
    return [analyses[analyses["group"].isin(groups[start : start + MOST_COLORS])] for start in starts]


def _part(found: Iterator[Figure | str], place: int, parts: int) -> Iterator[Figure | str]:
    """Figures of a part of the lines, which their titles say if there are several."""
    for each in found:
        if isinstance(each, Figure) and parts > 1:
            yield replace(each, of=", ".join(filter(None, (each.of, f"part {place} of {parts}"))))
        else:
            yield each


def _over_training(s: Session, lines: Lines, size: Size, axes: Axes | None) -> Iterator[Figure | str]:
    analyses, colors = lines.chosen, lines.colors
    ids = analyses["analysis_id"].tolist()
    masks = (Mask.magnitude, Mask.random)
    points = queries.overlap_by_step(s, size.k, rho=size.rho, ids=ids, masks=masks)
    points = points.merge(analyses[LINE], on="analysis_id")
    if len(points):
        reached = analyses[analyses["analysis_id"].isin(points["analysis_id"])]
        points = lines.means_of_points(points)
        if sentence := lines.said(points):
            yield sentence
        yield from _in_panels(figures.overlap_over_training(points, colors, size))
        yield from _in_panels(figures.ratio_over_training(points, colors, size))
        magnitude = points[points["mask"] == Mask.magnitude]
        measure = "overlap" if magnitude["chance"].nunique() == 1 else "ratio"
        yield from _beside_baseline(lines, magnitude, measure, f"{MEASURES[measure]}, {size}")
        if axes is None and reached["parameters"].nunique() > 1:
            yield from scattered(s, replace(lines, chosen=reached), SIZES, size)
    if axes is not None:
        yield from scattered(s, lines, axes, size)
    leading = queries.eigenvalues(s, ids, most=1).query("position == 1").drop(columns="magnitude")
    leading = lines.means_of_points(leading.merge(analyses[LINE], on="analysis_id"))
    yield from _in_panels(figures.largest_eigenvalue(leading, colors))
    yield from _beside_baseline(lines, leading, "value", "λ₁")
    metrics = queries.recorded_metrics(s, sorted(analyses["model"].unique()))
    of_models = lines.colors_of_models
    for metric in metrics["metric"].unique():
        yield figures.recorded(metrics, of_models, metric)
    for name in queries.curve_names(s, lines.every):
        found = further_points(s, lines, name, size.of)
        if len(found):
            shown, found = found["analysis_id"], lines.means_of_points(found)
            figure = figures.further_over_training(found, colors, size)
            yield from _in_panels(lines.saying_whose(figure, shown))
            yield from _beside_baseline(lines, found, "value", f"{found['title'].iloc[0]}, {size}")
    for name in queries.observation_names(s, lines.every, "quantity"):
        having = having_observable(s, lines, name)
        found = queries.quantities(s, having["analysis_id"].tolist(), [name])
        found = found.merge(having[LINE], on="analysis_id")
        shown, found = found["analysis_id"], lines.means_of_points(found)
        figure = figures.quantity_over_training(found, colors)
        yield from _in_panels(lines.saying_whose(figure, shown))
        yield from _beside_baseline(lines, found, "value", str(found["title"].iloc[0]))


def _masks(s: Session, lines: Lines, size: Size, masks: Masks) -> Iterator[Figure | str]:
    """Masks beside each other over training, where there are others than that of the largest weights."""
    if not masks.names:
        return
    points = overlap_of_each(s, lines, masks.called, size.of)
    if len(points):
        figure = figures.masks_over_training(lines.means_of_points(points), masks.colors, size)
        yield from _in_panels(lines.saying_whose(figure, points["analysis_id"]))
    for which in EACH_BESIDE:
        found = masks_beside(s, lines, masks.known, which, size.of, masks.stored)
        if len(found):
            figure = figures.further_over_training(lines.means_of_points(found), masks.colors, size)
            yield from _in_panels(lines.saying_whose(figure, found["analysis_id"]))
    if masks.pair is None:
        return
    pair = [masks.pair]
    found = masks_of_steps(s, lines, pair, masks.which, size.of, masks.stored)[masks.pair]
    if len(found):
        shown, found = found["analysis_id"], lines.means_of_points(found)
        figure = figures.further_over_training(found, lines.colors, size)
        yield from _in_panels(lines.saying_whose(figure, shown))
        yield from _beside_baseline(lines, found, "value", f"{found['title'].iloc[0]}, {size}")


def _in_panels(figure: Figure) -> Iterator[Figure]:
    """The figure, or where its table has several panels, each of them."""
    panels = sorted(figures.table_of(figure)["panel"].unique())
    if len(panels) == 1:
        yield figure
    else:
        yield from (figures.of_panel(figure, str(name)) for name in panels)


def _beside_baseline(lines: Lines, points: pd.DataFrame, measure: str, what: str) -> Iterator[Figure | str]:
    """The difference and the ratio to the baseline, if there is one; see ``Lines.beside_baseline``."""
    drawn, sentences = lines.beside_baseline(points, measure, what)
    for figure in drawn.values():
        yield from _in_panels(figure)
    yield from sentences


def _against_k(s: Session, lines: Lines, masks: Masks) -> Iterator[Figure | str]:
    """Overlap, spectrum, profiles and two masks of every line, a curve for each step."""
    analyses = lines.chosen
    ids = analyses["analysis_id"].tolist()
    values = queries.eigenvalues(s, ids, most=PANEL_POINTS).merge(analyses[LINE], on="analysis_id")
    curves = queries.overlap_curves(s, ids, masks=(Mask.magnitude,), most=PANEL_POINTS)
    curves = lines.means_of_curves(curves.merge(analyses[LINE], on="analysis_id"))
    values = lines.means_of_curves(values)
    common = pd.DataFrame(columns=["series"])
    if masks.pair is not None:
        pair = [masks.pair]
        common = masks_of_steps(s, lines, pair, masks.which, stored=masks.stored)[masks.pair]
    profiles = []
    for name in queries.observation_names(s, lines.every, "profile"):
        having = having_observable(s, lines, name)
        rows = queries.profiles(s, having["analysis_id"].tolist(), [name])
        profiles.append(rows.merge(having[LINE], on="analysis_id"))
    names = in_order(analyses["series"].unique())
    for name in names[:MOST_PANELS]:
        yield figures.overlap_against_k(curves[curves["series"] == name], name, top=top_of(curves))
        yield figures.spectrum_over_training(values[values["series"] == name], name)
        for profile in profiles:
            if len(found := profile[profile["series"] == name]):
                figure = figures.profile_over_training(lines.means_of_profiles(found), name)
                yield lines.saying_whose(figure, found["analysis_id"])
        if len(rows := common[common["series"] == name]):
            figure = figures.masks_in_common_over_training(lines.means_of_curves(rows), name)
            yield lines.saying_whose(figure, rows["analysis_id"])
    if without := names[MOST_PANELS:]:
        yield f"No more than {MOST_PANELS} lines have panels here; left out: {', '.join(without)}."


def _metrics(s: Session, analyses: pd.DataFrame, size: Size) -> Iterator[Figure | str]:
    """Mask and eigenspace by every metric over training, at the size nearest to k that most have."""
    found = queries.subspace_metrics(s, analyses["analysis_id"].tolist())
    if found.empty:
        return
    found = metrics_near(found, size.of).merge(analyses[LINE], on="analysis_id")
    drawn, said = figures.mask_and_eigenspace(found, charts.group_colors(analyses))
    yield from drawn.values()
    if said:
        yield said


def _heatmaps(s: Session, analyses: pd.DataFrame, size: Size) -> Iterator[Figure | str]:
    """How alike all pairs of steps are, as far as they have been compared, at the size nearest to k."""
    sets = queries.stabilisation_sets(s).replace({"subset": {"": "all"}})
    sets = sets[sets["analysis_id"].isin(analyses["analysis_id"])]
    for model, rows in sets.groupby("model"):
        named = rows.assign(series=names_of_sets(rows))
        parameters = int(rows["parameters"].iloc[0])
        names = further_masks(s, rows["analysis_id"].tolist())
        panels = list(heatmaps_of_masks(s, named, names, size.of(parameters)))
        yield from (figures.heatmap(panel, str(model)) for panel in panels[:MOST_PANELS])
        if without := [panel.title for panel in panels[MOST_PANELS:]]:
            yield f"No more than {MOST_PANELS} heatmaps of masks are here; left out: {', '.join(without)}."
        values = queries.pair_values(s, rows["analysis_id"].tolist(), measures=(IOU, "overlap"))
        # Two sets may have been compared with each other, at sizes of their own.
        values = pd.concat([within(values, each) for _, each in rows.groupby("set_id")])
        if values.empty:
            continue
        values = nearest(shared(values), size.of(parameters))
        for panel in heatmaps_found(values, named):
            yield figures.heatmap(panel, str(model))


def _of_single_analyses(s: Session, analyses: pd.DataFrame, size: Size) -> Iterator[Figure | str]:
    """Figures of each line at its last step: layers, magnitudes, and those of plug-ins."""
    last = last_steps(analyses).sort_values("series")
    for each in rows_of(last.head(MOST_PANELS), AnalysisOfLine):
        k, where = size.of(each.parameters), f"{each.series}, step {each.step:,}"
        layers = queries.layer_shares(s, each.analysis_id)
        bins = queries.magnitude_bins(s, each.analysis_id)
        if len(layers):
            yield figures.layers(nearest(layers, k), of=where)
        if len(bins):
            color = charts.model_color(each.model_id)
            yield figures.magnitudes(nearest(bins, k), each.parameters, color, of=where)
        if any_plugins():
            found, failed = figures.of_plugins(queries.export_result(s, each.analysis_id), of=where)
            yield from (figure for _, figure in found)
            yield from (f"{where}: {sentence}" for sentence in failed)


def _models(s: Session, analyses: pd.DataFrame) -> pd.DataFrame:
    models = queries.models(s)
    models = models[models["name"].isin(analyses["model"])]
    return pd.DataFrame(
        {
            "model": models["name"],
            "architecture": models["architecture"],
            "parameters": models["parameters"].map("{:,}".format),
            "checkpoints": models["checkpoints"],
        }
    )


def _analyses(s: Session, analyses: pd.DataFrame, k: int | None, rho: float | None) -> pd.DataFrame:
    """A row for each analysis: what it is of, its numbers with their errors, and what they were made with."""
    points = queries.overlap_by_step(s, k, rho=rho, ids=analyses["analysis_id"].tolist())
    at_size = {point.analysis_id: point for point in rows_of(points, OverlapAtStep)}
    rows = []
    for each in rows_of(analyses.head(MOST_ROWS), Analysis):
        row = {
            "analysis": each.analysis_id,
            "model": each.model,
            "step": f"{each.step:,}",
            "matrix": matrix(each),
            "data": f"{each.data[:24]}, {samples_of(each)}, seed {each.seed}",
            "D": f"{each.parameters:,}",
            "method": f"{each.method}, k = {each.k:,}",
            "resolved k": "unknown" if each.resolved_k is None else f"{each.resolved_k:,.0f}",
        }
        if point := at_size.get(each.analysis_id):
            row |= {
                f"overlap at {'ρ' if rho else 'k'} = {rho or k:g}": with_error(point.overlap, point.error),
                "÷ chance": number(point.ratio, 3),
                "λ₁": number(point.lambda_max),
            }
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


# --- HTML -------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
  background: light-dark(#fff, #171614); color: light-dark(#262730, #fafafa); }
h1 { margin-bottom: 0; } p { margin: .3rem 0; }
h2 { font-size: 1.15rem; margin: 0 0 .2rem; text-wrap: balance; }
svg g.mark-rect.role-mark path { shape-rendering: crispEdges; }
.how, .made { color: light-dark(#666, #aaa); font-size: .9rem; }
.charts { display: grid; gap: 2rem 1.5rem; margin: 2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
section { min-width: 0; } .chart { width: 100%; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; white-space: nowrap;
  border-bottom: 1px solid light-dark(#ddd, #444); }
"""

_DRAW = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const ink = dark ? "#d0d0d0" : "#444444", lines = dark ? "#3a3a3a" : "#e6e6e6";
const config = { background: "transparent", font: "system-ui, sans-serif", view: { stroke: null },
  axis: { labelColor: ink, titleColor: ink, gridColor: lines, domainColor: ink, tickColor: ink, titleFontWeight: "normal" },
  legend: { labelColor: ink, titleColor: ink, titleFontWeight: "normal" } };
for (const place of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(place.nextElementSibling.textContent);
  vegaEmbed(place, spec, { config, renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } });
}
"""  # noqa: E501


def _page(
    title: str, models: pd.DataFrame, found: Sequence[Figure | str], tables: Mapping[str, pd.DataFrame]
) -> str:
    told = "\n".join(
        f"<h2>{escape(name)}</h2>\n{_table(table)}" for name, table in tables.items() if not table.empty
    )
    drawn = "\n".join(_section(figure) for figure in found)
    made = f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="made">SEIGH Lab, {made}</p>
<p>{QUESTION}</p>
{_table(models)}
<div class="charts">
{drawn}
</div>
{told}
<script>{_embed()}</script>
<script>{_DRAW}</script>
</body>
</html>
"""


def _table(frame: pd.DataFrame) -> str:
    return f'<div class="table">{frame.to_html(index=False, border=0, escape=True)}</div>'


def _section(figure: Figure | str) -> str:
    if isinstance(figure, str):
        return f'<aside class="how">{escape(figure)}</aside>'
    specification = json.dumps(pictures.specification(figures.chart_of(figure), "container"))
    symbols = ""
    if figure.symbols:
        symbols = f'\n<details class="how"><summary>Symbols</summary>{escape(figure.symbols)}</details>'
    return f"""<section>
<h2>{escape(figure.heading)}</h2>
<p class="how">How to read this: {escape(figure.how)}</p>
<div class="chart" role="img" aria-label="{escape(figure.alt, quote=True)}"></div>
<script type="application/json">{specification.replace("<", chr(92) + "u003c")}</script>{symbols}
</section>"""


@functools.lru_cache(maxsize=1)
def _embed() -> str:
    """Vega, Vega-Lite and Vega-Embed, which put ``vegaEmbed`` into the page."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the stub misses a default
    return bundle.replace("</script", "<\\/script")
