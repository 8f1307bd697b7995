from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seigh.app import charts
from tests.app.charts.frames import D, curves, layer, layers, points, told_at_pointer


def test_the_stated_error_is_a_band_round_the_magnitude_curve() -> None:
    chart = charts.overlap_curve(curves(40, error=0.5), "#123456")
    areas = [data for kind, _, data in layers(chart) if kind == "area"]
    assert [set(area["mask"]) for area in areas] == [{"random"}, {"magnitude"}, {"best"}]
    for area, overlap in zip(areas[1:], (3, 10), strict=True):
        np.testing.assert_allclose(area["low"], (overlap - 0.5) * area["k"] / D)
        np.testing.assert_allclose(area["high"], (overlap + 0.5) * area["k"] / D)
    marks = [each["mark"] for each in chart.to_dict()["layer"]]
    assert [mark["color"] for mark in marks if mark["type"] == "area"] == [
        charts.NEUTRAL,
        "#123456",
        charts.NEUTRAL,
    ]
    encoding, data = told_at_pointer(chart)
    assert encoding["tooltip"][2]["title"] == charts.ERROR_LABEL
    row = data.set_index("k").loc[7]
    assert row[charts.ERROR_LABEL] == row["best mask, stated error"] == pytest.approx(3.5 / D)
    assert row["std, stated error"] == pytest.approx(0.7 / D)


def test_ties_are_a_range_apart_from_the_numerical_error() -> None:
    chart = charts.overlap_curve(curves(40, error=0.5, tied=range(10, 20)), "#123456")
    areas = [data.set_index("k") for kind, _, data in layers(chart) if kind == "area"]
    _, ties, error, _ = areas
    np.testing.assert_allclose(ties["low"][10:19] * D / ties.index[10:19], 2)
    np.testing.assert_allclose(ties["high"][10:19] * D / ties.index[10:19], 6)
    assert ties["low"][25] == ties["high"][25]  # the range is the curve where nothing ties
    np.testing.assert_allclose((error["high"] - error["low"]) * D / error.index, 1)
    edges = [each for each in chart.to_dict()["layer"] if each["mark"].get("strokeDash") == [3, 3]]
    assert [each["mark"]["color"] for each in edges] == ["#123456"] * 2
    encoding, values = told_at_pointer(chart)
    titles = [tooltip["title"] for tooltip in encoding["tooltip"][2:6]]
    assert titles == [charts.ERROR_LABEL, "least over ties", "greatest over ties", "weights that tie"]
    row = values.set_index("k").loc[12]
    assert row[charts.ERROR_LABEL] == pytest.approx(3.5 * 12 / D)  # the stated error is of both
    assert row["weights that tie"] == 48


def test_a_few_ties_are_bars() -> None:
    chart = charts.overlap_curve(curves(5, error=0.5, tied=range(2, 4)), "#123456")
    _, bars = layer(chart, "rule")
    assert bars["k"].tolist() == [2, 3]


def test_ties_of_several_steps_have_their_colours() -> None:
    frame = pd.concat([curves(20, step=0, error=0.5, tied=range(1, 21)), curves(20, step=9, error=0.5)])
    chart = charts.overlap_by_k(frame[frame["mask"] == "magnitude"])
    encoding, ties = layer(chart, "area")
    assert encoding["color"]["field"] == "step"
    first, last = (ties[ties["step"] == step] for step in (0, 9))
    np.testing.assert_allclose((first["high"] - first["low"]) * D / first["k"], 4)
    assert (last["low"] == last["high"]).all()


@pytest.mark.parametrize(("measure", "unit"), [("overlap", 70 / D), ("ratio", 1.0)])
def test_ties_over_training_are_pale_bars(measure: charts.Measure, unit: float) -> None:
    chart = charts.overlap_by_step(points(("mlp", "test", D), ties=True), {"mlp": "#0072B2"}, measure)
    bars = [data for kind, _, data in layers(chart) if kind == "rule" and "low" in data]
    assert [each["step"].tolist() for each in bars] == [[0]]
    np.testing.assert_allclose(bars[0][["low", "high"]], [[2 * unit, 6 * unit]])
    _, errors = layer(chart, "errorbar")
    np.testing.assert_allclose(errors["high"] - errors["low"], unit)
    encoding, _ = layer(chart, "point")
    assert "weights that tie" in [tooltip.get("title") for tooltip in encoding["tooltip"]]


def test_old_analyses_know_nothing_of_ties() -> None:
    frame = curves(40, error=0.5).assign(least=np.nan, greatest=np.nan, tied=np.nan)
    chart = charts.overlap_curve(frame, "#123456")
    _, error, _ = [data for kind, _, data in layers(chart) if kind == "area"]
    np.testing.assert_allclose((error["high"] - error["low"]) * D / error["k"], 1)
    assert "weights that tie" not in told_at_pointer(chart)[1]


