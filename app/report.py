"""A study in one file: an HTML page with its charts, which needs a browser and nothing else."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

import altair as alt
import pandas as pd
import vl_convert
from sqlalchemy.orm import Session

from seigh.app import charts
from seigh.app.charts import pictures
from seigh.app.checks import TIES_ALONG_K, checks_among, ties_among
from seigh.app.common import matrix, samples_of
from seigh.app.panels import MASKS_MEASURE, heatmaps_found, names_of_sets, nearest, shared, top_of, within
from seigh.app.rows import Analysis, AnalysisOfLine, OverlapAtStep, rows_of
from seigh.core.names import IOU
from seigh.core.results import queries
from seigh.core.results.models import Mask
from seigh.core.results.store import StoreError

PANEL_POINTS = 150  # values of k of a curve, evenly spaced and on a log axis
MOST_PANELS = 24
MOST_ROWS = 500  # of the table of analyses

QUESTION = (
    "Overlap is the mean share of the top-k Hessian eigenvectors' squared entries on the k largest weights; "
    "its chance level is k/D, with D the number of parameters. Every number has its error beside it: "
    "residuals ‖Hv − λv‖ for eigenvalues, a stated error for overlaps."
)


@dataclass(frozen=True)
class Section:
    """A chart of the report with its title and how to read it."""

    title: str
    how: str
    chart: alt.LayerChart


def report(s: Session, title: str, ids: Sequence[int], k: int | None = None, rho: float | None = None) -> str:
    """The HTML page of these finished analyses.

    Args:
        s: A reading session.
        title: Of the page.
        ids: The analyses.
        k: Size at which they are compared over training; the largest that all of them reach if neither this
            nor ``rho`` is given.
        rho: Sparsity k/D to compare at instead.

    Raises:
        StoreError: If none of them is finished.
    """
    analyses = queries.comparable(s)
    analyses = charts.distinct_lines(analyses[analyses["analysis_id"].isin(ids)])
    if analyses.empty:
        raise StoreError("There is no finished analysis to report; wait for one, or choose other models.")
    analyses = analyses.assign(series=charts.name_series(analyses))
    if k is None and rho is None:
        k = int(analyses["k"].min())
    colors = {
        name: charts.model_color(number)
        for number, name in zip(analyses["model_id"], analyses["model"], strict=True)
    }
    sections = list(_sections(s, analyses, colors, k, rho))
    tables = {
        "Analyses": _analyses(s, analyses, k, rho),
        "How they were checked": checks_among(queries.records(s, analyses["analysis_id"].tolist())),
    }
    return _page(title, _models(s, analyses), sections, tables)


def _sections(
    s: Session, analyses: pd.DataFrame, colors: dict[str, str], k: int | None, rho: float | None
) -> Iterator[Section]:
    ids = analyses["analysis_id"].tolist()
    series = analyses[["analysis_id", "series"]]
    size = f"k = {k:,}" if rho is None else f"ρ = {rho:g}"
    points = queries.overlap_by_step(s, k, rho=rho, ids=ids, masks=(Mask.magnitude, Mask.random))
    points = points.merge(series, on="analysis_id")
    if len(points):
        ties = ties_among(points)
        how = "Dotted: chance; grey: mean ± std of random masks; thin bars: the "
        how += f"numerical error. {ties}" if ties else "stated error."
        yield Section(f"Overlap over training, {size}", how, charts.overlap_by_step(points, colors))
        yield Section(
            f"Ratio to chance over training, {size}",
            "At 1, the largest weights have no more of the eigenspace than any others.",
            charts.overlap_by_step(points, colors, "ratio"),
        )
        last = points[points["mask"] == Mask.magnitude].sort_values("step")
        last = last.drop_duplicates("series", keep="last")
        if last["parameters"].nunique() > 1:
            how = "Each model and split at its last analysed step."
            yield Section(
                f"Ratio to chance against network size, {size}", how, charts.ratio_by_size(last, colors)
            )
    values = queries.eigenvalues(s, ids, most=PANEL_POINTS).merge(series, on="analysis_id")
    how = "The eigenvalue of largest |λ| at each checkpoint, with its sign; a bar is its residual."
    yield Section(
        "Largest eigenvalue over training", how, charts.lambda_by_step(values.query("position == 1"), colors)
    )
    metrics = queries.recorded_metrics(s, sorted(analyses["model"].unique()))
    for metric in metrics["metric"].unique():
        how = "As the checkpoints recorded it."
        yield Section(
            f"{metric.capitalize()} over training", how, charts.recorded_by_step(metrics, colors, metric)
        )
    near = queries.at_sparsity(rho, int(analyses["parameters"].min())) if rho is not None else k or 1
    for name, title in queries.curve_names(s, ids).items():
        found = queries.curves_at(s, ids, name, near).merge(series, on="analysis_id")
        if len(found):
            yield Section(
                f"{title[:1].upper()}{title[1:]}, k = {near:,}",
                f"{found['note'].iloc[0]} Bars: the stated error; dotted: chance.",
                charts.curve_by_step(found, colors),
            )
    curves = queries.overlap_curves(s, ids, masks=(Mask.magnitude,), most=PANEL_POINTS)
    curves = curves.merge(series, on="analysis_id")
    top = top_of(curves)
    for name in sorted(analyses["series"].unique())[:MOST_PANELS]:
        how = (
            "A curve per training step, the early ones dark, with a band of its stated error; dotted: chance."
        )
        panel = curves[curves["series"] == name]
        if bool((panel["tied"] > 0).any()):
            how = (
                f"A curve per training step, the early ones dark; dotted: chance. {TIES_ALONG_K} The "
                "narrower band is the numerical error; the stated error has both."
            )
        yield Section(f"Overlap against k: {name}", how, charts.overlap_by_k(panel, top=top))
        how = "A curve per training step, early ones dark, with a band of its residuals."
        yield Section(f"Spectrum: {name}", how, charts.spectra_by_step(values[values["series"] == name]))
    yield from _metrics(s, analyses, colors, near)
    yield from _heatmaps(s, analyses, near)
    yield from _structure(s, analyses, colors, near)


def _metrics(s: Session, analyses: pd.DataFrame, colors: dict[str, str], k: int) -> Iterator[Section]:
    """Mask and eigenspace by every metric over training, at the size nearest to k that most have."""
    found = queries.subspace_metrics(s, analyses["analysis_id"].tolist())
    if found.empty:
        return
    found = nearest(shared(found), k).merge(analyses[["analysis_id", "series"]], on="analysis_id")
    how = "From 0 (orthogonal) to 1 (equal); grey: random subspaces, mean ± std; bars: the error where known."
    for metric, name in charts.METRIC_NAMES.items():
        panel = charts.metric_heights(found[found["metric"] == metric], raw=False)
        title = f"Mask and eigenspace by {name}, k = {int(found['k'].iloc[0]):,}"
        yield Section(title, how, charts.metric_by_step(panel, colors, "likeness"))


def _heatmaps(s: Session, analyses: pd.DataFrame, k: int) -> Iterator[Section]:
    """How alike all pairs of steps are, as far as they have been compared, at the size nearest to k."""
    sets = queries.stabilisation_sets(s).replace({"subset": {"": "all"}})
    sets = sets[sets["analysis_id"].isin(analyses["analysis_id"])]
    for model, rows in sets.groupby("model"):
        values = queries.pair_values(s, rows["analysis_id"].tolist(), measures=(IOU, "overlap"))
        # Two sets may have been compared with each other, at sizes of their own.
        values = pd.concat([within(values, each) for _, each in rows.groupby("set_id")])
        if values.empty:
            continue
        values = nearest(shared(values), k)
        at = int(values["k"].iloc[0])
        rho = at / int(rows["parameters"].iloc[0])
        for panel in heatmaps_found(values, rows.assign(series=names_of_sets(rows))):
            chance = rho / (2 - rho) if panel.measure == MASKS_MEASURE else rho
            how = (
                "Each cell compares two training steps, from 0 (nothing in common) to 1 (the same). "
                f"Chance is {chance:.3g}."
            )
            title = f"{panel.title}, of all pairs of steps: {model}, k = {at:,}"
            yield Section(title, how, charts.heatmap(panel.values, panel.measure))


def _structure(s: Session, analyses: pd.DataFrame, colors: dict[str, str], k: int) -> Iterator[Section]:
    """In which layers, and at which magnitudes, each line has its overlap at its last step."""
    last = analyses.sort_values("step").drop_duplicates("series", keep="last").sort_values("series")
    for each in rows_of(last.head(MOST_PANELS), AnalysisOfLine):
        layers = queries.layer_shares(s, each.analysis_id)
        bins = queries.magnitude_bins(s, each.analysis_id)
        where = f"{each.series}, step {each.step:,}"
        if len(layers):
            layers = nearest(layers, k)
            how = "Grey bars: a tensor's share of the parameters, which is chance; points: of all else."
            title = f"In which layers: {where}, k = {int(layers['k'].iloc[0]):,}"
            yield Section(title, how, charts.layer_shares(layers))
        if len(bins):
            bins = nearest(bins, k)
            how = "The mean over weights of about the same |θ|, with a band from their 10 % to 90 % quantile."
            title = f"At which magnitudes: {where}, k = {int(bins['k'].iloc[0]):,}"
            yield Section(title, how, charts.magnitude_bins(bins, each.parameters, colors[each.model]))


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
            error = "" if point.error is None else f" ± {point.error:.1g}"
            row |= {
                f"overlap at {'ρ' if rho else 'k'} = {rho or k:g}": f"{point.overlap:.4g}{error}",
                "÷ chance": f"{point.ratio:.3g}",
                "λ₁": f"{point.lambda_max:.4g}",
            }
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


# --- HTML -------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
  background: light-dark(#fff, #171614); color: light-dark(#262730, #fafafa); }
h1 { margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 0 0 .2rem; } p { margin: .3rem 0; }
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
    title: str, models: pd.DataFrame, sections: Sequence[Section], tables: Mapping[str, pd.DataFrame]
) -> str:
    told = "\n".join(
        f"<h2>{escape(name)}</h2>\n{_table(table)}" for name, table in tables.items() if not table.empty
    )
    drawn = "\n".join(_section(section) for section in sections)
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


def _section(section: Section) -> str:
    specification = json.dumps(pictures.specification(section.chart, "container"))
    return f"""<section>
<h2>{escape(section.title)}</h2>
<p class="how">How to read this: {escape(section.how)}</p>
<div class="chart" role="img" aria-label="{escape(section.title, quote=True)}"></div>
<script type="application/json">{specification.replace("<", chr(92) + "u003c")}</script>
</section>"""


@functools.lru_cache(maxsize=1)
def _embed() -> str:
    """Vega, Vega-Lite and Vega-Embed, which put ``vegaEmbed`` into the page."""
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the stub misses a default
    return bundle.replace("</script", "<\\/script")
