"""Where an overlap lies, and pairs: what is written comes back, on both databases."""

import math
from math import comb
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import queries, store
from seigh.core.lab.models import (
    Analysis,
    Comparison,
    LayerShare,
    MagnitudeBin,
    PairValue,
    SubspaceMetric,
)
from seigh.core.lab.store import StoreError
from seigh.core.names import METRICS
from seigh.core.overlap.metrics import normalised
from tests.core.lab import lab

Maker = sessionmaker[Session]

LAYERS: list[dict[str, Any]] = [
    {"k": k, "position": p, "name": name, "parameters": n, "eigenspace": e, "mask": m, "overlap": o}
    for k, p, name, n, e, m, o in [
        (1, 0, "weight", 7000, 0.75, 1.0, math.nan),
        (1, 1, "bias", 30, 0.25, 0.0, math.nan),
        (3, 0, "weight", 7000, 0.5, 2 / 3, 0.25),
        (3, 1, "bias", 30, 0.5, 1 / 3, 0.75),
    ]
]
BINS: list[dict[str, Any]] = [
    {"k": 3, "position": b, "count": count, "largest": 2.0 - b, "smallest": 1.0 - b}
    | {"mean": 0.2, "low": 0.1, "median": 0.15, "high": 0.4}
    for b, count in enumerate((30, 7000))
]
CHORDAL: dict[str, Any] = {"k": 3, "metric": "chordal_f", "value": 2.0, "error": None}
OVERLAP: dict[str, Any] = {"k": 3, "metric": "overlap", "value": 0.3, "error": 0.01}
TABLES = [
    CHORDAL | {"random_mean": 2.25, "random_std": 0.125},
    OVERLAP | {"random_mean": 3 / 7030, "random_std": 1e-4},
]
STRUCTURE = {"layers": LAYERS, "magnitudes": BINS, "metrics": TABLES}


def test_layers_and_magnitudes_come_back(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s, changes=STRUCTURE)
    with maker() as s:
        layers, bins = queries.layer_shares(s, number), queries.magnitude_bins(s, number)
    pd.testing.assert_frame_equal(layers, pd.DataFrame(LAYERS).astype({"name": object}))
    pd.testing.assert_frame_equal(bins, pd.DataFrame(BINS))
    for _, each in layers[layers["k"] == 3].groupby("k"):
        assert each[["eigenspace", "mask", "overlap"]].sum().tolist() == pytest.approx([1, 1, 1])


def test_metrics_come_with_their_likeness(maker: Maker) -> None:
    with maker.begin() as s:
        numbers = [lab.finished(s, step=step, changes=STRUCTURE) for step in (200, 100)]
    with maker() as s:
        frame = queries.subspace_metrics(s, numbers)
    assert frame["step"].tolist() == [100, 100, 200, 200]
    chordal, overlap = frame.iloc[0], frame.iloc[1]
    assert chordal["normalised"] == pytest.approx(normalised("chordal_f", 2.0, 3))
    assert chordal["normalised_random_mean"] == pytest.approx(normalised("chordal_f", 2.25, 3))
    assert chordal["normalised_random_std"] == pytest.approx(0.125 / math.sqrt(6))
    assert math.isnan(chordal["error"])
    assert math.isnan(chordal["normalised_error"])
    assert (overlap["value"], overlap["normalised"]) == (0.3, 0.3)
    assert (overlap["error"], overlap["normalised_error"]) == (0.01, 0.01)


def test_the_json_tells_them_too(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s, changes=STRUCTURE)
    with maker() as s:
        result = queries.export_result(s, number)
    assert result["layers"] == [row | {"overlap": None} for row in LAYERS[:2]] + LAYERS[2:]
    assert result["magnitudes"] == BINS
    assert result["metrics"] == TABLES


def test_results_without_them_are_results(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s)
    with maker() as s:
        for frame in (
            queries.layer_shares(s, number),
            queries.magnitude_bins(s, number),
            queries.subspace_metrics(s, [number]),
            queries.pair_values(s, [number]),
        ):
            assert frame.empty
        assert queries.subspace_metrics(s, [number])["normalised"].dtype == float
        assert queries.pair_values(s, [number])["normalised"].dtype == float


