"""A figure is one object: page, report and download show the same, and a plug-in adds one from one file."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from seigh.app import figures, frame
from seigh.app.charts import METRIC_NAMES
from seigh.app.figures import Size, chart_of, table_of, told_columns
from seigh.app.report import report
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.names import METRICS
from seigh.core.settings import Settings
from tests.app.charts.frames import D, curves, points
from tests.plugging import installed

Open = Callable[..., AppTest]
Add = Callable[..., int]

DECAY = '''
from seigh import Figure


def decay(result):
    """|λ| of each eigenvalue relative to the first."""
    values = [abs(value) for value in result["eigenvalues"]]
    return Figure(
        title="Decay of the <spectrum>",
        how="a point is |λ| relative to the *first* one.",
        alt="Relative magnitude of the leading eigenvalues.",
        table={"position": range(1, len(values) + 1), "relative": [value / values[0] for value in values]},
        columns={"relative": "|λ| ÷ |λ₁|"},
        draw=draw,
        symbols="λ: an eigenvalue.",
    )


def draw(table):
    import altair as alt

    return alt.Chart(table).mark_point().encode(x="position:Q", y="relative:Q")


def nothing(result):
    return None


def broken(result):
    raise RuntimeError("the dog ate it")


def register(registry):
    registry.figure("decay", decay)
    registry.figure("nothing", nothing)
    registry.figure("broken", broken)
'''


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with installed("our_figures", DECAY, tmp_path / "site-packages", monkeypatch):
        yield


def made(home: Settings, **size: float) -> str:
    with sessions(home.database)() as s:
        return report(s, "study", queries.comparable(s)["analysis_id"].tolist(), **size)


@pytest.mark.usefixtures("lab")
def test_a_figure_of_one_file_is_on_the_page_in_the_report_and_a_download(
    home: Settings, add: Add, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, figures.Figure] = {}
    downloads = frame.downloads
    monkeypatch.setattr(
        frame, "downloads", lambda figure, key: (shown.update({key: figure}), downloads(figure, key))
    )
    number = add(step=100)
    page = open_page("result", analysis=str(number))
    assert not page.exception
    assert "Decay of the <spectrum>" in [each.value.replace("\\", "") for each in page.header]
    captions = [each.value for each in page.caption]
    assert r"How to read this: a point is \|λ\| relative to the \*first\* one." in captions
    assert "The figure broken cannot be drawn (the dog ate it); ask who wrote it." in [
        each.value.replace("\\", "") for each in page.warning
    ]
    assert len(page.get("vega_lite_chart")) == 6 + 1

    text = unescape(made(home))
    assert "<h2>Decay of the <spectrum>: mlp · test, step 100</h2>" in text
    assert "a point is |λ| relative to the *first* one." in text
    assert 'aria-label="Relative magnitude of the leading eigenvalues."' in text
    assert "The figure broken cannot be drawn" in text

    figure = shown["result_plugged_decay"]
    table = pd.read_parquet(io.BytesIO(frame.parquet(table_of(figure))))
    assert table["relative"].tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert told_columns(figure)["relative"] == "|λ| ÷ |λ₁|"
    assert frame.pictures.svg(chart_of(figure)).startswith("<svg")
    assert figure.file == f"mlp-step100-test-analysis{number}-decay"


def test_page_and_report_have_the_same_words(home: Settings, add: Add, open_page: Open) -> None:
    for step in (0, 100):
        add(step=step)
    text = unescape(made(home))
    in_report = set(re.findall(r"How to read this: (.*?)</p>", text))
    for page, title in (
        ("compare", "Overlap over training, k = 5"),
        ("compare", "Ratio to chance over training, k = 5"),
        ("result", "In which layers, k = 5"),
        ("metrics", "Mask and eigenspace over training"),
    ):
        app = open_page(page)
        assert title in [each.value for each in app.header]
        read = [each.value for each in app.caption if each.value.startswith("How to read this: ")]
        said = {each.replace("\\", "").removeprefix("How to read this: ") for each in read}
        assert said & in_report, page
    assert len(in_report) > 5


def test_every_column_of_a_download_has_a_meaning() -> None:
    drawn = points(("mlp", "test", D))
    colors = {"mlp": "#0070AD"}
    size = Size(k=70)
    made_of = curves(5).assign(series="mlp", group="mlp")
    for figure in (
        figures.overlap_over_training(drawn, colors, size),
        figures.overlap_against_k(made_of[made_of["mask"] == "magnitude"], "mlp"),
        figures.overlap_of_masks(made_of, "#0070AD"),
    ):
        more = {"subset", "loss", "sampling", "data"}  # of the stand-in, not of the query
        assert set(table_of(figure).columns) - told_columns(figure).keys() <= more
        assert chart_of(figure).to_dict(validate=True)


def test_a_best_mask_far_above_demands_a_log_axis_and_says_so(add: Add, open_page: Open) -> None:
    """Otherwise three times chance, and thirty-five, is a line at zero."""
    number = add(step=100)  # the best mask is at 0.5, the largest weights are at 0.002
    app = open_page("result", analysis=str(number))
    assert app.toggle(key=f"result_log_overlap_{number}").value is True
    said = " ".join(each.value for each in app.caption)
    assert "The overlap axis is logarithmic, as the best mask reaches 234 times as much." in said
    app.toggle(key=f"result_log_overlap_{number}").set_value(False).run()
    said = " ".join(each.value for each in app.caption)
    assert "which this linear axis shows near zero" in said
    near = add(step=200, results={"best": np.full(5, 0.005)})
    app = open_page("result", analysis=str(near))
    assert app.toggle(key=f"result_log_overlap_{near}").value is False
    assert "logarithmic" not in " ".join(each.value for each in app.caption)


def test_a_report_at_one_sparsity_takes_each_models_own_k(
    home: Settings, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further curves too, which had the k of the smallest model."""
    rising = {
        "title": "what rises",
        "note": "how.",
        "value": np.arange(1.0, 6),
        "error": None,
        "chance": None,
    }
    for model, parameters in (("small", 210), ("mlp", 7030)):
        subset = {"parameters": ("linear6.*",)} if model == "small" else {}
        add(model=model, parameters=parameters, settings=subset, results={"curves": {"rising": rising}})
    drawn: list[pd.DataFrame] = []
    compose = figures.further_over_training
    monkeypatch.setattr(
        figures, "further_over_training", lambda rows, *rest: (drawn.append(rows), compose(rows, *rest))[1]
    )
    assert "<h2>What rises, ρ = 0.0005</h2>" in made(home, rho=0.0005)
    (rows,) = drawn
    assert dict(zip(rows["model"], rows["k"], strict=True)) == {"small": 1, "mlp": 4}  # ρ·D
    assert dict(zip(rows["model"], rows["value"], strict=True)) == {"small": 1.0, "mlp": 4.0}


