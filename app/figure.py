"""The frame that every chart stands in: title, how to read it, the chart, and what can be downloaded."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import altair as alt
import pandas as pd
import streamlit as st

from seigh.app.charts import pictures
from seigh.core.results.csv import to_csv


def figure(
    chart: alt.LayerChart,
    data: pd.DataFrame,
    *,
    key: str,
    title: str,
    alt: str,
    how: str | None = None,
    symbols: str | None = None,
    name: str | None = None,
    panel: bool = False,
) -> None:
    """Draw a chart in its frame.

    Args:
        chart: What is drawn.
        data: What the downloads contain, as a tidy table.
        key: Of the chart's element, unique on the page.
        title: In Markdown; user's words in it are escaped by the caller.
        alt: The chart in a sentence, for those who cannot see it.
        how: How to read it, in a line.
        symbols: What the symbols in title and axes mean, shown beside the title on hover.
        name: Of the files without suffix; made from the key if not given.
        panel: One of several charts of the same kind, with a smaller title.
    """
    with st.container(key=f"figure_{key}", gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            if panel:
                st.markdown(f"**{title}**", help=symbols, width="content")
            else:
                st.subheader(title, help=symbols, width="content", anchor=False)
            downloads(chart, data, key, file_name(name or key))
        if how:
            st.caption(f"How to read this: {how}")
        st.altair_chart(chart, width="stretch", key=key, alt=alt)


def downloads(chart: alt.LayerChart, data: pd.DataFrame, key: str, name: str) -> None:
    """Picture and data as files, made when somebody wants them."""
    makers: dict[str, tuple[Callable[[], str | bytes], str, str]] = {
        "SVG": (lambda: pictures.svg(chart), "svg", "image/svg+xml"),
        "PNG": (lambda: pictures.png(chart), "png", "image/png"),
        "PDF": (lambda: pictures.pdf(chart), "pdf", "application/pdf"),
        "CSV": (lambda: to_csv(data), "csv", "text/csv"),
        "Parquet": (lambda: parquet(data), "parquet", "application/vnd.apache.parquet"),
    }
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
            )


def parquet(data: pd.DataFrame) -> bytes:
    """The table as a Parquet file."""
    file = io.BytesIO()
    data.to_parquet(file, index=False)
    return file.getvalue()


def file_name(text: str) -> str:
    """``text`` as a name that every file system takes."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "seigh"
