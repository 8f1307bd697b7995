"""The first five minutes: one button tries the lab on real digits, and says how far that is."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from seigh.app import identity
from seigh.app.common import counted, database, guarded, left, plain, sentence_for_errors, settings
from seigh.app.navigation import link
from seigh.app.rows import AnalysisRun, TrainingRun, runs_of
from seigh.core.lab import queries, workers
from seigh.core.lab.models import UNDER_WAY, State

# As ``seigh.tasks.trial``, whose import brings torch, has them.
MODEL = "digits, tried out"
EXPECTED = 8  # analyses


def offer() -> None:
    """The button, for those who may work."""
    if not identity.current().role.may_work:
        return
    st.markdown(
        "Or see first what comes out: a network of 7,030 weights is trained on handwritten digits that come "
        "along, and analysed at four steps. On one processor it takes about a minute."
    )
    if st.button("Try it on real digits", type="primary", icon=":material/play_arrow:", key="try_it"):
        begin()


def begin() -> None:
    """Ask the queue for it."""
    from seigh.tasks import trial  # brings torch, which Overview does not need

    with sentence_for_errors(), st.spinner("Queueing …"):
        warning = trial.start(settings(), user=identity.current())
        st.session_state["tried_warning"] = warning
        st.rerun()


def panel(models: pd.DataFrame) -> bool:
    """How far the trial is, and the way to its result, as long as the lab has little else; whether it is
    under way.

    Args:
        models: Those of the lab, as ``queries.models`` has them.
    """
    if models["name"].tolist() != [MODEL]:
        return False
    found = work()
    unfinished = is_under_way(*found)
    with st.container(border=True, key="tried"):
        st.header("Trying it on real digits", anchor=False)
        if warning := st.session_state.pop("tried_warning", None):
            st.warning(plain(warning), icon=":material/warning:")
        if unfinished:
            progress()
        else:
            show(*found)
    return unfinished


def work() -> tuple[TrainingRun | None, list[AnalysisRun]]:
    """The training of the trial and its analyses."""
    with database()() as s:
        found = queries.runs(s)
    runs = runs_of(found[found["model"] == MODEL])
    training = next((run for run in runs if isinstance(run, TrainingRun)), None)
    return training, [run for run in runs if isinstance(run, AnalysisRun)]


def is_under_way(training: TrainingRun | None, analyses: list[AnalysisRun]) -> bool:
    return any(run.state in UNDER_WAY for run in (training, *analyses) if run)


@st.fragment(run_every=1)
@guarded
def progress() -> None:
    """The same, read anew every second until all of it has ended; then the page shows the results."""
    found = work()
    if not is_under_way(*found):
        st.rerun()
    show(*found)


def show(training: TrainingRun | None, analyses: list[AnalysisRun]) -> None:
    """Each stage with what is done of it, and what went wrong."""
    done = [run for run in analyses if run.state == State.finished]
    ended = training is None or training.state not in UNDER_WAY
    if not ended and training is not None:
        words = f"Training · step {training.steps_done or 0:,} of {training.steps:,}{left(training)}"
        if training.state == State.queued:
            words = f"Training waits for a worker{nobody_works()}"
        st.progress(training.progress, text=words)
    expected = len(analyses) if ended else max(EXPECTED, len(analyses))
    running = [run for run in analyses if run.state == State.running]
    parts = sum(run.progress for run in running) + len(done)
    words = f"Analyses · {len(done)} of {expected} finished"
    if running:
        words += f" · at step {running[0].step:,}: {running[0].stage or 'starting'}{left(running[0])}"
    st.progress(min(1.0, parts / expected) if expected else 0.0, text=words)
    for run in filter(None, (training, *analyses)):
        if run.state == State.failed:
            st.error(plain(run.message or "It failed."), icon=":material/error:")
            break
    stopped = [run for run in (training, *analyses) if run and run.state in (State.failed, State.cancelled)]
    if done:
        last = max(done, key=lambda run: (run.step, run.split == "test"))
        link(
            "result", "Look at the result, each chart explained", icon=":material/tour:",
            query={"analysis": str(last.id), "tour": "1"},
        )  # fmt: skip
    if stopped:
        pieces = counted(len(stopped), "piece of work", "pieces of work")
        st.caption(f"{pieces} did not finish; Runs can start them again.")
        link("runs", "See all runs", icon=":material/list:")


def nobody_works() -> str:
    """That there is no worker, if so."""
    with database()() as s:
        if workers.alive(s):
            return ""
    return ": none runs at the moment; `seigh worker` starts one"
