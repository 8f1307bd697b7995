"""What the forms say of cost, with Streamlit's own test runner."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import update
from streamlit.testing.v1 import AppTest

from seigh.app import analysis_form, costs
from seigh.core.lab import workers
from seigh.core.lab.models import Analysis
from seigh.core.lab.session import sessions
from seigh.core.settings import AnalysisSettings, Settings

Open = Callable[..., AppTest]
Add = Callable[..., int]


def words(app: AppTest) -> str:
    return "\n".join(each.value for each in (*app.markdown, *app.caption))


def by_method(app: AppTest) -> pd.DataFrame:
    return app.table[0].value.set_index("method")


def test_without_an_earlier_analysis_a_rough_range_is_said_as_such(open_page: Open) -> None:
    app = open_page("new_analysis")
    assert re.search(r"\*\*Time:\*\* \S+ to .+ for an analysis", words(app))
    assert "A rough range" in words(app)
    table = by_method(app)
    assert list(table.index) == ["**krylov**", "seigh", "ssvd", "exact"]
    assert table["HVPs"]["exact"] == "7,046"
    assert table["memory"].str.startswith("≥ ").all()


def test_an_earlier_analysis_tells_the_time_and_is_named(open_page: Open, add: Add) -> None:
    number = add(
        k=100,
        results={"stages": [("eigenpairs", 23.4, 234)], "hvps": 234, "environment": {"device": "cpu (x)"}},
    )
    app = open_page("new_analysis")
    app.number_input(key="new_samples").set_value(50).run()
    assert f"From analysis {number} (krylov, N = 50, k = 100, 234 products in 23 s on a CPU)" in words(app)
    assert "**Time:** 12 to 53 s for an analysis" in words(app)  # half and twice 23.4 s, and 0.2 to 5 s


@pytest.mark.parametrize(
    ("settings", "results", "changes"),
    [
        ({"curvature": "ggn"}, {}, {}),
        ({"precision": "float64"}, {}, {}),
        ({"parameters": ["linear6.*"]}, {}, {}),
        ({}, {"environment": {"device": "cuda (NVIDIA H100)"}}, {}),
        ({}, {"record": {"shared": {"workers": 3}}}, {}),
        ({}, {}, {"attempts": 2}),
    ],
)
def test_times_of_another_kind_tell_nothing(
    open_page: Open,
    add: Add,
    home: Settings,
    settings: dict[str, Any],
    results: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    usual = {"stages": [("eigenpairs", 23.4, 234)], "hvps": 234, "environment": {"device": "cpu (x)"}}
    number = add(k=100, settings=settings, results=usual | results)
    if changes:
        with sessions(home.database).begin() as s:
            s.execute(update(Analysis).where(Analysis.id == number).values(**changes))
    assert "A rough range" in words(open_page("new_analysis"))


def test_a_preset_fills_in_the_papers_settings(open_page: Open) -> None:
    app = open_page("new_analysis")
    app.selectbox(key="new_preset").select_index(0).run()
    assert (app.number_input(key="new_k").value, app.number_input(key="new_samples").value) == (355, 500)
    assert app.radio(key="new_method").value == "seigh"
    assert app.number_input(key="new_outer").value == 355
    assert app.number_input(key="new_inner").value == 700
    assert app.pills(key="new_splits").value == ["train", "test"]
    values = {metric.label: metric.value for metric in app.metric}
    assert int(values["HVPs per analysis"].replace(",", "")) >= 700 + 355
    assert app.selectbox(key="new_preset").value is not None
    app.number_input(key="new_k").set_value(300).run()
    assert app.selectbox(key="new_preset").value is None


@pytest.mark.parametrize("name", analysis_form.PRESETS)
def test_every_preset_can_work(name: str) -> None:
    fields = dict(analysis_form.PRESETS[name])
    architecture, parameters = {
        "MNIST MLP": ("tanh-mlp", 7030),
        "CIFAR-10 3c3d": ("3c3d", 895_210),
        "CIFAR-100 All-CNN-C": ("all-cnn-c", 1_387_108),
        "ImageNet ResNet-18": ("resnet18", 11_689_512),
    }[name.partition(":")[0]]
    for split in fields.pop("splits"):
        AnalysisSettings(architecture=architecture, data="x", split=split, **fields).check(parameters)


def test_something_absurd_is_not_started_before_it_is_confirmed(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page("train")
    app.selectbox(key="train_model").set_value("mine")
    app.toggle(key="train_analyse").set_value(True).run()
    assert "Confirm what it will cost" not in words_of_warnings(app)
    monkeypatch.setattr(costs, "ABSURD", 0.1)
    app.run()
    assert "at least: choose a smaller k or N" in words_of_warnings(app)
    assert "Confirm what it will cost" in words_of_warnings(app)
    assert app.button(key="train_start").disabled
    app.checkbox(key="train_absurd").check().run()
    assert "Confirm what it will cost" not in words_of_warnings(app)


def test_eigenvectors_that_have_no_room_are_absurd(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEIGH_ARTIFACTS_QUOTA_GB", "0.00001")
    app = open_page("train")
    app.toggle(key="train_analyse").set_value(True).run()
    assert "the artefacts have room for 10.5 KiB" in words_of_warnings(app)
    assert app.checkbox(key="train_absurd")


def test_a_basis_that_no_worker_holds_goes_to_the_disk(open_page: Open, home: Settings) -> None:
    with sessions(home.database).begin() as s:
        workers.report(s, facts(memory=2**20))
    app = open_page("new_analysis")
    assert "no worker has more than 1 MiB of memory: what does not fit goes to the scratch disk" in (
        words_of_warnings(app)
    )


def facts(memory: int) -> workers.Facts:
    return workers.Facts("w", "host", 1, "cpu", "a CPU", memory, "2", 1, 1, ("any",), None)


def words_of_warnings(app: AppTest) -> str:
    return "\n".join(each.value for each in app.warning).replace("\\", "")
