"""Means over seeds and how lines lie to a baseline, against sums and quotients written out."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from seigh.app import charts
from seigh.app.lines import (
    Arrangement,
    at_shared_places,
    averaged,
    baselines,
    heights,
    in_lines,
    relative,
    whole_curves,
)
from tests.app.charts.frames import D, points


def analyses(**columns: list[object]) -> pd.DataFrame:
    """``queries.comparable`` of as many analyses as each column has, equal but for these columns."""
    number = len(next(iter(columns.values())))
    same = {
        "model": "mlp",
        "architecture": "tanh-mlp",
        "split": "test",
        "curvature": "hessian",
        "subset": "all",
    }
    same |= {"loss": "cross-entropy", "method": "krylov", "sampling": "balanced", "data": "digits"}
    same |= {"parameters": D, "samples": 500, "seed": 0, "step": 0, "k": 5}
    frame = pd.DataFrame({name: [value] * number for name, value in same.items()} | columns)
    return frame.assign(analysis_id=range(1, number + 1), model_id=1)


def test_seeds_become_one_line_and_networks_of_other_size_do_not() -> None:
    frame = analyses(model=["a", "b", "c"], parameters=[10, 10, 20], seed=[1, 2, 3])
    assert in_lines(frame)["series"].nunique() == 3
    lines = in_lines(frame, Arrangement(over=("model", "seed")))
    assert lines["series"].tolist() == ["tanh-mlp · test · D = 10"] * 2 + ["tanh-mlp · test · D = 20"]
    assert lines["group"].tolist() == ["tanh-mlp · D = 10"] * 2 + ["tanh-mlp · D = 20"]


def test_colour_dash_and_panel_are_of_any_column() -> None:
    frame = analyses(samples=[50, 500], split=["test", "train"]).assign(tag=["baseline", "–"])
    arrangement = Arrangement(color="samples", dash="tag", panel="split", labels={"tag": "tags"})
    lines = in_lines(frame, arrangement)
    assert lines["group"].tolist() == ["N = 50", "N = 500"]
    assert lines["dash"].tolist() == ["tags baseline", "tags –"]
    assert lines["panel"].tolist() == ["test", "train"]
    assert lines["series"].nunique() == 2
    assert in_lines(frame)["dash"].tolist() == ["test", "train"]


def test_a_mean_has_the_spread_over_its_analyses_and_the_mean_of_their_errors() -> None:
    frame = points(("mlp", "test", D), ("mlp", "test", D), ("mlp", "test", D), k=70)
    draw = np.random.default_rng(0)
    overlaps, errors = draw.random(12), draw.random(12)
    frame = frame.assign(overlap=overlaps, error=errors, analysis_id=range(12), dash="test", panel="")
    frame.loc[(frame["step"] == 100) & (frame["analysis_id"] > 8), "error"] = np.nan
    found = averaged(frame).set_index(["mask", "step"])
    for (mask, step), rows in frame.groupby(["mask", "step"]):
        values = rows["overlap"].to_numpy()
        mean = sum(values) / 3
        told = found.loc[(mask, step)]
        assert told["n"] == 3
        assert told["overlap"] == pytest.approx(mean)
        assert told["spread"] == pytest.approx((sum((values - mean) ** 2) / 2) ** 0.5)
        if rows["error"].isna().any():
            assert np.isnan(told["error"])
        else:
            assert told["error"] == pytest.approx(rows["error"].sum() / 3)
    # The bound holds however the errors come together.
    rows = frame[(frame["mask"] == "magnitude") & (frame["step"] == 0)]
    worst = max(abs(np.dot(signs, rows["error"])) / 3 for signs in itertools.product((-1, 1), repeat=3))
    assert worst <= found.loc[("magnitude", 0), "error"] * (1 + 1e-12)


def test_a_mean_ratio_over_several_sizes_has_the_errors_of_ratios() -> None:
    frame = points(("mlp", "test", 100), ("mlp", "test", 1000), k=10)
    frame = frame.assign(series="line", group="line", dash="test", panel="")
    frame["error"] = 0.1 * frame["overlap"]
    averages = averaged(frame)
    found = heights(averages, "ratio").set_index(["mask", "step"])
    for (mask, step), rows in frame.groupby(["mask", "step"]):
        told, ratios = found.loc[(mask, step)], rows["overlap"] / rows["chance"]
        assert len(ratios) == 2
        assert told["height"] == pytest.approx(ratios.mean())
        assert told["high"] - told["height"] == pytest.approx(0.1 * ratios.mean())
        assert told["spread"] == pytest.approx(ratios.std(ddof=1))
    drawn = charts.overlap_by_step(averages, {"line": "#000000"}, "ratio").to_dict()
    ends = [
        row["high"]
        for data in drawn["datasets"].values()
        for row in data
        if "error_ratio" in row and "high" in row
    ]
    assert any(each == pytest.approx(1.1 * found.loc["magnitude", "height"].iloc[0]) for each in ends)


def test_a_single_analysis_has_no_spread_and_curves_end_where_one_of_them_does() -> None:
    rows = [("a", k, 1.0) for k in (1, 2)] + [("b", k, 2.0) for k in (1, 2, 3)]
    frame = pd.DataFrame(rows, columns=["model", "k", "overlap"]).assign(
        series="line", group="line", dash="test", panel="", step=0, error=0.0, analysis_id=1
    )
    found = averaged(frame)
    assert np.isnan(found.set_index("k").loc[3, "spread"])
    assert whole_curves(found)["k"].tolist() == [1, 2]
    assert found.set_index("k").loc[1, "model"] == "several"


def test_eigenvalues_of_different_signs_have_a_mean_magnitude_only() -> None:
    frame = pd.DataFrame({"value": [2.0, -4.0, 3.0, 5.0], "position": [1, 1, 2, 2]}).assign(
        magnitude=lambda rows: rows["value"].abs(), residual=0.1, series="line", group="line", dash="test",
        panel="", step=0, analysis_id=1,
    )  # fmt: skip
    found = averaged(frame)
    assert found["magnitude"].tolist() == [3.0, 4.0]
    assert np.isnan(found["value"][0])
    assert found["value"][1] == 4.0


def lines_of(values: dict[str, list[float]], errors: dict[str, list[float]]) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame({"value": values[name], "error": errors[name], "step": range(len(values[name]))}).assign(
            series=name, group=name, dash="test", panel="", split="test", analysis_id=1
        )
        for name in values
    )


def test_difference_and_ratio_hold_whatever_the_errors_are_in_truth() -> None:
    draw = np.random.default_rng(1)
    for signs in (1, -1):
        values = {"base": list(signs * (1 + draw.random(5))), "other": list(draw.normal(size=5))}
        errors = {"base": list(0.9 * draw.random(5)), "other": list(draw.random(5))}
        frame = heights(lines_of(values, errors), "value")
        found = relative(frame, {"base": "base", "other": "base"})
        assert len(found.differences) == len(found.ratios) == 5
        assert not (found.unmatched)
        assert not (found.unknown)
        assert not (found.unresolved)
        for step in range(5):
            xs = values["other"][step] + errors["other"][step] * np.linspace(-1, 1, 21)
            bs = values["base"][step] + errors["base"][step] * np.linspace(-1, 1, 21)
            for table, truth in (
                (found.differences, np.subtract.outer(xs, bs)), (found.ratios, np.divide.outer(xs, bs)),
            ):  # fmt: skip
                row = table.set_index("step").loc[step]
                assert row["low"] == pytest.approx(truth.min())
                assert row["high"] == pytest.approx(truth.max())
                assert row["height"] == pytest.approx(truth[10, 10])


def test_what_cannot_be_compared_is_said_and_not_drawn() -> None:
    values = {"base": [1.0, 0.1, 1.0], "other": [2.0, 2.0, 2.0, 2.0]}
    errors = {"base": [0.1, 0.2, 0.1], "other": [0.1, 0.1, np.nan, 0.1]}
    frame = heights(lines_of(values, errors), "value")
    found = relative(frame, {"base": "base", "other": "base"})
    assert found.differences["step"].tolist() == [0, 1]
    assert found.ratios["step"].tolist() == [0]
    assert found.unresolved == ["other, step 1"]
    assert found.unknown == ["other, step 2"]
    assert found.unmatched == ["other, step 3"]


def test_a_baseline_of_one_step_is_compared_with_all_and_spreads_add_in_quadrature() -> None:
    frame = heights(
        lines_of({"base": [2.0], "other": [4.0, 6.0]}, {"base": [0.0], "other": [0.0] * 2}), "value"
    )
    frame = frame.assign(spread=[0.3, 0.4, 0.8], n=3)
    found = relative(frame, {"other": "base"})
    assert found.differences["height"].tolist() == [2.0, 4.0]
    assert found.differences["spread"].tolist() == pytest.approx([0.5, (0.3**2 + 0.8**2) ** 0.5])
    assert found.ratios["height"].tolist() == [2.0, 3.0]
    # First order: (x / b)·√((s_x / x)² + (s_b / b)²)
    expected = [r * ((sx / x) ** 2 + 0.15**2) ** 0.5 for r, x, sx in ((2, 4, 0.4), (3, 6, 0.8))]
    assert found.ratios["spread"].tolist() == pytest.approx(expected)


def test_a_model_is_the_baseline_of_lines_that_differ_in_it_alone() -> None:
    frame = analyses(model=["a", "a", "b", "b", "c"], split=["test", "train", "test", "train", "other"])
    lines = in_lines(frame)
    assert baselines(lines, model="a") == {
        "a · test": "a · test", "a · train": "a · train", "b · test": "a · test", "b · train": "a · train",
    }  # fmt: skip
    assert set(baselines(lines, series="b · test").values()) == {"b · test"}
    assert len(charts.group_colors(lines)) == 3


def profile_of(number: int, x: list[float], value: list[float], x_title: str, **more: object) -> pd.DataFrame:
    """``queries.profiles`` of one analysis with its line, and an interval of half the value to both sides."""
    frame = pd.DataFrame({"x": x, "value": value})
    frame = frame.assign(lower=frame["value"] / 2, upper=1.5 * frame["value"], reference=np.nan)
    same = {"observable": "shape", "x_title": x_title, "line": np.nan, "name": "", "log": True, "step": 0}
    same |= {"series": "mlp", "group": "mlp", "dash": "test", "panel": "", "parameters": D, "title": "shape"}
    return frame.assign(analysis_id=number, **(same | more))


def height(x: float, places: list[float], values: list[float]) -> float:
    """A polygon at x, by its two neighbours; 0 outside."""
    for left, right, low, high in zip(places, places[1:], values, values[1:], strict=False):
        if left <= x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return 0.0


def test_the_mean_of_densities_is_over_all_places_and_a_density_is_zero_beyond_its_own() -> None:
    drawn = {1: ([-1.0, 0.0, 2.0], [0.0, 3.0, 0.0]), 2: ([-2.0, 1.0, 5.0], [0.0, 6.0, 0.0])}
    frame = pd.concat(profile_of(number, *each, "λ") for number, each in drawn.items())
    found = whole_curves(averaged(at_shared_places(frame))).sort_values("x")
    assert found["x"].tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0, 5.0]
    for row in found.itertuples():
        values = [height(row.x, *each) for each in drawn.values()]
        mean = sum(values) / 2
        assert row.value == pytest.approx(mean)
        assert (row.lower, row.upper) == pytest.approx((mean / 2, 1.5 * mean))
        assert row.spread == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        assert row.n == 2


def test_other_profiles_are_averaged_where_all_of_them_are_known() -> None:
    drawn = {1: ([0.0, 1.0, 3.0], [0.0, 3.0, 1.0]), 2: ([0.5, 2.0], [2.0, 4.0])}
    frame = pd.concat(profile_of(number, *each, "α") for number, each in drawn.items())
    found = averaged(at_shared_places(frame)).sort_values("x")
    assert found["x"].tolist() == [0.5, 1.0, 2.0]
    means = [sum(height(x, *each) for each in drawn.values()) / 2 for x in found["x"]]
    assert found["value"].tolist() == pytest.approx(means)


def test_lines_of_one_profile_and_tensors_are_averaged_each_by_itself() -> None:
    lines = [profile_of(number, [0.0, 1.0], [line, line + number], "α", line=line)
             for number in (1, 2) for line in (0.0, 1.0)]  # fmt: skip
    found = averaged(at_shared_places(pd.concat(lines))).set_index(["line", "x"])["value"]
    assert found.to_dict() == {(0.0, 0.0): 0.0, (0.0, 1.0): 1.5, (1.0, 0.0): 1.0, (1.0, 1.0): 2.5}
    names = ["first.weight", "first.bias"]
    tensors = [
        profile_of(number, [1.0, 2.0], [number, 5.0], "tensor").assign(name=names) for number in (1, 2)
    ]
    found = averaged(at_shared_places(pd.concat(tensors))).set_index("name")["value"]
    assert found.to_dict() == {"first.weight": 1.5, "first.bias": 5.0}
