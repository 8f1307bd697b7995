"""Analyses: all of them as one table, searched, filtered, sorted and grouped; and what to do with some.

The state of the page is its address. The database does the work: a page of rows is all that is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from seigh.app import figures, identity
from seigh.app.common import (
    asked_in_url,
    counted,
    database,
    duration,
    guarded,
    keep_in_url,
    nothing_yet,
    plain,
    settings,
)
from seigh.app.digits import counted_or_measured, number, plus_minus, value_of
from seigh.app.figures import label_of
from seigh.app.frame import parquet
from seigh.app.navigation import link
from seigh.core.errors import UserError
from seigh.core.lab import actions, listing, queries
from seigh.core.lab.listing import MEASURED, Column, Query
from seigh.core.lab.models import Analysis, Mask
from seigh.core.lab.store import StoreError
from seigh.core.results.csv import to_csv

PER_PAGE = 50
MOST_GROUPS = 100
MOST_PIXELS = 640  # of the table's height

# Shown before anybody chooses others.
USUAL = (
    *("model", "step", "split", "data", "N", "k", "method", "overlap", "ratio", "lambda", "resolved_k"),
    *("test_accuracy", "seconds"),
)
# Offered as filters; every other column can be a condition of the search.
FILTERS = {
    "model": "Model", "tag": "Tag", "step": "Step", "N": "N", "split": "Split", "method": "Method",
    "state": "State",
}  # fmt: skip
MASKS = {
    Mask.magnitude: "of the largest |θ|",
    Mask.random: "random, mean",
    Mask.best: "best",
}
HELP = (
    "Words that name, data, method, tag or user contain, and conditions on any column: `N=500 step>=1000`, "
    "`tag:baseline`, `model!=mlp`, `setting.precision=float64`, `fact.norm.estimate>10`. `#7` is analysis 7."
)


def page() -> None:
    st.title("Analyses")
    with database()() as s:
        if not listing.rows(s, Query(archived=True), [], limit=1).total:
            nothing_yet("**No analyses yet.** Every analysis that somebody starts is a row here.")
            return
    take(asked_in_url("analyses"))
    table()


def take(asked: Mapping[str, Sequence[str]]) -> None:
    """Set what the address asks for."""
    if not asked:
        return
    state = st.session_state
    state["analyses_search"] = asked.get("q", [""])[0]
    for name in FILTERS:
        state[f"analyses_where_{name}"] = list(asked.get(name, []))
    state["analyses_sort"] = asked.get("sort", ["finished"])[0]
    state["analyses_descending"] = asked.get("order", ["down"])[0] != "up"
    state["analyses_columns"] = asked.get("column", list(USUAL))
    state["analyses_by"] = list(asked.get("by", []))
    mask = asked.get("mask", [""])[0]
    state["analyses_mask"] = Mask(mask) if mask in tuple(Mask) else Mask.magnitude
    k = asked.get("k", [""])[0]
    state["analyses_k"] = int(k) if k.isdecimal() and 0 < len(k) < 10 and int(k) else None
    state["analyses_archived"] = "archived" in asked


@st.fragment
@guarded
def table() -> None:
    """Search, filters, the table and what can be done with the chosen rows."""
    query, chosen, by = asked_for()
    keep(query, chosen, by)
    with database()() as s:
        try:
            there = listing.known(s, query)
            shown = [name for name in chosen if name in there]
            if by:
                found = listing.groups(s, query, by, MOST_GROUPS)
            else:
                total = listing.rows(s, query, [], limit=1).total
                pages = max(1, -(-total // PER_PAGE))
        except StoreError as error:
            st.error(plain(str(error)), icon=":material/error:")
            return
    if by:
        st.caption(say_found(found.total, "group", "groups", MOST_GROUPS))
        grouped(found.rows, by, there)
        return
    st.caption(say_found(total, "analysis", "analyses"))
    if not total:
        st.info("No analysis matches; choose fewer filters, or another search.")
        return
    place = st.pagination(pages, key="analyses_page") if pages > 1 else 1
    with database()() as s:
        rows = listing.rows(s, query, shown, PER_PAGE, (min(place, pages) - 1) * PER_PAGE).rows
    picked = several(rows, shown, there, query)
    whole = st.checkbox(f"Choose all {total:,} that match", key="analyses_all", disabled=total == len(picked))
    if whole:
        with database()() as s:
            picked = listing.ids(s, query)
    act(picked, query, shown)


def say_found(total: int, one: str, many: str, most: int | None = None) -> str:
    words = counted(total, one, many)
    return f"{words}, the first {most:,} of which are shown." if most and total > most else f"{words}."


# --- What is asked for ------------------------------------------------------------------------------------


def asked_for() -> tuple[Query, list[str], list[str]]:
    """What search and filters say, the columns to show, and those to group by."""
    state = st.session_state
    search = str(
        st.text_input(
            "Search",
            key="analyses_search",
            persist_state="session",
            help=HELP,
            placeholder="N=500 step>=1000 tag:baseline",
        )
    )
    query = Query(
        search=search,
        where={name: list(state.get(f"analyses_where_{name}", [])) for name in FILTERS},
        archived=bool(state.get("analyses_archived", False)),
    )
    filters(query)
    query = replace(query, where={name: list(state.get(f"analyses_where_{name}", [])) for name in FILTERS})
    with st.expander("Columns, order and groups", icon=":material/view_column:"):
        with database()() as s:
            there = listing.known(s, query)
        labels = {name: label_of(each) for name, each in there.items()}
        for key, usual in (("columns", list(USUAL)), ("by", [])):
            wanted = state.setdefault(f"analyses_{key}", usual)
            state[f"analyses_{key}"] = [name for name in wanted if name in there]
        if state.setdefault("analyses_sort", "finished") not in there:
            state["analyses_sort"] = "finished"
        chosen = st.multiselect(
            "Columns", list(there), key="analyses_columns", format_func=labels.__getitem__,
            persist_state="session",
            help="Every setting, every observable, and every fact of the record and of the environment, can "
            "be one.",
        )  # fmt: skip
        with st.container(horizontal=True, vertical_alignment="bottom"):
            sort = str(
                st.selectbox(
                    "Order",
                    list(there),
                    key="analyses_sort",
                    persist_state="session",
                    format_func=labels.__getitem__,
                    width=220,
                )
            )
            state.setdefault("analyses_descending", True)
            descending = st.toggle("Largest first", key="analyses_descending", persist_state="session")
            mask = st.selectbox(
                "Mask",
                list(MASKS),
                key="analyses_mask",
                persist_state="session",
                format_func=MASKS.__getitem__,
                width=190,
            )
            k = st.number_input(
                "At k", min_value=1, value=None, key="analyses_k", placeholder="its own", width=140,
                persist_state="session",
                help="Of overlap, ratio, chance and observables over k; without one, each analysis at its "
                "largest k.",
            )  # fmt: skip
        by = st.multiselect(
            "Group by", [name for name, each in there.items() if each.kind != "time"], key="analyses_by",
            persist_state="session", format_func=labels.__getitem__, placeholder="one row for each analysis",
            help="Rows that agree in these become one, with mean and standard deviation: seeds, for example, "
            "when everything but the seed is chosen.",
        )  # fmt: skip
        archived = st.checkbox(
            "With models that are archived", key="analyses_archived", persist_state="session"
        )
    query = replace(
        query, sort=sort, descending=descending, mask=mask, k=None if k is None else int(k), archived=archived
    )
    return query, chosen, by


def filters(query: Query) -> None:
    """The filters, each with the values that the others leave."""
    with database()() as s:
        try:
            offered = {name: listing.choices(s, query, name) for name in FILTERS}
        except StoreError:  # which is said where the table would be
            offered = {name: [] for name in FILTERS}
    with st.container(horizontal=True):
        for name, label in FILTERS.items():
            key = f"analyses_where_{name}"
            chosen = list(st.session_state.get(key, []))
            options = list(dict.fromkeys([*offered[name], *chosen]))
            st.multiselect(
                label,
                options,
                key=key,
                persist_state="session",
                placeholder="all",
                width=190 if name != "model" else 300,
            )


def keep(query: Query, chosen: Sequence[str], by: Sequence[str]) -> None:
    """Write what is shown into the address."""
    parts: dict[str, list[str]] = {
        "q": [query.search] if query.search else [],
        **{name: list(values) for name, values in query.where.items()},
        "sort": [] if query.sort == "finished" else [query.sort],
        "order": [] if query.descending else ["up"],
        "column": [] if list(chosen) == list(USUAL) else list(chosen),
        "by": list(by),
        "mask": [] if query.mask == Mask.magnitude else [str(query.mask)],
        "k": [] if query.k is None else [str(query.k)],
        "archived": ["1"] if query.archived else [],
    }
    keep_in_url("analyses", {name: values for name, values in parts.items() if values})


# --- The table --------------------------------------------------------------------------------------------


def several(rows: pd.DataFrame, shown: Sequence[str], there: Mapping[str, Column], query: Query) -> list[int]:
    """The rows of a page; the numbers of those that are chosen."""
    numbers = [int(each) for each in rows["id"]]
    names = ["id", *(name for name in shown if name != "id"), "tags"]
    frame = rows[names]
    styled = frame.style
    for name in names:
        if name != "tags" and there[name].kind == "number":
            column = there[name]
            within = column.error is not None or column.ends is not None
            texts = figures.told(rows, column) if within else [told(name, value) for value in rows[name]]
            styled = styled.format(in_order(texts), subset=[name])
    configured = {
        name: st.column_config.Column(label_of(there[name]), help=there[name].about or None)
        for name in names
        if name != "tags" and there[name].kind != "time"
    }
    configured |= {
        name: st.column_config.DatetimeColumn(there[name].label)
        for name in names
        if name != "tags" and there[name].kind == "time"
    }
    event: Any = st.dataframe(
        styled, hide_index=True, key=f"analyses_rows_{hash((tuple(numbers), tuple(names)))}",
        on_select="rerun", selection_mode="multi-row", column_config=configured,
        height=min(MOST_PIXELS, 38 + 35 * len(rows)),
    )  # fmt: skip
    notes = [
        f"± is the stated error of the overlap at k = {query.k:,}." if query.k else "± is a stated error."
    ]
    if "lambda" in names:
        notes.append("That of λ₁ is its residual.")
    if "overlap" in names:
        notes.append("÷ chance is the overlap divided by k/D, which is 1 for an unrelated eigenspace.")
    st.caption(" ".join(notes))
    return [numbers[place] for place in event.selection.rows if place < len(numbers)]


def in_order(texts: Sequence[str]) -> Callable[[object], str]:
    """What shows the cells of a column, from the first to the last, as these texts.

    The error of a cell is in another column, which a formatter is not given. The column is sorted by its
    numbers all the same.
    """
    turn = itertools.cycle(texts)
    return lambda _: next(turn)


def told(name: str, value: float) -> str:
    """A number that has no error as it is shown."""
    if pd.isna(value):
        return "–"
    if name == "seconds":
        return duration(value)
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    return number(counted_or_measured(value))


def grouped(rows: pd.DataFrame, by: Sequence[str], there: Mapping[str, Column]) -> None:
    """Groups, with the mean and the standard deviation of what was found."""
    table = pd.DataFrame(
        {label_of(there[name]): [cell(there[name], value) for value in rows[name]] for name in by}
    )
    table["analyses"] = rows["number"]
    for name in MEASURED:
        means, spreads = rows[name], rows[f"{name}_spread"]
        if means.notna().any():
            table[there[name].label] = [
                told(name, mean) if pd.isna(spread) else spread_of(name, mean, spread)
                for mean, spread in zip(means, spreads, strict=True)
            ]
    st.dataframe(table, hide_index=True, key="analyses_groups")
    st.caption(
        "± is the standard deviation over the analyses of a group (n − 1), and not the error of one of them."
    )
    st.download_button(
        "Groups as CSV", lambda: to_csv(rows), "analyses-groups.csv", "text/csv", key="analyses_groups_csv",
        on_click="ignore", icon=":material/download:",
    )  # fmt: skip


def spread_of(name: str, mean: float, spread: float) -> str:
    if name == "seconds":
        return f"{duration(mean)} ± {duration(spread)}"
    if name.endswith("accuracy"):
        return f"{100 * mean:.2f} ± {100 * spread:.2f} %"
    return f"{value_of(mean, spread)} {plus_minus(spread)}" if spread else f"{number(mean)} ± 0"


def cell(column: Column, value: Any) -> str:
    if value is None or pd.isna(value):
        return "–"
    return told(column.name, float(value)) if column.kind == "number" else str(value)


# --- What can be done with the chosen ones ----------------------------------------------------------------


def act(picked: Sequence[int], query: Query, shown: Sequence[str]) -> None:
    """Open, compare, analyse again, tag, export or delete the chosen analyses."""
    if not picked:
        st.caption("Choose rows at their left to compare, analyse again, tag, export or delete them.")
        export(None, query, shown)
        return
    st.subheader(f"{counted(len(picked), 'analysis', 'analyses')} chosen", anchor=False)
    chosen = [str(each) for each in picked]
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(picked) == 1:
            link("result", "Open", icon=":material/open_in_full:", query={"analysis": chosen[0]})
        link("compare", "Compare", icon=":material/stacked_line_chart:", query={"analysis": chosen})
        actor = identity.current()
        if actor.role.may_work:
            with database()() as s:
                checkpoints = queries.checkpoints_of(s, picked)
            link(
                "new_analysis", "Analyse again with other settings", icon=":material/replay:",
                query={"checkpoint": [str(each) for each in checkpoints]},
            )  # fmt: skip
            tag(picked)
        export(picked, query, shown)
        if actor.role.may_work:
            delete(picked)


def tag(picked: Sequence[int]) -> None:
    with st.popover("Tags", icon=":material/sell:", key="analyses_tags"):
        with database()() as s:
            there = sorted({each for names in listing.tags(s, picked).values() for each in names})
            known = listing.choices(s, Query(archived=True), "tag")
        add = st.multiselect(
            "Add",
            known,
            key="analyses_tag_add",
            accept_new_options=True,
            placeholder="a new tag, or a known one",
        )
        remove = st.multiselect("Remove", there, key="analyses_tag_remove", placeholder="none")
        st.button(
            "Change the tags", key="analyses_tag", type="primary", disabled=not (add or remove),
            on_click=tagged, args=(picked, add, remove),
        )  # fmt: skip


def tagged(picked: Sequence[int], add: Sequence[str], remove: Sequence[str]) -> None:
    def change() -> None:
        with database().begin() as s:
            actions.tag_analyses(s, identity.current(), picked, add, remove)
        for key in ("analyses_tag_add", "analyses_tag_remove"):
            st.session_state[key] = []

    said(change)


def export(picked: Sequence[int] | None, query: Query, shown: Sequence[str]) -> None:
    """The table, or the overlap curves, as files, made when somebody wants them."""

    def rows() -> pd.DataFrame:
        with database()() as s:
            every = [name for name, each in listing.columns(query).items() if not each.of]
            found = listing.rows(s, query, list(dict.fromkeys([*every, *shown]))).rows
        return found if picked is None else found[found["id"].isin(picked)]

    def curves() -> pd.DataFrame:
        with database()() as s:
            numbers = listing.ids(s, query) if picked is None else list(picked)
            return queries.overlap_curves(s, numbers)

    makers: dict[str, tuple[Callable[[], str | bytes], str, str]] = {
        "Table, CSV": (lambda: to_csv(rows()), "analyses.csv", "text/csv"),
        "Table, Parquet": (
            lambda: parquet(rows()), "analyses.parquet", "application/vnd.apache.parquet",
        ),
        "Overlap curves, CSV": (lambda: to_csv(curves()), "overlap.csv", "text/csv"),
        "Overlap curves, Parquet": (
            lambda: parquet(curves()), "overlap.parquet", "application/vnd.apache.parquet",
        ),
    }  # fmt: skip
    label = "Export all that match" if picked is None else "Export"
    with st.popover(label, icon=":material/download:", key="analyses_export"):
        for name, (make, file, mime) in makers.items():
            st.download_button(
                name, make, file, mime, key=f"analyses_export_{file}", on_click="ignore", width="stretch"
            )


def delete(picked: Sequence[int]) -> None:
    with st.popover("Delete", icon=":material/delete:", key="analyses_delete"):
        st.markdown(
            f"Delete {counted(len(picked), 'analysis', 'analyses')} with all numbers and eigenvectors? "
            "This cannot be undone."
        )
        st.button(
            "Yes, delete them" if len(picked) > 1 else "Yes, delete it", key="really_analyses_delete",
            type="primary", on_click=deleted, args=(picked,),
        )  # fmt: skip


def deleted(picked: Sequence[int]) -> None:
    from seigh.tasks import submit  # brings torch, which the table does not need

    gone, refused = 0, []
    for each in picked:
        try:
            submit.delete(Analysis, each, settings(), user=identity.current())
            gone += 1
        except UserError as error:
            refused.append(str(error))
    st.toast(f"{counted(gone, 'analysis is', 'analyses are')} deleted.", icon=":material/delete:")
    for sentence in refused[:3]:
        st.toast(plain(sentence), icon=":material/info:")


def said(change: Callable[[], None]) -> None:
    """Make a change, and say why where it cannot be made."""
    try:
        change()
    except UserError as error:
        st.toast(plain(str(error)), icon=":material/info:")
