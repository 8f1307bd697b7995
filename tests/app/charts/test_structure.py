from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import vl_convert

from seigh.app import charts
from seigh.core.names import METRICS
from tests.app.charts.frames import D, layer, layers, shares

COLORS = {"mlp": "#0072B2", "conv": "#D55E00"}


def test_layers_compare_mask_eigenspace_and_overlap_with_the_share_of_parameters() -> None:
    chart = charts.layer_shares(shares(4))
    _, bars = layer(chart, "bar")
    np.testing.assert_allclose(bars["value"], np.array([1, 2, 4, 8]) / 15)
    encoding, data = layer(chart, "point")
    assert data.groupby("kind")["value"].sum().to_dict() == pytest.approx(
        {"mask": 1.0, "eigenspace": 1.0, "overlap": 1.0}
    )
    for channel in ("color", "shape"):
        assert len(set(encoding[channel]["scale"]["range"])) == 3
    assert encoding["y"]["sort"] == [f"layer{i}.weight" for i in range(4)]


def test_of_many_layers_the_largest_are_drawn_and_the_shares_stay_those_of_all() -> None:
    chart = charts.layer_shares(shares(50))
    _, bars = layer(chart, "bar")
    assert len(bars) == charts.MOST_LAYERS
    assert bars["value"].max() == pytest.approx(2**49 / (2**50 - 1))


def test_a_tensor_without_a_share_of_no_overlap_has_no_point() -> None:
    _, data = layer(charts.layer_shares(shares(3).assign(overlap=np.nan)), "point")
    assert set(data["kind"]) == {"mask", "eigenspace"}


def test_mass_by_magnitude_is_a_ratio_to_the_mean_and_skips_zeros() -> None:
    frame = pd.DataFrame(
        {
            "k": 5,
            "position": [0, 1, 2],
            "count": [1, 10, 100],
            "largest": [2.0, 1.0, 0.0],
            "smallest": [2.0, 0.5, 0.0],
            "mean": [3 / D, 2 / D, 0.0],
            "low": [1 / D, 0.0, 0.0],
            "median": [2 / D, 1 / D, 0.0],
            "high": [4 / D, 3 / D, 0.0],
        }
    )
    chart = charts.magnitude_bins(frame, D, "#123456")
    encoding, data = layer(chart, "point")
    np.testing.assert_allclose(data["mean"], [3, 2])
    assert data["magnitude"].between(data["smallest"], data["largest"]).all()
    assert encoding["x"]["scale"]["type"] == encoding["y"]["scale"]["type"] == "log"
    low, _ = encoding["y"]["scale"]["domain"]
    _, band = layer(chart, "area")
    assert (band["low"] > low).all()
    _, rule = layer(chart, "rule")
    assert rule["level"].tolist() == [1.0]


def test_stages_are_bars_in_the_order_they_ran_with_their_products() -> None:
    frame = pd.DataFrame({"stage": ["load", "eigenpairs"], "seconds": [0.5, 2.0], "hvps": [0, 1200]})
    chart = charts.stages(frame)
    encoding, data = layer(chart, "bar")
    assert encoding["y"]["sort"] == ["load", "eigenpairs"]
    assert data["words"].tolist() == ["0.5 s", "2 s · 1,200 products"]
    np.testing.assert_allclose(data["share"], [0.2, 0.8])


