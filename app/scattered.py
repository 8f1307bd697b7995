"""The scatter of *Compare*: any column of *Analyses* against any other, a point for each analysis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from sqlalchemy.orm import Session

from seigh.app import figures
from seigh.app.common import counted, database, named, say_what_is_gone
from seigh.app.digits import counted_or_measured, number, with_ends
from seigh.app.figures import Size, label_of
from seigh.app.frame import show
from seigh.app.lines import LINE, LINES_AND_STEPS
from seigh.app.lines_form import Lines
from seigh.app.panels import having_observable, last_steps
from seigh.core.figures import Figure
from seigh.core.lab import listing
from seigh.core.lab.listing import Column, Query

# Whether it is the size of a network that matters: columns of both axes.
BY_SIZE = ("D", "ratio")

# What people look at first, by the columns of both axes.
PRESETS: Mapping[str, tuple[str, str]] = {
    "Ratio to chance against D": BY_SIZE,
    "Overlap against test accuracy": ("test_accuracy", "overlap"),
    "λ₁ against test loss": ("test_loss", "lambda"),
    "Time against D": ("D", "seconds"),
}
LOG_SPAN = 30.0  # positive values that span more than this factor have a log axis at first


@dataclass(frozen=True)
class Axes:
    """What a scatter shows.

    Attributes:
        x: Name of the column across.
        y: Name of the column up.
        last: Whether only the last step of each line is drawn.
        log: Whether each axis is logarithmic.
    """

    x: str
    y: str
    last: bool = True
    log: tuple[bool, bool] = (False, False)

    @property
    def in_url(self) -> dict[str, list[str]]:
        """As it stands in the address."""
        of_axes = {f"log_{axis}": [str(int(each))] for axis, each in zip("xy", self.log, strict=True)}
        return {"x": [self.x], "y": [self.y]} | ({} if self.last else {"steps": ["all"]}) | of_axes


# The ratio to chance against the size of networks.
SIZES = Axes(*BY_SIZE, log=(True, False))


def scatter(lines: Lines, size: Size, asked: dict[str, list[str]]) -> Axes:
    """Show the choices and the chart; what was chosen."""
    with database()() as s:
        offered = {
            name: each
            for name, each in listing.known(s, Query()).items()
            if each.kind == "number" and not each.of
        }
    axes = choose_axes(offered, asked)
    of = (offered[axes.x], offered[axes.y])
    if axes.last:
        lines = replace(lines, chosen=last_steps(lines.chosen))
    with database()() as s:
        found, whose = points(s, lines, of, size)
    known = found.dropna(subset=["x", "y"])
    say_without(found, known, "have no value of both")
    axes = replace(axes, log=choose_log({"x": known["x"], "y": known["y"]}, axes, asked))
    drawn = positive(known, axes.log)
    say_without(known, drawn, "are not positive, and have no place on a log axis")
    if drawn.empty:
        st.info("No chosen analysis has a value of both columns; choose others.")
    else:
        if lines.arrangement.over:
            drawn = means(drawn)
            lines.say(drawn)
        figure = figures.scatter(within(drawn, axes.log), lines.colors, of, axes.log, size)
        show(lines.saying_whose(figure, whose), "compare_scatter")
        if axes.x == "D" and drawn["x"].nunique() == 1:
            st.caption(
                "All of these have the same size; analyse a model of another size to see how it matters."
            )
        numbers(drawn, *of)
    return axes


def scattered(s: Session, lines: Lines, axes: Axes, size: Size) -> Iterator[Figure]:
    """The same chart for a page that leads nowhere, if there is something to draw.

    Args:
        s: A reading session.
        lines: Whose points they are.
        axes: What is drawn.
        size: The k of overlaps and of observables over k.
    """
    offered = listing.known(s, Query())
    of = (offered[axes.x], offered[axes.y])
    if axes.last:
        lines = replace(lines, chosen=last_steps(lines.chosen))
    found, whose = points(s, lines, of, size)
    drawn = positive(found.dropna(subset=["x", "y"]), axes.log)
    if drawn.empty:
        return
    drawn = (means(drawn) if lines.arrangement.over else drawn).drop(columns="address")
    figure = figures.scatter(within(drawn, axes.log), lines.colors, of, axes.log, size)
    yield lines.saying_whose(figure, whose)


def positive(found: pd.DataFrame, log: tuple[bool, bool]) -> pd.DataFrame:
    """The points that have a place on their axes."""
    return found[((found["x"] > 0) | (not log[0])) & ((found["y"] > 0) | (not log[1]))]


def choose_axes(offered: Mapping[str, Column], asked: Mapping[str, Sequence[str]]) -> Axes:
    """The columns of both axes, and whether only the last step of each line is drawn."""
    state, first = st.session_state, next(iter(PRESETS.values()))
    for axis, usual in zip("xy", first, strict=True):
        say_what_is_gone(asked.get(axis), list(offered), "column")
        if (wanted := asked.get(axis, [""])[0]) in offered:
            state[f"compare_{axis}"] = wanted
        if state.get(f"compare_{axis}") not in offered:
            state[f"compare_{axis}"] = usual
    if asked:
        state["compare_last"] = asked.get("steps") != ["all"]
    state.setdefault("compare_last", True)
    labels = {name: label_of(each) for name, each in offered.items()}
    with st.container(horizontal=True, gap="small"):
        for place, (name, columns) in enumerate(PRESETS.items()):
            st.button(name, key=f"compare_preset_{place}", type="tertiary", on_click=take, args=columns)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        x, y = (
            str(
                st.selectbox(
                    title, list(offered), key=f"compare_{axis}", format_func=labels.__getitem__,
                    persist_state="session", width=240,
                )
            )
            for axis, title in (("x", "Across"), ("y", "Up"))
        )  # fmt: skip
        last = st.toggle("The last step of each line alone", key="compare_last", persist_state="session")
    return Axes(x, y, last)


def take(x: str, y: str) -> None:
    """Take the columns of a preset."""
    st.session_state["compare_x"], st.session_state["compare_y"] = x, y


def choose_log(
    values: Mapping[str, pd.Series[float]], axes: Axes, asked: Mapping[str, Sequence[str]]
) -> tuple[bool, bool]:
    """Whether each axis is logarithmic; at first where positive values span decades."""
    chosen = []
    with st.container(horizontal=True):
        for axis, column in (("x", axes.x), ("y", axes.y)):
            key, of = f"compare_log_{axis}_{column}", values[axis]
            if f"log_{axis}" in asked:
                st.session_state[key] = asked[f"log_{axis}"] == ["1"]
            wide = len(of) > 0 and of.min() > 0 and of.max() > LOG_SPAN * of.min()
            st.session_state.setdefault(key, bool(wide))
            name = "Log axis across" if axis == "x" else "Log axis up"
            chosen.append(st.toggle(name, key=key, persist_state="session"))
    return chosen[0], chosen[1]


def points(
    s: Session, lines: Lines, axes: tuple[Column, Column], size: Size
) -> tuple[pd.DataFrame, list[int]]:
    """A point for each analysis: LINE, step, x and y, the ends of their errors (NaN without one), both in
    words, and the address of its result; and whose numbers these are.

    Args:
        s: A reading session.
        lines: Whose points they are; an observable is that of any analysis of the point that has it.
        axes: Columns of the horizontal and the vertical axis.
        size: The k of overlaps and of observables over k.
    """
    found, whose = lines.chosen[[*LINE, "step", "point"]], list[int]()
    for axis, column in zip("xy", axes, strict=True):
        name = listing.observable_of(column.name)
        having = having_observable(s, lines, name) if name else lines.chosen
        whose += having["analysis_id"].tolist()
        frames = []
        for parameters, each in having.groupby("parameters"):
            query = Query(archived=True, only=each["analysis_id"].tolist(), k=size.of(int(str(parameters))))
            frames.append(listing.rows(s, query, [column.name]).rows)
        rows = pd.concat(frames, ignore_index=True)
        low, high = listing.ends_of(rows, column)
        told = figures.told(rows, column)
        values = {axis: rows[column.name], f"{axis}_low": low, f"{axis}_high": high, f"{axis}_told": told}
        of_points = rows["id"].map(having.set_index("analysis_id")["point"])
        found = found.merge(pd.DataFrame({"point": of_points, **values}), on="point")
    found["address"] = [f"result?analysis={each}" for each in found["analysis_id"]]
    return found.drop(columns="point"), whose


def means(found: pd.DataFrame) -> pd.DataFrame:
    """The mean of the points of each line and step, with n, the ends of one standard deviation (n − 1) to
    both sides (``x_below`` to ``y_above``, NaN of a single point), and the address of its points alone.

    Args:
        found: ``points`` with values of both axes.
    """
    groups = found.groupby([*LINES_AND_STEPS], sort=False, dropna=False)
    columns: dict[str, Any] = {"analysis_id": groups["analysis_id"].min(), "n": groups.size()}
    for axis in "xy":
        mean, spread = groups[axis].mean(), groups[axis].std(ddof=1)
        columns[axis] = mean
        columns |= {f"{axis}_below": mean - spread, f"{axis}_above": mean + spread}
        for end in (f"{axis}_low", f"{axis}_high"):  # known if it is of all
            columns[end] = groups[end].mean().where(groups[end].count() == groups.size())
        columns[f"{axis}_told"] = [
            with_ends(counted_or_measured(value), lower, upper)
            + ("" if np.isnan(std) else f", std {number(std, 2)}")
            for value, std, lower, upper in zip(
                mean, spread, columns[f"{axis}_low"], columns[f"{axis}_high"], strict=True
            )
        ]
    columns["address"] = groups["analysis_id"].agg(
        lambda each: "compare?view=scatter&" + "&".join(f"analysis={one}" for one in sorted(each))
    )
    return pd.DataFrame(columns).reset_index()


def within(found: pd.DataFrame, log: tuple[bool, bool]) -> pd.DataFrame:
    """The points with errors and deviations that reach zero or below cut on a log axis, a third below the
    least value."""
    for axis, is_log in zip("xy", log, strict=True):
        if is_log:
            floor = float(found[axis].min()) / 3
            ends = [name for name in (f"{axis}_low", f"{axis}_below") if name in found]
            found = found.assign(**{name: found[name].clip(lower=floor) for name in ends})
    return found


def say_without(before: pd.DataFrame, after: pd.DataFrame, why: str) -> None:
    """Name the analyses that are left out."""
    gone = before[~before["analysis_id"].isin(after["analysis_id"])]
    if len(gone):
        st.caption(
            f"{counted(len(gone), 'analysis', 'analyses')} of {len(before):,} {why}: "
            f"{named([f'#{each}' for each in gone['analysis_id']])}."
        )


def numbers(drawn: pd.DataFrame, x: Column, y: Column) -> None:
    """The points as a table, whose rows lead to the results, too."""
    section = st.expander(
        "The numbers behind this chart",
        icon=":material/table:",
        key="compare_behind_scatter",
        on_change="rerun",
    )
    if not section.open:
        return
    called = label_of(y) + (", up" if label_of(x) == label_of(y) else "")
    table = pd.DataFrame(
        {"result": drawn["address"], "line": drawn["series"], "step": drawn["step"]}
        | {label_of(x): drawn["x_told"], called: drawn["y_told"]}
    )
    section.dataframe(
        table, hide_index=True, key="compare_scatter_numbers",
        column_config={"result": st.column_config.LinkColumn(display_text=r"analysis=([^?]+)$")},
    )  # fmt: skip
