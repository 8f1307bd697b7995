from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seigh.app import charts, figures
from seigh.app.charts.profiles import _LABEL, _ticks
from tests.app.charts.frames import layer


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
    figure = figures.profile_over_training(by_tensor(0, 100, sign=sign), "mlp")
    assert figure.title == "Trace of the block of every tensor"
    encoding, data = layer(figure.draw(figure.table), "rect")
    assert encoding["x"]["sort"] == ["0", "100"]
    assert encoding["y"]["sort"] == ["last.weight", "a.bias", "mid.weight"]
    assert encoding["color"]["scale"].get("type") == scheme
    assert len(data) == 6
    assert charts.tensors_by_step in (figure.draw,)


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
