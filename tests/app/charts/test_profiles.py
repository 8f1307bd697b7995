from __future__ import annotations

import numpy as np
import pytest

from seigh.app.charts.profiles import _LABEL, _ticks


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
