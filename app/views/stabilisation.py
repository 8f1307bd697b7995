"""Stabilisation: how alike the masks, and the eigenspaces, of all pairs of training steps are."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from seigh.app import figures
from seigh.app.common import (
    address_is_read,
    asked_in_url,
    choose_one,
    counted,
    database,
    keep_in_url,
    nothing_yet,
    plain,
    say_what_is_gone,
    warn_of_random_data,
    whole_number,
    without_archived,
)
from seigh.app.comparing import ask_for_pairs
from seigh.app.frame import explain, show
from seigh.app.panels import further_masks, heatmaps_found, heatmaps_of_masks, names_of_sets, within
from seigh.core.lab import queries
from seigh.core.names import IOU, SPARSITIES
from seigh.core.order import in_order

OTHER = "another k"
MOST_SETS = 2  # before anybody asks for more


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
    sets, put_away = without_archived(sets, "stabilisation", asked)
    models = in_order(sets["model"].unique())
    say_what_is_gone(asked.get("model"), models, "model")
    model = choose_one(
        "Model",
        models,
        "stabilisation_model",
        asked.get("model", [None])[0],
        in_address="model" in asked,
        placeholder="Choose a model",
    )
    if model is None:
        address_is_read("stabilisation")
        return
    sets = sets[sets["model"] == model].replace({"subset": {"": "all"}})
    if say_what_is_gone(asked.get("set"), [str(each) for each in sets["set_id"]], "set of analyses"):
        st.caption("A set is called by the number of its first analysis.")
    chosen, numbers = choose_sets(sets.assign(series=names_of_sets(sets)), asked)
    if chosen.empty:
        st.info("Choose at least one set of analyses.")
        address_is_read("stabilisation")
        return
    k = choose_k(int(sets["parameters"].iloc[0]), int(chosen["k"].min()), asked)
    warn_of_random_data(chosen)
    masks = choose_masks(chosen, asked)
    heatmaps(chosen, model, k, masks)
    in_url = {"model": [model], "set": numbers, "k": [str(k)], "mask": masks}
    keep_in_url("stabilisation", in_url | put_away)


def choose_sets(sets: pd.DataFrame, asked: dict[str, list[str]]) -> tuple[pd.DataFrame, list[str]]:
    """The sets of analyses whose eigenspaces are shown, and their numbers."""
    names = {str(number): rows["series"].iloc[0] for number, rows in sets.groupby("set_id")}
    wanted = asked.get("set") or st.session_state.get("stabilisation_sets") or list(names)[:MOST_SETS]
    known = [number for number in names if number in wanted]
    st.session_state["stabilisation_sets"] = known if "set" in asked else known or list(names)[:1]
    if len(names) == 1 and known:
        numbers = list(names)
    else:
        numbers = st.pills(
            "Hessian on",
            list(names),
            selection_mode="multi",
            format_func=lambda name: plain(names[name]),
            key="stabilisation_sets",
            persist_state="session",
        )
    return sets[sets["set_id"].astype(str).isin(numbers)], numbers


def choose_k(parameters: int, reach: int, asked: dict[str, list[str]]) -> int:
    """The size of masks and eigenspaces: one of the paper's sparsities, or any; at first the largest of the
    paper's for which all chosen analyses have the eigenspace, ``reach`` being the largest k that they all
    have."""
    sizes = {f"{rho:g}": queries.at_sparsity(rho, parameters) for rho in SPARSITIES}
    reached = [name for name, k in sizes.items() if k <= reach]
    first = max(reached, key=sizes.__getitem__) if reached else OTHER
    named = {k: name for name, k in sizes.items()}
    if k := whole_number(asked, "k"):
        st.session_state["stabilisation_rho"] = named.get(k, OTHER)
        st.session_state["stabilisation_k"] = min(k, parameters)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rho = st.segmented_control(
            "Sparsity ρ = k/D",
            [*sizes, OTHER],
            default=None if "stabilisation_rho" in st.session_state else first,
            key="stabilisation_rho",
            required=True,
            persist_state="session",
            help="The first four are those of the paper.",
        )
        if rho in sizes:
            return sizes[rho]
        st.session_state.setdefault("stabilisation_k", min(reach, parameters))
        return int(
            st.number_input("k", 1, parameters, key="stabilisation_k", persist_state="session", width=160)
        )


def choose_masks(sets: pd.DataFrame, asked: dict[str, list[str]]) -> list[str]:
    """Which further masks are shown, where the analyses have some: what the address asks for, else what this
    session chose last, else none."""
    with database()() as s:
        names = further_masks(s, sets["analysis_id"].tolist())
    if not names:
        return []
    wanted = asked.get("mask") or st.session_state.get("stabilisation_masks") or []
    st.session_state["stabilisation_masks"] = [name for name in names if name in wanted]
    return st.multiselect(
        "Further masks",
        names,
        key="stabilisation_masks",
        persist_state="session",
        placeholder="that of the largest |θ| alone",
        wrap=True,
        help="Masks that these analyses were asked for. Each is compared with itself at every other step.",
    )


def heatmaps(sets: pd.DataFrame, model: str, k: int, masks: Sequence[str]) -> None:
    """Masks, and the eigenspaces of every set; what is missing can be asked for."""
    parameters = int(sets["parameters"].iloc[0])
    with database()() as s:
        values = queries.pair_values(s, sets["analysis_id"].tolist(), [k], [IOU, "overlap"])
        of_masks = list(heatmaps_of_masks(s, sets, masks, k))
    st.header(f"All pairs of steps at k = {k:,}", help=plain(figures.PAIR_SYMBOLS), anchor=False)
    panels = [*heatmaps_found(values, sets), *of_masks]
    for start in range(0, len(panels), 3):
        if start == 0:
            explain(figures.heatmap(panels[0], model))
        row = panels[start : start + 3]
        for place, panel in zip(st.columns(min(3, len(panels))), row, strict=False):
            with place:
                show(figures.heatmap(panel, model), f"stabilisation_{panel.key}", panel=True)
    if masks and not of_masks:
        st.info(f"No set has two of these masks at k = {k:,}; choose a smaller k.", icon=":material/info:")
    if k > sets["k"].min():
        st.info(f"At k = {k:,} {too_few(sets, k)}", icon=":material/info:")
    missing = [
        rows["analysis_id"].tolist()
        for _, rows in sets.groupby("set_id")
        if not complete(values, rows, eigenspaces=k <= rows["k"].min())
    ]
    if missing:
        paper = {queries.at_sparsity(rho, parameters) for rho in SPARSITIES}
        ask_for_pairs(missing, sorted({k} | paper), "stabilisation")


def too_few(sets: pd.DataFrame, k: int) -> str:
    """Of which analyses only masks can be compared at k, as the rest of a sentence."""
    least, most = int(sets["k"].min()), int(sets["k"].max())
    short = int((sets["k"] < k).sum())
    if short == len(sets):
        have = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        return f"only masks can be compared: the {short} analyses have {have} eigenpairs each."
    fewest = counted(least, "eigenpair", "eigenpairs")
    return (
        f"the eigenspaces of {counted(short, 'analysis', 'analyses')} of {len(sets)} cannot be compared, "
        f"only {'its mask' if short == 1 else 'their masks'}: the fewest have {fewest}."
    )


def complete(values: pd.DataFrame, rows: pd.DataFrame, *, eigenspaces: bool) -> bool:
    """Whether all pairs of these analyses have their values."""
    known = within(values, rows)["measure"]
    measures = (IOU, "overlap") if eigenspaces else (IOU,)
    return all((known == measure).sum() == len(rows) ** 2 for measure in measures)
