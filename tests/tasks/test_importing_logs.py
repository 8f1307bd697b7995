"""The paper's published curves in the lab: once, marked, and what was not published is unknown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from seigh.app.cli import main
from seigh.app.report import report
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings
from seigh.tasks.importing import import_logs
from tests import opening
from tests.core.results.test_published import GLOBALS, D, body, write


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder as the authors published theirs: both splits at two steps, the second without a best mask."""
    folder = tmp_path / "output_analysis"
    folder.mkdir()
    write(
        folder / "mnist.log",
        GLOBALS,
        ["H_TRAIN RESULT", {"step": 0} | body(0)],
        ["H_TEST RESULT", {"step": 0} | body(1)],
        '["2024", ["H_TEST RESULT", {"step": 100, "core_S": [1',
    )
    early = {name: value for name, value in body(2).items() if name in ("core_S", "frob_Qtop^2")}
    write(folder / "mnist__step=100__test=True.log", ["RESULT", early])
    return folder


def test_a_folder_is_imported_once_and_what_is_damaged_is_named(
    home: Settings, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for said in (
        "Imported for model 'paper': 3 analyses (1 to 3).",
        "Here already for model 'paper': 3 analyses",
    ):
        with pytest.raises(SystemExit) as ended:
            main(["import-logs", str(logs), "--model", "paper"])
        assert ended.value.code == 0
        told = capsys.readouterr()
        assert said in told.out
        assert "'mnist.log', line 4: damaged, and left out." in told.err
    with sessions(home.database)() as s:
        finished = queries.comparable(s)
        assert sorted(zip(finished["step"], finished["split"], strict=True)) == [
            *((0, "test"), (0, "train"), (100, "test"))
        ]
        assert set(finished["imported"]) == {"mnist.log", "mnist__step=100__test=True.log"}
        assert set(finished["parameters"]) == {D}
        assert set(finished["data"]) == {"mnist-16x16"}


def test_the_numbers_are_the_published_ones_and_the_rest_is_unknown(home: Settings, logs: Path) -> None:
    done, _ = import_logs(logs, model_name="paper", user="ada", env=home)
    with sessions(home.database)() as s:
        found = {
            (each["step"], each["settings"]["split"]): each
            for each in (queries.export_result(s, number) for number in done.analysis_ids)
        }
    k = np.arange(1, 13)
    for (step, split), seed in {(0, "train"): 0, (0, "test"): 1, (100, "test"): 2}.items():
        one, written = found[step, split], body(seed)
        assert one["eigenvalues"] == written["core_S"]
        np.testing.assert_allclose([each["overlap"] for each in one["overlap"]] * k, written["frob_Qtop^2"])
        assert {each["error"] for each in one["overlap"]} == {None}
        assert set(one["residuals"]) == {None}
        assert one["resolved_k"] is None
        assert (one["settings"]["outer"], one["settings"]["samples"]) == (12, 500)
        json.dumps(one, allow_nan=False)
    assert {each["best"] for each in found[100, "test"]["overlap"]} == {None}
    assert {each["random_std"] for each in found[100, "test"]["overlap"]} == {None}


@pytest.mark.parametrize("which", [0, 2])
def test_pages_and_the_report_show_them(home: Settings, logs: Path, which: int) -> None:
    done, _ = import_logs(logs, model_name="paper", user="ada", env=home)
    opening.forget_caches()
    number = done.analysis_ids[which]
    for page, query in (
        ("result", {"analysis": str(number)}),
        ("compare", {}),
        ("runs", {}),
        ("metrics", {}),
    ):
        app: AppTest = opening.open_page(page, **query)
        assert not app.exception, page
        assert not app.error, page
        for chart in app.get("vega_lite_chart"):
            # An axis from nothing to nothing is no chart: the browser fails at it.
            assert "nan" not in chart.proto.spec.lower()
        if page == "result":
            assert "residuals are not known" in " ".join(each.value for each in app.caption)
            assert not app.code  # no command line makes what was published
    with sessions(home.database)() as s:
        text = report(s, "All models", done.analysis_ids)
    assert "paper" in text


def test_a_network_that_the_paper_does_not_have_is_refused(home: Settings, tmp_path: Path) -> None:
    write(tmp_path / "a.log", ["GLOBALS", {"num_params": 99}], ["H_TEST RESULT", {"step": 0} | body(0)])
    with pytest.raises(
        Exception, match=r"99 parameters is none of the paper's, which have 7,030 \(mnist-mlp\)"
    ):
        import_logs(tmp_path, model_name="paper", user="ada", env=home)
    with sessions(home.database)() as s:
        assert queries.comparable(s).empty
