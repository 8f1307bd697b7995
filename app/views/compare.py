"""Compare: overlap, spectrum and accuracy over training, across models, splits, curvatures and methods."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from seigh.app import charts, digits, figures
from seigh.app.common import (
    FEW_MODELS,
    address_is_read,
    asked_in_url,
    counted,
    database,
    first_of,
    heading,
    keep_in_url,
    named,
    nothing_yet,
    plain,
    say_few_are_shown,
    say_what_is_gone,
    warn_of_random_data,
    whole_number,
    without_archived,
)
from seigh.app.figures import Size
from seigh.app.frame import explain, in_columns, show
from seigh.app.lines import LINE, MEASURES, Arrangement
from seigh.app.lines_form import Lines, choose_lines
from seigh.app.panels import (
    BESIDE,
    EACH_BESIDE,
    Masks,
    at_size,
    further_points,
    having_observable,
    masks_beside,
    masks_of,
    masks_of_steps,
    overlap_of_each,
    top_of,
)
from seigh.app.report import report
from seigh.app.scattered import BY_SIZE, Axes, scatter
from seigh.core.figures import Figure
from seigh.core.lab import queries
from seigh.core.lab.models import Mask
from seigh.core.names import mask_called
from seigh.core.order import in_order

LABELS = {
    "model": "Models",
    "split": "Hessian on",
    "curvature": "Curvature",
    "subset": "Parameters",
    "method": "Method",
}
GONE = {"model": "model", "split": "split", "subset": "choice of parameters"}  # what an address may ask for
ALWAYS = ("model", "split")  # offered even when there is nothing to choose
ALL_PARAMETERS = "all"  # the name of the subset without patterns

# What else analyses may differ in, each a part of a line's name.
DIFFERENCES = {
    "curvature": "curvature",
    "subset": "parameters",
    "loss": "loss",
    "samples": "N",
    "sampling": "which samples",
    "seed": "seed",
    "data": "data",
}

LOOKS = "Each has a colour of its own, named in the legend"

VIEWS = {
    "overlap": ":material/stacked_line_chart: Overlap",
    "spectrum": ":material/blur_linear: Spectrum",
    "curves": ":material/timeline: Observables",
    "masks": ":material/join_inner: Masks",
    "scatter": ":material/scatter_plot: Scatter",
}

# Sparsities ρ = k/D to compare at, the paper's among them.
SPARSITIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

FEW_STEPS = 6  # curves in a panel before anybody asks for others
PANELS = 6  # on the page at a time
PANEL_POINTS = 100  # values of k of a curve in a panel, evenly spaced and on a log axis


def page() -> None:
    st.title("Compare")
    asked = of_this_version(asked_in_url("compare"))
    # What comes and goes above the charts has a container of its own, here and below: elsewhere it would move
    # them to other places, and the browser would draw them anew.
    with st.container():
        shown = choices(asked)
    if shown is None:
        return
    lines, view, selection = shown
    size, masks, axes = None, None, None
    if view == "spectrum":
        recorded(lines)
        selection["step"] = spectra(lines, asked)
    else:
        with st.container():
            size = choose_size(lines.chosen, asked)
        selection |= size.in_url
        if view == "overlap":
            with st.container():
                over_training(lines, size)
            selection["step"] = against_k(lines, asked)
        elif view == "curves":
            selection |= further(lines, size, asked)
        elif view == "masks":
            masks, in_url = masks_compared(lines, size, asked)
            selection |= in_url
        else:
            axes = scatter(lines, size, asked)
            selection |= axes.in_url
    offer_report(lines, size, masks, axes)
    keep_in_url("compare", selection)


def choices(asked: dict[str, list[str]]) -> tuple[Lines, str, dict[str, list[str]]] | None:
    """The analyses to compare as lines, how to look at them, and both as they stand in the address; None
    where there is nothing to compare, which is said."""
    with database()() as s:
        finished = queries.comparable(s).replace({"subset": {"": ALL_PARAMETERS}})
    if finished.empty:
        nothing_yet("**Nothing to compare yet.** When an analysis is finished, its curves appear here.")
        return None
    finished, put_away = without_archived(finished, "compare", asked)
    only = only_chosen(finished, asked)
    if only is not None:
        finished = finished[finished["analysis_id"].isin(only)]
    for name, label in LABELS.items():
        say_what_is_gone(asked.get(name), in_order(finished[name].unique()), GONE.get(name, label.lower()))
    analyses, selection = choose(finished, asked)
    if analyses.empty:
        address_is_read("compare")
        st.info("No finished analysis matches; choose at least one model, one split and one method.")
        return None
    lines = choose_lines(analyses, asked)
    chosen = lines.of_different_colors()
    say_what_is_hidden(finished, chosen)
    warn_of_random_data(chosen)
    say_what_differs(chosen, lines.arrangement)
    view = choose_view(asked)
    selection |= lines.in_url | put_away | {"view": [view]}
    if only is not None:
        selection["analysis"] = [str(each) for each in only]
    return replace(lines, chosen=chosen), view, selection


def of_this_version(asked: dict[str, list[str]]) -> dict[str, list[str]]:
    """What an address asks for. An earlier version had a view of its own for the ratio to chance against the
    size of networks, which is what the scatter shows first."""
    if asked.get("view") != ["size"]:
        return asked
    x, y = BY_SIZE
    return {"rho": ["0.05"]} | asked | {"view": ["scatter"], "x": [x], "y": [y]}


def only_chosen(analyses: pd.DataFrame, asked: dict[str, list[str]]) -> list[int] | None:
    """The analyses that somebody has chosen on *Analyses*, to be compared alone; None if nobody has."""
    if asked:
        wanted = [int(each) for each in asked.get("analysis", []) if each.isdecimal() and len(each) < 10]
        st.session_state["compare_only"] = wanted
        if wanted and "model" not in asked:  # a choice of before would hide some of them
            for name in LABELS:
                st.session_state.pop(f"compare_{name}", None)
    wanted = st.session_state.get("compare_only", [])
    if not wanted:
        return None
    there: list[int] = analyses.loc[analyses["analysis_id"].isin(wanted), "analysis_id"].tolist()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"Only {counted(len(there), 'analysis', 'analyses')} of the {len(wanted):,} chosen on Analyses "
            "are compared: the others are not finished, or not there."
            if len(there) < len(wanted)
            else f"Only the {counted(len(wanted), 'analysis', 'analyses')} chosen on Analyses "
            f"{'is' if len(wanted) == 1 else 'are'} compared."
        )
        st.button("Compare all", key="compare_all", type="tertiary", on_click=forget_chosen)
    return there


def forget_chosen() -> None:
    st.session_state["compare_only"] = []
    st.query_params.clear()


def offer_report(lines: Lines, size: Size | None, masks: Masks | None, axes: Axes | None) -> None:
    """All charts of what is chosen in one file, arranged as on the page, made when somebody wants it."""

    def make() -> str:
        title = ", ".join(in_order(lines.chosen["model"].unique()))
        wanted = size or Size()
        with database()() as s:
            return report(
                s, title, ids(lines.chosen), wanted.k, wanted.rho, lines=lines, masks=masks, axes=axes
            )

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
        options = in_order(analyses[name].unique())
        with place:
            first = options[:FEW_MODELS] if name == "model" else options
            selection[name] = several("compare_" + name, LABELS[name], options, asked.get(name), first)
        if name == "model":
            say_few_are_shown(selection[name], options)
        analyses = analyses[analyses[name].isin(selection[name])]
    return analyses, selection


def say_what_differs(chosen: pd.DataFrame, arrangement: Arrangement) -> None:
    """In which settings beside model, split and method, and those that somebody has arranged, the compared
    analyses differ."""
    parts = []
    for column, label in DIFFERENCES.items():
        if column in arrangement.named:
            continue
        values = sorted(chosen[column].unique())
        if len(values) > 1:
            shown = [plain(f"{value:,}" if column == "samples" else str(value)) for value in values[:6]]
            parts.append(f"{label} ({', '.join(shown)}{', …' if len(values) > 6 else ''})")
    if parts:
        looks = "Their lines are told apart in their tooltips" if arrangement.color else LOOKS
        st.info(
            f"These analyses differ in {'; '.join(parts)}. {looks}; a difference between such lines may come "
            "from that rather than from the networks.",
            icon=":material/difference:",
        )


def say_what_is_hidden(finished: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """Of analyses that would be the same point of the same line, which one is shown."""
    same = finished.merge(chosen[[*charts.LINE_COLUMNS, "step"]].drop_duplicates())
    hidden = same[~same["analysis_id"].isin(chosen["analysis_id"])]
    if len(hidden):
        st.caption(
            f"{counted(len(hidden), 'more analysis', 'more analyses')} of the same checkpoints and data "
            "differ from those shown only in k, n_O, n_I, precision or other numerical settings, or in the "
            "observables that they have; of such, the one with the largest k is shown, then the latest, and "
            "an observable or mask that it has not is that of another. The Result page has them all. Not "
            f"shown: {named([f'#{each}' for each in hidden['analysis_id']])}."
        )


def say_who_is_missing(chosen: pd.DataFrame, shown: pd.Series[int], why: str) -> None:
    """Name the analyses that a chart has no point of."""
    missing = chosen[~chosen["analysis_id"].isin(shown)]
    if missing.empty:
        return
    names = []
    for series, rows in missing.groupby("series"):
        steps = [f"{step:,}" for step in sorted(rows["step"].unique())]
        every = len(rows) == (chosen["series"] == series).sum() and len(steps) > 1
        at = "all steps" if every else f"step{'s' * (len(steps) > 1)} {first_of(steps, 3)}"
        names.append(f"{series}, {at}")
    st.caption(f"{len(missing)} of {len(chosen)} chosen analyses {why}: {named(in_order(names))}.")


def several(
    key: str,
    label: str,
    options: Sequence[str],
    asked: Sequence[str] | None,
    default: Sequence[str],
    called: Callable[[str], str] = str,
) -> list[str]:
    """A choice of several: what the address asks for, else what this session chose last, else ``default``;
    people read what each is ``called``."""
    remembered = st.session_state.get(key)
    if remembered is None or remembered == st.session_state.get(f"{key}_first"):
        remembered = default  # nobody has chosen yet: what is offered may have changed since
    wanted = asked or remembered
    st.session_state[key] = [option for option in options if option in wanted]
    st.session_state[f"{key}_first"] = list(default)
    if len(options) <= 4 and sum(map(len, options)) < 40:
        return st.pills(
            label,
            options,
            selection_mode="multi",
            format_func=lambda option: plain(called(option)),
            key=key,
            persist_state="session",
        )
    return st.multiselect(label, options, format_func=called, key=key, persist_state="session", wrap=True)


def choose_size(chosen: pd.DataFrame, asked: dict[str, list[str]]) -> Size:
    """The size of the eigenspaces that are compared: k, or k as a share ρ of every model's parameters."""
    largest = int(chosen["k"].max())
    reached = float((chosen["k"] / chosen["parameters"]).max())
    shares = [rho for rho in SPARSITIES if rho <= reached]
    if "rho" in asked and "k" not in asked:
        st.session_state["compare_by"] = "ρ"
    elif "k" in asked:
        st.session_state["compare_by"] = "k"
    with st.container(horizontal=True, vertical_alignment="bottom"):
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
        if by == "ρ":
            if not shares:
                st.markdown(
                    f"No chosen analysis reaches ρ = {SPARSITIES[0]:g}, the smallest to compare at: the "
                    f"most that one has is ρ = {digits.number(reached, 2)}. Compare at one k instead."
                )
                return Size(rho=SPARSITIES[0])
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


