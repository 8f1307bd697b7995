from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.ipc
import pytest
import vl_convert

from seigh.app import charts, drawings
from seigh.app.charts.pictures import specification
from seigh.app.lightened import corners
from seigh.core.figures import Figure
from tests.app.charts.frames import D, curves, points

SVG = "{http://www.w3.org/2000/svg}"


def rough(step: int, scale: float) -> pd.DataFrame:
    """Curves that no few points describe exactly."""
    noise = np.random.default_rng(step).standard_normal(200).cumsum()
    found = curves(200, step=step, error=0.3, tied=range(20, 90))
    return found.assign(overlap=found["overlap"] * (1 + scale * 0.05 * np.tile(noise, 3) / 10))


CHARTS: dict[str, Callable[[], Any]] = {
    "against k": lambda: charts.overlap_curve(rough(0, 1), "#0070AD"),
    "against k, logarithmic": lambda: charts.overlap_curve(
        rough(0, 1), "#0070AD", log_k=True, log_overlap=True
    ),
    "of several steps": lambda: charts.overlap_by_k(
        pd.concat([rough(step, 1).query("mask == 'magnitude'") for step in (0, 10)])
    ),
    "over training": lambda: charts.overlap_by_step(
        points(("a", "test", D), ("b", "train", D)), {"a": "#0070AD", "b": "#D65C00"}
    ),
}


def drawn(chart: Any) -> dict[str, Any]:
    """What the browser gets of a chart, with its data inside."""
    drawing = drawings._drawn(Figure(title="", how="", alt="", table=pd.DataFrame(), draw=lambda _: chart))
    found: dict[str, Any] = json.loads(drawing.text)
    for layer in found["layer"]:
        table = pyarrow.ipc.open_stream(drawing.data[layer["data"]["name"]]).read_pandas()
        layer["data"] = {"values": json.loads(table.to_json(orient="records", double_precision=15))}
    sized = specification(chart)
    return found | {name: sized[name] for name in ("width", "autosize") if name in sized}


def marks(chart: dict[str, Any]) -> list[ET.Element]:
    """The marks of a picture, in their order."""
    picture = ET.fromstring(vl_convert.vegalite_to_svg(chart))
    groups = [each for each in picture.iter(f"{SVG}g") if "role-mark" in each.get("class", "")]
    return [each for group in groups for each in group if each.tag != f"{SVG}g"]


def numbers(path: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", path), dtype=float).reshape(-1, 2)


@pytest.mark.parametrize("name", CHARTS)
def test_a_lightened_chart_looks_the_same_and_tells_every_mark(name: str) -> None:
    before, after = marks(specification(CHARTS[name]())), marks(drawn(CHARTS[name]()))
    assert [each.tag for each in after] == [each.tag for each in before]
    lines = 0
    for old, new in zip(before, after, strict=True):
        words, path = new.get("aria-label", ""), old.get("d", "")
        assert "undefined" not in words
        if old.tag == f"{SVG}line":
            assert words
            assert set(words.split("; ")) <= set(old.get("aria-label", "").split("; "))
        if old.get("stroke", "transparent") != "transparent" and not re.search("[AZ]", path) and "L" in path:
            was, now = numbers(path), numbers(new.get("d", ""))
            assert np.abs(np.interp(was[:, 0], now[:, 0], now[:, 1]) - was[:, 1]).max() < 0.3  # px
            lines += 1
    assert lines


def test_corners_miss_no_point_by_more_than_the_tolerance() -> None:
    x = np.arange(1000.0)
    heights = [np.sin(x / 90), np.cos(x / 50) + 1e-4 * np.random.default_rng(0).standard_normal(1000)]
    kept = corners(x.tolist(), [each.tolist() for each in heights], 1e-3)
    assert kept[0] == 0
    assert kept[-1] == 999
    assert len(kept) < 200
    for each in heights:
        assert np.abs(np.interp(x, x[kept], each[kept]) - each).max() <= 1e-3 * (1 + 1e-9)
    assert corners([1.0, 1.0, 2.0], [[0.0, 1.0, 0.0]], 5.0) == [0, 1, 2]  # two values at one place
    assert corners([], [[]], 0.0) == []
