"""Overview: what the lab has, what runs now, and what came out last."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from seigh.app import trying
from seigh.app.common import (
    ago,
    counted,
    database,
    guarded,
    left,
    nothing_yet,
    plain,
    samples_of,
    show_incidents,
    synthetic_badge,
    title_of,
    whole_matrix,
)
from seigh.app.digits import value_of, with_error
from seigh.app.navigation import link
from seigh.app.rows import LatestResult, rows_of, runs_of
from seigh.core.lab import queries
from seigh.core.lab.load import Load, load
from seigh.core.lab.models import WORK, Mask, State

LATEST = 6  # results
AT_WORK = 5  # runs
SPARKLINE_POINTS = 30  # evenly spaced, and on a log axis


def page() -> None:
    st.title("Overview")
    st.markdown(
        "Do the largest weights of a network span the directions in which its loss curves most, and when in "
        "training does this begin? From checkpoints, the lab computes the top eigenspace of the Hessian and "
        "its overlap with the k largest weights. It shows chance and the error of every number, and compares "
        "steps, splits and models."
    )
    with database()() as s:
        show_incidents(s)
        models = queries.models(s)
        work = load(s)
        latest = queries.latest_results(s, LATEST)
        curves = queries.overlap_curves(
            s, latest["analysis_id"].tolist(), masks=(Mask.magnitude,), most=SPARKLINE_POINTS
        )
    if not any(work.counts.values()):
        nothing_yet(
            "**This lab is empty.** Bring the checkpoints of a training run, or let a known problem be "
            "trained; what came out is shown here.",
            trying.offer,
        )
        return
    if trying.panel(models):
        return
    totals(models, work)
    at_work()
    results(latest, curves)
    all_models(models)


def totals(models: pd.DataFrame, work: Load) -> None:
    """How much there is of everything."""
    numbers = {
        "Models": len(models),
        "Checkpoints": int(models["checkpoints"].sum()),
        "Finished analyses": work.counts["analysis", State.finished],
        "Waiting": sum(work.counts[kind, State.queued] for kind in WORK),
        "Failed": sum(work.counts[kind, State.failed] for kind in WORK),
    }
    with st.container(horizontal=True):
        for label, count in numbers.items():
            st.metric(label, f"{count:,}", border=True, width="content")


@st.fragment(run_every=2)
@guarded
def at_work() -> None:
    """What runs now, read anew every two seconds."""
    with database()() as s:
        running = queries.runs(s, states=[State.running])
    st.header("Running now", anchor=False)
    if running.empty:
        st.caption("Nothing runs at the moment.")
    for run in runs_of(running.head(AT_WORK)):
        st.progress(
            run.progress, text=f"**{plain(run.model)}** · {title_of(run)} · {run.progress:.0%}{left(run)}"
        )
    if len(running) > AT_WORK:
        st.caption(f"And {counted(len(running) - AT_WORK, 'other', 'others')}.")
    link("runs", "See all runs", icon=":material/list:")


def results(latest: pd.DataFrame, curves: pd.DataFrame) -> None:
    """A card for each of the latest results: overlap, error, ratio to chance, and the curve against k."""
    st.header("Latest results", anchor=False)
    if latest.empty:
        st.caption("No analysis has finished yet.")
        return
    st.caption(
        "How to read this: the overlap of the k largest weights with the top-k eigenspace, with its stated "
        "error; the small curve is its ratio to chance against k."
    )
    cards = rows_of(latest, LatestResult)
    for start in range(0, len(cards), 3):
        for place, result in zip(st.columns(3), cards[start : start + 3], strict=False):
            with place:
                card(result, curves[curves["analysis_id"] == result.analysis_id])


def card(result: LatestResult, curve: pd.DataFrame) -> None:
    with st.container(border=True, gap="xsmall", height="stretch", key=f"latest_{result.analysis_id}"):
        st.markdown(
            f"**{plain(result.model)}** · step {result.step:,} · {plain(whole_matrix(result))}"
            + synthetic_badge(result)
        )
        # Of results from before errors were stated, there is none.
        error = None if pd.isna(result.error) else result.error * result.parameters / result.k
        st.metric(
            f"Overlap, k = {result.k:,}",
            with_error(result.overlap, result.error, 3),
            f"{value_of(result.ratio, error, 3)} × chance",
            delta_color="off",
            delta_arrow="off",
            chart_data=curve["ratio"].tolist(),
            chart_type="line",
        )
        st.caption(f"D = {result.parameters:,} · {samples_of(result)} · {ago(result.finished_at)}")
        link("result", "Open", icon=":material/open_in_full:", query={"analysis": str(result.analysis_id)})


def all_models(models: pd.DataFrame) -> None:
    st.header("Models", anchor=False)
    away = int(models["archived"].sum())
    models = models[~models["archived"]]
    event: Any = st.dataframe(
        models.drop(columns=["id", "archived"]),
        hide_index=True,
        key="overview_models",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "name": st.column_config.TextColumn("model"),
            "parameters": st.column_config.NumberColumn("parameters D", format="localized"),
        },
    )
    chosen = [place for place in event.selection.rows if place < len(models)]
    st.caption(
        "Choose a row at its left to open its page."
        + (f" {counted(away, 'archived model is', 'archived models are')} not listed." if away else "")
    )
    with st.container(horizontal=True):
        if chosen:
            row = models.iloc[chosen[0]]
            link(
                "model",
                f"Open {plain(row['name'])}",
                icon=":material/deployed_code:",
                query={"id": str(row["id"])},
            )
        link("compare", "Compare them", icon=":material/stacked_line_chart:")
        link("new_analysis", "Start an analysis", icon=":material/add_circle:")
