"""Vega-Lite that takes the browser less time.

The browser draws charts without eval (``gate/headers.py``): it walks through the tree of each expression, for
each mark, and several times over, since a chart that fits its place is laid out before its size is known. As
Vega-Lite writes them, the words of a mark (its tooltip, and its name for a screen reader) and the question
whether a point of a line is a number take most of that. Here each is found once, when the data come; and a
line has the points that are seen.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from seigh.app.charts.base import HEIGHT

# Names that Vega-Lite writes as they are.
PLAIN = re.compile(r"\w+", re.ASCII)

# Rows of a chart up to which its marks are read out. Streamlit has the same number, and cannot count rows of
# a layer that calculates.
MOST_READ = 5000
PATHS = frozenset({"line", "area", "trail"})
READ = PATHS | {"point", "circle", "square", "rect", "bar", "tick", "rule", "text"}
TOLD_APART = ("color", "stroke", "fill", "strokeDash", "shape", "detail")  # channels that tell lines apart
TIP, NAME = "tip_of_mark", "name_of_mark"  # columns that the browser calculates
AROUND = 90  # px that a chart's legend and horizontal axis take at least
UNSEEN = 1 / 2000  # of the height of a line: a sixth of a pixel


def lightened(chart: dict[str, Any], tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """A chart of layers that looks and tells the same.

    Args:
        chart: Vega-Lite; it is changed.
        tables: Its data by name; those of lines are replaced by the rows that are seen.
    """
    for name, table in tables.items():
        tables[name] = table.reset_index(drop=True)
    layers = [each for each in chart["layer"] if _is_drawn_as_told(each, tables)]
    read = sum(len(tables[each["data"]["name"]]) for each in layers)
    if read > MOST_READ:
        config = chart.setdefault("config", {})
        config["mark"] = config.get("mark", {}) | {"aria": False}
    scales = {axis: _scale(chart, axis) for axis in "xy"}
    span = _span(chart, scales["y"] == "log")
    for layer in layers:
        mark, encoding = layer["mark"], layer["encoding"]
        table = tables[layer["data"]["name"]]
        if mark["type"] in PATHS:
            places = _places(encoding, table, scales)
            if places is not None:
                mark["invalid"] = "filter"  # asked of each row once; else at each drawing
                tables[layer["data"]["name"]] = _seen(table, places, layer, span)
        _tell_once(layer, set(table.columns))
    _settle_ticks(chart)
    return chart


def _settle_ticks(chart: dict[str, Any]) -> None:
    """Let the vertical axis have as many ticks before there is room for legends and labels as after. Else its
    labels have another width then, and the whole is laid out once more."""
    channels = [each["encoding"]["y"] for each in chart["layer"] if "field" in each["encoding"].get("y", {})]
    axes = [each.get("axis", {}) for each in channels]
    if (
        _scale(chart, "y") != "linear"
        or any(each.get("type") != "quantitative" for each in channels)
        or any(each is None or "tickCount" in each for each in axes)
    ):
        return
    most = math.ceil((min(chart.get("height", HEIGHT), HEIGHT) - AROUND) / 40)
    for each, axis in zip(channels, axes, strict=True):
        each["axis"] = axis | {"tickCount": {"expr": f"min({most}, ceil(height / 40))"}}  # Vega-Lite's own


def _is_drawn_as_told(layer: dict[str, Any], tables: Mapping[str, pd.DataFrame]) -> bool:
    """Whether a layer is a mark of a table of its own, which no transform changes."""
    mark = layer["mark"]
    named = layer.get("data", {}).get("name") in tables
    return named and isinstance(mark, dict) and mark["type"] in READ and not layer.get("transform")


def _tell_once(layer: dict[str, Any], columns: set[str]) -> None:
    """Let the words of the marks be found when the data, which have these columns, come."""
    mark, encoding, transform = layer["mark"], layer["encoding"], layer.setdefault("transform", [])
    tooltip, is_path = encoding.get("tooltip"), mark["type"] in PATHS
    # A line is told from others by its name, not by its first point.
    names = TOLD_APART if is_path else ("x", "y", *TOLD_APART)
    told = [each for name in names for each in _channels(encoding, name) if _is_simple(each)]
    if isinstance(tooltip, list) and all(map(_is_simple, tooltip)):
        words = {_title(each): _words(each) for each in tooltip}
        tip = ", ".join(f"{json.dumps(title)}: {value}" for title, value in words.items())
        transform.append({"calculate": f"{{{tip}}}", "as": TIP})
        # Marks that are found as the nearest one have the mark itself for their row.
        encoding["tooltip"] = {"value": {"expr": f"(datum.datum || datum).{TIP}"}}
        told = told if is_path else tooltip
    elif tooltip is not None:
        return
    words = {_title(each): _words(each) for each in told if each["field"] in columns}
    ends = [_title(encoding[name]) for name in ("y", "y2") if "field" in encoding.get(name, {})]
    if words:
        name = ' + "; " + '.join(f"{json.dumps(f'{title}: ')} + {value}" for title, value in words.items())
        transform.append({"calculate": name, "as": NAME})
        mark["description"] = {"expr": f"datum.{NAME}"}
    elif is_path and ends:
        mark["description"] = " to ".join(ends)


def _scale(chart: Mapping[str, Any], axis: str) -> str:
    """The type of a scale, which all layers share and any of them may say; empty where it is not one."""
    said = {str(each["type"]) for each in _said_of(chart, axis) if "type" in each}
    if "resolve" in chart or len(said) > 1:
        return ""
    return said.pop() if said else "linear"


def _span(chart: Mapping[str, Any], is_log: bool) -> float:
    """How much of the values the vertical axis has room for, where a layer says it."""
    said = [each["domain"] for each in _said_of(chart, "y") if isinstance(each.get("domain"), list)]
    ends = [np.log(domain) if is_log else domain for domain in said]
    return min((float(abs(high - low)) for low, high in ends), default=math.inf)


def _said_of(chart: Mapping[str, Any], axis: str) -> list[dict[str, Any]]:
    return [each["encoding"].get(axis, {}).get("scale") or {} for each in chart["layer"]]


def _places(
    encoding: Mapping[str, Any], table: pd.DataFrame, scales: Mapping[str, str]
) -> dict[str, pd.Series[float]] | None:
    """Where the rows are drawn, by channel, in a unit in which straight lines are straight; None where a row
    has no place, or it is not that simple.

    Args:
        encoding: Vega-Lite's encoding.
        table: The rows, numbered.
        scales: Types of the scales of x and y.
    """
    found = {}
    for name in ("x", "x2", "y", "y2"):
        channel, scale = encoding.get(name, {}), scales[name[0]]
        if "field" not in channel:
            continue
        if (
            channel.get("type", "quantitative") != "quantitative"
            or "aggregate" in channel
            or "bin" in channel
        ):
            return None
        values = table.get(channel["field"])
        if values is None or not pd.api.types.is_numeric_dtype(values) or not np.isfinite(values).all():
            return None
        if scale == "log" and not (values > 0).all():
            return None
        if scale not in ("linear", "log"):
            return None
        found[name] = np.log(values) if scale == "log" else values
    return found


def _seen(
    table: pd.DataFrame,
    places: Mapping[str, pd.Series[float]],
    layer: Mapping[str, Any],
    span: float,
) -> pd.DataFrame:
    """The rows of lines, or of bands, without which they would look different.

    Args:
        table: All rows.
        places: ``_places``.
        layer: Vega-Lite's layer.
        span: At most so much is on the vertical axis, in the unit of the places.
    """
    mark, encoding = layer["mark"], layer["encoding"]
    ends = [name for name in ("y", "y2") if name in places]
    known = {"x", "y"} if mark["type"] == "line" else {"x", "y", "y2"}
    if places.keys() != known or "order" in encoding or mark.get("point") or "interpolate" in mark:
        return table
    height = max(places[name].max() for name in ends) - min(places[name].min() for name in ends)
    height = min(height, span)
    others = encoding.keys() - known - {"tooltip"}
    apart = {each.get("field") for name in others for each in _channels(encoding, name)}
    groups = [name for name in table.columns if name in apart]
    parts = [rows for _, rows in table.groupby(groups, sort=False, dropna=False)] if groups else [table]
    kept: list[int] = []
    for rows in parts:
        x = places["x"][rows.index].sort_values(kind="stable")
        of = [places[name][x.index].tolist() for name in ends]
        kept += x.index[corners(x.tolist(), of, height * UNSEEN)].tolist()
    # A table with a few rows less would have to be sent beside that of the points.
    return table.loc[sorted(kept)] if 2 * len(kept) <= len(table) else table


def corners(x: Sequence[float], heights: Sequence[Sequence[float]], tolerance: float) -> list[int]:
    """Points that lines between them miss none of the others by more than ``tolerance``.

    From each corner on, the slopes are kept that pass all points since; where the next point has none of
    them, the one before it is a corner (the swinging door of Bristol, 1990).

    Args:
        x: Ascending.
        heights: Lists of values at ``x``, whose corners are at the same places.
        tolerance: In their unit.
    """
    if len(x) < 3:
        return list(range(len(x)))
    first, found = 0, [0]
    least, most = [-math.inf] * len(heights), [math.inf] * len(heights)
    place = 1
    while place < len(x):
        along = x[place] - x[first]
        if along <= 0:  # several values at one place
            return list(range(len(x)))
        if any(
            not low <= (values[place] - values[first]) / along <= high
            for values, low, high in zip(heights, least, most, strict=True)
        ):
            first = place - 1
            found.append(first)
            least, most = [-math.inf] * len(heights), [math.inf] * len(heights)
            continue
        for number, values in enumerate(heights):
            up = values[place] - values[first]
            least[number] = max(least[number], (up - tolerance) / along)
            most[number] = min(most[number], (up + tolerance) / along)
        place += 1
    return [*found, len(x) - 1]


def _channels(encoding: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """What a channel shows: some take several columns."""
    found = encoding.get(name, [])
    return found if isinstance(found, list) else [found]


def _is_simple(channel: Mapping[str, Any]) -> bool:
    """Whether a channel is a column as it is."""
    return (
        channel.get("type") in ("quantitative", "nominal", "ordinal")
        and PLAIN.fullmatch(channel.get("field", "")) is not None
        and channel.keys().isdisjoint(("aggregate", "bin", "timeUnit", "condition", "formatType"))
    )


def _title(channel: Mapping[str, Any]) -> str:
    return str(channel.get("title") or channel["field"])


def _words(channel: Mapping[str, Any]) -> str:
    """What Vega-Lite says of a value, as an expression."""
    value = f"datum[{json.dumps(channel['field'])}]"
    if channel["type"] == "quantitative":
        form = channel.get("format") or channel.get("axis", {}).get("format", "")
        return f"format({value}, {json.dumps(form)})"
    return f'(isValid({value}) ? {value} : "" + {value})'