def over_training(lines: Lines, size: Size) -> None:
    chosen = lines.chosen
    with database()() as s:
        points = queries.overlap_by_step(
            s, size.k, rho=size.rho, ids=ids(chosen), masks=(Mask.magnitude, Mask.random)
        )
    points = points.merge(chosen[LINE], on="analysis_id")
    if points.empty:
        st.info(f"No chosen analysis has as many eigenpairs as {size}; choose a smaller one.")
        return
    with st.container():
        why = f"have too few eigenpairs for {size} and are left out"
        say_who_is_missing(chosen, points["analysis_id"], why)
        points = lines.means(points)
    in_panels(
        {
            "compare_overlap": figures.overlap_over_training(points, lines.colors, size),
            "compare_ratio": figures.ratio_over_training(points, lines.colors, size),
        },
    )
    magnitude = points[points["mask"] == Mask.magnitude]
    measure = "overlap" if magnitude["chance"].nunique() == 1 else "ratio"
    against_baseline(magnitude, measure, f"{MEASURES[measure]}, {size}", "overlap", lines)
    section = st.expander(
        "The numbers behind these charts", icon=":material/table:", key="compare_behind", on_change="rerun"
    )
    if section.open:
        numbers = magnitude.drop(columns=["mask", "std", "dash", "panel", "group", "chance"])
        section.dataframe(numbers, hide_index=True, key="compare_numbers")


