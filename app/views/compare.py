"""Compare: overlap over training and against k, across models, splits, curvatures and methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from app import charts
from app.common import (
    asked_in_url,
    counted,
    database,
    keep_in_url,
    model_colors,
    nothing_yet,
    plain,
    whole_number,
)
from core.results import queries
from core.results.models import Mask

LABELS = {
    "model": "Models",
    "split": "Hessian on",
    "curvature": "Curvature",
    "subset": "Parameters",
    "method": "Method",
}
ALWAYS = ("model", "split")  # offered even when there is nothing to choose
ALL_PARAMETERS = "all"  # the name of the subset without patterns

FEW_STEPS = 6  # curves in a panel before anybody asks for others

SYMBOLS = (
    "M: the k weights of largest |θ|. Vₖ: the span of the k eigenvectors of the Hessian of largest |λ|. "
    "overlap(M, Vₖ) = ‖MᵀVₖ‖²_F / k, from 0 to 1. D: the number of parameters."
)


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
    if chosen.empty:
        st.info("No finished analysis matches; choose at least one model, one split and one method.")
        return
    k = choose_k(chosen, asked)
    over_training(chosen, k, model_colors(models))
    steps = against_k(chosen, asked)
    keep_in_url("compare", selection | {"k": [str(k)], "step": [str(step) for step in steps]})


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


def choose_k(chosen: pd.DataFrame, asked: dict[str, list[str]]) -> int:
    """The k of the charts over training: at first the largest that every chosen analysis reaches."""
    largest = int(chosen["k"].max())
    if largest == 1:
        return 1
    k = whole_number(asked, "k") or st.session_state.get("compare_k", int(chosen["k"].min()))
    st.session_state["compare_k"] = min(k, largest)
    return st.slider("k, size of eigenspace and mask", 1, largest, key="compare_k", persist_state="session")


def over_training(chosen: pd.DataFrame, k: int, colors: dict[str, str]) -> None:
    with database()() as s:
        points = queries.overlap_by_step(s, k, masks=(Mask.magnitude, Mask.random))
    points = points.merge(chosen[["analysis_id", "series"]], on="analysis_id")
    st.subheader(f"Overlap over training, k = {k:,}", help=SYMBOLS)
    st.caption(
        "How to read this: above the dotted chance level, the largest weights and the top eigenvectors share "
        "more coordinates than drawn at random; the grey band is the mean ± std of random masks, a bar "
        "through a point its stated error."
    )
    absolute, relative = st.columns(2)
    absolute.altair_chart(
        charts.overlap_by_step(points, colors),
        width="stretch",
        key="compare_overlap",
        alt=f"Overlap of the magnitude mask with the top-{k} eigenspace against training step.",
    )
    relative.altair_chart(
        charts.overlap_by_step(points, colors, "ratio"),
        width="stretch",
        key="compare_ratio",
        alt=f"The same overlap divided by the chance level k/D, k = {k}, against training step.",
    )
    short = len(chosen) - points["analysis_id"].nunique()
    if short:
        st.caption(
            f"{short} of {len(chosen)} chosen analyses have fewer than {k:,} eigenpairs and are left out."
        )
    with st.expander("The numbers behind these charts", icon=":material/table:"):
        numbers = points[points["mask"] == Mask.magnitude].drop(
            columns=["mask", "std", "analysis_id", "series"]
        )
        st.dataframe(numbers, hide_index=True, key="compare_numbers")
        st.download_button(
            "Download CSV",
            points.drop(columns="series").to_csv(index=False),
            file_name=f"overlap-over-training-k{k}.csv",
            mime="text/csv",
            on_click="ignore",
            icon=":material/download:",
        )


def against_k(chosen: pd.DataFrame, asked: dict[str, list[str]]) -> list[int]:
    """Overlap against k, a panel for each line of the charts above; the steps shown."""
    st.subheader("Overlap against k, over training", help=SYMBOLS)
    st.caption(
        "How to read this: a panel per model and split, a curve per training step with a band of its stated "
        "error, the early ones dark; the dotted line is chance. Point at a panel for the values at one k; "
        "shift + wheel zooms."
    )
    options = [str(step) for step in sorted(chosen["step"].unique())]
    spread = np.unique(np.linspace(0, len(options) - 1, FEW_STEPS).round().astype(int))
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    with left:
        steps = several(
            "compare_step", "Training steps", options, asked.get("step"), [options[i] for i in spread]
        )
    log_k = right.toggle("Log k axis", key="compare_log_k", persist_state="session")
    chosen = chosen[chosen["step"].astype(str).isin(steps)]
    if chosen.empty:
        st.info("Choose at least one training step to see its curve.")
        return []
    with database()() as s:
        curves = queries.overlap_curves(s, chosen["analysis_id"].tolist(), masks=(Mask.magnitude,))
    curves = curves.merge(chosen[["analysis_id", "series"]], on="analysis_id")
    top = float(curves["overlap"].max()) * 1.05
    for number, (series, panel) in enumerate(curves.groupby("series")):
        if number % 2 == 0:
            places = st.columns(2)
        with places[number % 2]:
            st.markdown(f"**{plain(series)}**")
            st.altair_chart(
                charts.overlap_by_k(panel, log_k=log_k, top=top),
                width="stretch",
                key=f"compare_panel_{number}",
                alt=f"Overlap against k at several training steps: {series}.",
            )
    return [int(step) for step in steps]


page()
