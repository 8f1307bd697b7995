from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seigh.app import charts, figures
from seigh.app.charts.profiles import _LABEL, _ticks
from tests.app.charts.frames import layer, layers


@pytest.mark.parametrize(
    ("low", "high", "constant"), [(-0.03, 12.0, 0.004), (-5.0, 5.0, 0.6), (-1.0, 900.0, 2e-4)]
)
def test_labels_of_a_symlog_axis_have_room(low: float, high: float, constant: float) -> None:
    ticks = np.array(_ticks(low, high, constant))
    assert 0 in ticks
    assert len(ticks) >= 3
    assert ((low <= ticks) & (ticks <= high)).all()
    places = np.sign(ticks) * np.log1p(np.abs(ticks) / constant)
    whole = np.log1p(high / constant) + np.log1p(-low / constant)
    assert (np.diff(places) >= _LABEL * whole - 1e-12).all()


def by_tensor(*steps: int, sign: float = 1.0) -> pd.DataFrame:
    """``queries.profiles`` of a number of three tensors."""
    rows = [
        {"step": step, "x": x, "name": name, "value": sign * 10.0**x, "lower": 0.5, "upper": 2000.0}
        for step in steps
        for x, name in enumerate(("last.weight", "a.bias", "mid.weight"), 1)
    ]
    said = {"title": "trace of the block", "note": "the sum.", "x_title": "tensor", "line": np.nan}
    said |= {"reference": np.nan, "reference_title": ""}
    return pd.DataFrame(rows).assign(**said)


def test_numbers_of_tensors_stand_in_the_model_s_order_by_their_names() -> None:
    figure = figures.profile(by_tensor(0), "#123456")
    encoding, data = layer(figure.draw(figure.table), "point")
    assert encoding["y"]["sort"] == ["last.weight", "a.bias", "mid.weight"]
    assert data["value"].tolist() == [10.0, 100.0, 1000.0]


@pytest.mark.parametrize(("sign", "scheme"), [(1.0, "log"), (-1.0, None)])
def test_tensors_over_training_are_a_heat_map(sign: float, scheme: str | None) -> None:
    found = by_tensor(0, 100, sign=sign)
    figure = figures.profile_over_training(found, "mlp", pd.concat([found["value"], 10 * found["value"]]))
    assert figure.title == "Trace of the block of every tensor"
    encoding, data = layer(figure.draw(figure.table), "rect")
    assert encoding["x"]["sort"] == ["0", "100"]
    assert encoding["y"]["sort"] == ["last.weight", "a.bias", "mid.weight"]
    assert encoding["color"]["scale"].get("type") == scheme
    # The scale is that of all lines, so that their panels can be compared.
    assert encoding["color"]["scale"]["domain"] == sorted([sign * 10.0, sign * 10_000.0])
    assert len(data) == 6


def test_densities_of_tensors_over_training_have_a_row_for_every_tensor_and_step() -> None:
    densities = [
        pd.DataFrame({"x": [-1.0, 0.0, 1.0 + step / 50, 9.0], "value": [0.0, 1.0 + step, line, 0.0]}).assign(
            step=step, line=line, name=name
        )
        for step in (100, 0)
        for line, name in ((2.0, "first.bias"), (1.0, "last.weight"))
    ]
    said = {
        "title": "density of λ",
        "note": "the share.",
        "x_title": "λ",
        "line_title": "tensor",
        "log": True,
    }
    frame = pd.concat(densities, ignore_index=True).assign(**said, reference=np.nan, reference_title="")
    frame = frame.assign(lower=frame["value"] / 2, upper=frame["value"] * 2)
    figure = figures.profile_over_training(frame, "mlp")
    encoding, cells = layer(figure.draw(figure.table), "rect")
    assert encoding["y"]["sort"] == ["last.weight", "first.bias"]
    assert encoding["yOffset"]["sort"] == ["0", "100"]
    for (name, step), found in cells.groupby(["name", "step"]):
        drawn = frame[(frame["name"] == name) & (frame["step"] == step)]
        area = (found["value"] * (found["to"] - found["from"])).sum()
        assert area == pytest.approx(np.trapezoid(drawn["value"], drawn["x"]), rel=1e-3)
        assert (found["lower"] <= found["value"]).all()
        assert (found["value"] <= found["upper"]).all()
    assert cells.groupby(["name", "step"]).ngroups == 4