def against_k(lines: Lines, asked: dict[str, list[str]]) -> list[str]:
    """Overlap against k, a panel for each line of the charts above; the steps shown."""
    chosen = lines.chosen
    st.header("Overlap against k, over training", help=plain(figures.OVERLAP_SYMBOLS), anchor=False)
    with st.container():
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
    curves = lines.means_of_curves(curves.merge(chosen[LINE], on="analysis_id"))
    top = top_of(curves)
    panels = [
        figures.overlap_against_k(rows, series, log_k=log_k, top=top) for series, rows in each_line(curves)
    ]
    in_two_columns(panels, "compare_panel")
    return steps


def recorded(lines: Lines) -> None:
    """λ₁, and beside it what the checkpoints recorded of the training."""
    chosen = lines.chosen
    with database()() as s:
        leading = queries.eigenvalues(s, ids(chosen), most=1)
        metrics = queries.recorded_metrics(s, in_order(chosen["model"].unique()))
    leading = leading[leading["position"] == 1].merge(chosen[LINE], on="analysis_id")
    with st.container():
        leading = lines.means(leading.drop(columns="magnitude"))
        in_panels({"compare_lambda": figures.largest_eigenvalue(leading, lines.colors)})
        against_baseline(leading, "value", "λ₁", "lambda", lines)
    if metrics.empty:
        st.caption("These checkpoints recorded neither loss nor accuracy; those of `seigh train` do.")
        return
    recordings: tuple[charts.Recording, ...] = ("accuracy", "loss")
    colors = lines.colors_of_models
    there = [metric for metric in recordings if metric in set(metrics["metric"])]
    in_columns({f"compare_{metric}": figures.recorded(metrics, colors, metric) for metric in there})
    unrecorded = sorted(set(chosen["model"]) - set(metrics["model"]))
    with st.container():
        if unrecorded:
            st.caption(f"Neither loss nor accuracy is recorded of {named(unrecorded)}.")


