"""Stabilisation: how alike the masks, and the eigenspaces, of all pairs of training steps are."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from seigh.app import charts
from seigh.app.common import (
    asked_in_url,
    counted,
    database,
    keep_in_url,
    nothing_yet,
    plain,
    warn_of_random_data,
    whole_number,
)
from seigh.app.comparing import ask_for_pairs
from seigh.app.figure import figure
from seigh.app.panels import heatmaps_found, names_of_sets, within
from seigh.core.names import IOU, SPARSITIES
from seigh.core.results import queries

OTHER = "another k"
MOST_SETS = 2  # before anybody asks for more

SYMBOLS = (
    "Mask: the k weights of largest |θ| of a checkpoint. IoU: of two masks, the share of the weights in "
    "either that are in both. Vₖ: the span of the k eigenvectors of largest |λ|; the overlap of two such "
    "spaces is ‖UₖᵀVₖ‖²_F / k. ρ: k/D, the share of the D parameters. At random, IoU is about ρ/(2 − ρ) and "
    "the overlap is ρ."
)


def page() -> None:
    st.title("Stabilisation")
    with database()() as s:
        sets = queries.stabilisation_sets(s)
    if sets.empty:
        nothing_yet(
            "**Nothing to compare yet.** This page shows which weights and eigenvectors stay the same during "
            "training; it needs finished analyses of at least two checkpoints of a model."
        )
        return
    asked = asked_in_url("stabilisation")
    model = choose_model(sorted(sets["model"].unique()), asked)
    sets = sets[sets["model"] == model].replace({"subset": {"": "all"}})
    chosen, numbers = choose_sets(sets.assign(series=names_of_sets(sets)), asked)
    k = choose_k(int(sets["parameters"].iloc[0]), asked)
    if chosen.empty:
        st.info("Choose at least one set of analyses.")
    else:
        warn_of_random_data(chosen)
        heatmaps(chosen, k)
    keep_in_url("stabilisation", {"model": [model], "set": numbers, "k": [str(k)]})


def choose_model(options: list[str], asked: dict[str, list[str]]) -> str:
    wanted = asked.get("model", [None])[0] or st.session_state.get("stabilisation_model")
    st.session_state["stabilisation_model"] = wanted if wanted in options else options[0]
    return str(st.selectbox("Model", options, key="stabilisation_model", persist_state="session"))


def choose_sets(sets: pd.DataFrame, asked: dict[str, list[str]]) -> tuple[pd.DataFrame, list[str]]:
    """The sets of analyses whose eigenspaces are shown, and their numbers."""
    names = {str(number): rows["series"].iloc[0] for number, rows in sets.groupby("set_id")}
    wanted = asked.get("set") or st.session_state.get("stabilisation_sets") or list(names)[:MOST_SETS]
    st.session_state["stabilisation_sets"] = [number for number in names if number in wanted] or list(names)[
        :1
    ]
    if len(names) == 1:
        numbers = list(names)
    else:
        numbers = st.pills(
            "Hessian on",
            list(names),
            selection_mode="multi",
            format_func=names.__getitem__,
            key="stabilisation_sets",
            persist_state="session",
        )
    return sets[sets["set_id"].astype(str).isin(numbers)], numbers


def choose_k(parameters: int, asked: dict[str, list[str]]) -> int:
    """The size of masks and eigenspaces: one of the paper's sparsities, or any."""
    sizes = {f"{rho:g}": queries.at_sparsity(rho, parameters) for rho in SPARSITIES}
    named = {k: name for name, k in sizes.items()}
    if k := whole_number(asked, "k"):
        st.session_state["stabilisation_rho"] = named.get(k, OTHER)
        st.session_state["stabilisation_k"] = min(k, parameters)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rho = st.segmented_control(
            "Sparsity ρ = k/D",
            [*sizes, OTHER],
            default=None if "stabilisation_rho" in st.session_state else f"{SPARSITIES[-2]:g}",
            key="stabilisation_rho",
            required=True,
            persist_state="session",
            help="The first four are those of the paper.",
        )
        if rho in sizes:
            return sizes[rho]
        st.session_state.setdefault("stabilisation_k", min(100, parameters))
        return int(
            st.number_input("k", 1, parameters, key="stabilisation_k", persist_state="session", width=160)
        )


def heatmaps(sets: pd.DataFrame, k: int) -> None:
    """Masks, and the eigenspaces of every set; what is missing can be asked for."""
    parameters, reach = int(sets["parameters"].iloc[0]), int(sets["k"].min())
    with database()() as s:
        values = queries.pair_values(s, sets["analysis_id"].tolist(), [k], [IOU, "overlap"])
    rho = k / parameters
    st.caption(
        "How to read this: each cell compares two training steps, from 0 (dark, nothing in common) to 1 "
        "(light, the same); large light blocks mean that little changes any more. Chance at "
        f"k = {k:,} is {rho / (2 - rho):.3g} for masks and {rho:.3g} for eigenspaces."
    )
    panels = list(heatmaps_found(values, sets))
    for start in range(0, len(panels), 3):
        row = panels[start : start + 3]
        for place, panel in zip(st.columns(min(3, len(panels))), row, strict=False):
            with place:
                figure(
                    charts.heatmap(panel.values, panel.measure),
                    panel.values,
                    key=f"stabilisation_{panel.key}",
                    title=plain(panel.title),
                    symbols=SYMBOLS,
                    alt=f"{panel.title}: {panel.measure} of all pairs of training steps at k = {k}.",
                    name=f"stabilisation-{panel.key}-k{k}",
                    panel=True,
                )
    if k > reach:
        st.info(
            f"At k = {k:,} only masks can be compared: of these analyses, one has no more than "
            f"{counted(reach, 'eigenpair', 'eigenpairs')}.",
            icon=":material/info:",
        )
    missing = [
        rows["analysis_id"].tolist()
        for _, rows in sets.groupby("set_id")
        if not complete(values, rows, eigenspaces=k <= rows["k"].min())
    ]
    if missing:
        paper = {queries.at_sparsity(rho, parameters) for rho in SPARSITIES}
        ask_for_pairs(missing, sorted({k} | paper), "stabilisation")


def complete(values: pd.DataFrame, rows: pd.DataFrame, *, eigenspaces: bool) -> bool:
    """Whether all pairs of these analyses have their values."""
    known = within(values, rows)["measure"]
    measures = (IOU, "overlap") if eigenspaces else (IOU,)
    return all((known == measure).sum() == len(rows) ** 2 for measure in measures)
