from __future__ import annotations

import io
import json
from itertools import chain

import pandas as pd
import pyarrow.ipc
import pyarrow.parquet
import pytest

from seigh.app import drawings, figures, frame
from tests.app.charts.frames import D, curves, points


def test_the_data_of_a_chart_survive_as_parquet() -> None:
    data = curves(5)
    table = pyarrow.parquet.read_table(io.BytesIO(frame.parquet(data)))
    pd.testing.assert_frame_equal(table.to_pandas(), data.reset_index(drop=True))


@pytest.mark.parametrize(
    ("text", "name"),
    [("overlap-k = 5", "overlap-k-5"), ("../a/b", "a-b"), ("größe ρ", "größe-ρ"), ("//", "seigh")],
)
def test_names_of_files_hold_no_surprises(text: str, name: str) -> None:
    assert frame.file_name(text) == name


def test_the_browser_gets_the_columns_that_a_chart_draws_and_no_others() -> None:
    table = points(("mlp", "test", D), k=70).assign(remark="beside")
    drawing = drawings._drawn(figures.overlap_over_training(table, {"mlp": "#0072B2"}, figures.Size(70)))
    layers = json.loads(drawing.text)["layer"]
    assert {each["data"]["name"] for each in layers} == drawing.data.keys()
    for each in layers:
        columns = set(pyarrow.ipc.open_stream(drawing.data[each["data"]["name"]]).schema.names)
        found = [channel if isinstance(channel, list) else [channel] for channel in each["encoding"].values()]
        assert {channel["field"] for channel in chain(*found) if "field" in channel} <= columns
        assert "remark" not in columns
