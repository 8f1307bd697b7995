from __future__ import annotations

import json

import altair as alt
import pandas as pd
import pytest

from seigh.app import charts
from seigh.app.charts import pictures
from tests.app.charts.frames import curves, shares


@pytest.fixture(params=["overlap", "layers", "heatmap"])
def chart(request: pytest.FixtureRequest) -> alt.LayerChart:
    if request.param == "overlap":
        return charts.overlap_curve(curves(20, error=0.5), "#0072B2", resolved_k=10)
    if request.param == "layers":
        return charts.layer_shares(shares(4))
    frame = pd.DataFrame(
        {"first_step": [0, 0, 1, 1], "second_step": [0, 1, 0, 1], "value": 0.5, "chance": 0.1}
    )
    return charts.heatmap(frame, "IoU")


def test_a_chart_becomes_a_picture_in_every_format(chart: alt.LayerChart) -> None:
    svg = pictures.svg(chart)
    assert svg.startswith("<svg")
    assert "mark-" in svg
    assert pictures.png(chart).startswith(b"\x89PNG")
    assert pictures.pdf(chart).startswith(b"%PDF")


def test_a_specification_is_json_of_a_given_width(chart: alt.LayerChart) -> None:
    specification = json.loads(json.dumps(pictures.specification(chart, "container")))
    assert specification["width"] == "container"
    assert specification["usermeta"] == {"embedOptions": {"renderer": "svg"}}
