"""Comparisons of pairs of analyses, which the queue computes: asking for them, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from seigh.app import identity
from seigh.app.common import counted, database, guarded, left, plain, settings
from seigh.app.rows import Comparison, ComparisonRun, rows_of
from seigh.core.errors import UserError
from seigh.core.lab import queries
from seigh.core.lab.models import UNDER_WAY, State


def ask_for_pairs(groups: Sequence[Sequence[int]], ks: Sequence[int], key: str) -> None:
    """A button that queues comparisons within each group of analyses, or how far those are that cover them.

    Args:
        groups: Ids of analyses; the pairs within each group are wanted.
        ks: Sizes to compare at.
        key: Key of the button, unique on the page.
    """
    with database()() as s:
        known = queries.comparisons(s)
    under_way = [number for group in groups if (number := covering(known, group, ks)) is not None]
    if under_way:
        progress(under_way)
        return
    pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    with st.container(border=True):
        st.markdown(
            f"**{counted(pairs, 'pair is', 'pairs are')} not compared yet.** A worker compares the stored "
            "eigenvectors and masks; the values are kept, for everybody."
        )
        st.button(
            f"Compare {counted(pairs, 'pair', 'pairs')}",
            key=f"{key}_compare",
            type="primary",
            icon=":material/compare_arrows:",
            on_click=queue,
            args=(groups, ks),
        )


def covering(known: pd.DataFrame, ids: Sequence[int], ks: Sequence[int]) -> int | None:
    """The comparison that waits or runs and will give these values; None if there is none."""
    under_way = known[known["state"].isin(UNDER_WAY)]
    for each in rows_of(under_way, Comparison):
        if set(ids) <= set(each.analysis_ids) and set(ks) <= set(each.ks):
            return each.id
    return None


def queue(groups: Sequence[Sequence[int]], ks: Sequence[int]) -> None:
    from seigh.tasks import submit  # brings torch, which the page does not need

    for group in groups:
        try:
            _, warning = submit.compare(group, ks, user=identity.current(), env=settings())
        except UserError as error:
            warning = str(error)
        if warning:
            st.toast(plain(warning), icon=":material/info:")


@st.fragment(run_every=2)
@guarded
def progress(numbers: Sequence[int]) -> None:
    """How far comparisons are, until they have ended and the page can show what came of them."""
    with database()() as s:
        runs = queries.runs(s, {"comparison": numbers})
    at_work = runs[runs["state"].isin(UNDER_WAY)]
    for run in rows_of(at_work, ComparisonRun):
        what = f"comparing {counted(run.pairs, 'pair', 'pairs')}"
        st.progress(run.progress, text=f"{what} · {run.stage or run.state}{left(run)}")
    for run in rows_of(runs[runs["state"] == State.failed], ComparisonRun):
        st.error(plain(run.message or "The comparison failed."), icon=":material/error:")
    if at_work.empty and not (runs["state"] == State.failed).any():
        st.rerun()
    st.caption("The values appear here as soon as they are there.")
