"""The frame that every figure stands in on a page: title, how to read it, the chart, and its downloads."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping

import pandas as pd
import streamlit as st

from seigh.app import drawings
from seigh.app.charts import pictures
from seigh.app.common import heading, plain
from seigh.app.figures import chart_of, table_of, told_columns
from seigh.core.figures import Figure
from seigh.core.results.csv import to_csv


def show(figure: Figure, key: str, *, panel: bool = False) -> None:
    """Show a figure.

    Args:
        figure: What is shown.
        key: Key of the chart's element, unique on the page.
        panel: One of several figures of the same kind below a heading of their own, which says how to read
            them (``explain``): it is called by what it is of.
    """
    with st.container(key=f"figure_{key}", gap="xsmall"):
        head = st.container(
            horizontal=True,
            horizontal_alignment="distribute",
            vertical_alignment="center",
            key=f"head_{key}",
        )
        with head:
            level = st.subheader if panel else st.header
            level(
                heading(figure.of or figure.title if panel else figure.title),
                help=plain(figure.symbols) if figure.symbols else None,
                width="content",
                # The browser makes one of its own from the title of a heading without, which takes it 10 ms;
                # app/style.css hides the link to it.
                anchor=f"head_{key}",
            )
            downloads(figure, key)
        if not panel:
            explain(figure)
        drawings.show(figure, key)


def in_columns(found: Mapping[str, Figure], *, panel: bool = False) -> None:
    """Figures by the keys of their elements, two to a row unless there is one alone, in a container of their
    own: so what follows stays in its place, and the browser does not draw it anew, where there are rows more
    or less.

    Args:
        found: The figures.
        panel: As of ``show``.
    """
    with st.container():
        for number, (key, figure) in enumerate(found.items()):
            if number % 2 == 0:
                places = st.columns(min(len(found), 2))
            with places[number % 2]:
                show(figure, key, panel=panel)


def explain(figure: Figure) -> None:
    """How to read a figure, or several of the same kind."""
    st.caption(f"How to read this: {plain(figure.how)}")


def downloads(figure: Figure, key: str) -> None:
    """Picture and data as files, made when somebody wants them."""
    makers: dict[str, tuple[Callable[[], str | bytes], str, str]] = {
        "SVG": (lambda: pictures.svg(chart_of(figure)), "svg", "image/svg+xml"),
        "PNG": (lambda: pictures.png(chart_of(figure)), "png", "image/png"),
        "PDF": (lambda: pictures.pdf(chart_of(figure)), "pdf", "application/pdf"),
        "CSV": (lambda: to_csv(table_of(figure)), "csv", "text/csv"),
        "Parquet": (lambda: parquet(table_of(figure)), "parquet", "application/vnd.apache.parquet"),
    }
    name = file_name(figure.file or figure.heading)
    columns = "  \n".join(f"{plain(column)}: {plain(said)}" for column, said in told_columns(figure).items())
    with st.popover("Download", icon=":material/download:", type="tertiary", key=f"downloads_{key}"):
        for label, (make, suffix, mime) in makers.items():
            st.download_button(
                label,
                make,
                file_name=f"{name}.{suffix}",
                mime=mime,
                key=f"download_{key}_{suffix}",
                on_click="ignore",
                width="stretch",
                help=columns if suffix in ("csv", "parquet") and columns else None,
            )


def parquet(data: pd.DataFrame) -> bytes:
    """The table as a Parquet file."""
    file = io.BytesIO()
    data.to_parquet(file, index=False)
    return file.getvalue()


def file_name(text: str) -> str:
    """``text`` as a name that every file system takes."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "seigh"
