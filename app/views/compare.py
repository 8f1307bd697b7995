"""Compare: overlap, spectrum and accuracy over training, across models, splits, curvatures and methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from seigh.app import charts
from seigh.app.checks import TIES_ALONG_K, ties_among
from seigh.app.common import (
    asked_in_url,
    counted,
    database,
    keep_in_url,
    model_colors,
    nothing_yet,
    plain,
    warn_of_random_data,
    whole_number,
)
from seigh.app.figure import figure
from seigh.app.panels import top_of
from seigh.app.report import report
from seigh.core.results import queries
from seigh.core.results.models import Mask

LABELS = {
    "model": "Models",
    "split": "Hessian on",
    "curvature": "Curvature",
    "subset": "Parameters",
    "method": "Method",
}
ALWAYS = ("model", "split")  # offered even when there is nothing to choose
ALL_PARAMETERS = "all"  # the name of the subset without patterns

VIEWS = {
    "overlap": ":material/stacked_line_chart: Overlap",
    "spectrum": ":material/blur_linear: Spectrum",
    "curves": ":material/timeline: Further curves",
    "size": ":material/bubble_chart: Size",
}

# Sparsities ρ = k/D to compare at, the paper's among them.
SPARSITIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

FEW_STEPS = 6  # curves in a panel before anybody asks for others
PANELS = 6  # on the page at a time
PANEL_POINTS = 100  # values of k of a curve in a panel, evenly spaced and on a log axis

SYMBOLS = (
    "M: the k weights of largest |θ|. Vₖ: the span of the k eigenvectors of the Hessian of largest |λ|. "
    "overlap(M, Vₖ) = ‖MᵀVₖ‖²_F / k, from 0 to 1. D: the number of parameters; chance is k/D. ρ: k/D, "
    "the share of the parameters that the mask has."
)
LAMBDA_SYMBOLS = (
    "λ: an eigenvalue of the matrix chosen above; λ₁: the one of largest |λ|. ‖Hv − λv‖₂: the residual of a "
    "computed eigenpair; an eigenvalue of H lies no farther than that from λ, up to "
    "rounding errors, which are measured in float64 on some pairs and added."
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
        return {"k": [str(self.k)]} if self.rho is None else {"rho": [f"{self.rho:g}"]}


def page() -> None:
    st.title("Compare")
    with database()() as s:
        finished = queries.comparable(s).replace({"subset": {"": ALL_PARAMETERS}})
        models = queries.models(s)
    analyses = charts.distinct_lines(finished)
    if analyses.empty:
        nothing_yet("**Nothing to compare yet.** When an analysis is finished, its curves appear here.")
        return
    asked = asked_in_url("compare")
    chosen, selection = choose(analyses, asked)
    say_what_is_hidden(finished, chosen)
    warn_of_random_data(chosen)
    if chosen.empty:
        st.info("No finished analysis matches; choose at least one model, one split and one method.")
        return
    view = choose_view(asked)
    selection["view"] = [view]
    colors, size = model_colors(models), None
    if view == "overlap":
        size = choose_size(chosen, asked)
        over_training(chosen, size, colors)
        steps = against_k(chosen, asked)
        selection |= size.in_url | {"step": steps}
    elif view == "spectrum":
        recorded(chosen, colors)
        selection["step"] = spectra(chosen, asked)
    elif view == "curves":
        size = choose_size(chosen, asked)
        selection |= size.in_url | further(chosen, size, asked, colors)
    else:
        size = choose_size(chosen, asked, only_rho=True)
        by_size(chosen, size, colors)
        selection |= size.in_url
    offer_report(chosen, size)
    keep_in_url("compare", selection)


def offer_report(chosen: pd.DataFrame, size: Size | None) -> None:
    """All charts of what is chosen in one file, made when somebody wants it."""

    def make() -> str:
        title = ", ".join(sorted(chosen["model"].unique()))
        wanted = size or Size()
        with database()() as s:
            return report(s, title, ids(chosen), wanted.k, wanted.rho)

    st.download_button(
        "Report of this selection",
        make,
        file_name="seigh-report.html",
        mime="text/html",
        key="compare_report",
        on_click="ignore",
        icon=":material/summarize:",
        help="All charts and numbers in one HTML file, which needs a browser and nothing else.",
    )


def choose_view(asked: dict[str, list[str]]) -> str:
    """What is compared: what the address asks for, else what this session looked at last."""
    if (wanted := asked.get("view", [""])[0]) in VIEWS:
        st.session_state["compare_view"] = wanted
    view = st.segmented_control(
        "Look at",
        list(VIEWS),
        default=None if "compare_view" in st.session_state else "overlap",
        format_func=VIEWS.__getitem__,
        key="compare_view",
        label_visibility="collapsed",
        required=True,
        persist_state="session",
    )
    return view or "overlap"


def choose(analyses: pd.DataFrame, asked: dict[str, list[str]]) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The analyses to compare, and the choice as it stands in the address."""
    columns = [name for name in LABELS if name in ALWAYS or analyses[name].nunique() > 1]
    selection = {}
    for place, name in zip(st.columns([3] + [2] * (len(columns) - 1)), columns, strict=True):
        options = sorted(analyses[name].unique())
        with place:
            selection[name] = several("compare_" + name, LABELS[name], options, asked.get(name), options)
        analyses = analyses[analyses[name].isin(selection[name])]
    return analyses.assign(series=charts.name_series(analyses)), selection


