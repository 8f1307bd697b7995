"""Runs: what waits, works, is done or went wrong, who works on it, live."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pandas as pd
import streamlit as st

from seigh.app import identity
from seigh.app.bringing import bring_results
from seigh.app.common import (
    ago,
    asked_in_url,
    counted,
    database,
    duration,
    guarded,
    keep_in_url,
    left,
    nothing_yet,
    plain,
    samples_of,
    say_what_is_gone,
    settings,
    show_incidents,
    size,
    title_of,
)
from seigh.app.navigation import link
from seigh.app.rows import AnalysisRun, Deed, Run, TrainingRun, rows_of, runs_of
from seigh.core.access import Actor, Role
from seigh.core.errors import UserError
from seigh.core.lab import actions as actions_on_work
from seigh.core.lab import audit, queries, turns
from seigh.core.lab.load import Load, load
from seigh.core.lab.models import UNDER_WAY, WORK, State
from seigh.core.names import PRIORITIES
from seigh.core.order import in_order

PER_PAGE = 20
LOG_LINES = 40
LOG_BYTES = 20_000  # of the log's end, read at every refresh while it is open

STATES = {
    State.queued: ("gray", ":material/schedule:"),
    State.running: ("blue", ":material/play_circle:"),
    State.finished: ("green", ":material/check_circle:"),
    State.failed: ("red", ":material/error:"),
    State.cancelled: ("orange", ":material/cancel:"),
}
# What a worker ends before it looks whether its work is still wanted.
STEPS_OF = {"analysis": "batch of products or decomposition", "training": "step", "comparison": "pair"}
KINDS = {"analysis": "analyses", "training": "trainings", "comparison": "comparisons"}


def page() -> None:
    st.title("Runs")
    take_filters(asked_in_url("runs"))
    bring_results()
    live()


def take_filters(asked: dict[str, list[str]]) -> None:
    """Set the filters that the address asks for."""
    if asked:
        st.session_state["runs_states"] = [state for state in STATES if state in asked.get("state", [])]
        for name in ("kind", "model"):
            st.session_state[f"runs_{name}"] = asked.get(name, [None])[0]


@st.fragment(run_every=2)
@guarded
def live() -> None:
    """Queue, workers and the list, read anew every two seconds without the rest of the page."""
    with database()() as s:
        show_incidents(s)
        runs = queries.listed_runs(s)
        work = load(s)
        places = {(each.kind, each.number): place for place, each in enumerate(turns.queue(s), start=1)}
    if runs.empty:
        nothing_yet("**No runs yet.** Every analysis that somebody starts appears here, with its progress.")
        return
    at_work(work)
    actor = identity.current()
    shown = narrowed(runs)
    shown = shown.sort_values("state", key=lambda state: state != State.running, kind="stable")
    if shown.empty:
        st.info("No run matches; choose fewer filters.")
    pages = max(1, -(-len(shown) // PER_PAGE))
    number = st.pagination(pages, key="runs_page") if pages > 1 else 1
    shown = shown.iloc[(number - 1) * PER_PAGE : number * PER_PAGE]
    order = list(zip(shown["kind"], shown["id"].tolist(), strict=True))
    with database()() as s:
        done = audit.of(s, order)
        only = {kind: [number for each, number in order if each == kind] for kind in KINDS}
        found = {(run.kind, run.id): run for run in runs_of(queries.runs(s, only))}
    for run in (found[each] for each in order if each in found):
        show(run, actor, done, places.get((run.kind, run.id)))
    log_tail(actor)


def at_work(work: Load) -> None:
    """How much waits and runs, how fast, and which workers there are."""
    alive = [worker for worker in work.workers if worker.alive]
    waits = sum(work.counts[kind, State.queued] for kind in KINDS)
    runs = sum(work.counts[kind, State.running] for kind in KINDS)
    parts = [f"**{counted(waits, 'run', 'runs')}** waiting", f"**{runs:,}** running"]
    if waits:
        parts.append(f"the first has waited {duration(max(work.oldest.values()))}")
    if work.hvps_per_second:
        parts.append(f"{work.hvps_per_second:,.3g} Hessian-vector products per second")
    parts.append(f"**{counted(len(alive), 'worker', 'workers')}**")
    st.markdown(" · ".join(parts))
    if not alive and (waits or runs):
        st.warning(
            "No worker has been heard of lately; start one with `seigh worker`, or `seigh up` for all.",
            icon=":material/engineering:",
        )
    if work.workers:
        with st.expander("Workers", icon=":material/dns:"):
            st.dataframe(
                pd.DataFrame(
                    {
                        "worker": worker.name,
                        "device": worker.device_name or worker.device,
                        "memory": size(worker.memory),
                        "last sign of life": f"{duration(worker.silent)} ago",
                        "state": "there" if worker.alive else "gone",
                    }
                    for worker in work.workers
                ),
                hide_index=True,
                key="runs_workers",
            )


def narrowed(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that the filters let pass."""
    counts = runs["state"].value_counts()
    states = st.pills(
        "Show",
        [state for state in STATES if state in counts or state in st.session_state.get("runs_states", [])],
        selection_mode="multi",
        format_func=lambda state: f"{STATES[state][1]} {state} ({counts.get(state, 0)})",
        key="runs_states",
        persist_state="session",
        help="Nothing chosen shows all.",
    )
    kinds, models = sorted(runs["kind"].unique()), in_order(runs["model"].unique())
    for name, there in (("kind", kinds), ("model", models)):
        if (wanted := st.session_state.get(f"runs_{name}")) is not None and wanted not in there:
            say_what_is_gone([wanted], there, name)
            return runs.head(0)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = model = None
        if len(kinds) > 1:
            kind = st.selectbox(
                "Kind",
                kinds,
                index=None,
                placeholder="all",
                format_func=KINDS.__getitem__,
                key="runs_kind",
                persist_state="session",
                width=180,
            )
        if len(models) > 1:
            model = st.selectbox(
                "Model",
                models,
                index=None,
                placeholder="all",
                key="runs_model",
                persist_state="session",
                width=300,
            )
    chosen = {"state": [str(state) for state in states]}
    for column, wanted in (("kind", kind), ("model", model)):
        if wanted is not None:
            runs = runs[runs[column] == wanted]
            chosen[column] = [wanted]
    keep_in_url("runs", {name: values for name, values in chosen.items() if values})
    return runs[runs["state"].isin(states)] if states else runs


