"""Metrics: all Grassmannian metrics between masks and eigenspaces, two eigenspaces, and random subspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from seigh.app import charts, figures
from seigh.app.common import (
    FEW_MODELS,
    address_is_read,
    asked_in_url,
    choose_one,
    database,
    keep_in_url,
    matrix,
    named,
    nothing_yet,
    of_different_colors,
    plain,
    say_few_are_shown,
    say_what_is_gone,
    warn_of_random_data,
    whole_number,
    without_archived,
)
from seigh.app.comparing import ask_for_pairs
from seigh.app.digits import with_error
from seigh.app.frame import explain, in_columns, show
from seigh.app.lines import LINE, in_lines
from seigh.app.rows import Analysis, rows_of
from seigh.core.lab import queries
from seigh.core.names import METRICS
from seigh.core.order import in_order

if TYPE_CHECKING:
    from seigh.core.overlap.metrics import Kind

VIEWS = {
    "training": "Over training",
    "pair": "Two analyses",
    "random": "At random",
}

KINDS: tuple[Kind, ...] = ("subspaces", "masks")

# What the study of random subspaces is drawn against.
ALONG = {"k": "k", "dimension": "D, at this ρ = k/D"}

# Of the study of random subspaces: how many values of k are drawn up to which, and the largest to choose.
STUDY_POINTS = 25
STUDIED_K = 1000  # about a second, and four at twice that
LARGEST_K = 2000
LARGEST_D = 10**8


def page() -> None:
    st.title("Metrics")
    asked = asked_in_url("metrics")
    if (wanted := asked.get("view", [""])[0]) in VIEWS:
        st.session_state["metrics_view"] = wanted
    view = st.segmented_control(
        "Look at",
        list(VIEWS),
        default=None if "metrics_view" in st.session_state else "training",
        format_func=VIEWS.__getitem__,
        key="metrics_view",
        label_visibility="collapsed",
        required=True,
        persist_state="session",
    )
    with database()() as s:
        finished = queries.comparable(s)
    if view == "random":
        selection: dict[str, list[str]] | None = at_random(asked)
    elif finished.empty:
        nothing_yet(
            "**No metrics yet.** When an analysis is finished, its mask and its eigenspace are compared here."
        )
        selection = {}
    else:
        finished, put_away = without_archived(finished, "metrics", asked)
        if view == "pair":
            selection = two_analyses(finished, asked)
        else:
            selection = over_training(charts.distinct_lines(finished), asked)
        if selection is not None:
            selection |= put_away
    if selection is None:
        address_is_read("metrics")
    else:
        keep_in_url("metrics", {"view": [str(view)]} | selection)


# --- Mask and eigenspace over training --------------------------------------------------------------------


def over_training(analyses: pd.DataFrame, asked: dict[str, list[str]]) -> dict[str, list[str]] | None:
    """A panel for each metric between the magnitude mask and the top eigenspace, over training.

    Returns:
        What is shown; None where the address asks for nothing that is there.
    """
    st.header("Mask and eigenspace over training", help=plain(figures.METRIC_SYMBOLS), anchor=False)
    # In a container, so that a sentence that comes or goes moves no chart: it would be drawn anew.
    with st.container():
        names = in_order(analyses["model"].unique())
        gone = say_what_is_gone(asked.get("model"), names, "model")
        wanted = asked.get("model") or st.session_state.get("metrics_models") or names[:FEW_MODELS]
        st.session_state["metrics_models"] = [name for name in names if name in wanted]
        chosen = st.multiselect("Models", names, key="metrics_models", persist_state="session")
        say_few_are_shown(chosen, names)
        analyses = of_different_colors(in_lines(analyses[analyses["model"].isin(chosen)]))
        with database()() as s:
            metrics = queries.subspace_metrics(s, analyses["analysis_id"].tolist())
        if metrics.empty:
            st.info(
                "There are no metrics of these analyses: choose a model, or, where they are from before "
                "metrics were told, delete them in Runs and start them again."
            )
            return None if gone else {"model": list(chosen)}
        warn_of_random_data(analyses)
        k, raw = choose_k(sorted(metrics["k"].unique()), asked)
        found = metrics[metrics["k"] == k].merge(analyses[LINE], on="analysis_id")
        missing = sorted(set(analyses["series"]) - set(found["series"]))
        if missing:
            st.caption(
                f"Left out, without metrics at k = {k:,} (too few eigenpairs, or of an earlier version): "
                f"{named(missing)}."
            )
    panels, said = figures.mask_and_eigenspace(found, charts.group_colors(analyses), raw=raw)
    if panels:
        explain(next(iter(panels.values())))
        in_columns({f"metrics_{metric}": panel for metric, panel in panels.items()}, panel=True)
    if said:
        st.info(plain(said), icon=":material/unfold_less:")
    return {"model": list(chosen), "k": [str(k)]} | ({"raw": ["1"]} if raw else {})


def choose_k(sizes: list[int], asked: dict[str, list[str]]) -> tuple[int, bool]:
    """One of the sizes that metrics are told for, and whether to show raw values."""
    wanted = whole_number(asked, "k") or st.session_state.get("metrics_k", sizes[-1])
    st.session_state["metrics_k"] = min(sizes, key=lambda size: abs(size - wanted))
    if "raw" in asked:
        st.session_state["metrics_raw"] = asked["raw"] == ["1"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        k = sizes[0]
        if len(sizes) > 1:
            k = st.select_slider(
                "k, dimension of both",
                sizes,
                key="metrics_k",
                format_func=lambda size: f"{size:,}",
                persist_state="session",
            )
        raw = st.toggle("Raw distances", key="metrics_raw", persist_state="session")
    return int(k), raw


# --- Two analyses -----------------------------------------------------------------------------------------


def two_analyses(finished: pd.DataFrame, asked: dict[str, list[str]]) -> dict[str, list[str]] | None:
    """Every metric between the eigenspaces of any two analyses of the same parameters, against k.

    Returns:
        What is shown; None where the address asks for an analysis that is gone.
    """
    numbers = [str(number) for number in finished["analysis_id"]]
    gone = [*asked.get("first", []), *asked.get("second", [])]
    if say_what_is_gone(gone, numbers, "analysis"):
        for key in ("first", "second"):
            if not set(asked.get(key, [])) <= set(numbers):
                st.session_state[f"metrics_{key}"] = None
    names = {
        row.analysis_id: f"{row.model} · step {row.step:,} · {matrix(row)} · k = {row.k:,}, seed {row.seed} "
        f"· #{row.analysis_id}"
        for row in rows_of(finished, Analysis)
    }
    first = choose_analysis("First", sorted(names, reverse=True), names, "first", asked)
    if first is None:
        return None
    of = finished.set_index("analysis_id")
    same = finished[(finished["parameters"] == of["parameters"][first]) & (finished["analysis_id"] != first)]
    others = sorted(same["analysis_id"], reverse=True)
    if not others:
        st.info("There is no other analysis of as many parameters; start one to compare with.")
        return {"first": [str(first)]}
    second = choose_analysis("Second", others, names, "second", asked)
    if second is None:
        return None
    selection = {"first": [str(first)], "second": [str(second)]}
    with database()() as s:
        values = queries.pair_values(s, [first, second], measures=METRICS)
        masks = queries.subspace_metrics(s, [first])
    values = values[(values["first_id"] == first) & (values["second_id"] == second)]
    if values.empty:
        reach = int(min(of["k"][first], of["k"][second]))
        sizes = sorted({int(k) for k in masks["k"] if k <= reach} | {reach})
        ask_for_pairs([sorted([first, second])], sizes, "metrics")
        return selection
    # What a random subspace gives beside a mask, it gives beside any other.
    chance = masks.rename(columns={"metric": "measure"})
    chance = chance[["k", "measure", "normalised_random_mean", "normalised_random_std", "random_mean"]]
    values = values.merge(chance, on=["k", "measure"], how="left")
    show(figures.two_eigenspaces(values, f"analysis {first}", f"analysis {second}"), "metrics_pair")
    return selection


def choose_analysis(
    label: str, options: list[int], names: dict[int, str], key: str, asked: dict[str, list[str]]
) -> int | None:
    return choose_one(
        label,
        options,
        f"metrics_{key}",
        whole_number(asked, key),
        in_address=key in asked,
        placeholder="Choose an analysis",
        format_func=names.__getitem__,
    )


# --- At random --------------------------------------------------------------------------------------------


def at_random(asked: dict[str, list[str]]) -> dict[str, list[str]]:
    """How every metric sees two random subspaces, for any D and k: the paper's synthetic study."""
    wanted = {"d": whole_number(asked, "d"), "k": whole_number(asked, "k")}
    for name, default, largest in (("d", 7030, LARGEST_D), ("k", 70, LARGEST_K)):
        key = f"metrics_random_{name}"
        chosen = wanted[name] or st.session_state.get(key, default)
        st.session_state[key] = min(max(chosen, 2 if name == "d" else 1), largest)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        dimension = int(
            st.number_input(
                "D, parameters", 2, LARGEST_D, key="metrics_random_d", persist_state="session", width=180
            )
        )
        st.session_state["metrics_random_k"] = min(st.session_state["metrics_random_k"], dimension, LARGEST_K)
        k = int(
            st.number_input(
                "k, dimension of both",
                1,
                min(dimension, LARGEST_K),
                key="metrics_random_k",
                persist_state="session",
                width=180,
            )
        )
        kind = st.segmented_control(
            "Drawn are",
            KINDS,
            key="metrics_random_kind",
            default="subspaces",
            required=True,
            help="Subspaces are drawn uniformly, like unrelated eigenspaces. Masks are two random sets of "
            "k coordinates.",
        )
        asked_along = asked.get("along", [""])[0]
        if asked_along in ALONG:
            st.session_state["metrics_random_along"] = asked_along
        along = st.segmented_control(
            "Against",
            list(ALONG),
            key="metrics_random_along",
            default=None if "metrics_random_along" in st.session_state else "k",
            format_func=ALONG.__getitem__,
            required=True,
            persist_state="session",
        )
    if along == "k":
        study = random_study([(dimension, size) for size in spaced(1, min(dimension, STUDIED_K), k)], kind)
        show(figures.random_subspaces(study, dimension, k, kind), "metrics_random")
    else:
        rho = k / dimension
        # k is a whole number, so that the smallest D is that of k = 1.
        pairs = [(round(size / rho), size) for size in spaced(1, min(STUDIED_K, round(LARGEST_D * rho)), k)]
        study = random_study([(dimension if size == k else other, size) for other, size in pairs], kind)
        show(figures.random_by_size(study, dimension, rho, kind), "metrics_random")
    at_k = study[study["k"] == k]
    table = pd.DataFrame(
        {
            "metric": at_k["metric"].map(charts.METRIC_NAMES),
            "formula": at_k["metric"].map(charts.METRIC_FORMULAS).map(plain),
            "raw": [with_error(m, s) for m, s in zip(at_k["mean"], at_k["std"], strict=True)],
            "likeness": [
                with_error(m, s) for m, s in zip(at_k["normalised_mean"], at_k["normalised_std"], strict=True)
            ],
        }
    )
    st.markdown(f"**At k = {k:,}**, mean ± std over random {kind}:")
    st.table(table, border="horizontal", hide_index=True)
    return {"d": [str(dimension)], "k": [str(k)], "along": [str(along)]}


def spaced(least: int, most: int, among: int) -> list[int]:
    """Whole numbers evenly spaced on a log axis, and one that is to be among them."""
    even = np.rint(np.geomspace(least, max(least, most), STUDY_POINTS))
    return sorted({int(size) for size in even} | {among})


@st.cache_data(show_spinner="Drawing random subspaces …", max_entries=50)
def random_study(sizes: list[tuple[int, int]], kind: Kind) -> pd.DataFrame:
    """The study at these D and k."""
    from seigh.core.overlap.metrics import random_study  # brings torch, which the other views do not need

    return pd.DataFrame(random_study(sizes, kind=kind))