def spectra(lines: Lines, asked: dict[str, list[str]]) -> list[str]:
    """The leading eigenvalues, a panel for each line; the steps shown."""
    chosen = lines.chosen
    st.header("Spectrum over training", help=plain(figures.EIGENVALUE_SYMBOLS), anchor=False)
    with st.container():
        steps = choose_steps(chosen, asked)
        chosen = one_page(chosen[chosen["step"].astype(str).isin(steps)], "compare_page_spectra")
    if chosen.empty:
        st.info("Choose at least one training step to see its spectrum.")
        return []
    with database()() as s:
        values = queries.eigenvalues(s, ids(chosen), most=PANEL_POINTS)
    values = lines.means_of_curves(values.merge(chosen[LINE], on="analysis_id"))
    panels = [figures.spectrum_over_training(rows, series) for series, rows in each_line(values)]
    in_two_columns(panels, "compare_spectra")
    return steps


def further(lines: Lines, size: Size, asked: dict[str, list[str]]) -> dict[str, list[str]]:
    """One observable over training, a curve, a quantity or a profile; which, as it stands in the address."""
    chosen = lines.chosen
    with database()() as s:
        kinds = {
            "quantity": queries.observation_names(s, lines.every, "quantity"),
            "profile": queries.observation_names(s, lines.every, "profile"),
            "curve": queries.curve_names(s, lines.every),
            "runtime": {name: title for name, (title, _, _) in queries.RUNTIMES.items()},
        }
    titles = {name: title for found in kinds.values() for name, title in found.items()}
    if len(titles) == len(kinds["runtime"]):
        st.caption(
            "None of these analyses has observables, so that there is only what they cost; New analysis "
            "offers observables under Advanced, as `seigh curves` lists them."
        )
    name = one_of("curve", "Observable", list(titles), asked, st.container(), titles)
    if name not in kinds["runtime"]:
        with database()() as s:
            chosen = having_observable(s, lines, name)
    if name in kinds["profile"]:
        return {"curve": [name], "step": profiles(chosen, name, asked, lines)}
    if name in kinds["quantity"] or name in kinds["runtime"]:
        with database()() as s:
            if name in kinds["quantity"]:
                found = queries.quantities(s, ids(chosen), [name])
            else:
                found = queries.runtimes(s, ids(chosen), name)
        found = found.merge(chosen[LINE], on="analysis_id")
        if found.empty:
            st.info("No chosen analysis has this quantity; choose another one.")
            return {"curve": [name]}
        say_who_is_missing(chosen, found["analysis_id"], "have no such quantity")
        shown, found = found["analysis_id"], lines.means(found)
        figure = lines.saying_whose(figures.quantity_over_training(found, lines.colors), shown)
        in_panels({"compare_quantity_by_step": figure})
        against_baseline(found, "value", str(found["title"].iloc[0]), "quantity", lines)
        return {"curve": [name]}
    with database()() as s:
        points = further_points(s, lines, name, size.of)
    if points.empty:
        st.info(f"No chosen analysis has this curve up to {size}; choose a smaller one.")
    else:
        say_who_is_missing(chosen, points["analysis_id"], "have no such curve, or one that ends before")
        shown, points = points["analysis_id"], lines.means(points)
        figure = lines.saying_whose(figures.further_over_training(points, lines.colors, size), shown)
        in_panels({"compare_curve_by_step": figure})
        against_baseline(points, "value", f"{points['title'].iloc[0]}, {size}", "curve", lines)
    return {"curve": [name]}


