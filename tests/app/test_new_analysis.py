"""New analysis: what is proposed, kept, refused and queued."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from seigh.app.analysis_form import missing_names
from seigh.core.lab import queries, workers
from seigh.core.lab.models import Analysis, Checkpoint
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures
from seigh.core.settings import AnalysisSettings, Settings
from tests.core.problems.originals import write_mnist
from tests.opening import go_to

Open = Callable[..., AppTest]
Add = Callable[..., int]


def texts(app: AppTest, *kinds: str) -> str:
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind)).replace("\\", "")


def warnings(app: AppTest) -> str:
    return texts(app, "warning")


def test_waits_for_checkpoints_and_a_name(open_page: Open) -> None:
    app = open_page("new_analysis")
    assert app.button(key="new_start").disabled
    assert "Add at least one checkpoint" in warnings(app)
    assert "Give the model a name" in warnings(app)


def test_shows_the_cost_before_anything_is_started(open_page: Open) -> None:
    app = open_page("new_analysis")
    app.radio(key="new_method").set_value("seigh").run()
    app.number_input(key="new_k").set_value(50)
    app.number_input(key="new_outer").set_value(60).run()
    values = {metric.label: metric.value for metric in app.metric}
    assert values["Parameters D"] == "7,030"
    assert int(values["HVPs per analysis"].replace(",", "")) >= 120  # n_I = 2 n_O
    assert values["Memory of a worker"].endswith("MiB")


def test_queues_what_advanced_users_choose(open_page: Open, add: Add, home: Settings) -> None:
    add("queued", model="mine", step=0)
    app = uploaded(open_page("new_analysis"), {"step_400.safetensors": weights()})
    app.selectbox(key="new_model").select("mine")
    app.number_input(key="new_k").set_value(7)
    app.radio(key="new_curvature").set_value("ggn")
    app.text_input(key="new_parameters").set_value(" linear6.*,, linear5.bias ").run()
    assert "D = 230 of 7,030 parameters." in texts(app, "caption")
    assert {metric.label: metric.value for metric in app.metric}["Parameters D"] == "230"
    app.selectbox(key="new_precision").select("float64")
    app.selectbox(key="new_hvp_path").select("linearize")
    app.number_input(key="new_tolerance").set_value(1e-3)
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    assert "1 analysis is queued" in texts(app, "success")
    with sessions(home.database)() as s:
        (number,) = queries.runs(s).query("k == 7")["id"]
        detail = queries.analysis(s, number)
    assert detail.parameters == 230
    defaults = AnalysisSettings(architecture="tanh-mlp", data="digits").model_dump(mode="json")
    assert {name: value for name, value in detail.settings.items() if value != defaults[name]} == {
        "k": 7,
        "curvature": "ggn",
        "parameters": ["linear6.*", "linear5.bias"],
        "precision": "float64",
        "hvp_path": "linearize",
        "tolerance": 1e-3,
    }


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"new_k": 8000}, "k = 8,000 is more than the model's 7,030 parameters"),
        ({"new_method": "seigh", "new_outer": 200, "new_inner": 150}, "n_I = 150 is smaller than n_O = 200"),
        ({"new_method": "seigh", "new_outer": 50}, "cannot hold k = 100 eigenvectors"),
        ({"new_method": "exact", "new_architecture": "3c3d"}, "limited to D ≤ 20,000"),
        ({"new_parameters": "layer1.*, *.bias"}, "No trainable parameter matches 'layer1.*'"),
        ({"new_parameters": "linear6.bias"}, "k = 100 is more than the model's 10 parameters"),
        ({"new_method": "seigh", "new_tolerance": 1e-4}, "a tolerance belongs to krylov"),
        ({"new_test_matrix": "gaussian"}, "test matrices belong to seigh and ssvd"),
        ({"new_samples": 5000}, "too small for a class-balanced subset"),
        ({"new_architecture": "3c3d"}, "which this architecture does not take"),
    ],
)
def test_refuses_what_cannot_work_with_the_reason(
    open_page: Open, values: dict[str, int | str], sentence: str
) -> None:
    app = open_page("new_analysis")
    if "new_method" in values:
        app.radio(key="new_method").set_value(values["new_method"]).run()
    for key, value in values.items():
        if key in ("new_architecture", "new_test_matrix"):
            app.selectbox(key=key).select(value)
        elif key == "new_parameters":
            app.text_input(key=key).set_value(value)
        elif key != "new_method":
            app.number_input(key=key).set_value(value)
    app.run()
    assert sentence in warnings(app).replace("\\", "")
    assert app.button(key="new_start").disabled
    assert not app.exception


def weights(**metadata: str) -> bytes:
    return safetensors.torch.save(architectures.build("tanh-mlp").state_dict(), metadata)


def uploaded(app: AppTest, files: dict[str, bytes]) -> AppTest:
    app.file_uploader(key="new_files_0").set_value(
        [(name, content, "application/octet-stream") for name, content in files.items()]
    )
    return app.run()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["weights.safetensors"], "Give weights.safetensors its training step"),
        (["step_5.safetensors", "again_5.safetensors"], "both have step 5"),
        (["vit_b_16.safetensors"], "Give vit_b_16.safetensors its training step"),
        (
            ["epoch_3.safetensors", "step_5.safetensors"],
            "Give epoch_3.safetensors its training step in the table: it tells its epoch only, 3, while "
            "step_5.safetensors tells its step.",
        ),
    ],
)
def test_wants_a_step_of_its_own_for_every_file(open_page: Open, names: list[str], sentence: str) -> None:
    app = uploaded(open_page("new_analysis"), {name: weights() for name in names})
    assert sentence in warnings(app).replace("\\", "")
    assert app.button(key="new_start").disabled


def test_epochs_that_became_steps_give_way_when_a_file_with_a_step_joins_them(open_page: Open) -> None:
    app = uploaded(
        open_page("new_analysis"), {f"epoch={n}-val_loss=0.7{n}.pt": weights(note=str(n)) for n in (1, 2)}
    )
    assert table(app)["step"] == [1, 2]
    assert table(app)["proposed"] == ["the epoch", "the epoch"]
    app.file_uploader(key="new_files_1").set_value([("step_5.pt", weights(), "application/octet-stream")])
    app.run()
    assert table(app)["file"][0] == "step_5.pt"
    assert table(app)["step"][0] == 5
    assert all(pd.isna(step) for step in table(app)["step"][1:])
    assert table(app)["proposed"][1:] == ["not known; epoch 1", "not known; epoch 2"]


def test_a_guessed_step_is_proposed_and_has_to_be_confirmed(
    open_page: Open, add: Add, home: Settings
) -> None:
    add("queued", model="mine", step=0)
    files = {f"model_{step}.safetensors": weights(note=str(step)) for step in (8, 10)}
    app = uploaded(open_page("new_analysis"), files)
    assert table(app)["step"] == [8, 10]
    assert set(table(app)["proposed"]) == {"a guess from the name"}
    assert "Confirm or change the guessed training steps of model_8.safetensors and 1 more" in warnings(app)
    app.selectbox(key="new_model").select("mine")
    app.text_input(key="new_user").set_value("ada").run()
    assert app.button(key="new_start").disabled
    (confirm,) = [box for box in app.checkbox if box.label == "These are the training steps"]
    confirm.check().run()
    app.button(key="new_start").click().run()
    with sessions(home.database)() as s:
        assert set(queries.runs(s).query("k == 100")["step"]) == {8, 10}


def test_a_guess_that_was_edited_needs_no_confirmation(open_page: Open) -> None:
    app = uploaded(open_page("new_analysis"), {"model_8.safetensors": weights()})
    assert "Confirm or change" in warnings(app)
    edits = {0: {"step": 800}}
    app.session_state[app.data_editor[0].key] = {"edited_rows": edits, "added_rows": [], "deleted_rows": []}
    app.run()
    assert "Confirm or change" not in warnings(app)


def test_leaves_out_what_it_cannot_read_and_queues_the_rest(
    open_page: Open, add: Add, home: Settings
) -> None:
    add("queued", model="mine", step=0)  # Streamlit's test runner cannot type a new name, but choose one
    files = {"a.safetensors": weights(step="300"), "step_400.safetensors": weights(), "broken.pt": b"PK\3\4"}
    app = uploaded(open_page("new_analysis"), files)
    assert [error.value.startswith("**Left out.**") for error in app.error] == [True]
    assert "broken.pt" in app.error[0].value.replace("\\", "")
    app.selectbox(key="new_model").select("mine")
    app.pills(key="new_splits").set_value(["train", "test"])
    app.number_input(key="new_k").set_value(7)
    app.text_input(key="new_user").set_value("ada").run()
    start = app.button(key="new_start")
    assert start.label == "Start 4 analyses"
    start.click().run()
    assert "4 analyses are queued" in texts(app, "success")
    with sessions(home.database)() as s:
        runs = queries.runs(s)
    runs = runs[runs["k"] == 7]
    assert set(zip(runs["step"], runs["split"], strict=True)) == {
        (300, "train"),
        (300, "test"),
        (400, "train"),
        (400, "test"),
    }
    assert set(runs["model"]) == {"mine"}
    assert set(runs["submitted_by"]) == {"ada"}


def test_where_it_runs_can_be_chosen_if_there_are_workers_of_several_kinds(
    open_page: Open, add: Add, home: Settings
) -> None:
    add("queued", model="mine", step=0)
    assert "new_place" not in {box.key for box in open_page("new_analysis").selectbox}
    with sessions(home.database).begin() as s:
        for name, device in (("a", "cpu"), ("b", "cuda")):
            facts = workers.Facts(name, "host", 1, device, "a device", 2**40, "2", 1, 1, ("seigh",), None)
            workers.report(s, facts)
    app = uploaded(open_page("new_analysis"), {"step_9.safetensors": weights()})
    app.selectbox(key="new_model").select("mine")
    app.selectbox(key="new_place").select("gpu").run()
    app.button(key="new_start").click().run()
    with sessions(home.database)() as s:
        places = dict(s.execute(select(Checkpoint.step, Analysis.place).join(Analysis.checkpoint)).all())
    assert places == {0: "any", 9: "gpu"}


def test_says_at_start_what_the_database_does_not_allow(open_page: Open, add: Add) -> None:
    add("queued", model="mlp", step=300)  # other weights
    app = uploaded(open_page("new_analysis"), {"step_300.safetensors": weights()})
    app.selectbox(key="new_model").set_value("mlp").run()
    app.button(key="new_start").click().run()
    assert "already has other weights at step 300" in texts(app, "error").replace("\\", "")
    assert not app.success


def rare(counts: tuple[int, ...]) -> bytes:
    """A data file for the MLP with so many samples of each class."""
    file = io.BytesIO()
    y = np.repeat(np.arange(len(counts)), counts)
    np.savez(file, x=np.random.default_rng(0).random((len(y), 256), dtype=np.float32), y=y)
    return file.getvalue()


def test_a_data_file_is_taken_whole_whatever_its_classes(open_page: Open, add: Add, home: Settings) -> None:
    add("queued", model="mine", step=0)
    app = uploaded(open_page("new_analysis"), {"step_9.safetensors": weights()})
    app.selectbox(key="new_data").select("a file of my own …").run()
    content = rare((90, 9, 1))
    app.file_uploader(key="new_data_file_0").set_value([("mine.npz", content, "application/octet-stream")])
    app.run()
    assert "too small for a class-balanced subset of 500" in warnings(app)
    assert "the subset all or random" in warnings(app)
    app.selectbox(key="new_subset").select("all").run()
    assert "new_samples" not in {field.key for field in app.number_input}
    assert "N: all 100." in texts(app, "caption")
    app.selectbox(key="new_model").select("mine")
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    assert "1 analysis is queued" in texts(app, "success")
    with sessions(home.database)() as s:
        runs = queries.runs(s)
    assert runs.query("step == 9")[["samples", "sampling"]].values.tolist() == [[100, "all"]]


@pytest.mark.parametrize(
    ("subset", "indices", "said"),
    [
        ("all", None, "N: all 540 of the test split."),
        ("indices", "0-9, 539", "N = 11."),
    ],
)
def test_the_number_of_samples_is_said_where_it_is_not_chosen(
    open_page: Open, subset: str, indices: str | None, said: str
) -> None:
    app = open_page("new_analysis")
    app.selectbox(key="new_subset").select(subset).run()
    if indices is not None:
        assert "the subset indices has none" in warnings(app)
        app.text_area(key="new_indices").set_value(indices).run()
    assert said in texts(app, "caption")
    assert "subset" not in warnings(app)
    assert {metric.label for metric in app.metric} >= {"HVPs per analysis"}


@pytest.mark.parametrize(
    ("indices", "sentence"),
    [("0-540", "so there is no sample 540"), ("1, 1", "name sample 1 twice"), ("a", "'a' is no index")],
)
def test_indices_that_cannot_work_get_a_sentence(open_page: Open, indices: str, sentence: str) -> None:
    app = open_page("new_analysis")
    app.selectbox(key="new_subset").select("indices").run()
    app.text_area(key="new_indices").set_value(indices).run()
    assert sentence in warnings(app).replace("\\", "")
    assert app.button(key="new_start").disabled
    assert not app.exception


# --- Files ------------------------------------------------------------------------------------------------


def saved(contents: object) -> bytes:
    file = io.BytesIO()
    torch.save(contents, file)
    return file.getvalue()


def messages(app: AppTest) -> list[str]:
    return [error.value.replace("\\", "") for error in app.error]


def table(app: AppTest) -> dict[str, list[object]]:
    return app.data_editor[0].value.to_dict("list")


def test_files_and_fields_outlast_a_visit_to_another_page(open_page: Open) -> None:
    app = uploaded(open_page("new_analysis"), {"step_7.safetensors": weights(), "broken.pt": b"PK\3\4"})
    app.number_input(key="new_k").set_value(7).run()
    go_to(app, "runs")
    go_to(app, "new_analysis")
    assert table(app)["file"] == ["step_7.safetensors"]
    assert "broken.pt" in messages(app)[0]
    assert app.number_input(key="new_k").value == 7
    app.button(key="new_clear").click().run()
    assert not app.data_editor
    assert not app.error


def test_a_second_drop_joins_the_first_and_the_same_file_again_does_not(open_page: Open) -> None:
    app = uploaded(open_page("new_analysis"), {"step_20.safetensors": weights(), "step_3.pt": b""})
    content = weights()
    for name in ("step_3.pt", "again.pt"):
        round_ = app.session_state["new_files_round"]
        app.file_uploader(key=f"new_files_{round_}").set_value([(name, content, "application/octet-stream")])
        app.run()
    assert table(app)["file"] == ["step_3.pt", "step_20.safetensors"]  # in the order of their steps
    assert not app.error  # the empty file is no longer the matter
    assert "again.pt is there already" in texts(app, "info").replace("\\", "")
    assert "the same content as step" in texts(app, "info").replace("\\", "")  # and it stays to be read


def test_many_files_of_a_run_become_one_model_in_the_order_of_their_epochs(open_page: Open) -> None:
    state = {
        f"module.{key}": value.half() for key, value in architectures.build("tanh-mlp").state_dict().items()
    }
    files = {
        f"{name}.ckpt": saved({"state_dict": state, "epoch": epoch}) for name, epoch in (("b", 1), ("a", 10))
    }
    app = uploaded(open_page("new_analysis"), files)
    assert table(app)["file"] == ["b.ckpt", "a.ckpt"]
    assert table(app)["step"] == [1, 10]
    assert "epochs stand in the column of steps" in texts(app, "info")
    assert "b.ckpt and 1 more**: Weights in float16 are computed in the precision of the analysis." in texts(
        app, "caption"
    )


def test_an_architecture_stays_chosen_when_more_files_change_its_label(open_page: Open) -> None:
    app = uploaded(open_page("new_analysis"), {"step_1.pt": weights(note="1")})
    app.session_state["new_architecture"] = "tanh-mlp – fits 1 of 1"  # as the browser sends it then
    app.file_uploader(key="new_files_1").set_value([("step_2.pt", weights(), "application/octet-stream")])
    app.run()
    assert "is not understood" not in warnings(app)
    assert "D = 7,030: all parameters." in texts(app, "caption")


def test_steps_are_edited_and_files_left_out_in_the_table(open_page: Open, add: Add, home: Settings) -> None:
    add("queued", model="mine", step=0)
    files = {f"step_{step}.safetensors": weights(note=str(step)) for step in (10, 20, 30)}
    app = uploaded(open_page("new_analysis"), files)
    edits = {0: {"step": 15}, 2: {"use": False}}
    app.session_state[app.data_editor[0].key] = {"edited_rows": edits, "added_rows": [], "deleted_rows": []}
    app.run()
    go_to(app, "runs")
    go_to(app, "new_analysis")
    assert table(app)["step"] == [15, 20, 30]
    assert table(app)["use"] == [True, True, False]
    app.selectbox(key="new_model").select("mine")
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    with sessions(home.database)() as s:
        assert set(queries.runs(s).query("k == 100")["step"]) == {15, 20}
    assert not app.data_editor


def test_a_checkpoint_in_several_files_is_one(open_page: Open) -> None:
    state = list(architectures.build("tanh-mlp").state_dict().items())
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = dict(zip(names, (state[:5], state[5:]), strict=True))
    index = {"weight_map": {key: name for name, half in halves.items() for key, _ in half}}
    files = {name: safetensors.torch.save(dict(half)) for name, half in halves.items()}
    app = uploaded(
        open_page("new_analysis"), files | {"model.safetensors.index.json": json.dumps(index).encode()}
    )
    assert table(app)["file"] == ["model.safetensors"]
    assert table(app)["fits"] == ["tanh-mlp"]
    assert not app.error


def test_a_mixed_drop_gets_a_sentence_each_and_stores_nothing(open_page: Open, home: Settings) -> None:
    good = architectures.build("tanh-mlp").state_dict()
    files = {
        "good_1.pt": saved(good),
        "empty_2.pt": b"",
        "half_3.pt": saved(good)[:20_000],
        "text_4.pt": b"no checkpoint at all",
        "nan_5.pt": saved(good | {"linear1.bias": torch.full((20,), float("nan"))}),
        "object_6.pt": saved({"model": good, "note": [1, 2], "model_state_dict": 3}),
        "keys_7.pt": saved({key.replace("linear", "other"): value for key, value in good.items()}),
        "shape_8.pt": saved(good | {"linear6.bias": torch.zeros(9)}),
        "config.json": b"{}",
        "model-00001-of-00002.safetensors": weights(),
    }
    app = uploaded(open_page("new_analysis"), files)
    sentences = messages(app)
    refused = [name for name in files if name not in ("good_1.pt", "object_6.pt")]
    assert len(sentences) == len(refused)
    for name in refused:
        assert sum(f"'{name}'" in sentence for sentence in sentences) == 1
    assert all(
        sentence.startswith("**Left out.** ") and "Traceback" not in sentence for sentence in sentences
    )
    assert not app.exception
    assert not (home.artifact_folder / "checkpoints").exists()
    with sessions(home.database)() as s:
        assert queries.runs(s).empty


# --- Architectures ----------------------------------------------------------------------------------------


def test_the_architecture_with_its_options_is_found_from_a_file(open_page: Open) -> None:
    state = architectures.build("mobilenet_v3_small(num_classes=10)").state_dict()
    app = uploaded(open_page("new_analysis"), {"step_0.pt": saved(state)})
    chosen = app.selectbox(key="new_architecture")
    assert chosen.value == "mobilenet_v3_small(num_classes=10)"
    assert chosen.options[0] == "mobilenet_v3_small(num_classes=10) – fits 1 of 1"
    assert "D = 1,528,106: all parameters." in texts(app, "caption")
    field = app.number_input(key="new_option_mobilenet_v3_small(num_classes=10)_num_classes")
    assert field.value == 10
    field.set_value(11).run()
    (sentence,) = messages(app)
    assert "do not fit mobilenet_v3_small(num_classes=11)" in sentence


def test_any_architecture_can_be_searched_and_given_options(open_page: Open) -> None:
    app = open_page("new_analysis")
    chosen = app.selectbox(key="new_architecture")
    assert chosen.options[:4] == ["tanh-mlp", "3c3d", "all-cnn-c", "resnet18"]
    assert {"vit_b_16", "mobilenet_v3_large", "convnext_tiny"} < set(chosen.options)
    chosen.select("googlenet").run()
    # Its auxiliary heads: 13,004,888 parameters in all, as torchvision's documentation counts them.
    assert f"D = {13_004_888 - 6_379_984:,}: all trainable parameters." in texts(app, "caption")
    assert "6,379,984 that are frozen are left out." in texts(app, "caption")
    app.selectbox(key="new_architecture").select("vit_b_16").run()
    app.number_input(key="new_option_vit_b_16_image_size").set_value(50).run()
    assert "vit_b_16(image_size=50) cannot be built" in texts(app, "warning")
    assert app.button(key="new_start").disabled


def test_a_page_builds_the_chosen_architecture_only(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = architectures._built
    monkeypatch.setattr(architectures, "_built", lambda spec: built.append(spec.name) or build(spec))
    architectures._skeleton.cache_clear()
    open_page("new_analysis")
    assert set(built) == {"tanh-mlp"}


# --- Data -------------------------------------------------------------------------------------------------


def test_data_that_are_missing_say_where_they_are_looked_for_and_how_to_get_them(
    open_page: Open, home: Settings
) -> None:
    app = open_page("new_analysis")
    app.selectbox(key="new_data").select("mnist-16x16").run()
    assert f"{home.data_folder}/MNIST/raw/train-images-idx3-ubyte" in texts(app, "warning")
    assert "download=True" in texts(app, "warning")
    assert "- Get the files of mnist-16x16 first." in texts(app, "warning")
    write_mnist(home.data_folder, train=600, test=600)
    app.run()
    assert "Its files are there." in texts(app, "caption")
    assert "Get the files" not in texts(app, "warning")
    assert app.metric[2].value != "0"


def test_random_data_of_the_size_that_the_architecture_takes_are_proposed(
    open_page: Open, add: Add, home: Settings
) -> None:
    add("queued", model="mine", step=0)
    app = uploaded(open_page("new_analysis"), {"step_400.safetensors": weights()})
    app.selectbox(key="new_data").select("random data …").run()
    (field,) = [each for each in app.text_input if each.label == "Random data"]
    assert field.value == "random(1x16x16,classes=10)"
    assert ":orange-badge[synthetic]" in texts(app, "caption")
    app.selectbox(key="new_model").select("mine")
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    with sessions(home.database)() as s:
        assert set(queries.runs(s).query("step == 400")["data"]) == {"random(1x16x16)"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"x": np.zeros((30, 1, 16, 16), np.float32), "y": np.arange(30) % 11}, "has the label 10"),
        ({"x": np.zeros((30, 3, 8, 8), np.float32), "y": np.arange(30) % 10}, "have shape 3×8×8"),
        ({"x": np.zeros((0, 1, 16, 16), np.float32), "y": np.zeros(0, int)}, "no samples"),
        ({"x": np.array([{}] * 3, object), "y": np.arange(3)}, "objects"),
        ({"x": np.zeros((30, 1, 16, 16), np.float32)}, "has no y"),
        (b"half a file", "mine.npz"),
    ],
)
def test_data_files_that_cannot_be_used_get_a_sentence(
    open_page: Open, content: dict[str, np.ndarray] | bytes, sentence: str
) -> None:
    file = io.BytesIO()
    if isinstance(content, bytes):
        file.write(content)
    else:
        np.savez(file, **content)
    app = open_page("new_analysis")
    app.selectbox(key="new_data").select("a file of my own …").run()
    app.file_uploader(key="new_data_file_0").set_value(
        [("mine.npz", file.getvalue(), "application/zip")]
    ).run()
    app.number_input(key="new_samples").set_value(20).run()
    assert sentence in texts(app, "warning")
    assert app.button(key="new_start").disabled
    assert not app.exception


# --- Loss -------------------------------------------------------------------------------------------------


def test_the_loss_is_chosen_and_said_to_have_weight_decay_or_not(
    open_page: Open, add: Add, home: Settings
) -> None:
    add("queued", model="mine", step=0)
    app = uploaded(open_page("new_analysis"), {"step_400.safetensors": weights()})
    assert "Weight decay is not included" in texts(app, "caption")
    app.number_input(key="new_smoothing").set_value(0.1)
    app.number_input(key="new_decay").set_value(5e-4).run()
    assert "Weight decay is included: λ·I with λ = 0.0005" in texts(app, "caption")
    app.selectbox(key="new_model").select("mine")
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    with sessions(home.database)() as s:
        (number,) = queries.runs(s).query("step == 400")["id"]
        chosen = AnalysisSettings.model_validate(queries.analysis(s, number).settings)
    assert (chosen.loss, chosen.label_smoothing, chosen.weight_decay) == ("cross-entropy", 0.1, 5e-4)


def test_a_name_that_is_too_long_is_said_before_start() -> None:
    (problem,) = missing_names("x" * 300, "ada")
    assert "at most 200 characters" in problem
    assert missing_names("x" * 200, "ada") == []


def test_stored_checkpoints_are_analysed_again_and_what_start_did_is_said_beside_it(
    open_page: Open, add: Add, home: Settings
) -> None:
    add("queued", model="mine", step=0)  # whose file is not there
    add("queued", model="other", step=0)
    app = uploaded(open_page("new_analysis"), {f"step_{step}.safetensors": weights() for step in (30, 70)})
    app.selectbox(key="new_model").select("mine")
    app.number_input(key="new_samples").set_value(30)
    app.number_input(key="new_k").set_value(3)
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    assert "2 analyses are queued." in texts(app, "success")
    said = [element.type for element in app.main.children.values()]
    assert said.index("success") > said.index("button")  # beside Start, where one looks
    assert "Add at least one checkpoint" not in warnings(app)

    # From the lab, without a file: its step is known though its name does not tell it.
    with sessions(home.database).begin() as s:
        s.scalars(select(Checkpoint).where(Checkpoint.step == 70)).one().filename = "weights.safetensors"
    app.run()
    app.selectbox(key="new_stored_model").select("mine").run()
    assert app.button(key="new_stored").label == "Take 3 checkpoints"
    app.button(key="new_stored").click().run()
    assert "The file of checkpoint" in texts(app, "error")
    assert len(app.session_state["new_brought"]) == 2
    app.button(key="new_clear").click().run()
    app.session_state["new_model"] = "other"  # as it was left; what is taken belongs to its own
    app.multiselect(key="new_stored_steps_mine").select(70).run()
    app.button(key="new_stored").click().run()
    app.number_input(key="new_k").set_value(4).run()
    assert app.selectbox(key="new_model").value == "mine"
    app.button(key="new_start").click().run()
    assert "1 analysis is queued." in texts(app, "success")
    with sessions(home.database)() as s:
        runs = queries.runs(s).query("step > 0")
        assert sorted(zip(runs["step"], runs["k"], strict=True)) == [(30, 3), (70, 3), (70, 4)]
        assert queries.checkpoints(s, "mine")["analyses"].tolist() == [1, 1, 2]


def test_takes_masks_of_ones_own_and_says_which_steps_are_compared(
    open_page: Open, add: Add, home: Settings
) -> None:
    add("queued", model="mine", step=0)
    app = uploaded(open_page("new_analysis"), {"step_400.safetensors": weights()})
    app.selectbox(key="new_model").select("mine")
    app.number_input(key="new_k").set_value(7)
    app.multiselect(key="new_curves").select("overlap-movement").run()
    assert "overlap-movement compares each step with step 0." in texts(app, "caption")
    mask = {"linear1.bias": torch.tensor([1.0] * 5 + [0.0] * 15)}
    bad = {"w": torch.ones(3)}
    files = {"ticket.safetensors": mask, "bad.safetensors": bad}
    app.file_uploader(key="new_masks_file_0").set_value(
        [(n, safetensors.torch.save(t), "application/octet-stream") for n, t in files.items()]
    )
    app.run()
    assert "'bad.safetensors' has scores for 'w', which tanh-mlp does not have" in warnings(app)
    app.button(key="new_clear_masks").click().run()
    app.file_uploader(key="new_masks_file_1").set_value(
        [("ticket.safetensors", safetensors.torch.save(mask), "application/octet-stream")]
    )
    app.run()
    assert "'ticket.safetensors' has no scores for 11 of 12 tensors" in texts(app, "caption")
    app.text_input(key="new_user").set_value("ada").run()
    app.button(key="new_start").click().run()
    assert "1 analysis is queued" in texts(app, "success")
    with sessions(home.database)() as s:
        (number,) = queries.runs(s).query("k == 7")["id"]
        detail = queries.analysis(s, number)
    assert detail.settings["masks"][0].startswith("ticket=sha256:")
    assert detail.settings["initial"].startswith("sha256:")
