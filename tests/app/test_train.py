"""Train: a training is planned, checked and queued."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from seigh.core.lab import queries
from seigh.core.lab.models import Training
from seigh.core.lab.session import sessions
from seigh.core.problems import training
from seigh.core.settings import AnalysisSettings, Settings, TrainingSettings
from tests.opening import go_to

Open = Callable[..., AppTest]
Add = Callable[..., int]


def texts(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind)).replace("\\", "")


def settings_of(home: Settings, number: int) -> tuple[TrainingSettings, list[AnalysisSettings]]:
    with sessions(home.database)() as s:
        row = s.get_one(Training, number)
        return (
            TrainingSettings.model_validate(row.settings),
            [AnalysisSettings.model_validate(each["settings"]) for each in row.analyses],
        )


@pytest.fixture
def named(open_page: Open, add: Add) -> AppTest:
    """The page with a model and a user chosen: Streamlit's test runner can choose a name, not type one."""
    add("queued", model="mine", step=7777)
    app = open_page("train")
    app.selectbox(key="train_model").select("mine")
    app.text_input(key="new_user").set_value("ada").run()
    return app


def test_the_recipe_is_proposed_and_can_be_started(named: AppTest, home: Settings) -> None:
    assert named.selectbox(key="train_problem").options == list(training.problems())
    assert "learning rate 0.3, batches of 500" in texts(named, "markdown")
    assert "D = 7,030" in texts(named, "caption")
    start = named.button(key="train_start")
    assert start.label == "Start training, 11 checkpoints"
    start.click().run()
    assert "Training 1 is queued." in texts(named, "success")
    assert [link.label for link in named.get("page_link")] == ["Watch it in Runs"]
    plan, analyses = settings_of(home, 1)
    assert plan == TrainingSettings(problem="digits-mlp", steps=1000, record=tuple(range(0, 1001, 100)))
    assert analyses == []
    with sessions(home.database)() as s:
        (run,) = queries.trainings(s).itertuples()
    assert (run.model, run.submitted_by, run.steps) == ("mine", "ada", 1000)


def test_everything_about_a_training_can_be_changed(named: AppTest, home: Settings) -> None:
    named.number_input(key="train_steps_digits-mlp").set_value(40).run()
    named.text_input(key="train_record_digits-mlp_40").set_value("40, 0,20 20")
    named.number_input(key="train_training_seed").set_value(3)
    named.number_input(key="train_batch_digits-mlp").set_value(50)
    named.number_input(key="train_rate_digits-mlp").set_value(0.1)
    named.toggle(key="train_analyse").set_value(True).run()
    named.pills(key="train_splits").set_value(["train", "test"])
    named.number_input(key="train_samples").set_value(60)
    named.number_input(key="train_k").set_value(9).run()
    start = named.button(key="train_start")
    assert start.label == "Start training, 3 checkpoints, 6 analyses"
    assert {metric.label: metric.value for metric in named.metric}["Analyses"] == "6"
    start.click().run()
    plan, analyses = settings_of(home, 1)
    assert plan == TrainingSettings(
        problem="digits-mlp", steps=40, record=(0, 20, 40), seed=3, batch=50, learning_rate=0.1
    )
    assert analyses == [
        AnalysisSettings(architecture="tanh-mlp", data="digits", split=split, samples=60, k=9)
        for split in ("train", "test")
    ]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ("0, 1001", "Step 1,001 is to be recorded, but training ends at step 1,000."),
        ("0; 5", "Give the steps to record as numbers"),
        ("", "Give the steps to record as numbers"),
        ("-1", "Give the steps to record as numbers"),
    ],
)
def test_steps_that_cannot_be_recorded_are_said(named: AppTest, record: str, sentence: str) -> None:
    named.text_input(key="train_record_digits-mlp_1000").set_value(record).run()
    assert sentence in texts(named, "warning")
    assert named.button(key="train_start").disabled


def test_analyses_that_cannot_work_are_said(named: AppTest) -> None:
    named.toggle(key="train_analyse").set_value(True).run()
    named.number_input(key="train_k").set_value(8000).run()
    assert "k = 8,000 is more than the model's 7,030 parameters" in texts(named, "warning")
    assert named.button(key="train_start").disabled


def test_a_batch_that_is_larger_than_the_data_is_said(named: AppTest, home: Settings) -> None:
    named.number_input(key="train_batch_digits-mlp").set_value(1258).run()
    named.button(key="train_start").click().run()
    assert "A batch of 1,258 is more than the 1,257 samples of digits" in texts(named, "error")
    with sessions(home.database)() as s:
        assert queries.trainings(s).empty


def test_missing_data_say_how_to_get_them(named: AppTest, home: Settings) -> None:
    named.selectbox(key="train_problem").select("cifar10-3c3d").run()
    assert "D = 895,210" in texts(named, "caption")
    assert f"{home.data_folder}/cifar-10-batches-py" in texts(named, "warning")
    assert "- Get the files of cifar-10 first." in texts(named, "warning")
    assert named.button(key="train_start").disabled


def test_a_model_with_other_weights_is_not_trained_into(named: AppTest) -> None:
    named.number_input(key="train_steps_digits-mlp").set_value(7777).run()
    named.button(key="train_start").click().run()
    assert "step 7,777" in texts(named, "error")
    assert not named.success


def test_the_form_outlasts_a_visit_to_another_page(named: AppTest) -> None:
    named.number_input(key="train_steps_digits-mlp").set_value(40).run()
    named.toggle(key="train_analyse").set_value(True).run()
    named.number_input(key="train_k").set_value(9).run()
    go_to(named, "new_analysis")
    assert named.text_input(key="new_user").value == "ada"
    go_to(named, "train")
    assert named.number_input(key="train_steps_digits-mlp").value == 40
    assert named.number_input(key="train_k").value == 9
    assert named.selectbox(key="train_model").value == "mine"