def masks_compared(
    lines: Lines, size: Size, asked: dict[str, list[str]]
) -> tuple[Masks, dict[str, list[str]]]:
    """The overlap of several masks over training, and how alike they are; what is compared, and how that
    stands in the address."""
    with database()() as s:
        masks = masks_of(s, lines.every)
    drawn = several(
        "compare_masks", "Masks", list(masks.offered), asked.get("masks"), masks.drawn, called=mask_called
    )
    masks = replace(masks, drawn=drawn[: charts.MOST_COLORS])
    in_url = {"masks": list(masks.drawn)}
    if not drawn:
        st.info("Choose at least one mask to see its overlap.")
    with database()() as s:
        points = overlap_of_each(s, lines, masks.called, size.of)
        beside = {
            which: masks_beside(s, lines, masks.known, which, size.of, masks.stored) for which in EACH_BESIDE
        }
    if len(points):
        having = lines.having(points["analysis_id"])
        say_who_is_missing(having, points["analysis_id"], "have none of these masks, or end before")
        shown = points["analysis_id"]
        figure = figures.masks_over_training(lines.means(points), masks.colors, size)
        figure = lines.saying_whose(figure, shown)
        in_panels({"compare_masks_overlap": figure})
    elif drawn:
        st.info(f"No chosen analysis has these masks up to {size}; choose a smaller one, or others.")
    for which, found in beside.items():
        if len(found):
            figure = figures.further_over_training(lines.means_of_points(found), masks.colors, size)
            in_panels({f"compare_masks_{which}": lines.saying_whose(figure, found["analysis_id"])})
    if masks.names:
        masks, of_pair = masks_in_common(lines, size, masks, asked)
        return masks, in_url | of_pair
    st.caption(
        "None of these analyses was asked for further masks; New analysis offers them under Advanced, as "
        "`seigh curves` lists them."
    )
    return masks, in_url


