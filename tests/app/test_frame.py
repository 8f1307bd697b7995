from __future__ import annotations

import io

import pandas as pd
import pyarrow.parquet
import pytest

from seigh.app import frame
from tests.app.charts.frames import curves


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
