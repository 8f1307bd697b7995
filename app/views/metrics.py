"""Metrics: all Grassmannian metrics between masks and eigenspaces, two eigenspaces, and random subspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from seigh.app import charts
from seigh.app.common import (
    asked_in_url,
    database,
    keep_in_url,
    matrix,
    model_colors,
    nothing_yet,
    plain,
    warn_of_random_data,
    whole_number,
)
from seigh.app.comparing import ask_for_pairs
from seigh.app.figure import figure
from seigh.app.rows import Analysis, rows_of
from seigh.core.names import METRICS
from seigh.core.results import queries

if TYPE_CHECKING:
    from seigh.core.overlap.metrics import Kind

VIEWS = {
    "training": "Over training",
    "pair": "Two analyses",
    "random": "At random",
}

SYMBOLS = (
    "θ: the k principal angles between two k-dimensional subspaces; their cosines are the singular values of "
    "UᵀV for orthonormal bases U and V. All but the overlap are distances. As likeness: 1 − distance ÷ the "
    "largest possible one, so that 1 means equal and 0 orthogonal, for all of them."
)

KINDS: tuple[Kind, ...] = ("subspaces", "masks")

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
        colors = model_colors(queries.models(s))
    if view == "random":
        selection = at_random(asked)
    elif finished.empty:
        nothing_yet(
            "**No metrics yet.** When an analysis is finished, its mask and its eigenspace are compared here."
        )
        selection = {}
    elif view == "pair":
        selection = two_analyses(finished, asked)
    else:
        selection = over_training(charts.distinct_lines(finished), colors, asked)
    keep_in_url("metrics", {"view": [str(view)]} | selection)


# --- Mask and eigenspace over training --------------------------------------------------------------------


def over_training(
    analyses: pd.DataFrame, colors: dict[str, str], asked: dict[str, list[str]]
) -> dict[str, list[str]]:
    """A panel for each metric between the magnitude mask and the top eigenspace, over training."""
    analyses = analyses.assign(series=charts.name_series(analyses))
    names = sorted(analyses["model"].unique())
    wanted = asked.get("model") or st.session_state.get("metrics_models") or names[:4]
    st.session_state["metrics_models"] = [name for name in names if name in wanted] or names[:1]
    chosen = st.multiselect("Models", names, key="metrics_models", persist_state="session")
    analyses = analyses[analyses["model"].isin(chosen)]
    with database()() as s:
        metrics = queries.subspace_metrics(s, analyses["analysis_id"].tolist())
    if metrics.empty:
        st.info(
            "There are no metrics of these analyses: choose a model, or, where they are from before metrics "
            "were told, delete them in Runs and start them again."
        )
        return {"model": list(chosen)}
    warn_of_random_data(analyses)
    k, raw = choose_k(sorted(metrics["k"].unique()), asked)
    metrics = metrics[metrics["k"] == k].merge(analyses[["analysis_id", "series"]], on="analysis_id")
    st.caption(
        "How to read this: a panel per metric; grey is what random subspaces give, mean ± std, and a bar the "
        "error where it is known (of the overlap and the projection Frobenius norm). "
        + ("Small distances mean alike." if raw else "1 means equal, 0 orthogonal.")
    )
    for start in range(0, len(METRICS), 2):
        for place, metric in zip(st.columns(2), METRICS[start : start + 2], strict=False):
            name = charts.METRIC_NAMES[metric]
            panel = charts.metric_heights(metrics[metrics["metric"] == metric], raw=raw)
            with place:
                figure(
                    charts.metric_by_step(
                        panel, colors, charts.METRIC_FORMULAS[metric] if raw else "likeness"
                    ),
                    panel,
                    key=f"metrics_{metric}",
                    title=f"{name[0].upper()}{name[1:]}, k = {k:,}",
                    symbols=f"{charts.METRIC_FORMULAS[metric]}. {SYMBOLS}",
                    alt=f"{name} between mask and eigenspace against training step at k = {k}.",
                    name=f"metric-{metric}-k{k}",
                    panel=True,
                )
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
        raw = st.toggle("Raw distances", key="metrics_raw", persist_state="session", help=SYMBOLS)
    return int(k), raw


# --- Two analyses -----------------------------------------------------------------------------------------


def two_analyses(finished: pd.DataFrame, asked: dict[str, list[str]]) -> dict[str, list[str]]:
    """Every metric between the eigenspaces of any two analyses of the same parameters, against k."""
    names = {
        row.analysis_id: f"{row.model} · step {row.step:,} · {matrix(row)} · k = {row.k:,}, seed {row.seed} "
        f"· #{row.analysis_id}"
        for row in rows_of(finished, Analysis)
    }
    first = choose_analysis("First", sorted(names, reverse=True), names, "first", asked)
    of = finished.set_index("analysis_id")
    same = finished[(finished["parameters"] == of["parameters"][first]) & (finished["analysis_id"] != first)]
    others = sorted(same["analysis_id"], reverse=True)
    if not others:
        st.info("There is no other analysis of as many parameters; start one to compare with.")
        return {"first": [str(first)]}
    second = choose_analysis("Second", others, names, "second", asked)
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
    figure(
        charts.pair_metrics(values, charts.METRIC_NAMES),
        values,
        key="metrics_pair",
        title="Two eigenspaces, by every metric",
        symbols=SYMBOLS,
        how="a line per metric against the dimension k of both, from 0 (orthogonal) to 1 (equal); the faint "
        "line of the same colour is what random subspaces give.",
        alt=f"Grassmannian metrics between the eigenspaces of analyses {first} and {second} against k.",
        name=f"metrics-analyses-{first}-{second}",
    )
    return selection


def choose_analysis(
    label: str, options: list[int], names: dict[int, str], key: str, asked: dict[str, list[str]]
) -> int:
    wanted = whole_number(asked, key) or st.session_state.get(f"metrics_{key}")
    st.session_state[f"metrics_{key}"] = wanted if wanted in options else options[0]
    return st.selectbox(
        label, options, format_func=names.__getitem__, key=f"metrics_{key}", persist_state="session"
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
            help="Subspaces: uniformly, as an eigenspace that knows nothing of the other. Masks: two sets of "
            "k coordinates.",
        )
    study = random_study(dimension, k, kind)
    figure(
        charts.random_study(study, charts.METRIC_NAMES, k),
        study,
        key="metrics_random",
        title=f"Random {kind} of D = {dimension:,} dimensions",
        symbols=SYMBOLS,
        how="a metric is of use where its line stays away from both 0 and 1 and its band is narrow: then a "
        "value tells alike from random. Lines that lie at 0 for all k tell nothing. The upright line is k.",
        alt=f"Likeness of two random {kind} by every metric, against their dimension k, D = {dimension}.",
        name=f"random-{kind}-D{dimension}",
    )
    at_k = study[study["k"] == k]
    table = pd.DataFrame(
        {
            "metric": at_k["metric"].map(charts.METRIC_NAMES),
            "formula": at_k["metric"].map(charts.METRIC_FORMULAS).map(plain),
            "raw": [f"{m:.4g} ± {s:.2g}" for m, s in zip(at_k["mean"], at_k["std"], strict=True)],
            "likeness": [
                f"{m:.4g} ± {s:.2g}"
                for m, s in zip(at_k["normalised_mean"], at_k["normalised_std"], strict=True)
            ],
        }
    )
    st.markdown(f"**At k = {k:,}**, mean ± std over random {kind}:")
    st.table(table, border="horizontal", hide_index=True)
    return {"d": [str(dimension)], "k": [str(k)]}


@st.cache_data(show_spinner="Drawing random subspaces …", max_entries=50)
def random_study(dimension: int, k: int, kind: Kind) -> pd.DataFrame:
    """The study at the chosen k, and at others evenly spaced on a log axis."""
    from seigh.core.overlap.metrics import random_study  # brings torch, which the other views do not need

    spaced = np.rint(np.geomspace(1, min(dimension, STUDIED_K), STUDY_POINTS))
    sizes = sorted({int(size) for size in spaced} | {k})
    return pd.DataFrame(random_study([dimension], sizes, kind=kind))