def masks_in_common(
    lines: Lines, size: Size, masks: Masks, asked: dict[str, list[str]]
) -> tuple[Masks, dict[str, list[str]]]:
    """How alike two masks are over training, of one step or of two; which, and how that stands in the
    address."""
    st.header("Any two masks", help=plain(figures.MASK_SYMBOLS), anchor=False)
    places = st.columns(3)
    which = one_of("beside", "And, at", list(BESIDE), asked, places[1], BESIDE)
    called = {name: mask_called(name) for name in masks.names}
    first = one_of("mask", "Mask", masks.names, asked, places[0], called)
    others = [name for name in masks.names if name != first or which != "same"]
    if not others:
        st.info("These analyses have one mask alone; compare it with that of another step.")
        return masks, {"beside": [which], "mask": [first]}
    second = one_of("other", "The mask", others, asked, places[2], called)
    masks = replace(masks, pair=(first, second), which=which)
    in_url = {"beside": [which], "mask": [first], "other": [second]}
    with database()() as s:
        pairs = masks_of_steps(s, lines, [(first, second)], which, stored=masks.stored)
    found = pairs[first, second]
    points = at_size(found, size.of)
    if points.empty:
        st.info(f"No chosen analysis has both masks up to {size}; choose a smaller one, or other masks.")
        return masks, in_url
    why = "have not both masks, or end before" if which == "same" else "have no such pair, or end before"
    say_who_is_missing(lines.having(points["analysis_id"]), points["analysis_id"], why)
    shown, points = points["analysis_id"], lines.means(points)
    figure = figures.further_over_training(points, lines.colors, size)
    in_panels({"compare_masks_by_step": lines.saying_whose(figure, shown)})
    against_baseline(points, "value", f"{points['title'].iloc[0]}, {size}", "masks", lines)
    st.header(heading(f"{points['title'].iloc[0]}, against k"), anchor=False)
    steps = choose_steps(lines.chosen, asked)
    found = found[found["step"].astype(str).isin(steps)]
    found = one_page(found, "compare_page_masks")
    shown = found["analysis_id"]
    panels = [
        lines.saying_whose(figures.masks_in_common_over_training(rows, series), shown)
        for series, rows in each_line(lines.means_of_curves(found))
    ]
    if panels:
        in_two_columns(panels, "compare_masks_against_k")
    return masks, in_url | {"step": steps}


def one_of(
    name: str,
    label: str,
    options: Sequence[str],
    asked: dict[str, list[str]],
    place: DeltaGenerator,
    called: Mapping[str, str] | None = None,
) -> str:
    """A choice of one: what the address asks for, else what this session chose last, else the first."""
    key = f"compare_{name}"
    if (wanted := asked.get(name, [""])[0]) in options:
        st.session_state[key] = wanted
    if st.session_state.get(key) not in options:
        st.session_state[key] = options[0]
    words = called or {each: each for each in options}
    return str(
        place.selectbox(label, options, key=key, format_func=words.__getitem__, persist_state="session")
    )