def show(run: Run, actor: Actor, done: pd.DataFrame, place: int | None) -> None:
    """One run, with what the actor can do about it; ``place`` is that in the queue, from 1."""
    color, icon = STATES[State(run.state)]
    with st.container(border=True, key=f"run_{run.kind}_{run.id}", gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            badge = f":{color}-badge[{icon} {run.state}]"
            st.markdown(f"{badge} **{plain(run.model)}** · {title_of(run)}", width="content")
            with st.container(horizontal=True, width="content", gap="xsmall", vertical_alignment="center"):
                history(run, done)
                actions(run, actor)
        if run.state == State.running:
            st.progress(run.progress, text=working(run))
        if run.state == State.failed:
            st.error(plain(run.message or "It failed."), icon=":material/error:")
        st.caption(facts(run) + (f" · number {place:,} in the queue" if place else ""))


def working(run: Run) -> str:
    """Say at which stage running work is, how fast it is and how long it will take."""
    stage = run.stage or "starting"
    if run.cancel_requested:
        step = STEPS_OF.get(run.kind, "step")
        return f"stopping: the worker ends the {step} at hand ({stage}) and looks after each"
    parts = [stage, f"{run.progress:.0%}{left(run)}"]
    if isinstance(run, AnalysisRun) and run.hvps and run.started_at is not None:
        seconds = 0.0 if run.heartbeat_at is None else (run.heartbeat_at - run.started_at).total_seconds()
        rate = f", {run.hvps / seconds:,.3g} per second" if seconds > 0 else ""
        parts.append(f"{run.hvps:,.0f} products{rate}")
    return " · ".join(parts)


def facts(run: Run) -> str:
    """Settings, who and when."""
    parts = [f"{run.kind} {run.id}"]
    if isinstance(run, AnalysisRun):
        parts += [run.method, f"k = {run.k:,}", samples_of(run), f"seed {run.seed}"]
        parts.append(plain(run.data))
    elif isinstance(run, TrainingRun):
        parts.append(f"seed {run.seed}")
    else:
        parts.append(counted(run.pairs, "pair", "pairs"))
    parts.append(f"by {plain(run.submitted_by)}, {ago(run.submitted_at)}")
    if run.state == State.running and run.worker:
        parts.append(f"on {plain(run.worker)}")
    if run.state == State.finished and run.started_at is not None and run.finished_at is not None:
        parts.append(f"took {duration((run.finished_at - run.started_at).total_seconds())}")
    if run.attempts > 1:
        parts.append(f"attempt {run.attempts}")
    return " · ".join(parts)


def actions(run: Run, actor: Actor) -> None:
    """Draw the buttons for a run in its state."""
    if not actor.may_change(run.submitted_by):
        if run.state == State.finished:
            opened(run)
        return
    name = f"{run.kind}_{run.id}"
    if run.state == State.queued:
        priority(run, name)
    if run.state in UNDER_WAY:
        if not run.cancel_requested:
            confirmed(
                "Cancel",
                ":material/cancel:",
                f"cancel_{name}",
                f"Stop {run.kind} {run.id}? "
                + (
                    "What it has computed so far is lost."
                    if run.state == State.running
                    else "It has not begun, so nothing is lost."
                ),
                "Yes, cancel it",
                cancel,
                run,
            )
        return
    if run.state == State.finished:
        opened(run)
    else:
        st.button(
            "Retry",
            key=f"retry_{name}",
            type="tertiary",
            icon=":material/replay:",
            on_click=retry,
            args=(run.kind, run.id),
        )
    confirmed(
        "Delete",
        ":material/delete:",
        f"delete_{name}",
        f"Delete {run.kind} {run.id} {LOST[run.kind]}? This cannot be undone.",
        "Yes, delete it",
        delete,
        run,
    )


def priority(run: Run, name: str) -> None:
    """How soon a run that waits is to be begun, as the database says, whoever has set it."""
    key = f"priority_{name}"
    st.session_state[key] = run.priority
    st.selectbox(
        f"Priority of {run.kind} {run.id}",
        PRIORITIES,
        format_func=lambda each: f"{each} priority",
        key=key,
        on_change=prioritise,
        args=(run.kind, run.id, key),
        label_visibility="collapsed",
        width=180,
    )


def history(run: Run, done: pd.DataFrame) -> None:
    """Who did what to a run, of what ``audit.of`` found."""
    with st.popover("History", icon=":material/history:", key=f"who_{run.kind}_{run.id}", type="tertiary"):
        of_this = done[(done["kind"] == run.kind) & (done["number"] == run.id)]
        if of_this.empty:
            st.caption("Nothing is written down: it is of an earlier version, or a worker's own.")
        for each in rows_of(of_this, Deed):
            where = f" from {plain(each.address)}" if each.address else ""
            st.caption(f"{each.what} by {plain(each.who)}{where}, {ago(each.at)}")


LOST = {
    "analysis": "with its numbers and eigenvectors",
    "training": "and forget how its checkpoints came about, which stay",
    "comparison": "from this list; the values of its pairs stay",
}


def opened(run: Run) -> None:
    """The way to what a finished run has found."""
    query: dict[str, str] = {}
    if isinstance(run, AnalysisRun):
        page, query = "result", {"analysis": str(run.id)}
    elif isinstance(run, TrainingRun):
        page, query = "compare", {"model": run.model}
    else:
        page = "stabilisation"
    link(page, "Open", icon=":material/open_in_full:", query=query)


def confirmed(
    label: str,
    icon: str,
    key: str,
    question: str,
    answer: str,
    action: Callable[[str, int], None],
    run: Run,
) -> None:
    """A button that asks before it acts."""
    with st.popover(label, icon=icon, key=key, type="tertiary"):
        st.markdown(question)
        st.button(answer, key=f"really_{key}", type="primary", on_click=action, args=(run.kind, run.id))


def log_tail(actor: Actor) -> None:
    """The last lines of the worker's log, where it is on this machine, for those who keep the lab."""
    log = settings().root / "logs" / "worker.log"
    if actor.role is not Role.admin or not (settings().embedded_redis and log.is_file()):
        return
    if st.toggle("Show the worker's log", key="runs_log", persist_state="session"):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            lines = deque(file.read().decode(errors="replace").splitlines(), LOG_LINES)
        st.code("\n".join(lines) or "It is empty.", language=None, wrap_lines=True)


def cancel(kind: str, number: int) -> None:
    try:
        with database().begin() as s:
            actions_on_work.cancel(s, identity.current(), WORK[kind], number)
    except UserError as error:  # it has ended in the meantime
        st.toast(plain(str(error)), icon=":material/info:")


def prioritise(kind: str, number: int, key: str) -> None:
    try:
        with database().begin() as s:
            actions_on_work.prioritise(s, identity.current(), WORK[kind], number, st.session_state[key])
    except UserError as error:  # it has begun in the meantime
        st.toast(plain(str(error)), icon=":material/info:")


def retry(kind: str, number: int) -> None:
    from seigh.tasks import submit  # brings torch, which the list does not need

    try:
        warning = submit.retry(WORK[kind], number, settings(), user=identity.current())
    except UserError as error:  # somebody was faster
        warning = str(error)
    if warning:
        st.toast(plain(warning), icon=":material/info:")


def delete(kind: str, number: int) -> None:
    from seigh.tasks import submit

    try:
        submit.delete(WORK[kind], number, settings(), user=identity.current())
    except UserError as error:  # somebody was faster, or it has started again
        st.toast(plain(str(error)), icon=":material/info:")
