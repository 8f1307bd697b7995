from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import queries, tables
from seigh.core.lab.store import StoreError
from seigh.core.names import TableName
from tests.core.lab import lab

LAYERS = [
    {"k": 3, "position": i, "name": name, "parameters": 5, "eigenspace": 0.5, "mask": 0.5, "overlap": 0.5}
    for i, name in enumerate(("a", "b"))
]

CURVES = {
    "mass": {
        "title": "mass",
        "note": "what lies there.",
        "value": np.array([0.25, 0.5, 0.75]),
        "error": np.array([0.1, np.nan, 0.2]),
        "chance": None,
    }
}


PROFILES = {
    "shape": {
        "title": "shape",
        "note": "what it looks like.",
        "x": np.array([-1.0, 0.0, 1.0]),
        "value": np.array([1.0, 2.0, 3.0]),
        "lower": np.array([0.5, np.nan, 2.5]),
        "upper": np.array([1.5, np.nan, 3.5]),
        "reference": None,
        "line": None,
    }
}

QUANTITIES = {
    "size": {
        "title": "size",
        "note": "how large it is.",
        "unit": "m",
        "value": 2.0,
        "lower": 1.5,
        "upper": None,
        "reference": None,
    }
}

FURTHER = {"layers": LAYERS, "curves": CURVES, "profiles": PROFILES, "quantities": QUANTITIES}


def test_every_named_table_is_there() -> None:
    assert set(tables.TABLES) == set(get_args(TableName))


def test_tables_have_the_analyses_of_the_models_asked_for(maker: sessionmaker[Session]) -> None:
    with maker.begin() as s:
        first = lab.finished(s, changes=FURTHER)
        second = lab.finished(s, step=200)
        other = lab.finished(s, model="other")
        lab.queue(s, step=300)
    with maker() as s:
        for table in tables.TABLES:
            frame = tables.export(s, table, ["mlp"])
            if table == "training":
                assert set(frame["model"]) == {"mlp"}
            elif table not in ("magnitudes", "masks", "metrics", "pairs"):  # made-up results have none
                assert set(frame["analysis_id"]) == ({first} if table in FURTHER else {first, second})
        assert set(tables.export(s, "overlap")["analysis_id"]) == {first, second, other}
        layers = tables.export(s, "layers")
        pd.testing.assert_frame_equal(layers.drop(columns="analysis_id"), queries.layer_shares(s, first))
        assert len(tables.export(s, "stages", ["other"])) == 2
        further = tables.export(s, "curves")
        assert further["value"].tolist() == [0.25, 0.5, 0.75]
        assert further["error"].isna().tolist() == [False, True, False]
        assert further["chance"].isna().all()
        assert queries.curves_at(s, [first, second], "mass", 3)["value"].tolist() == [0.75]
        assert queries.curves_at(s, [first, second], "mass", 4).empty
        profile = tables.export(s, "profiles")
        assert profile[["x", "value"]].to_numpy().tolist() == [[-1, 1], [0, 2], [1, 3]]
        assert profile["lower"].isna().tolist() == [False, True, False]
        assert profile["reference"].isna().all()
        assert profile["line"].isna().all()
        (quantity,) = tables.export(s, "quantities").to_dict("records")
        assert (quantity["observable"], quantity["value"], quantity["lower"]) == ("size", 2.0, 1.5)
        assert np.isnan(quantity["upper"])
        assert queries.observation_names(s, [first, second], "quantity") == {"size": "size"}
        document = queries.export_result(s, first)
        assert document["profiles"]["shape"]["lower"] == [0.5, None, 2.5]
        assert document["profiles"]["shape"]["reference"] is None
        assert document["quantities"]["size"]["value"] == 2.0
        assert document["quantities"]["size"]["upper"] is None
        with pytest.raises(StoreError, match="no model 'gone'; there is mlp, other"):
            tables.export(s, "pairs", ["gone"])


def test_tables_of_an_empty_lab_have_their_columns(maker: sessionmaker[Session]) -> None:
    with maker() as s:
        for table in tables.TABLES:
            frame = tables.export(s, table)
            assert frame.empty
            assert len(frame.columns) > 3