def test_bands_stay_on_a_log_axis() -> None:
    chart = charts.overlap_curve(curves(40, error=5.0), "#123456", log_overlap=True)
    floor = layer(chart, "line")[0]["y"]["scale"]["domain"][0]
    for kind, _, data in layers(chart):
        if kind == "area":
            assert (data["low"] >= floor).all()


@pytest.mark.parametrize("log_k", [False, True])
@pytest.mark.parametrize(("resolved_k", "start"), [(30, 30.5), (1, 1.5), (0, 1.0)])
def test_what_is_not_resolved_is_shaded_and_said(log_k: bool, resolved_k: int, start: float) -> None:
    chart = charts.overlap_curve(curves(40, error=0.5), "#123456", resolved_k=resolved_k, log_k=log_k)
    _, shade = layer(chart, "rect")
    assert shade.values.tolist() == [[start, 40.5]]
    (words,) = [each["mark"]["text"] for each in chart.to_dict()["layer"] if each["mark"]["type"] == "text"]
    assert words == (f"k > {resolved_k}: not all resolved to 1 %" if resolved_k else "not resolved to 1 %")


@pytest.mark.parametrize("resolved_k", [None, 40])
def test_nothing_is_shaded_when_all_is_resolved_or_nothing_known(resolved_k: int | None) -> None:
    chart = charts.overlap_curve(curves(40), "#123456", resolved_k=resolved_k)
    assert not {"rect", "text"} & {kind for kind, _, _ in layers(chart)}


@pytest.mark.parametrize("log_k", [False, True])
@pytest.mark.parametrize("log_overlap", [False, True])
def test_overlap_curve_shows_the_masks_chance_and_the_random_error(log_k: bool, log_overlap: bool) -> None:
    chart = charts.overlap_curve(curves(40), "#123456", log_k=log_k, log_overlap=log_overlap)
    encoding, data = layer(chart, "line")
    assert set(data["series"]) == {
        "largest |θ|",
        "best mask",
        "random masks, mean ± std",
        charts.CHANCE_LABEL,
    }
    chance = data[data["series"] == charts.CHANCE_LABEL]
    np.testing.assert_allclose(chance["overlap"], chance["k"] / D)
    scale = encoding["color"]["scale"]
    assert scale["range"][scale["domain"].index("largest |θ|")] == "#123456"
    assert (
        len({str(dash) for dash in encoding["strokeDash"]["scale"]["range"]}) == 3
    )  # solid twice: two colours
    assert encoding["x"]["scale"].get("type", "linear") == ("log" if log_k else "linear")
    assert encoding["y"]["scale"].get("type", "linear") == ("log" if log_overlap else "linear")
    _, band = layer(chart, "area")
    np.testing.assert_allclose(band["high"] - band["low"], 0.4 * band["k"] / D)


def test_overlap_curve_names_every_value_at_the_pointer() -> None:
    encoding, data = told_at_pointer(charts.overlap_curve(curves(40), "#123456"))
    assert [tooltip["title"] for tooltip in encoding["tooltip"][1:]] == [
        "largest |θ|",
        "best mask",
        "random masks, mean",
        "random masks, std",
        charts.CHANCE_LABEL,
        "largest |θ| ÷ chance",
    ]
    row = data.set_index("k").loc[7]
    assert row["largest |θ|"] == pytest.approx(21 / D)
    assert row["largest |θ| ÷ chance"] == pytest.approx(3)


def test_a_curve_of_one_point_is_drawn_with_its_point() -> None:
    spec = charts.overlap_curve(curves(1), "#123456").to_dict()
    assert any(layer["mark"].get("point") for layer in spec["layer"])


@pytest.mark.parametrize("log_k", [False, True])
def test_long_curves_are_thinned_but_keep_their_ends(log_k: bool) -> None:
    _, data = layer(charts.overlap_curve(curves(1500), "#123456", log_k=log_k), "line")
    ks = sorted(data["k"].unique())
    assert len(ks) <= charts.MOST_POINTS
    assert (ks[0], ks[-1]) == (1, 1500)
    if log_k:
        assert ks[:20] == list(range(1, 21))  # where a log axis has room


def test_overlap_by_k_has_a_curve_for_each_step_in_order_and_chance() -> None:
    frame = pd.concat(curves(20, analysis_id=step, step=step) for step in (1000, 0, 100))
    frame = frame[frame["mask"] == "magnitude"]
    chart = charts.overlap_by_k(frame, top=0.5)
    drawn = [(encoding, data) for kind, encoding, data in layers(chart) if kind == "line"]
    (chance, _), (encoding, data) = drawn
    _, band = layer(chart, "area")
    assert band.empty  # no error is known
    assert chance["y"]["field"] == "chance"
    assert encoding["color"]["scale"]["domain"] == [0, 100, 1000]
    assert encoding["color"]["type"] == "ordinal"
    assert encoding["y"]["scale"]["domain"] == [0, 0.5]
    assert len(data) == 60