def profiles(chosen: pd.DataFrame, name: str, asked: dict[str, list[str]], lines: Lines) -> list[str]:
    """A profile at several steps, a panel for each line; the steps shown."""
    steps = choose_steps(chosen, asked)
    chosen = one_page(chosen[chosen["step"].astype(str).isin(steps)], "compare_page_profiles")
    with database()() as s:
        found = queries.profiles(s, ids(chosen), [name]).merge(chosen[LINE], on="analysis_id")
    if found.empty:
        st.info("No analysis at these steps has this profile; choose others.")
        return steps
    st.header(heading(figures.capitalised(found["title"].iloc[0])), anchor=False)
    say_who_is_missing(chosen, found["analysis_id"], "have no such profile")
    shown, found = found["analysis_id"], lines.means_of_profiles(found)
    lines.say(found, "Darker, or in a cell's words")
    panels = [
        lines.saying_whose(figures.profile_over_training(rows, series, found["value"]), shown)
        for series, rows in each_line(found)
    ]
    in_two_columns(panels, "compare_profiles")
    return steps


def choose_steps(chosen: pd.DataFrame, asked: dict[str, list[str]]) -> list[str]:
    """The training steps to draw a curve of; at first a few, evenly spread."""
    options = [str(step) for step in sorted(chosen["step"].unique())]
    spread = np.unique(np.linspace(0, len(options) - 1, FEW_STEPS).round().astype(int))
    default = {options[i] for i in spread}
    for _, rows in chosen.groupby("series"):
        if default.isdisjoint(rows["step"].astype(str)):  # else the line has no panel
            default.add(str(rows["step"].max()))
    first = [step for step in options if step in default]
    steps = several(
        "compare_step", "Training steps", options, asked.get("step"), first, lambda step: f"{int(step):,}"
    )
    without = sorted(set(chosen["series"]) - set(chosen[chosen["step"].astype(str).isin(steps)]["series"]))
    if steps and without:
        st.caption(f"Of none of these steps: {named(without)}.")
    return steps


def one_page(chosen: pd.DataFrame, key: str) -> pd.DataFrame:
    """Those of ``PANELS`` lines, of which the user can turn the pages."""
    series = in_order(chosen["series"].unique())
    pages = -(-len(series) // PANELS)
    if pages > 1:
        number = st.pagination(pages, key=key)
        series = series[(number - 1) * PANELS : number * PANELS]
    return chosen[chosen["series"].isin(series)]


def each_line(points: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Every line by its name, with its rows."""
    rows = {str(name): part for name, part in points.groupby("series")}
    return [(name, rows[name]) for name in in_order(rows)]


def in_two_columns(panels: Sequence[Figure], key: str) -> None:
    """How to read figures of one kind, and all of them."""
    explain(panels[0])
    in_columns({f"{key}_{number}": figure for number, figure in enumerate(panels)}, panel=True)


def in_panels(found: Mapping[str, Figure]) -> None:
    """Figures side by side by their keys, or, where their tables have several panels, the panels of each."""
    panels = sorted({panel for figure in found.values() for panel in figure.table["panel"]})
    if len(panels) == 1:
        if len(found) > 1:
            in_columns(found)
        else:
            for key, figure in found.items():
                show(figure, key)
        return
    for key, figure in found.items():
        st.header(heading(figure.title), help=plain(figure.symbols) or None, anchor=False)
        in_two_columns([figures.of_panel(figure, str(name)) for name in panels], key)


def against_baseline(points: pd.DataFrame, measure: str, what: str, key: str, lines: Lines) -> None:
    """Difference and ratio to the pinned baseline, if there is one, and what has neither.

    Args:
        points: A point of each line at each step, with LINE.
        measure: The column that is compared.
        what: What that is.
        key: End of the charts' keys, after ``compare_``.
        lines: The lines with their baseline.
    """
    drawn, sentences = lines.beside_baseline(points, measure, what)
    if drawn:
        in_panels({f"compare_{key}_{kind}": figure for kind, figure in drawn.items()})
    for sentence in sentences:
        st.caption(plain(sentence))


def ids(chosen: pd.DataFrame) -> list[int]:
    return chosen["analysis_id"].tolist()
