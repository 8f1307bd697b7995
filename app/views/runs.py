"""Runs: what waits, works, is done or went wrong, live."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.common import ago, database, duration, guarded, matrix, nothing_yet, plain, settings
from core.results import queries, store
from core.results.models import WORK, State
from core.results.store import StoreError

PER_PAGE = 20

STATES = {
    State.queued: ("gray", ":material/schedule:"),
    State.running: ("blue", ":material/play_circle:"),
    State.finished: ("green", ":material/check_circle:"),
    State.failed: ("red", ":material/error:"),
    State.cancelled: ("orange", ":material/cancel:"),
}


def page() -> None:
    st.title("Runs")
    live()


@st.fragment(run_every=2)
@guarded
def live() -> None:
    """The list, read anew every two seconds without the rest of the page."""
    with database()() as s:
        runs = queries.runs(s)
    if runs.empty:
        nothing_yet("**No runs yet.** Every analysis that somebody starts appears here, with its progress.")
        return
    counts = runs["state"].value_counts()
    states = st.pills(
        "Show",
        [state for state in STATES if state in counts],
        selection_mode="multi",
        format_func=lambda state: f"{STATES[state][1]} {state} ({counts.get(state, 0)})",
        key="runs_states",
        persist_state="session",
        help="Nothing chosen shows all.",
    )
    shown = runs[runs["state"].isin(states)] if states else runs
    shown = shown.sort_values("state", key=lambda state: state != State.running, kind="stable")
    pages = max(1, -(-len(shown) // PER_PAGE))
    number = st.pagination(pages, key="runs_page") if pages > 1 else 1
    for run in shown.iloc[(number - 1) * PER_PAGE : number * PER_PAGE].itertuples():
        show(run)


def show(run: Any) -> None:
    """One run: a row of ``queries.runs``."""
    color, icon = STATES[State(run.state)]
    with st.container(border=True, key=f"run_{run.kind}_{run.id}", gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            badge = f":{color}-badge[{icon} {run.state}]"
            st.markdown(f"{badge} **{plain(run.model)}** · {what(run)}", width="content")
            actions(run)
        if run.state == State.running:
            st.progress(run.progress, text=working(run))
        if run.state == State.failed:
            st.error(plain(run.message or "It failed."), icon=":material/error:")
        st.caption(facts(run))


def what(run: Any) -> str:
    """What is done, beside the model."""
    if run.kind == "training":
        done = "" if pd.isna(run.steps_done) else f"{run.steps_done:,} of "
        return f"training {plain(run.problem)} · {done}{run.steps:,} steps"
    if run.kind == "comparison":
        return f"comparison of {run.analyses:,} analyses"
    return f"step {run.step:,} · {plain(matrix(run))}"


def working(run: Any) -> str:
    """What running work is at and how long it will take."""
    if run.cancel_requested:
        return "stopping …"
    remaining = "" if pd.isna(run.eta_seconds) else f" · about {duration(run.eta_seconds)} left"
    return f"{run.stage or 'starting'} · {run.progress:.0%}{remaining}"


def facts(run: Any) -> str:
    """Settings, who and when."""
    parts = [f"{run.kind} {run.id}"]
    if run.kind == "analysis":
        parts += [run.method, f"k = {run.k:,}", f"N = {run.samples:,}", f"seed {run.seed}"]
        parts.append(plain(run.data[:20]))
    elif run.kind == "training":
        parts.append(f"seed {run.seed}")
    parts.append(f"by {plain(run.submitted_by)}, {ago(run.submitted_at)}")
    if run.state == State.finished and not pd.isna(run.started_at):
        parts.append(f"took {duration((run.finished_at - run.started_at).total_seconds())}")
    if run.attempts > 1:
        parts.append(f"attempt {run.attempts}")
    return " · ".join(parts)


def actions(run: Any) -> None:
    """What can be done about a run in its state."""
    name = f"{run.kind}_{run.id}"
    if run.state == State.finished:
        if run.kind == "analysis":
            st.page_link(
                "views/result.py",
                label="Open",
                icon=":material/open_in_full:",
                query_params={"analysis": str(run.id)},
            )
    elif run.state in (State.queued, State.running) and not run.cancel_requested:
        with st.popover("Cancel", icon=":material/cancel:", key=f"cancel_{name}"):
            st.markdown(f"Stop {run.kind} {run.id}? What it has computed so far is lost.")
            st.button(
                "Yes, cancel it",
                key=f"really_{name}",
                type="primary",
                on_click=cancel,
                args=(run.kind, run.id),
            )
    elif run.state in (State.failed, State.cancelled):
        st.button(
            "Retry",
            key=f"retry_{name}",
            icon=":material/replay:",
            on_click=retry,
            args=(run.kind, run.id),
        )


def cancel(kind: str, number: int) -> None:
    try:
        with database().begin() as s:
            store.request_cancel(s, WORK[kind], number)
    except StoreError as error:  # it has ended in the meantime
        st.toast(plain(str(error)), icon=":material/info:")


def retry(kind: str, number: int) -> None:
    from tasks import submit  # brings torch, which the list does not need

    try:
        warning = submit.retry(WORK[kind], number, settings())
    except StoreError as error:  # somebody was faster
        warning = str(error)
    if warning:
        st.toast(plain(warning), icon=":material/info:")


page()