def test_they_go_with_their_analysis(maker: Maker) -> None:
    with maker.begin() as s:
        number = lab.finished(s, changes=STRUCTURE)
    with maker.begin() as s:
        store.delete(s, Analysis, number)
    with maker() as s:
        for table in (LayerShare, MagnitudeBin, SubspaceMetric):
            assert s.scalar(select(func.count()).select_from(table)) == 0


def claimed(s: Session, ids: list[int], ks: list[int]) -> int:
    number = store.queue_comparison(s, ids, ks, "ada")[0].id
    assert store.claim(s, Comparison, number, "mine", "host:1")
    return number


def test_values_of_pairs_come_back_in_both_orders(maker: Maker) -> None:
    with maker.begin() as s:
        ids = [lab.finished(s, step=step) for step in (100, 200)]
        number = claimed(s, ids, [2, 3])
        values = {(3, "iou"): 0.5, (3, "overlap"): 0.25, (2, "geodesic"): 1.5}
        assert store.record_pair(s, number, "mine", ids[1], ids[0], values)
        assert store.record_pair(s, number, "mine", ids[0], ids[0], {(3, "iou"): 1.0})
    with maker() as s:
        frame = queries.pair_values(s, ids)
        some = queries.pair_values(s, ids, [3], ["iou"])
        assert queries.pair_values(s, ids[:1])["value"].tolist() == [1.0]
        assert queries.known_pairs(s, ids) == {(ids[0], ids[1]): set(values), (ids[0], ids[0]): {(3, "iou")}}
    assert len(frame) == 7
    assert some[["first_step", "second_step", "value"]].values.tolist() == [
        [100, 100, 1.0],
        [100, 200, 0.5],
        [200, 100, 0.5],
    ]
    by_measure = frame[frame["first_id"] == ids[1]].set_index("measure")
    assert by_measure.loc["overlap", "chance"] == pytest.approx(3 / 7030)
    assert by_measure.loc["iou", "chance"] == pytest.approx(_iou_of_three_by_chance(7030))
    assert math.isnan(float(by_measure["chance"]["geodesic"]))
    assert by_measure.loc["geodesic", "normalised"] == pytest.approx(normalised("geodesic", 1.5, 2))
    assert by_measure.loc["overlap", "normalised"] == 0.25


def _iou_of_three_by_chance(dimension: int) -> float:
    ways = [comb(3, c) * comb(dimension - 3, 3 - c) for c in range(4)]
    return sum(c / (6 - c) * each for c, each in enumerate(ways)) / comb(dimension, 3)


def test_likeness_of_every_metric_is_that_of_the_numerics(maker: Maker) -> None:
    with maker.begin() as s:
        ids = [lab.finished(s, step=step) for step in (100, 200)]
        number = claimed(s, ids, [3])
        assert store.record_pair(s, number, "mine", *ids, {(3, metric): 0.7 for metric in METRICS})
    with maker() as s:
        found = queries.pair_values(s, ids)
    for metric in METRICS:
        values = found[found["measure"] == metric]["normalised"]
        assert values.to_numpy() == pytest.approx(normalised(metric, 0.7, 3))


def test_what_is_written_of_a_pair_stays(maker: Maker) -> None:
    with maker.begin() as s:
        ids = [lab.finished(s, step=step) for step in (100, 200)]
        number = claimed(s, ids, [3])
        assert store.record_pair(s, number, "mine", *ids, {(3, "iou"): 0.5})
    with maker.begin() as s:
        assert store.record_pair(s, number, "mine", *ids, {(3, "iou"): 0.9, (3, "overlap"): 0.1})
        assert not store.record_pair(s, number, "another's", *ids, {(2, "iou"): 0.9})
        with pytest.raises(StoreError, match="Analysis 99 no longer exists"):
            store.record_pair(s, number, "mine", ids[0], 99, {(3, "iou"): 0.5})
    with maker() as s:
        rows = s.execute(select(PairValue.measure, PairValue.value)).all()
    assert sorted(map(tuple, rows)) == [("iou", 0.5), ("overlap", 0.1)]
