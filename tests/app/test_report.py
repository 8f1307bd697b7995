from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from seigh.app import report as reports
from seigh.app.charts import METRIC_NAMES
from seigh.app.report import report
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.lab.store import StoreError
from seigh.core.settings import Settings

Add = Callable[..., int]

SCRIPT = '</script><script>alert("x")</script>'


def made(home: Settings, **size: float) -> str:
    with sessions(home.database)() as s:
        return report(s, SCRIPT, queries.comparable(s)["analysis_id"].tolist(), **size)


def specifications(page: str) -> list[dict]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', page, flags=re.DOTALL)
    return [json.loads(text) for text in found]


def titles(page: str) -> list[str]:
    return re.findall(r"<section>\s*<h2>(.*?)</h2>", page)


def test_a_report_has_all_charts_and_numbers_of_its_analyses(home: Settings, add: Add) -> None:
    for step in (0, 100):
        add(step=step)
        add(step=step, split="train", k=4)
    page = made(home)
    assert titles(page) == [
        "Overlap over training, k = 4",
        "Ratio to chance over training, k = 4",
        "Largest eigenvalue over training",
        "Accuracy over training",
        "Overlap against k, over training: mlp · test",
        "Spectrum over training: mlp · test",
        "Overlap against k, over training: mlp · train",
        "Spectrum over training: mlp · train",
        *(f"Mask and eigenspace by {name}, k = 1" for name in METRIC_NAMES.values()),
        "In which layers, k = 5: mlp · test, step 100",
        "At which magnitudes, k = 5: mlp · test, step 100",
        "In which layers, k = 4: mlp · train, step 100",
        "At which magnitudes, k = 4: mlp · train, step 100",
    ]
    charts = specifications(page)
    assert len(charts) == 8 + len(METRIC_NAMES) + 4
    assert {chart["width"] for chart in charts} == {"container"}
    assert max(len(rows) for rows in charts[0]["datasets"].values()) == 4  # a point for each analysis
    assert page.count("<td>0.001707 ± 6e-6</td>") == 4  # three times chance at k = 4, of each analysis


def test_a_report_of_models_of_different_size_compares_these(home: Settings, add: Add) -> None:
    add()
    add(model="small", settings={"parameters": ("linear6.*",)}, parameters=210)
    assert "Overlap ÷ chance against D, ρ = 0.0005" in titles(made(home, rho=0.0005))


def test_a_report_has_the_arrangement_that_compare_shows(
    open_page: Callable[..., AppTest], home: Settings, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        for model in ("a", "b"):
            for split in ("train", "test"):
                add(
                    model=model, split=split, settings={"seed": seed},
                    results={"overlap": np.full(5, 0.01 * (seed + 1 + (model == "b")))},
                )  # fmt: skip
    made: list[str] = []

    def download_button(label: str, make: Callable[[], str], **_: object) -> None:
        if label == "Report of this selection":
            made.append(make())

    monkeypatch.setattr(st, "download_button", download_button)
    app = open_page("compare", over="seed", panel="split", baseline_model="a")
    assert not app.exception
    (page,) = made
    found = titles(page)
    for panel in ("test", "train"):
        for title in (
            "Overlap over training, k = 5", "Ratio to chance over training, k = 5",
            "Largest eigenvalue over training", "Difference to a: overlap, k = 5",
            "Ratio to a: overlap, k = 5", "Difference to a: λ₁",
        ):  # fmt: skip
            assert f"{title}: {panel}" in found
    assert "Means over seed, n = 3. Pale: ± one standard deviation (n − 1)." in page
    overlap = specifications(page)[found.index("Overlap over training, k = 5: test")]
    rows = [each for rows in overlap["datasets"].values() for each in rows if each.get("mask") == "magnitude"]
    means = {each["series"]: (each["overlap"], each["spread"], each["n"]) for each in rows}
    assert means == {
        "a · test": pytest.approx((0.02, 0.01, 3)), "b · test": pytest.approx((0.03, 0.01, 3)),
    }  # fmt: skip
    # Of every single analysis, whatever the means: their layers.
    assert len([each for each in found if each.startswith("In which layers")]) == 12


def test_nothing_that_a_user_wrote_becomes_part_of_the_page(home: Settings, add: Add) -> None:
    add(model=SCRIPT)
    page = made(home)
    assert SCRIPT not in page
    assert "&lt;/script&gt;" in page
    assert len(specifications(page)) == len(titles(page)) > 6


def test_a_report_asks_nothing_of_the_network(home: Settings, add: Add) -> None:
    add()
    page = re.sub(r"<script>.*?</script>", "<script></script>", made(home), flags=re.DOTALL)
    assert page.count("<script></script>") == 2
    assert not re.search(r"(src|href|url)\s*[=(]", page)


def test_there_is_no_report_of_nothing(home: Settings) -> None:
    with sessions(home.database)() as s, pytest.raises(StoreError, match="no finished analysis to report"):
        report(s, "empty", [])


def test_a_report_of_many_models_tells_them_apart_and_names_what_it_leaves_out(
    home: Settings, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_PANELS", 2)  # each takes a third of a second
    for number in range(25):
        add(model=f"model {number:02d}")
    page = made(home)
    found = titles(page)
    for part in (1, 2):
        assert f"Overlap over training, k = 5: part {part} of 2" in found
    scales = [layer["encoding"].get("color", {}) for each in specifications(page) for layer in each["layer"]]
    ranges = [each["scale"]["range"] for each in scales if each.get("field") == "group"]
    assert len(ranges) > 4
    assert all(len(set(each)) == len(each) for each in ranges)
    left_out = ", ".join(f"model {number:02d} · test" for number in range(2, 25))
    assert f"No more than 2 lines have panels here; left out: {left_out}." in page