def test_panels_of_noise_are_one_sentence() -> None:
    rows = pd.DataFrame(
        {
            "metric": [metric for metric in METRICS for _ in range(2)],
            "step": [0, 100] * len(METRICS),
            "k": 5,
            "value": 0.5,
            "error": float("nan"),
            "random_mean": 0.5,
            "random_std": 0.1,
            "normalised": [-4e-16 if metric == "fubini_study" else 0.5 for metric in METRICS for _ in "ab"],
            "normalised_error": float("nan"),
            "normalised_random_mean": 0.5,
            "normalised_random_std": 0.1,
        }
    )
    drawn, said = figures.mask_and_eigenspace(rows, {})
    assert list(drawn) == [metric for metric in METRICS if metric != "fubini_study"]
    assert said.startswith(
        f"Not drawn: {METRIC_NAMES['fubini_study']}. At k = 5, mask and eigenspace are as far"
    )
    one = rows.assign(normalised=rows["normalised"].where(rows["step"] == 0, 0.1))
    assert len(figures.mask_and_eigenspace(one, {})[0]) == len(METRICS)  # one value above is enough
    assert figures.mask_and_eigenspace(one, {})[1] == ""


def test_numerics_and_plug_ins_do_not_import_altair() -> None:
    """A worker that reads the registry has no dashboard."""
    program = (
        "import sys; from seigh.core.problems import plugins; from seigh import Figure, Registry; "
        "plugins.registry(); assert 'altair' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
