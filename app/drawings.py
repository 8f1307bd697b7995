"""What the browser draws of a figure, kept for everybody: most interactions change one of many charts."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa
import streamlit as st

from seigh.app.charts.base import Chart
from seigh.app.figures import chart_of, table_of
from seigh.app.lightened import PLAIN, lightened
from seigh.core.figures import Figure

MOST_DRAWINGS = 1000  # tens of kB each


@dataclass(frozen=True)
class Drawing:
    """A chart as Vega-Lite, and its data.

    Attributes:
        text: Vega-Lite in JSON that names its data.
        data: Tables by name, as Arrow streams.
    """

    text: str
    data: dict[str, bytes]


def show(figure: Figure, key: str) -> None:
    """Draw the chart of a figure; ``key`` is that of its element."""
    of = _key(figure)
    found = _drawn(figure) if of is None else _kept(of, figure)
    if isinstance(found, Drawing):
        whole = json.loads(found.text) | {"datasets": dict(found.data)}
        st.vega_lite_chart(whole, width="stretch", key=key, alt=figure.alt)
    else:
        st.altair_chart(found, width="stretch", key=key, alt=figure.alt)


@st.cache_resource(show_spinner=False, max_entries=MOST_DRAWINGS)
def _kept(key: str, _figure: Figure) -> Any:  # noqa: ARG001 – the key of the cache
    return _drawn(_figure)


def _drawn(figure: Figure) -> Any:
    """The drawing of a chart of ``app/charts``; a chart of a plug-in, which may have any form, as it is."""
    chart = chart_of(figure)
    if not isinstance(chart, Chart):
        return chart
    tables: list[pd.DataFrame] = []
    for part in (chart, *chart.layer):
        if isinstance(part.data, pd.DataFrame):
            tables.append(part.data)
            part.data = alt.NamedData(name=str(len(tables) - 1))
    whole = chart.to_dict()
    # A column whose name is nowhere in the chart is not drawn, and would only take the browser's time.
    text = json.dumps(whole)
    lighter = {str(number): table for number, table in enumerate(tables)}
    whole = lightened(whole, lighter)
    data: dict[str, bytes] = {}
    names: list[str] = []
    for table in lighter.values():
        drawn = [each for each in table.columns if not PLAIN.fullmatch(each) or each in text]
        stream = _stream(table[drawn])
        names.append(hashlib.sha256(stream).hexdigest()[:32])
        data[names[-1]] = stream
    for part in (whole, *whole["layer"]):
        if "name" in part.get("data", {}):
            part["data"] = {"name": names[int(part["data"]["name"])]}
    return Drawing(json.dumps(whole), data)


def _stream(table: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    try:
        found = pa.Table.from_pandas(table, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of numbers and texts
        texts = table.select_dtypes(object).columns
        found = pa.Table.from_pandas(table.astype(dict.fromkeys(texts, str)), preserve_index=False)
    with pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found)
    kept: bytes = sink.getvalue().to_pybytes()
    return kept


def _key(figure: Figure) -> str | None:
    """What a drawing depends on: the function that draws, its arguments and the table. None where that cannot
    be told, as of a function that is made anew at every run."""
    draw: Any = figure.draw
    function = draw.func if isinstance(draw, functools.partial) else draw
    if getattr(function, "__closure__", None) or "<lambda>" in getattr(function, "__qualname__", "<lambda>"):
        return None
    table = table_of(figure)
    try:
        found = hashlib.sha256(
            pickle.dumps((draw, list(table.columns), [str(each) for each in table.dtypes]))
        )
        found.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    except (TypeError, AttributeError, pickle.PicklingError):
        return None
    return found.hexdigest()
