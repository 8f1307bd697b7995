"""Costs of analyses, said before they start: products, memory, time, and a warning where it is absurd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from seigh.app.common import between, counted, database, duration, plain, settings, size
from seigh.core import methods, preparation
from seigh.core.analysis import Cost, cost
from seigh.core.errors import UserError
from seigh.core.forecast import Forecast, Kind, Timed
from seigh.core.lab import queries
from seigh.core.lab.models import Worker
from seigh.core.lab.space import room
from seigh.core.lab.workers import alive
from seigh.core.settings import AnalysisSettings, SettingsError
from seigh.tasks import expected as expecting

LONG = 86_400.0  # s; more than that is said
ABSURD = 7 * 86_400.0  # s, at least that long: nothing starts before somebody has confirmed it


def costs(chosen: Sequence[AnalysisSettings], checkpoints: int, page: str) -> list[str]:
    """Show what analyses of so many checkpoints take; why they cannot be started, if they cannot.

    Args:
        chosen: Settings, one for each split.
        checkpoints: How many are analysed with each of them.
        page: Prefix of the widgets' keys.
    """
    if not chosen:
        st.caption("Known when the settings are complete.")
        return []
    first = chosen[0]
    try:
        parameters = preparation.check(first, settings())
        each = cost(first, parameters)
    except UserError as error:
        st.caption("None: these settings cannot work.")
        return [str(error)]
    analyses = checkpoints * len(chosen)
    with st.container(horizontal=True):
        st.metric("Parameters D", f"{each.parameters:,}", width=148)
        st.metric("Analyses", f"{analyses:,}", width=148, help="Checkpoints × splits.")
        st.metric("HVPs per analysis", f"{each.hvps:,}", width=148, help="Hessian-vector products.")
        st.metric("HVPs in total", f"{analyses * each.hvps:,}", width=148)
        st.metric("Memory of a worker", f"≥ {size(each.memory)}", width=190, help="Basis and eigenvectors.")
    with database()() as s:
        timings = queries.timings(s, first.architecture, first.parameters)
        workers = alive(s)
    kind = expecting.kind_of({worker.device for worker in workers}, settings())
    timed = expecting.timed_like(timings, first, kind)
    expected = expecting.of_one(first, parameters, timed, kind, settings())
    say_time(expected, analyses, workers, kind)
    st.table(by_method(first, parameters, timed, kind), border="horizontal", hide_index=True)
    return warn(each, first, analyses, expected, workers, page)


def say_time(expected: Forecast | None, analyses: int, workers: Sequence[Worker], kind: Kind) -> None:
    """How long one and all of them take, and how that is known."""
    if expected is None:
        st.markdown("**Time:** not known, as the shape of the samples is not.")
        return
    parts = [f"{between(expected.low, expected.high)} for an analysis"]
    at_once = max(1, len(workers))
    if analyses > 1:
        rounds = -(-analyses // at_once)
        parts.append(
            f"{between(rounds * expected.low, rounds * expected.high)} for all {analyses:,} on "
            f"{counted(at_once, 'worker', 'workers')}"
        )
    st.markdown(f"**Time:** {', '.join(parts)}")
    device = "GPU" if kind == "cuda" else "CPU"
    if expected.source:
        source = expected.source
        st.caption(
            f"From analysis {source.analysis_id} ({source.method}, N = {source.samples:,}, k = {source.k:,}, "
            f"{source.hvps:,} products in {duration(source.seconds)} on a {device}); a product may take "
            "half or twice as long."
        )
    else:
        st.caption(
            f"A rough range, from the network's operations and what {device}s do per second: no analysis of "
            f"this architecture has been timed on a {device} yet. After the first, it is known better."
        )


def of_no_method() -> dict[str, Any]:
    """Settings that belong to one method, at their defaults."""
    return {name: AnalysisSettings.model_fields[name].get_default() for name in methods.OPTIONS}


def by_method(chosen: AnalysisSettings, parameters: int, timed: Sequence[Timed], kind: Kind) -> pd.DataFrame:
    """Return the cost of every method for the same k, or the reason why it cannot work."""
    rows = []
    for method in methods.available():
        same = method == chosen.method
        other = chosen if same else chosen.model_copy(update={"method": method} | of_no_method())
        name = f"**{method}**" if same else method
        try:
            each = cost(other, parameters)
        except SettingsError:
            rows.append({"method": name, "HVPs": "–", "memory": "cannot work", "time of one": "–"})
            continue
        expected = expecting.of_one(other, parameters, timed, kind, settings())
        took = "not known" if expected is None else between(expected.low, expected.high)
        rows.append(
            {
                "method": name,
                "HVPs": f"{each.hvps:,}",
                "memory": f"≥ {size(each.memory)}",
                "time of one": took,
            }
        )
    return pd.DataFrame(rows)


@st.cache_data(ttl=30, show_spinner=False)
def room_left() -> int:
    """Bytes that artefacts may still take, counted now and then."""
    return room(settings().artifact_folder, settings().artifacts_quota)


def warn(
    each: Cost,
    chosen: AnalysisSettings,
    analyses: int,
    expected: Forecast | None,
    workers: Sequence[Worker],
    page: str,
) -> list[str]:
    """Say what is likely to go wrong; of what is absurd, that it is not confirmed yet."""
    kept = analyses * chosen.k * each.parameters * 4  # eigenvectors, as float32
    absurd, unwise = [], []
    if kept > (left := room_left()):
        absurd.append(
            f"The eigenvectors of all analyses take {size(kept)}, and the artefacts have room for "
            f"{size(left)}: choose a smaller k or fewer checkpoints, or make room."
        )
    memory = max((worker.memory for worker in workers), default=None)
    if memory is not None and each.memory > memory:
        if methods.get(chosen.method).dense:
            absurd.append(
                f"The dense matrices take {size(each.memory)}, and no worker has more than {size(memory)} of "
                "memory: choose krylov."
            )
        else:
            unwise.append(
                f"The basis takes {size(each.memory)}, and no worker has more than {size(memory)} of memory: "
                "what does not fit goes to the scratch disk, which needs the room and is slower."
            )
    if expected is not None and analyses:
        low, high = (analyses * end / max(1, len(workers)) for end in (expected.low, expected.high))
        if low > ABSURD:
            absurd.append(
                f"This takes {duration(low)} at least: choose a smaller k or N, or fewer checkpoints."
            )
        elif high > LONG:
            unwise.append(f"This may take as long as {duration(high)}.")
    if unwise or absurd:
        st.warning("\n".join(f"- {plain(line)}" for line in absurd + unwise), icon=":material/warning:")
    if absurd and not st.checkbox("Start it all the same", key=f"{page}_absurd"):
        return ["Confirm what it will cost, or choose less."]
    return []
