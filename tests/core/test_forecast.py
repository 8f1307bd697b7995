"""Forecasts against times that were measured, and against each other."""

from __future__ import annotations

import time
from itertools import pairwise
from timeit import Timer

import pytest
import torch

from seigh.core import forecast
from seigh.core.forecast import Timed, from_arithmetic, from_timed
from seigh.core.problems import architectures
from seigh.core.settings import AnalysisSettings, SettingsError

TIMED = (
    Timed(1, samples=500, k=355, method="krylov", hvps=626, seconds=6.26),
    Timed(2, samples=100, k=50, method="krylov", hvps=142, seconds=0.5),
    Timed(3, samples=500, k=355, method="exact", hvps=7040, seconds=900.0),
)


def settings(**changes: object) -> AnalysisSettings:
    return AnalysisSettings(
        **{"architecture": "tanh-mlp", "data": "digits", "k": 355, "samples": 500} | changes
    )


@pytest.mark.parametrize(
    ("name", "sample", "samples", "seconds"),
    # One product on two threads of one server, measured: "The method, and what was measured about it".
    [
        ("3c3d", (3, 32, 32), 500, 0.840),
        ("all-cnn-c", (3, 32, 32), 100, 1.715),
        ("resnet18", (3, 224, 224), 8, 1.109),
    ],
)
def test_arithmetic_holds_what_was_measured(
    name: str, sample: tuple[int, ...], samples: int, seconds: float
) -> None:
    chosen = AnalysisSettings(architecture=name, data="x", k=20, samples=samples)
    parameters = architectures.parameter_count(name)
    hvps = forecast.cost(chosen, parameters).hvps
    found = from_arithmetic(chosen, parameters, sample, "cpu")
    assert found.low < hvps * seconds < found.high
    assert found.high < 100 * found.low
    assert from_arithmetic(chosen, parameters, sample, "cuda").high < found.high


def test_operations_are_those_of_the_layers() -> None:
    sizes = (256, 20, 20, 20, 20, 20, 10)
    expected = 2 * sum(one * other for one, other in pairwise(sizes))
    assert architectures.forward_operations("tanh-mlp", (1, 16, 16)) == expected
    # He et al. 2016, Table 1: 1.8·10⁹ multiply-adds.
    assert architectures.forward_operations("resnet18", (3, 224, 224)) == pytest.approx(3.6e9, rel=0.02)
    with pytest.raises(SettingsError, match="does not take samples of the shape 3×32×32"):
        architectures.forward_operations("tanh-mlp", (3, 32, 32))


def test_the_most_similar_analysis_is_the_source() -> None:
    found = from_timed(settings(), 7030, TIMED)
    assert found.source.analysis_id == 1
    hvps = forecast.cost(settings(), 7030).hvps
    assert found.low < hvps * 0.01 < found.high
    assert from_timed(settings(k=50, samples=120), 7030, TIMED).source.analysis_id == 2
    assert from_timed(settings(method="exact"), 7030, TIMED).source.analysis_id == 3
    assert from_timed(settings(method="exact"), 7030, TIMED[:2]) is None
    assert from_timed(settings(), 7030, ()) is None


def test_more_samples_take_longer_and_less_is_known() -> None:
    same = from_timed(settings(), 7030, TIMED[:1])
    more = from_timed(settings(samples=1000), 7030, TIMED[:1])
    many = from_timed(settings(samples=1250), 7030, TIMED[:1])
    assert same.high < more.high < many.high
    assert same.low < more.low < many.low
    assert many.high / many.low > same.high / same.low


def test_a_forecast_from_a_smaller_analysis_holds_a_larger_ones_time() -> None:
    """Products of a network of matrix products, timed here: how time grows with N is real."""
    seconds = {}
    model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(4)])
    for samples in (200, 800):
        x = torch.randn(samples, 256)
        # Of the processor, and the least of many: other programs take time, too.
        timer = Timer("model(x).sum().backward()", timer=time.process_time, globals={"model": model, "x": x})
        seconds[samples] = min(timer.repeat(20, 5)) / 5
    small, large = settings(k=50, samples=200), settings(k=50, samples=800)
    hvps = forecast.cost(small, 7030).hvps
    timed = [Timed(1, 200, 50, "krylov", hvps, hvps * seconds[200])]
    found = from_timed(large, 7030, timed)
    assert found.low - forecast.FIXED[0] < hvps * seconds[800] < found.high
