from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seigh.app import charts
from tests.app.charts.frames import layer, layers

COLORS = {"mlp": "#0072B2", "conv": "#D55E00"}


def eigenvalues(*steps: int, k: int = 4) -> pd.DataFrame:
    """``queries.eigenvalues`` of a model, λ = ± step + 1 / position, with a series."""
    size = np.arange(1, k + 1)
    frame = pd.concat(
        pd.DataFrame(
            {
                "analysis_id": step,
                "model": "mlp",
                "group": "mlp",
                "step": step,
                "split": "test",
                "position": size,
                "value": np.where(size % 2, 1.0, -1.0) * (step + 1) / size,
                "residual": 0.01 / size,
            }
        )
        for step in steps
    )
    return frame.assign(magnitude=frame["value"].abs(), series="mlp · test")


def test_the_largest_eigenvalue_keeps_its_sign_and_shows_its_residual() -> None:
    frame = eigenvalues(0, 100).query("position == 2")
    chart = charts.lambda_by_step(frame, COLORS)
    encoding, data = layer(chart, "point")
    np.testing.assert_allclose(data["height"], [-0.5, -50.5])
    assert encoding["color"]["scale"] == {"domain": ["mlp"], "range": ["#0072B2"]}
    _, bars = layer(chart, "errorbar")
    np.testing.assert_allclose(bars["high"] - bars["low"], 0.01)


def test_many_error_bars_are_one_mark_each() -> None:
    many = eigenvalues(*range(101)).query("position == 2")
    drawn = layers(charts.lambda_by_step(many, COLORS))
    kinds = [(kind, len(data)) for kind, _, data in drawn if "low" in data]
    assert kinds == [("rule", 101)]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_recorded_metrics_have_a_line_for_each_split(metric: str) -> None:
    frame = pd.DataFrame(
        [
            ("mlp", step, split, kind, 0.1 * step)
            for step in (0, 1, 2)
            for split in ("test", "train")
            for kind in ("accuracy", "loss")
        ],
        columns=["model", "step", "split", "metric", "value"],
    )
    encoding, data = layer(charts.recorded_by_step(frame, COLORS, metric), "line")
    assert set(data["metric"]) == {metric}
    assert set(data["series"]) == {"mlp · test", "mlp · train"}
    assert encoding["strokeDash"]["scale"]["domain"] == ["test", "train"]
    assert encoding["y"]["title"] == metric


def test_spectra_over_training_have_a_curve_for_each_step_and_leave_zeros_out() -> None:
    frame = eigenvalues(1000, 0, 100)
    frame.loc[frame["position"] == 4, "magnitude"] = 0.0
    chart = charts.spectra_by_step(frame)
    encoding, data = layer(chart, "line")
    assert encoding["color"]["scale"]["domain"] == [0, 100, 1000]
    assert encoding["y"]["scale"]["type"] == "log"
    assert sorted(data["position"].unique()) == [1, 2, 3]
    _, band = layer(chart, "area")
    assert (band["low"] >= data["magnitude"].min()).all()
