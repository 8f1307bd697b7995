"""Frames as the queries give them, and what a chart consists of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from seigh.app import charts

D = 7030


def curves(
    k: int, *, analysis_id: int = 1, step: int = 0, error: float = np.nan, tied: range = range(0)
) -> pd.DataFrame:
    """``queries.overlap_curves`` of one analysis: overlap three times, best ten times chance; ``error`` is
    that of the overlap, in units of chance too. At the sizes ``tied``, 48 weights tie, and the overlap is two
    to six times chance."""
    size = np.arange(1, k + 1)
    ties = np.isin(size, tied)
    factors = {"magnitude": 3.0, "random": 1.1, "best": 10.0}
    return pd.concat(
        pd.DataFrame(
            {
                "analysis_id": analysis_id,
                "step": step,
                "mask": mask,
                "k": size,
                "overlap": factor * size / D,
                "std": 0.2 * size / D if mask == "random" else np.nan,
                "std_error": 0.2 * error * size / D if mask == "random" else np.nan,
                "error": {"magnitude": error + 3 * ties, "best": error}.get(mask, np.nan) * size / D,
                "least": np.where(ties, 2.0, 3.0) * size / D if mask == "magnitude" else np.nan,
                "greatest": np.where(ties, 6.0, 3.0) * size / D if mask == "magnitude" else np.nan,
                "tied": 48.0 * ties if mask == "magnitude" else np.nan,
                "chance": size / D,
                "ratio": factor,
            }
        )
        for mask, factor in factors.items()
    )


def points(*lines: tuple[str, str, int], k: int = 70, ties: bool = False) -> pd.DataFrame:
    """``queries.overlap_by_step`` of lines (model, split, D) over two steps, and their series; with ties at
    step 0, the overlap there is two to six times chance."""
    rows = []
    for model, split, parameters in lines:
        for step in (0, 100):
            common = {
                "analysis_id": len(rows),
                "model": model,
                "step": step,
                "split": split,
                "curvature": "hessian",
                "subset": "",
                "loss": "cross-entropy",
                "method": "krylov",
                "seed": 0,
                "samples": 500,
                "sampling": "balanced",
                "data": "digits",
                "k": k,
                "chance": k / parameters,
                "test_accuracy": 0.5,
                "lambda_max": 2.0,
            }
            chance = k / parameters
            found = {"overlap": 3 * chance, "std": np.nan, "error": 0.5 * chance, "ratio": 3.0}
            found |= {"least": 3 * chance, "greatest": 3 * chance, "tied": 0}
            if ties and step == 0:
                found |= {"least": 2 * chance, "greatest": 6 * chance, "tied": 48, "error": 3.5 * chance}
            drawn = {"overlap": chance, "std": 0.1 * chance, "error": np.nan, "ratio": 1.0}
            rows.append(common | {"mask": "magnitude"} | found)
            rows.append(common | {"mask": "random"} | drawn)
    frame = pd.DataFrame(rows)
    return frame.assign(series=charts.name_series(frame), group=charts.name_groups(frame))


def layers(chart: alt.LayerChart) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Mark type, encoding and data of every layer, after Altair's own validation of the whole."""
    spec = chart.to_dict(validate=True)
    for layer in spec["layer"]:
        name = layer.get("data", spec.get("data"))["name"]
        mark = layer["mark"]
        yield (
            mark if isinstance(mark, str) else mark["type"],
            layer["encoding"],
            pd.DataFrame(spec["datasets"][name]),
        )


def layer(chart: alt.LayerChart, mark: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """The first layer of this mark type."""
    return next((encoding, data) for kind, encoding, data in layers(chart) if kind == mark)


def told_at_pointer(chart: alt.LayerChart) -> tuple[dict[str, Any], pd.DataFrame]:
    """The layer that tells values at the pointer, its columns called by their titles."""
    encoding, data = layer(chart, "rule")
    titles = {each["field"]: each["title"] for each in encoding["tooltip"] if "title" in each}
    return encoding, data.rename(columns=titles)


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
