"""Submissions: all of it or nothing, and never a message before its row."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from safetensors.torch import save_file
from sqlalchemy import select

from seigh.core.lab import queries, store
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.models import Analysis, Training
from seigh.core.lab.session import sessions
from seigh.core.lab.store import StoreError
from seigh.core.problems import masks
from seigh.core.problems.checkpoints import CheckpointError
from seigh.core.problems.data import DataError
from seigh.core.settings import AnalysisSettings, Settings, SettingsError
from seigh.tasks.submit import Submission, Upload, compare, delete, delete_model, retry, submit, train
from tests.core.lab import lab

Make = Callable[..., Upload]


def settings(**changes: Any) -> AnalysisSettings:
    return AnalysisSettings(
        **({"architecture": "tanh-mlp", "data": "digits", "samples": 50, "k": 5} | changes)
    )


def submitted(home: Settings, *files: Upload, **changes: Any) -> Submission:
    return submit(files, model_name="mlp", settings=[settings(**changes)], user="ada", env=home)


def runs(home: Settings) -> pd.DataFrame:
    with sessions(home.database)() as s:
        return queries.runs(s)


def stored_files(home: Settings) -> list[str]:
    folder = home.artifact_folder
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def messages(client: redis.Redis) -> list[list[Any]]:
    """Arguments of the tasks in the queue, the oldest first."""
    envelopes = [json.loads(message) for message in client.lrange("seigh", 0, -1)]
    assert all(envelope["content-type"] == "application/json" for envelope in envelopes)
    return [json.loads(base64.b64decode(envelope["body"]))[0] for envelope in reversed(envelopes)]


def test_every_file_is_analysed_with_all_settings(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    files = [checkpoint(step=100), checkpoint(step=200, seed=1)]
    both = [settings(split=split) for split in ("train", "test")]
    submission = submit(files, model_name="mlp", settings=both, user="ada", env=home)
    frame = runs(home).set_index("id").loc[submission.analysis_ids]
    assert frame[["step", "split"]].values.tolist() == [
        [100, "train"],
        [100, "test"],
        [200, "train"],
        [200, "test"],
    ]
    assert set(frame["state"]) == {"queued"}
    assert set(frame["submitted_by"]) == {"ada"}
    assert (submission.reused_ids, submission.warning) == ([], None)
    assert messages(redis_server) == [["analysis", number] for number in submission.analysis_ids]
    assert len(stored_files(home)) == 2


def test_what_exists_is_neither_stored_nor_queued_again(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    first = submitted(home, checkpoint())
    second = submitted(home, checkpoint())
    third = submitted(home, checkpoint(), seed=1)
    assert second.analysis_ids == second.reused_ids == first.analysis_ids
    assert third.reused_ids == []
    assert messages(redis_server) == [
        ["analysis", number] for number in (*first.analysis_ids, *third.analysis_ids)
    ]
    assert len(stored_files(home)) == 1


def test_chosen_parameters_are_counted_and_checked(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    submitted(home, checkpoint(), parameters=("linear6.*",), curvature="ggn")
    frame = runs(home)
    assert frame[["subset", "parameters", "curvature"]].values.tolist() == [["linear6.*", 210, "ggn"]]
    with sessions(home.database)() as s:
        assert queries.models(s)["parameters"].tolist() == [7030]


def test_the_step_may_be_given(home: Settings, redis_server: redis.Redis, checkpoint: Make) -> None:
    submitted(home, replace(checkpoint(step=100), step=7))
    assert runs(home)["step"].tolist() == [7]


def test_without_a_step_nothing_is_queued(home: Settings, checkpoint: Make) -> None:
    with pytest.raises(CheckpointError, match=r"'weights\.pt' nor its content tells the training step"):
        submitted(home, replace(checkpoint(), name="weights.pt"))
    nothing_happened(home)


@pytest.mark.parametrize(
    ("changes", "samples"),
    [
        ({"subset": "all", "samples": None}, 540),
        ({"subset": "random", "samples": 531}, 531),
        ({"subset": "first-per-class", "samples": 30}, 30),
        ({"subset": "indices", "indices": "0-9,500", "samples": None}, 11),
        ({"samples": 50}, 50),
    ],
)
def test_the_true_number_of_samples_is_stored(
    home: Settings, redis_server: redis.Redis, checkpoint: Make, changes: dict[str, Any], samples: int
) -> None:
    first = submitted(home, checkpoint(), **changes)
    frame = runs(home)
    assert frame[["samples", "sampling"]].values.tolist() == [[samples, changes.get("subset", "balanced")]]
    with sessions(home.database)() as s:
        detail = queries.analysis(s, first.analysis_ids[0])
    assert detail.settings["samples"] == samples
    assert submitted(home, checkpoint(), **changes).reused_ids == first.analysis_ids


def test_an_epoch_counts_where_no_step_is_known(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    files = [
        replace(checkpoint(seed=n), name=f"epoch={n}-val_loss=0.{90 - n}.pt") for n in (2, 1)
    ]  # fmt: skip
    submission = submitted(home, *files)
    frame = runs(home).set_index("id").loc[submission.analysis_ids]
    assert frame["step"].tolist() == [2, 1]
    assert "the epochs stand in for the steps" in submission.notes[0]


def test_the_epoch_may_be_given(home: Settings, redis_server: redis.Redis, checkpoint: Make) -> None:
    submission = submitted(home, replace(checkpoint(), name="weights.pt", epoch=4))
    assert runs(home)["step"].tolist() == [4]
    assert len(submission.notes) == 1


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["model_40.pt"], "the number 40 in its name may be the step"),
        (["step_300.pt", "epoch_4.pt"], "'epoch_4.pt' tells its epoch, 4, and no training step"),
        (["vit_b_16.pt"], "Neither the name of 'vit_b_16.pt' nor its content"),
    ],
)
def test_what_orders_no_checkpoints_queues_nothing(
    home: Settings, checkpoint: Make, names: list[str], sentence: str
) -> None:
    files = [replace(checkpoint(seed=n), name=name) for n, name in enumerate(names)]
    with pytest.raises(CheckpointError, match=sentence):
        submitted(home, *files)
    nothing_happened(home)


def nothing_happened(home: Settings) -> None:
    assert runs(home).empty
    with sessions(home.database)() as s:
        assert queries.models(s).empty
    assert stored_files(home) == []


def test_one_bad_file_stops_all(home: Settings, checkpoint: Make, tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    bad = Upload(tmp_path / "empty.pt", "step_200.pt")
    with pytest.raises(CheckpointError, match=r"'step_200.pt' is an empty file"):
        submitted(home, checkpoint(), bad)
    nothing_happened(home)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"k": 7031}, SettingsError, "k = 7,031 is more than the model's 7,030 parameters"),
        ({"k": 211, "parameters": ("linear6.*",)}, SettingsError, "k = 211 is more than the model's 210"),
        ({"parameters": ("layer1.*",)}, SettingsError, r"No trainable parameter matches 'layer1\.\*'"),
        ({"method": "seigh", "outer": 9, "inner": 8}, SettingsError, "n_I = 8 is smaller than n_O = 9"),
        ({"data": "nothing"}, DataError, "There is no data set 'nothing'"),
        ({"data": "missing.npz"}, DataError, "There is no data file 'missing.npz'"),
        ({"samples": 100_000}, DataError, "choose at most"),
        ({"data": "sha256:" + "0" * 64}, DataError, "not in the artefact store"),
        ({"architecture": "all-cnn-c"}, CheckpointError, "do not fit all-cnn-c"),
        ({"architecture": "nonesuch"}, SettingsError, "nonesuch"),
        ({"loss": "hinge"}, SettingsError, "no loss 'hinge'; choose one of cross-entropy, mse"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    home: Settings, checkpoint: Make, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        submitted(home, checkpoint(), **changes)
    nothing_happened(home)


def test_nothing_to_submit_is_said(home: Settings, checkpoint: Make) -> None:
    with pytest.raises(SettingsError, match="at least one checkpoint"):
        submitted(home)
    with pytest.raises(SettingsError, match="at least one checkpoint"):
        submit([checkpoint()], model_name="mlp", settings=[], user="ada", env=home)


def test_other_weights_at_a_known_step_are_refused_before_they_are_stored(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    submitted(home, checkpoint(step=100))
    before = stored_files(home)
    with pytest.raises(StoreError, match="already has other weights at step 100"):
        submitted(home, checkpoint(step=200, seed=2), checkpoint(step=100, seed=1))
    assert stored_files(home) == before
    assert runs(home)["step"].tolist() == [100]


def test_a_data_file_goes_to_the_artefacts(
    home: Settings, redis_server: redis.Redis, checkpoint: Make, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "mine.NPZ"
    with path.open("wb") as file:
        np.savez(file, x=generator.normal(size=(60, 256)).astype(np.float32), y=np.arange(60) % 10)
    submitted(home, checkpoint(), data=str(path))
    assert runs(home)["data"].tolist() == ["mine.NPZ"]
    assert runs(home)["split"].tolist() == ["no split"]
    with sessions(home.database)() as s:
        (data,) = queries.data_sets(s)["data"]
    assert data.startswith("sha256:")
    assert f"data/{data.removeprefix('sha256:')}.npz" in stored_files(home)
    path.unlink()
    again = submitted(home, checkpoint(), data=data)
    assert again.reused_ids == again.analysis_ids


def test_random_data_are_the_same_however_they_are_written(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    first = submitted(home, checkpoint(), data="random( 1x16x16, classes=10 )")
    again = submitted(home, checkpoint(), data="random(1x16x16)")
    assert runs(home)["data"].tolist() == ["random(1x16x16)"]
    assert again.reused_ids == first.analysis_ids


def test_a_data_file_that_does_not_fit_is_refused(home: Settings, checkpoint: Make, tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", x=np.zeros((20, 9), dtype=np.float32), y=np.arange(20) % 10)
    with pytest.raises(DataError, match="shape 9"):
        submitted(home, checkpoint(), data=str(tmp_path / "small.npz"))
    nothing_happened(home)


def test_without_redis_the_analyses_wait_in_the_database(home: Settings, checkpoint: Make) -> None:
    start = time.monotonic()
    submission = submitted(home, checkpoint())
    assert time.monotonic() - start < 10
    assert submission.warning is not None
    assert "Redis does not answer" in submission.warning
    assert runs(home)["state"].tolist() == ["queued"]


def test_retrying_sends_a_message(home: Settings, redis_server: redis.Redis, checkpoint: Make) -> None:
    (number,) = submitted(home, checkpoint()).analysis_ids
    with pytest.raises(StoreError, match="is queued; only a failed or cancelled one"):
        retry(Analysis, number, home)
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Analysis, number)
    redis_server.flushall()
    assert retry(Analysis, number, home) is None
    assert messages(redis_server) == [["analysis", number]]
    assert runs(home)["state"].tolist() == ["queued"]


# --- Trainings --------------------------------------------------------------------------------------------


def trained(home: Settings, **changes: Any) -> tuple[int, str | None]:
    wanted: dict[str, Any] = {"problem": "digits-mlp", "model_name": "net", "steps": 20, "record": [0, 20]}
    return train(**(wanted | changes), user="ada", env=home)


def test_a_training_is_queued_once(home: Settings, redis_server: redis.Redis) -> None:
    number, warning = trained(home)
    assert warning is None
    assert trained(home)[0] == number
    assert messages(redis_server) == [["training", number]]
    (run,) = runs(home).to_dict("records")
    assert (run["kind"], run["model"], run["problem"], run["steps"]) == ("training", "net", "digits-mlp", 20)
    assert (run["architecture"], run["state"], run["submitted_by"]) == ("tanh-mlp", "queued", "ada")
    with sessions(home.database).begin() as s:
        store.request_cancel(s, Training, number)
    assert retry(Training, number, home) is None
    assert messages(redis_server) == [["training", number]] * 2


def test_analyses_of_what_is_recorded_already_start_at_once(
    home: Settings, redis_server: redis.Redis
) -> None:
    number, _ = trained(home)
    with sessions(home.database).begin() as s:
        assert lab.claim(s, number, kind=Training)
        recorded = {"step": 0, "sha256": "a" * 64, "filename": "step_000000.safetensors", "size": 1}
        store.record_checkpoint(s, number, "mine", **recorded, parameters=7030, metrics={})
    redis_server.flushall()
    assert trained(home, analyses=[settings()])[0] == number
    (analysis,) = runs(home).query("kind == 'analysis'").to_dict("records")
    assert (analysis["model"], analysis["step"], analysis["k"]) == ("net", 0, 5)
    assert messages(redis_server) == [["analysis", analysis["id"]]]


def test_the_data_file_of_a_trainings_analyses_goes_to_the_artefacts(
    home: Settings, redis_server: redis.Redis, tmp_path: Path
) -> None:
    np.savez(tmp_path / "mine.npz", x=np.ones((60, 256), dtype=np.float32), y=np.arange(60) % 10)
    trained(home, analyses=[settings(data=str(tmp_path / "mine.npz"))])
    (stored,) = stored_files(home)
    assert stored.startswith("data/")
    with sessions(home.database)() as s:
        (wanted,) = s.scalars(select(Training)).one().analyses
    assert wanted["settings"]["data"] == f"sha256:{Path(stored).stem}"
    assert wanted["parameters"] == 7030


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"problem": "nothing"}, SettingsError, "There is no problem 'nothing'; choose one of digits-mlp"),
        ({"problem": "cifar10-3c3d"}, DataError, "."),
        ({"record": []}, SettingsError, "."),
        ({"record": [0, 21]}, SettingsError, "must lie between 0 and the 20 steps"),
        ({"record": [-1]}, SettingsError, "must lie between 0 and the 20 steps"),
        ({"steps": -1}, SettingsError, "steps: "),
        ({"seed": 2**31}, SettingsError, "seed: "),
        ({"model_name": " "}, StoreError, "has no name"),
        ({"analyses": [settings(k=7031)]}, SettingsError, "more than the model's 7,030 parameters"),
        ({"analyses": [settings(samples=10**6)]}, DataError, "choose at most"),
        ({"analyses": [settings(architecture="3c3d")]}, SettingsError, "trains tanh-mlp; its checkpoints"),
    ],
)
def test_trainings_that_cannot_work_are_refused_at_once(
    home: Settings, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as refused:
        trained(home, **changes)
    assert "\n" not in str(refused.value)
    nothing_happened(home)


def test_a_model_with_other_checkpoints_is_not_trained_into(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    submitted(home, checkpoint(step=20))
    with pytest.raises(StoreError, match="'mlp' already has a checkpoint at step 20, which this training"):
        trained(home, model_name="mlp")
    assert runs(home)["kind"].tolist() == ["analysis"]
    trained(home, model_name="mlp", record=[0, 10])  # steps that it has not


# --- Comparisons, and the end of it -----------------------------------------------------------------------


def finished(home: Settings, *numbers: int) -> None:
    """Let these analyses be finished, with a file of eigenvectors each."""
    for number in numbers:
        key = f"eigenvectors/{number}-mine.safetensors"
        path = ArtifactStore(home.artifact_folder).path(key)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        with sessions(home.database).begin() as s:
            assert lab.claim(s, number)
            assert store.finish(s, number, "mine", **lab.results(eigenvectors=key))


def test_a_comparison_is_queued_once(home: Settings, redis_server: redis.Redis, checkpoint: Make) -> None:
    one, two = submitted(home, checkpoint(step=1), checkpoint(step=2, seed=1)).analysis_ids
    with pytest.raises(StoreError, match="is queued; only finished ones can be compared"):
        compare([one, two], [1], user="ada", env=home)
    finished(home, one, two)
    redis_server.flushall()
    number, warning = compare([two, one], [1, 3], user="ada", env=home)
    assert warning is None
    assert compare([one, two], [3, 1], user="bob", env=home) == (number, None)
    assert messages(redis_server) == [["comparison", number]]


def test_a_deleted_analysis_takes_its_file_along(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    one, two = submitted(home, checkpoint(step=1), checkpoint(step=2, seed=1)).analysis_ids
    finished(home, one, two)
    delete(Analysis, one, home)
    assert runs(home)["id"].tolist() == [two]
    assert len([name for name in stored_files(home) if name.startswith("checkpoints/")]) == 2
    assert f"eigenvectors/{two}-mine.safetensors" in stored_files(home)
    assert f"eigenvectors/{one}-mine.safetensors" not in stored_files(home)
    with pytest.raises(StoreError, match=f"Analysis {one} no longer exists"):
        delete(Analysis, one, home)


def test_a_deleted_model_leaves_the_files_that_others_have(
    home: Settings, redis_server: redis.Redis, checkpoint: Make
) -> None:
    shared, own = checkpoint(step=1), checkpoint(step=2, seed=1)
    mine = submitted(home, shared, own).analysis_ids
    finished(home, *mine)
    (other,) = submit([shared], model_name="other", settings=[settings()], user="ada", env=home).analysis_ids
    with sessions(home.database)() as s:
        number = int(queries.models(s).query("name == 'mlp'")["id"].iloc[0])
    delete_model(number, home)
    assert runs(home)["id"].tolist() == [other]
    digest = hashlib.sha256(shared.path.read_bytes()).hexdigest()
    assert stored_files(home) == [f"checkpoints/{digest}.pt"]


def test_masks_of_the_user_and_earlier_steps_are_stored_and_named_by_their_hashes(
    home: Settings, checkpoint: Make, tmp_path: Path
) -> None:
    file = tmp_path / "lottery.safetensors"
    save_file(masks.as_tensors(range(40), settings()), file)
    wanted = {"curves": ("overlap-movement", "overlap-update", "participation")}
    files = [checkpoint(step, step) for step in (200, 0, 100)]
    done = submitted(home, *files, masks=(str(file),), **wanted)
    assert done.notes == (
        "overlap-movement compares each step with step 0; of step 0 itself it is left out.",
        "overlap-update compares each step with the step before; of step 0 itself it is left out.",
    )
    digest = {
        step: hashlib.sha256(each.path.read_bytes()).hexdigest()
        for step, each in zip((200, 0, 100), files, strict=True)
    }
    mask = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"masks/{mask}.safetensors" in stored_files(home)
    with sessions(home.database)() as s:
        found = {each.checkpoint.step: each.settings for each in s.scalars(select(Analysis))}
    assert found[200]["initial"] == f"sha256:{digest[0]}"
    assert found[200]["previous"] == f"sha256:{digest[100]}"
    assert found[100]["previous"] == f"sha256:{digest[0]}"
    assert "initial" not in found[0]
    assert found[0]["curves"] == ["participation"]
    assert all(each["masks"] == [f"lottery=sha256:{mask}"] for each in found.values())
    # Again, it is the same; and a later step finds those that are there.
    assert submitted(home, *files, masks=(str(file),), **wanted).reused_ids == done.analysis_ids
    submitted(home, checkpoint(300, 300), **wanted)
    with sessions(home.database)() as s:
        last = s.scalars(select(Analysis).order_by(Analysis.id.desc())).first()
        assert last.settings["previous"] == f"sha256:{digest[200]}"


def test_a_mask_without_an_earlier_step_is_refused(home: Settings, checkpoint: Make) -> None:
    with pytest.raises(SettingsError, match="compares with an earlier step, and step 5 is the model's first"):
        submitted(home, checkpoint(5), curves=("overlap-movement",))
    assert runs(home).empty
    assert stored_files(home) == []