def test_overlap_by_k_tells_errors() -> None:
    frame = pd.concat([curves(20, analysis_id=1, step=0, error=0.5), curves(20, analysis_id=2, step=9)])
    chart = charts.overlap_by_k(frame[frame["mask"] == "magnitude"])
    _, band = layer(chart, "area")
    assert (band["step"] == 0).all()
    np.testing.assert_allclose(band["high"] - band["low"], band["k"] / D)
    encoding, values = told_at_pointer(chart)
    assert values.set_index("k").loc[20, "step 0"] == "0.0085 ± 0.0015"
    assert values.set_index("k").loc[20, "step 9"] == "0.00853"
    assert [tooltip["type"] for tooltip in encoding["tooltip"][1:]] == ["nominal", "nominal", "quantitative"]


@pytest.mark.parametrize(("measure", "height"), [("overlap", 3 * 70 / D), ("ratio", 3.0)])
def test_overlap_by_step_draws_points_chance_and_error(measure: charts.Measure, height: float) -> None:
    frame = points(("mlp", "test", D), ("mlp", "train", D))
    chart = charts.overlap_by_step(frame, {"mlp": "#0072B2"}, measure)
    encoding, data = layer(chart, "point")
    assert len(data) == 4
    np.testing.assert_allclose(data["height"], height)
    _, rule = layer(chart, "rule")
    assert rule["level"].tolist() == [pytest.approx(height / 3)]
    _, band = layer(chart, "area")
    assert len(band) == 2  # a band for the model, not one for each split
    np.testing.assert_allclose(band["low"], 0.9 * height / 3)
    np.testing.assert_allclose(band["high"], 1.1 * height / 3)
    bar, bars = layer(chart, "errorbar")
    assert bar["y"]["title"] == encoding["y"]["title"]  # else the axis has both
    assert len(bars) == 4
    np.testing.assert_allclose(bars["low"], height * 2.5 / 3)
    np.testing.assert_allclose(bars["high"], height * 3.5 / 3)
    assert charts.ERROR_LABEL in [tooltip.get("title") for tooltip in encoding["tooltip"]]
    line, _ = layer(chart, "line")
    assert line["strokeDash"]["scale"]["domain"] == ["test", "train"]
    assert encoding["color"]["scale"] == {"domain": ["mlp"], "range": ["#0072B2"]}


def test_models_of_different_size_have_their_own_chance_level() -> None:
    frame = points(("mlp", "test", D), ("conv", "test", 10 * D))
    colors = {"conv": "#D55E00", "mlp": "#0072B2", "absent": "#009E73"}
    encoding, absolute = layer(charts.overlap_by_step(frame, colors), "rule")
    assert len(absolute) == 2
    assert encoding["color"]["scale"] == {"domain": ["conv", "mlp"], "range": ["#D55E00", "#0072B2"]}
    _, relative = layer(charts.overlap_by_step(frame, colors, "ratio"), "rule")
    assert relative["level"].tolist() == [1.0]


def test_overlap_by_step_of_a_single_step_has_an_axis() -> None:
    frame = points(("mlp", "test", D))
    encoding, _ = layer(charts.overlap_by_step(frame[frame["step"] == 0], {"mlp": "#0072B2"}), "point")
    low, high = encoding["x"]["scale"]["domain"]
    assert low < 0 < high


def test_series_are_named_by_what_differs() -> None:
    frame = points(("mlp", "test", D), ("mlp", "train", D))
    assert set(frame["series"]) == {"mlp · test", "mlp · train"}
    frame.loc[0, "method"] = "seigh"
    frame.loc[1, "samples"] = 100
    assert charts.name_series(frame)[0] == "mlp · test · seigh · N = 500"
    frame.loc[0, "curvature"] = "ggn"
    assert charts.name_series(frame)[0] == "mlp · test · ggn · seigh · N = 500"


def test_of_analyses_that_differ_only_in_k_the_longest_stays_then_the_latest() -> None:
    frame = points(("mlp", "test", D)).drop_duplicates("step")
    shorter = frame.assign(analysis_id=[50, 51], k=10)
    later = frame.assign(analysis_id=[60, 61]).head(1)
    other_seed = frame.assign(analysis_id=[70, 71], seed=1)
    other_matrix = frame.assign(analysis_id=[80, 81], curvature="ggn")
    kept = charts.distinct_lines(pd.concat([shorter, frame, later, other_seed, other_matrix]))
    assert kept["analysis_id"].tolist() == [2, 60, 70, 71, 80, 81]
