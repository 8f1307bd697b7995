from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seigh.app import charts
from tests.app.charts.frames import layer


def test_spectrum_tells_signs_apart_by_colour_and_shape_and_shows_residuals() -> None:
    values = np.array([4.0, -3.0, 2.0, -1.0, 0.0])
    frame = pd.DataFrame(
        {
            "position": range(1, 6),
            "value": values,
            "magnitude": np.abs(values),
            "sign": np.where(values < 0, "negative", "positive"),
            "residual": [1e-3, 0.5, np.nan, 1e-3, 1e-3],
        }
    )
    chart = charts.spectrum(frame)
    encoding, data = layer(chart, "point")
    for channel in ("color", "shape"):
        scale = encoding[channel]["scale"]
        assert scale["domain"] == ["λ > 0", "λ < 0", charts.RESIDUAL_LABEL]
        assert len(set(scale["range"])) == 3
    assert data["kind"].value_counts().to_dict() == {"λ > 0": 2, "λ < 0": 2, charts.RESIDUAL_LABEL: 3}
    assert encoding["y"]["scale"]["type"] == "log"
    assert (data["height"] > 0).all()  # the exact zero has no place on a log axis
    low, high = encoding["y"]["scale"]["domain"]
    assert low < data["height"].min() < data["height"].max() < high
    _, bars = layer(chart, "rule")
    assert bars[["low", "high"]].to_numpy().tolist() == [[2.5, 3.5]]  # 3 ± 0.5; smaller ones are hidden


@pytest.mark.parametrize("sign", [1, -1])
def test_spectrum_of_one_sign_and_without_residuals(sign: int) -> None:
    frame = pd.DataFrame(
        {
            "position": [1, 2],
            "value": [2.0 * sign, 1.0 * sign],
            "magnitude": [2.0, 1.0],
            "sign": ["positive" if sign > 0 else "negative"] * 2,
            "residual": [np.nan, np.nan],
        }
    )
    encoding, data = layer(charts.spectrum(frame), "point")
    assert len(data) == 2
    assert len(encoding["color"]["scale"]["domain"]) == 1


def bounds(lower: list[float], upper: list[float]) -> pd.DataFrame:
    position = range(1, len(lower) + 1)
    return pd.DataFrame({"position": position, "scree_lower": lower, "scree_upper": upper})


def test_scree_is_a_band_that_log_axes_can_hold() -> None:
    chart = charts.scree(bounds([0.4, 0.1, 0.0, np.nan], [0.6, np.inf, 0.05, np.nan]))
    encoding, data = layer(chart, "area")
    np.testing.assert_allclose(data["low"], [0.4, 0.1, charts.SCREE_FLOOR])
    np.testing.assert_allclose(data["high"], [0.6, 1.0, 0.05])
    assert encoding["y"]["scale"]["type"] == "log"
    low, high = encoding["y"]["scale"]["domain"]
    assert 0 < low < charts.SCREE_FLOOR < high == 1
    assert [tooltip["title"] for tooltip in encoding["tooltip"]] == ["rank r", "at least", "at most"]
    assert data["scree_lower"].tolist() == [0.4, 0.1, 0.0]  # what the tooltip says is not clipped
