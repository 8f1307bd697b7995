"""Charts over training, of structure and of pairs."""

from __future__ import annotations

import io
import json

import altair as alt
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from app import charts, figure
from app.charts import pictures
from tests.app.test_charts import curves, layer, layers, points

D = 7030
COLORS = {"mlp": "#0072B2", "conv": "#D55E00"}


def eigenvalues(*steps: int, k: int = 4) -> pd.DataFrame:
    """``queries.eigenvalues`` of a model, λ = ± step + 1 / position, with a series."""
    size = np.arange(1, k + 1)
    frame = pd.concat(
        pd.DataFrame(
            {
                "analysis_id": step,
                "model": "mlp",
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


# --- Over training ----------------------------------------------------------------------------------------


def test_the_largest_eigenvalue_keeps_its_sign_and_shows_its_residual() -> None:
    frame = eigenvalues(0, 100).query("position == 2")
    chart = charts.lambda_by_step(frame, COLORS)
    encoding, data = layer(chart, "point")
    np.testing.assert_allclose(data["height"], [-0.5, -50.5])
    assert encoding["color"]["scale"] == {"domain": ["mlp"], "range": ["#0072B2"]}
    _, bars = layer(chart, "errorbar")
    np.testing.assert_allclose(bars["high"] - bars["low"], 0.01)


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


def test_ratio_against_size_has_a_point_for_each_model_and_chance_at_one() -> None:
    frame = points(("mlp", "test", D), ("conv", "test", 100 * D), ("conv", "train", 100 * D))
    frame = frame.assign(parameters=(frame["k"] / frame["chance"]).round())
    frame = frame[(frame["mask"] == "magnitude") & (frame["step"] == 100)]
    chart = charts.ratio_by_size(frame, COLORS)
    encoding, data = layer(chart, "point")
    assert encoding["x"]["scale"]["type"] == "log"
    low, high = encoding["x"]["scale"]["domain"]
    assert low < data["parameters"].min() < data["parameters"].max() < high
    assert len(data) == 3
    _, rule = layer(chart, "rule")
    assert rule["level"].tolist() == [1.0]
    _, bars = layer(chart, "errorbar")
    np.testing.assert_allclose(bars["high"] - bars["low"], 1.0)  # twice the error of half of chance


# --- Structure --------------------------------------------------------------------------------------------


def shares(tensors: int) -> pd.DataFrame:
    """``queries.layer_shares`` at one k: each tensor twice as large as the one before."""
    numbers = 2.0 ** np.arange(tensors)
    even = np.full(tensors, 1 / tensors)
    return pd.DataFrame(
        {
            "k": 5,
            "position": range(tensors),
            "name": [f"layer{i}.weight" for i in range(tensors)],
            "parameters": numbers,
            "mask": even,
            "eigenspace": even,
            "overlap": numbers[::-1] / numbers.sum(),
        }
    )


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


# --- Pairs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "words"), [(11, True), (20, False)])
def test_a_heatmap_has_a_cell_for_each_pair_of_steps(steps: int, words: bool) -> None:
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


def test_a_metric_over_training_has_random_subspaces_beside_it() -> None:
    frame = pd.DataFrame(
        {
            "model": "mlp",
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
            {"k": k, "metric": metric, "mean": 1.0, "std": 0.1, "normalised_mean": 0.5, "normalised_std": 0.1}
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


# --- Every chart as a file --------------------------------------------------------------------------------


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


def test_the_data_of_a_chart_survive_as_parquet() -> None:
    frame = curves(5)
    table = pyarrow.parquet.read_table(io.BytesIO(figure.parquet(frame)))
    pd.testing.assert_frame_equal(table.to_pandas(), frame.reset_index(drop=True))


@pytest.mark.parametrize(
    ("text", "name"),
    [("overlap-k = 5", "overlap-k-5"), ("../a/b", "a-b"), ("größe ρ", "größe-ρ"), ("//", "seigh")],
)
def test_names_of_files_hold_no_surprises(text: str, name: str) -> None:
    assert figure.file_name(text) == name


def test_a_specification_is_json_of_a_given_width(chart: alt.LayerChart) -> None:
    specification = json.loads(json.dumps(pictures.specification(chart, "container")))
    assert specification["width"] == "container"
    assert specification["usermeta"] == {"embedOptions": {"renderer": "svg"}}