def say_what_is_hidden(finished: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """Of analyses that would be the same point of the same line, which one is shown."""
    same = finished.merge(chosen[[*charts.LINE_COLUMNS, "step"]], on=[*charts.LINE_COLUMNS, "step"])
    hidden = len(same) - len(chosen)
    if hidden:
        st.caption(
            f"{counted(hidden, 'more analysis', 'more analyses')} of the same checkpoints and data differ "
            "from those shown only in k, n_O, n_I, precision or other numerical settings; of such, the one "
            "with the largest k is shown, then the latest. The Result page has them all."
        )


def several(
    key: str, label: str, options: Sequence[str], asked: Sequence[str] | None, default: Sequence[str]
) -> list[str]:
    """A choice of several: what the address asks for, else what this session chose last, else ``default``."""
    wanted = asked or st.session_state.get(key, default)
    st.session_state[key] = [option for option in options if option in wanted]
    if len(options) <= 4 and sum(map(len, options)) < 40:
        return st.pills(label, options, selection_mode="multi", key=key, persist_state="session")
    return st.multiselect(label, options, key=key, persist_state="session", wrap=True)


def choose_size(chosen: pd.DataFrame, asked: dict[str, list[str]], *, only_rho: bool = False) -> Size:
    """The size of the eigenspaces that are compared: k, or k as a share ρ of every model's parameters."""
    largest = int(chosen["k"].max())
    reached = float((chosen["k"] / chosen["parameters"]).max())
    shares = [rho for rho in SPARSITIES if rho <= reached]
    if "rho" in asked and "k" not in asked:
        st.session_state["compare_by"] = "ρ"
    elif "k" in asked:
        st.session_state["compare_by"] = "k"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        by: str | None = "ρ"
        if not only_rho:
            st.session_state.setdefault("compare_by", "k")
            by = st.segmented_control(
                "Compare at one",
                ["k", "ρ"],
                key="compare_by",
                required=True,
                persist_state="session",
                help="k: the same number of eigenvectors for all. ρ = k/D: the same share of every model's "
                "parameters, so that chance is the same for all.",
            )
        if by == "ρ" and shares:
            return Size(rho=choose_rho(shares, asked))
        if largest == 1:
            return Size(1)
        k = whole_number(asked, "k") or st.session_state.get("compare_k", int(chosen["k"].min()))
        st.session_state["compare_k"] = min(k, largest)
        k = st.slider("k, size of eigenspace and mask", 1, largest, key="compare_k", persist_state="session")
        return Size(k)


def choose_rho(shares: Sequence[float], asked: dict[str, list[str]]) -> float:
    """One of the sparsities that analyses reach; at first the largest that the paper has."""
    wanted = st.session_state.get("compare_rho", 0.05)
    with contextlib.suppress(ValueError):
        wanted = float(asked.get("rho", [wanted])[0])
    nearest = min(shares, key=lambda share: abs(np.log(share / max(wanted, 1e-9))))
    if len(shares) == 1:
        return nearest
    st.session_state["compare_rho"] = nearest
    return st.select_slider(
        "ρ = k/D, sparsity of the mask",
        shares,
        key="compare_rho",
        format_func=lambda share: f"{share:g}",
        persist_state="session",
    )


def over_training(chosen: pd.DataFrame, size: Size, colors: dict[str, str]) -> None:
    with database()() as s:
        points = queries.overlap_by_step(
            s, size.k, rho=size.rho, ids=ids(chosen), masks=(Mask.magnitude, Mask.random)
        )
    points = points.merge(chosen[["analysis_id", "series"]], on="analysis_id")
    if points.empty:
        st.info(f"No chosen analysis has as many eigenpairs as {size}; choose a smaller one.")
        return
    absolute, relative = st.columns(2)
    with absolute:
        figure(
            charts.overlap_by_step(points, colors),
            points,
            key="compare_overlap",
            title=f"Overlap over training, {size}",
            symbols=SYMBOLS,
            how="above the dotted chance level, the largest weights and the top eigenvectors share more "
            "coordinates than drawn at random. Grey: mean ± std of random masks; thin bars: the "
            f"{'numerical' if ties_among(points) else 'stated'} error.",
            alt=f"Overlap of the magnitude mask with the top eigenspace against training step, {size}.",
            name=f"overlap-over-training-{size}",
        )
    with relative:
        figure(
            charts.overlap_by_step(points, colors, "ratio"),
            points,
            key="compare_ratio",
            title="As ratio to chance",
            symbols=SYMBOLS,
            how="at 1, the largest weights have no more of the eigenspace than any others. Click a model in "
            "the legend to make the others pale.",
            alt=f"The same overlap divided by the chance level k/D, {size}, against training step.",
            name=f"ratio-over-training-{size}",
        )
    if ties := ties_among(points):
        st.caption(ties)
    short = len(chosen) - points["analysis_id"].nunique()
    if short:
        st.caption(
            f"{short} of {len(chosen)} chosen analyses have too few eigenpairs for {size} and are left out."
        )
    with st.expander("The numbers behind these charts", icon=":material/table:"):
        numbers = points[points["mask"] == Mask.magnitude].drop(columns=["mask", "std", "series"])
        st.dataframe(numbers, hide_index=True, key="compare_numbers")


def against_k(chosen: pd.DataFrame, asked: dict[str, list[str]]) -> list[str]:
    """Overlap against k, a panel for each line of the charts above; the steps shown."""
    st.subheader("Overlap against k, over training", help=SYMBOLS, anchor=False)
    st.caption(
        "How to read this: a panel per model and split, a curve per training step with a band of its error, "
        "the early ones dark; the dotted line is chance. Point at a panel for the values at one k; "
        "shift + wheel zooms."
    )
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    with left:
        steps = choose_steps(chosen, asked)
    log_k = right.toggle("Log k axis", key="compare_log_k", persist_state="session")
    chosen = one_page(chosen[chosen["step"].astype(str).isin(steps)], "compare_page_k")
    if chosen.empty:
        st.info("Choose at least one training step to see its curve.")
        return []
    with database()() as s:
        curves = queries.overlap_curves(s, ids(chosen), masks=(Mask.magnitude,), most=PANEL_POINTS)
    curves = curves.merge(chosen[["analysis_id", "series"]], on="analysis_id")
    top = top_of(curves)
    if bool((curves["tied"] > 0).any()):
        st.caption(f"{TIES_ALONG_K} The narrower band is the numerical error; the stated error has both.")
    for number, series, panel in in_two_columns(curves):
        figure(
            charts.overlap_by_k(panel, log_k=log_k, top=top),
            panel,
            key=f"compare_panel_{number}",
            title=plain(series),
            alt=f"Overlap against k at several training steps: {series}.",
            name=f"overlap-against-k-{series}",
            panel=True,
        )
    return steps


def recorded(chosen: pd.DataFrame, colors: dict[str, str]) -> None:
    """λ₁, and beside it what the checkpoints recorded of the training."""
    with database()() as s:
        leading = queries.eigenvalues(s, ids(chosen), most=1)
        metrics = queries.recorded_metrics(s, sorted(chosen["model"].unique()))
    leading = leading[leading["position"] == 1].merge(chosen[["analysis_id", "series"]], on="analysis_id")
    figure(
        charts.lambda_by_step(leading, colors),
        leading,
        key="compare_lambda",
        title="Largest eigenvalue over training",
        symbols=LAMBDA_SYMBOLS,
        how="a point is the eigenvalue of largest |λ| at a checkpoint, with its sign; a bar its residual.",
        alt="The eigenvalue of largest magnitude against training step.",
    )
    if metrics.empty:
        st.caption("These checkpoints recorded neither loss nor accuracy; those of `seigh train` do.")
        return
    recordings: tuple[charts.Recording, ...] = ("accuracy", "loss")
    for place, metric in zip(st.columns(2), recordings, strict=True):
        if metric in set(metrics["metric"]):
            with place:
                figure(
                    charts.recorded_by_step(metrics, colors, metric),
                    metrics[metrics["metric"] == metric],
                    key=f"compare_{metric}",
                    title=f"{metric.capitalize()} over training",
                    how="as the checkpoints recorded it, at the steps of the charts above and below.",
                    alt=f"Recorded {metric} against training step.",
                )


def spectra(chosen: pd.DataFrame, asked: dict[str, list[str]]) -> list[str]:
    """The leading eigenvalues, a panel for each line; the steps shown."""
    st.subheader("Spectrum over training", help=LAMBDA_SYMBOLS, anchor=False)
    st.caption(
        "How to read this: a curve is the leading |λ| of one training step in descending order, early ones "
        "dark, with a band of the residuals. Shift + wheel zooms."
    )
    steps = choose_steps(chosen, asked)
    chosen = one_page(chosen[chosen["step"].astype(str).isin(steps)], "compare_page_spectra")
    if chosen.empty:
        st.info("Choose at least one training step to see its spectrum.")
        return []
    with database()() as s:
        values = queries.eigenvalues(s, ids(chosen), most=PANEL_POINTS)
    values = values.merge(chosen[["analysis_id", "series"]], on="analysis_id")
    for number, series, panel in in_two_columns(values):
        figure(
            charts.spectra_by_step(panel),
            panel,
            key=f"compare_spectra_{number}",
            title=plain(series),
            alt=f"Magnitudes of the leading eigenvalues at several training steps: {series}.",
            name=f"spectrum-{series}",
            panel=True,
        )
    return steps


def further(
    chosen: pd.DataFrame, size: Size, asked: dict[str, list[str]], colors: dict[str, str]
) -> dict[str, list[str]]:
    """One of the further curves over training; which, as it stands in the address."""
    with database()() as s:
        titles = queries.curve_names(s, ids(chosen))
    if not titles:
        st.info(
            "None of these analyses has further curves; New analysis offers them under Advanced, as "
            "`seigh curves` lists them."
        )
        return {}
    if (wanted := asked.get("curve", [""])[0]) in titles:
        st.session_state["compare_curve"] = wanted
    if st.session_state.get("compare_curve") not in titles:
        st.session_state["compare_curve"] = next(iter(titles))
    shown = {each: plain(title) for each, title in titles.items()}
    name = st.selectbox(
        "Curve", list(titles), format_func=shown.__getitem__, key="compare_curve",
        persist_state="session",
    )  # fmt: skip
    rho, frames = size.rho, []
    for parameters, of in chosen.groupby("parameters"):
        k = size.k if rho is None else queries.at_sparsity(rho, int(str(parameters)))
        with database()() as s:
            frames.append(queries.curves_at(s, ids(of), name, max(1, k or 1)))
    points = pd.concat(frames).merge(chosen[["analysis_id", "series"]], on="analysis_id")
    if points.empty:
        st.info(f"No chosen analysis has this curve up to {size}; choose a smaller one.")
    else:
        title = plain(titles[name])
        figure(
            charts.curve_by_step(points, colors),
            points,
            key="compare_curve_by_step",
            title=f"{title[:1].upper()}{title[1:]}, {size}",
            how=f"{plain(str(points['note'].iloc[0]))} Bars: the stated error; dotted: chance.",
            alt=f"{title} against training step, {size}.",
            name=f"{name}-over-training-{size}",
        )
        missing = len(chosen) - points["analysis_id"].nunique()
        if missing:
            st.caption(
                f"{missing} of {len(chosen)} chosen analyses have no such curve, or one that ends before."
            )
    return {"curve": [name]}


def by_size(chosen: pd.DataFrame, size: Size, colors: dict[str, str]) -> None:
    """The ratio to chance against the number of parameters, each line at its last step."""
    with database()() as s:
        points = queries.overlap_by_step(s, size.k, rho=size.rho, ids=ids(chosen))
    points = points.merge(chosen[["analysis_id", "series"]], on="analysis_id")
    last = points.sort_values("step").drop_duplicates("series", keep="last")
    if last.empty:
        st.info(f"No chosen analysis has as many eigenpairs as {size}; choose a smaller one.")
        return
    figure(
        charts.ratio_by_size(last, colors),
        last,
        key="compare_size",
        title=f"Ratio to chance against network size, {size}",
        symbols=SYMBOLS,
        how="each model and split at its last analysed step; the higher above the dotted chance level, the "
        "more of the top eigenspace lies on the largest weights. Bars: the stated error.",
        alt=f"Overlap divided by chance at {size} against the number of parameters.",
        name=f"ratio-by-size-{size}",
    )
    if last["parameters"].nunique() == 1:
        st.caption("All of these have the same size; analyse a model of another size to see how it matters.")


def choose_steps(chosen: pd.DataFrame, asked: dict[str, list[str]]) -> list[str]:
    """The training steps to draw a curve of; at first a few, evenly spread."""
    options = [str(step) for step in sorted(chosen["step"].unique())]
    spread = np.unique(np.linspace(0, len(options) - 1, FEW_STEPS).round().astype(int))
    default = [options[i] for i in spread]
    return several("compare_step", "Training steps", options, asked.get("step"), default)


def one_page(chosen: pd.DataFrame, key: str) -> pd.DataFrame:
    """Those of ``PANELS`` lines, of which the user can turn the pages."""
    series = sorted(chosen["series"].unique())
    pages = -(-len(series) // PANELS)
    if pages > 1:
        number = st.pagination(pages, key=key)
        series = series[(number - 1) * PANELS : number * PANELS]
    return chosen[chosen["series"].isin(series)]


def in_two_columns(frame: pd.DataFrame) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """Number, name and rows of every line, each within a column of its own to draw in."""
    for number, (series, panel) in enumerate(frame.groupby("series")):
        if number % 2 == 0:
            places = st.columns(2)
        with places[number % 2]:
            yield number, str(series), panel


def ids(chosen: pd.DataFrame) -> list[int]:
    return chosen["analysis_id"].tolist()