def test_one_tensor_far_beyond_the_others_leaves_them_colours_of_either_sign() -> None:
    found = by_tensor(0, 100).assign(value=[-0.2, 1000.0, 0.3, -0.1, 2000.0, 0.1])
    encoding, _ = layer(charts.tensors_by_step(found), "rect")
    scale, legend = encoding["color"]["scale"], encoding["color"]["legend"]
    assert (scale["type"], scale["domain"], scale["scheme"]) == ("symlog", [-2000.0, 2000.0], "blueorange")
    assert 0.1 <= scale["constant"] <= 1
    assert legend["values"] == [-1000.0, 0.0, 1000.0]


def test_a_reference_of_each_step_is_dashed_in_its_colour_as_far_as_the_values_reach() -> None:
    """The parabola that gradient and Hessian predict says something beside its own loss alone."""
    x = np.linspace(-1, 1, 5)
    said = {"title": "loss", "note": "the loss.", "x_title": "α", "line_title": "", "line": np.nan}
    said |= {"reference_title": "parabola", "log": False, "unit": "", "parameters": 100}
    frames = [
        pd.DataFrame({"step": step, "x": x, "value": step + x, "reference": step + 100 * x}).assign(
            lower=lambda rows: rows["value"], upper=lambda rows: rows["value"], **said
        )
        for step in (1, 2)
    ]
    figure = figures.profile_over_training(pd.concat(frames), "mlp")
    assert "Dashed, in the colour of its step: parabola." in figure.how
    dashed = [each for each in figure.draw(figure.table).layer if each.to_dict()["mark"].get("strokeDash")]
    assert len(dashed) == 1
    assert dashed[0].to_dict()["encoding"]["color"]["field"] == "step"
    drawn = dashed[0].data.dropna(subset="beside")
    assert drawn["step"].tolist() == [1, 2]
    assert drawn["x"].tolist() == [0, 0]  # elsewhere it would make the losses a line at zero


@pytest.mark.parametrize("apart", [False, True])
def test_one_curve_beside_two_parabolas_is_drawn_once_in_the_model_s_colour(apart: bool) -> None:
    """Curves along two eigenvectors, which have places of their own, keep their colours."""
    said = {"title": "loss along the line from the checkpoint before", "note": "the loss.", "x_title": "α"}
    said |= {"line_title": "parabola about end", "reference_title": "parabola", "log": False, "unit": ""}
    ends = [
        pd.DataFrame({"line": end, "x": x, "value": x**2, "reference": end * x}).assign(
            lower=x**2, upper=x**2, step=0, parameters=100, **said
        )
        for end, x in ((1.0, np.linspace(0, 1, 5)), (2.0, np.linspace(0, 1 + apart / 7, 5)))
    ]
    color = charts.MODEL_COLORS[1]
    figure = figures.profile(pd.concat(ends), color)
    drawn = [(encoding, data) for kind, encoding, data in layers(figure.draw(figure.table)) if kind == "line"]
    (curve, values), (parabolas, rows) = drawn
    if apart:
        assert (curve["color"]["field"], len(values)) == ("line", 10)
    else:
        assert (curve["color"], len(values)) == ({"value": color}, 5)
    assert (parabolas["color"]["field"], len(rows)) == ("line", 10)
    assert color not in parabolas["color"]["scale"]["range"]
    assert curve["y"]["title"] == ["loss along the line from the", "checkpoint before"]  # all of it