@pytest.mark.parametrize(
    ("steps", "words", "labels"),
    [(11, True, ["0", "200", "400", "600", "800", "1000"]), (20, False, ["0", "400", "800", "1200", "1600"])],
)
def test_a_heatmap_has_a_cell_for_each_pair_of_steps(steps: int, words: bool, labels: list[str]) -> None:
    frame = pd.DataFrame(
        [
            (100 * first, 100 * second, 1 - abs(first - second) / steps, 0.05)
            for first in range(steps)
            for second in range(steps)
        ],
        columns=["first_step", "second_step", "value", "chance"],
    )
    chart = charts.heatmap(frame, "IoU")
    encoding, data = layer(chart, "rect")
    assert len(data) == steps**2
    assert encoding["color"]["scale"]["domain"] == [0, 1]  # the same for all heatmaps
    assert encoding["x"]["sort"] == [str(100 * step) for step in range(steps)]
    assert encoding["y"]["sort"] == encoding["x"]["sort"][::-1]
    assert ("text" in {kind for kind, _, _ in layers(chart)}) == words
    chart.width = 170  # as of three side by side
    drawn = vl_convert.vegalite_to_svg(chart.to_json())
    axis = drawn[drawn.index("X-axis") :].partition("role-axis-title")[0]
    assert re.findall(r">(\d+)</text>", axis) == labels  # and none of them touch


def test_a_metric_over_training_has_random_subspaces_beside_it() -> None:
    frame = pd.DataFrame(
        {
            "model": "mlp",
            "group": "mlp",
            "split": "test",
            "series": "mlp · test",
            "step": [0, 100],
            "k": 5,
            "parameters": D,
            "height": [2.0, 2.5],
            "low": [1.9, np.nan],
            "high": [2.1, np.nan],
            "random_mean": 3.0,
            "random_low": 2.9,
            "random_high": 3.1,
        }
    )
    chart = charts.metric_by_step(frame, COLORS, "geodesic distance")
    encoding, data = layer(chart, "point")
    assert len(data) == 2
    assert encoding["y"]["title"] == "geodesic distance"
    _, band = layer(chart, "area")
    assert band["random_low"].tolist() == [2.9, 2.9]
    _, bars = layer(chart, "errorbar")
    assert len(bars) == 1  # where the error is known


def test_the_random_study_names_every_metric_and_marks_k() -> None:
    labels = {"geodesic": "geodesic", "chordal_2": "chordal, 2-norm", "chordal_f": "chordal, Frobenius"}
    labels |= {"projection_2": "p2", "projection_f": "pf", "fubini_study": "fs", "overlap": "overlap"}
    frame = pd.DataFrame(
        [
            {"dimension": 10 * k, "k": k, "metric": metric, "mean": 1.0, "std": 0.1}
            | {"normalised_low": 0.4, "normalised_median": 0.5, "normalised_high": 0.6}
            for k in (1, 10, 100)
            for metric in labels
        ]
    )
    chart = charts.random_study(frame, labels, 10)
    encoding, data = layer(chart, "line")
    assert len(data) == 21
    looks = zip(
        encoding["color"]["scale"]["range"],
        map(str, encoding["strokeDash"]["scale"]["range"]),
        strict=True,
    )
    assert len(set(looks)) == 7
    _, rule = layer(chart, "rule")
    assert rule["k"].tolist() == [10]
    chart = charts.random_study(frame, labels, 700, "dimension")
    assert layer(chart, "line")[0]["x"]["field"] == "dimension"
    assert layer(chart, "rule")[1]["dimension"].tolist() == [700]


def test_two_eigenspaces_have_random_ones_beside_them_where_these_are_known() -> None:
    labels = {metric: metric for metric in METRICS}
    frame = pd.DataFrame(
        [
            {
                "k": k,
                "measure": metric,
                "value": 2.0,
                "normalised": 0.8,
                "normalised_random_mean": 0.1 if k < 100 else np.nan,
                "random_mean": 3.0,
            }
            for k in (1, 10, 100)
            for metric in METRICS
        ]
    )
    chart = charts.pair_metrics(frame, labels)
    chance, drawn = [(encoding, data) for kind, encoding, data in layers(chart) if kind == "line"]
    assert chance[0]["y"]["field"] == "normalised_random_mean"
    assert len(chance[1]) == 2 * len(METRICS)
    assert len(drawn[1]) == 3 * len(METRICS)
    assert drawn[0]["y"]["scale"]["domain"] == [0, 1]
