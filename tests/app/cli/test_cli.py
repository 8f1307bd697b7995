"""The ``seigh`` command as people use it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from seigh.app.cli import command as cli
from seigh.app.cli.options import command_line
from seigh.app.digits import with_error
from seigh.core.analysis import analyse
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.problems import architectures, checkpoints
from seigh.core.settings import AnalysisSettings, Settings
from tests.conftest import Worker

Run = Callable[..., tuple[int, str, str]]

SMALL = ["--data", "digits", "--samples", "40", "--k", "12"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], home: Settings) -> Run:
    """Runs a command in the home; returns exit status, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two checkpoints of the MLP."""
    made = []
    for step in (0, 100):
        with torch.random.fork_rng():
            torch.manual_seed(step)
            made.append(tmp_path / f"step_{step:06d}.pt")
            torch.save(architectures.build("tanh-mlp").state_dict(), made[-1])
    return made


def save_flat(path: Path) -> Path:
    """A checkpoint of the MLP with all weights zero: its Hessian has rank 9."""
    state = architectures.build("tanh-mlp").state_dict()
    torch.save({name: torch.zeros_like(tensor) for name, tensor in state.items()}, path)
    return path


def count_rows(home: Settings) -> tuple[int, int]:
    """How many models and analyses the home's database has."""
    with sessions(home.database)() as s:
        return len(queries.models(s)), len(queries.runs(s))


# --- Refusals ---------------------------------------------------------------------------------------------


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def malicious(folder: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"linear1.weight": Malicious(folder / "executed")}, file)
    return file.getvalue()


def truncated(_: Path) -> bytes:
    file = io.BytesIO()
    torch.save(architectures.build("tanh-mlp").state_dict(), file)
    return file.getvalue()[: file.tell() // 2]


def of_another_architecture(_: Path) -> bytes:
    file = io.BytesIO()
    torch.save(nn.Linear(4, 2).state_dict(), file)
    return file.getvalue()


def empty(_: Path) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (malicious, "contains more than tensors, so it was not loaded and nothing in it was executed"),
        (truncated, "is damaged or incomplete"),
        (
            of_another_architecture,
            r"do not fit tanh-mlp \(linear1.weight is missing; linear1.bias is missing",
        ),
        (empty, "is an empty file"),
    ],
)
@pytest.mark.parametrize("command", ["analyze", "submit"])
def test_unusable_files_get_one_sentence_and_nothing_happens(
    command: str,
    contents: Callable[[Path], bytes],
    reason: str,
    run: Run,
    home: Settings,
    files: list[Path],
    tmp_path: Path,
) -> None:
    bad = tmp_path / "step_000200.pt"
    bad.write_bytes(contents(tmp_path))
    more = ["--json", tmp_path / "out.json"] if command == "analyze" else ["--model", "net"]

    status, out, err = run(command, *files, bad, "--architecture", "tanh-mlp", *SMALL, *more)

    assert status == 2
    assert out == ""
    assert re.fullmatch(rf"Error: .*'step_000200\.pt'.*{reason}.*\.\n", err)
    assert count_rows(home) == (0, 0)
    assert not home.artifact_folder.exists()
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out.json").exists()


def test_a_refusal_is_the_same_in_a_process_of_its_own(home: Settings, tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(malicious(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-m", "seigh.app.cli", "analyze", tmp_path / "evil.pt", *SMALL],
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("Error: 'evil.pt' contains more than tensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--data", "digits", "--k", "7031"], "k = 7,031 is more than the model's 7,030 parameters"),
        (["--data", "digits", "--method", "seigh", "--outer", "9", "--k", "10"], "choose n_O ≥ k"),
        (["--data", "digits", "--outer", "9"], "n_O and n_I belong to seigh and ssvd"),
        (["--data", "digits", "--parameters", "layer*"], "No trainable parameter matches 'layer*'"),
        (["--data", "digits", "--parameters", "*6.bias"], "k = 100 is more than the model's 10 parameters"),
        (["--data", "digits", "--tolerance", "2"], "tolerance: Input should be less than 1."),
        (["--data", "digits", "--tolerance", "0.1", "--method", "exact"], "a tolerance belongs to krylov"),
        (["--data", "digits", "--test-matrix", "gaussian"], "test matrices belong to seigh and ssvd"),
        (["--data", "digits", "--batch-size", "9"], "belong to a forced path"),
        (["--data", "digits", "--samples", "541"], "choose at most 52"),
        (["--data", "cifar"], "There is no data set 'cifar'"),
        (["--data", "gone.npz"], "There is no data file 'gone.npz'"),
        (["--data", "digits", "--architecture", "mlp"], "There is no architecture 'mlp'"),
        (["--data", "digits", "--loss", "hinge"], "There is no loss 'hinge'"),
        (["--data", "digits", "--loss", "mse", "--label-smoothing", "0.1"], "belongs to cross-entropy"),
    ],
)
@pytest.mark.parametrize("command", ["analyze", "submit"])
def test_settings_that_cannot_work_get_one_sentence(
    command: str, options: list[str], reason: str, run: Run, home: Settings, files: list[Path]
) -> None:
    more = ["--model", "net"] if command == "submit" else []
    status, out, err = run(command, *files, *options, *more)
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert count_rows(home) == (0, 0)


def test_a_step_that_nobody_tells_is_asked_for(run: Run, home: Settings, files: list[Path]) -> None:
    unnamed = files[0].rename(files[0].with_name("net.pt"))
    status, _, err = run("submit", unnamed, "--model", "net", *SMALL)
    assert status == 2
    assert "Neither the name of 'net.pt' nor its content tells the training step" in err
    assert count_rows(home) == (0, 0)


@pytest.mark.parametrize(
    ("options", "samples", "line"),
    [
        (["--subset", "all"], 540, "--subset all"),
        (["--subset", "random", "--samples", 535], 535, "--subset random --samples 535"),
        (["--subset", "first-per-class", "--samples", 35], 35, "--subset first-per-class --samples 35"),
        (["--indices", "0-9,30"], 11, "--subset indices --indices 0-9,30"),
        (["--indices", "@"], 3, "--subset indices --indices 4-5,9"),
    ],
)
def test_any_samples_can_be_analysed(
    options: list[object],
    samples: int,
    line: str,
    run: Run,
    home: Settings,
    files: list[Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "few.txt").write_text("9\n4\n5\n")
    given = [tmp_path / "few.txt" if option == "@" else option for option in options]
    out = tmp_path / "out.json"
    status, _, err = run("analyze", files[0], "--data", "digits", "--k", 3, *given, "--json", out)
    assert status == 0, err
    (result,) = json.loads(out.read_text())
    assert result["settings"]["samples"] == samples == len(result["record"]["data"]["indices"])
    settings = AnalysisSettings.model_validate(result["settings"])
    assert command_line(settings, "a.pt").endswith(f" {line} --k 3")
    status, _, err = run("analyze", files[0], "--data", "digits", "--k", 3, "--indices", out)
    assert status == 0, err


@pytest.mark.parametrize("command", ["analyze", "submit"])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--samples", 541], "choose at most 529, or the subset all or random"),
        (["--subset", "all", "--samples", 500], "has 540 samples, and the subset all cannot have N = 500"),
        (["--subset", "random", "--samples", 541], "choose at most 540, or the subset all"),
        (["--subset", "random", "--indices", "3"], "indices belong to the subset indices"),
        (["--subset", "indices"], "the subset indices has none"),
        (["--indices", "540"], "so there is no sample 540"),
        (["--indices", "3,3"], "name sample 3 twice"),
        (["--indices", "gone.npy"], "There is no file of indices 'gone.npy'"),
    ],
)
def test_subsets_that_are_not_there_get_one_sentence(
    command: str, options: list[object], reason: str, run: Run, home: Settings, files: list[Path]
) -> None:
    more = ["--model", "net"] if command == "submit" else []
    status, out, err = run(command, *files, "--data", "digits", *options, *more)
    assert (status, out) == (2, "")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert count_rows(home) == (0, 0)


@pytest.mark.parametrize(
    ("names", "options", "steps", "said"),
    [
        (["net.pt"], ["--step", 7], [7], ""),
        (["net.pt", "also.pt"], ["--step", 7, "--step", 9], [7, 9], ""),
        (["net.pt"], ["--epoch", 7], [7], "so the epoch stands in for the step"),
        (["epoch=1-val_loss=0.71.pt", "epoch=2-val_loss=0.35.pt"], [], [1, 2], "so the epochs stand in"),
        (["model_8.pt", "model_10.pt"], [], [8, 10], "The steps 8, 10 are guesses"),
        (["model_8.pt", "model_10.pt"], ["--epoch", 1, "--epoch", 2], [1, 2], "so the epochs stand in"),
        (["model_8.pt", "model_10.pt"], ["--step", 1, "--step", 2], [1, 2], ""),
        (["step_8.pt", "step_10.pt"], ["--epoch", 1, "--epoch", 2], [8, 10], ""),
    ],
)
def test_steps_and_epochs_are_told_given_or_guessed(
    names: list[str],
    options: list[object],
    steps: list[int],
    said: str,
    run: Run,
    home: Settings,
    files: list[Path],
    tmp_path: Path,
) -> None:
    given = [file.rename(tmp_path / name) for file, name in zip(files, names, strict=False)]
    status, _, err = run("submit", *given, "--model", "net", *SMALL, *options)
    assert status == 0, err
    with sessions(home.database)() as s:
        assert queries.runs(s).sort_values("id")["step"].tolist() == steps
    assert said in " ".join(err.split())
    assert bool(said) == ("stand" in err or "guess" in err)


@pytest.mark.parametrize("command", ["analyze", "submit"])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--step", 7], "--step is given once for 2 checkpoints"),
        (["--epoch", 7], "--epoch is given once for 2 checkpoints"),
        (["--step", 7, "--step", 8, "--step", 9], "--step is given 3 times for 2 checkpoints"),
    ],
)
def test_steps_are_given_once_for_each_file(
    command: str, options: list[object], sentence: str, run: Run, home: Settings, files: list[Path]
) -> None:
    more = ["--model", "net"] if command == "submit" else []
    status, out, err = run(command, *files, *SMALL, *more, *options)
    assert (status, out) == (2, "")
    assert f"Error: {sentence}; give it once for each, in the order of the files.\n" == err
    assert count_rows(home) == (0, 0)


def test_given_steps_and_epochs_are_recorded(run: Run, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--step", 5, "--step", 6, "--epoch", 1, "--epoch", 2, "--json", out]
    status, _, err = run("analyze", *files, *SMALL, *options)
    assert status == 0, err
    records = [result["record"] for result in json.loads(out.read_text())]
    assert [(each["step"], each["epoch"]) for each in records] == [(5, 1), (6, 2)]


def test_an_unusable_environment_gets_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEIGH_MAX_UPLOAD_MB", "much")
    status, _, err = run("export", "all")
    assert status == 2
    assert err.startswith("Error: SEIGH_MAX_UPLOAD_MB is not usable")
    monkeypatch.delenv("SEIGH_MAX_UPLOAD_MB")
    monkeypatch.setenv("SEIGH_DATABASE_URL", "postgresql://127.0.0.1:1/none")
    status, _, err = run("export", "all")
    assert status == 1
    assert err.startswith("Error: The database cannot be used")
    assert len(err.splitlines()) == 1


def test_a_worker_without_a_queue_is_told_so(run: Run) -> None:
    status, _, err = run("worker")
    assert status == 1
    assert err.startswith("Error: There is no queue to work for: start 'seigh up'")


def in_two_files(folder: Path, state: dict[str, torch.Tensor], step: int) -> Path:
    """A checkpoint in two files, as Hugging Face's trainer leaves it; returns the index."""
    folder.mkdir()
    places = {}
    for number, part in enumerate((list(state)[::2], list(state)[1::2]), start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        safetensors.torch.save_file({key: state[key] for key in part}, folder / name)
        places |= dict.fromkeys(part, name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "epoch": 1.0}))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_an_index_whose_files_are_not_beside_it_gets_one_sentence(
    run: Run, home: Settings, tmp_path: Path
) -> None:
    index = in_two_files(tmp_path / "net", architectures.build("tanh-mlp").state_dict(), 7)
    index.with_name("model-00002-of-00002.safetensors").unlink()
    status, out, err = run("submit", index, "--model", "net", *SMALL)
    assert (status, out) == (2, "")
    assert err.startswith("Error: 'model.safetensors.index.json' names 'model-00002-of-00002.safetensors'")
    assert len(err.splitlines()) == 1
    assert count_rows(home) == (0, 0)


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        (None, "fit no known architecture; name the architecture with --architecture."),
        ("resnet18(classes=10)", "resnet18 has no option 'classes'; it has num_classes."),
        ("resnet18(num_classes=10", "is not understood; write a name, with options in parentheses"),
    ],
)
def test_an_architecture_that_cannot_be_told_gets_one_sentence(
    architecture: str | None, sentence: str, run: Run, tmp_path: Path
) -> None:
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "step_1.pt")
    given = [] if architecture is None else ["--architecture", architecture]
    status, out, err = run("analyze", tmp_path / "step_1.pt", *given, *SMALL)
    assert (status, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1


# --- What works -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "tanh-mlp(width=4, num_classes=10)", "tanh-mlp(width=4)"])
def test_submit_writes_an_architecture_in_one_way(
    given: str | None, run: Run, home: Settings, tmp_path: Path
) -> None:
    torch.save(architectures.build("tanh-mlp(width=4)").state_dict(), tmp_path / "step_1.pt")
    more = [] if given is None else ["--architecture", given]
    status, _, _ = run("submit", tmp_path / "step_1.pt", "--model", "net", *SMALL, *more)
    assert status == 0
    with sessions(home.database)() as s:
        assert queries.models(s)["architecture"].tolist() == ["tanh-mlp(width=4)"]
        detail = queries.analysis(s, 1)
    assert detail is not None
    assert detail.settings["architecture"] == "tanh-mlp(width=4)"


def test_analyze_takes_options_and_random_data_and_says_so_in_the_record(run: Run, tmp_path: Path) -> None:
    torch.save(architectures.build("tanh-mlp(inputs=12,num_classes=3)").state_dict(), tmp_path / "net.pt")
    given = ["--architecture", "tanh-mlp( num_classes=3, inputs=12)", "--data", "random( 12, classes = 3)"]
    status, out, err = run(
        "analyze", tmp_path / "net.pt", *given, "--samples", 9, "--k", 3, "--json", tmp_path / "out.json"
    )
    assert status == 0, err
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["settings"]["architecture"] == "tanh-mlp(inputs=12,num_classes=3)"
    assert result["settings"]["data"] == "random(12,classes=3)"
    assert result["record"]["data"]["synthetic"] is True
    assert "synthetic data" in out


def test_what_is_noteworthy_about_a_checkpoint_is_said_and_recorded(run: Run, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in architectures.build("tanh-mlp").state_dict().items()}
    average = {name: tensor + 1 for name, tensor in half.items()}
    torch.save({"model": half, "ema": average, "epoch": 3}, tmp_path / "net.pt")
    status, _, err = run("analyze", tmp_path / "net.pt", *SMALL, "--json", tmp_path / "out.json")
    assert status == 0
    notes = checkpoints.read(tmp_path / "net.pt").notes
    assert len(notes) == 2
    assert [line for line in err.splitlines() if line.startswith("net.pt: ")] == [
        f"net.pt: {note}" for note in notes
    ]
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["record"]["notes"] == list(notes)


def test_checkpoints_in_several_files_are_given_by_their_index(
    run: Run, home: Settings, files: list[Path], tmp_path: Path
) -> None:
    given = [files[0]]
    states = []
    for step in (7, 8):
        states.append(architectures.build("tanh-mlp").state_dict())
        given.append(in_two_files(tmp_path / f"checkpoint-{step}", states[-1], step))
    given += (tmp_path / "checkpoint-8").glob("*.safetensors")  # as a shell's * gives them
    status, out, err = run("submit", *given, "--model", "net", *SMALL)
    assert status == 0, err
    assert "3 analyses (1 to 3)" in out
    with sessions(home.database)() as s:
        assert sorted(queries.runs(s)["step"]) == [0, 7, 8]
    stored = [
        checkpoints.read(file).state for file in (home.artifact_folder / "checkpoints").rglob("*.safe*")
    ]
    assert len(stored) == 2
    for state in states:
        assert any(all(torch.equal(found[key], state[key]) for key in state) for found in stored)


def test_train_prints_the_files_it_records_and_reuses_them(run: Run, tmp_path: Path) -> None:
    arguments = ["train", "digits-mlp", "--steps", 20, "--record", "0,20", "--out", tmp_path, "--seed", 1]
    status, out, err = run(*arguments)
    assert status == 0
    assert [checkpoints.read(Path(line)).step for line in out.splitlines()] == [0, 20]
    assert "Reused" not in err
    status, again, err = run(*arguments)
    assert (status, again) == (0, out)
    assert "Reused" in err
    assert run("train", "digits-mlp", "--steps", 20, "--record", "0;20", "--out", tmp_path)[0] == 2


def test_train_needs_only_the_name_of_a_problem(run: Run, home: Settings) -> None:
    status, out, _ = run("train", "digits-mlp", "--steps", 250, "--batch", 20, "--seed", 2)
    assert status == 0
    files = [Path(line) for line in out.splitlines()]
    assert {file.parent for file in files} == {home.root / "training" / "digits-mlp-seed=2-batch=20"}
    assert [checkpoints.read(file).step for file in files] == [0, 100, 200, 250]
    # By default it would be the thousand steps of the paper.
    status, out, _ = run("train", "digits-mlp", "--record", "0,10", "--learning-rate", 0.1)
    assert [checkpoints.read(Path(line)).step for line in out.splitlines()] == [0, 10]


def test_train_hands_its_checkpoints_to_the_queue(run: Run, home: Settings, tmp_path: Path) -> None:
    arguments = ["train", "digits-mlp", "--steps", 20, "--out", tmp_path / "out", "--submit", "net"]
    arguments += ["--split", "both", "--samples", 40, "--k", 12]
    status, out, err = run(*arguments)
    assert status == 0
    assert [Path(line).name for line in out.splitlines()[:2]] == [
        "step_000000.safetensors",
        "step_000020.safetensors",
    ]
    assert "Queued for model 'net': 4 analyses (1 to 4)." in out
    assert err.count("Redis does not answer") == 1
    with sessions(home.database)() as s:
        runs = queries.runs(s)
    assert set(zip(runs["step"], runs["split"], strict=True)) == {
        (0, "train"),
        (0, "test"),
        (20, "train"),
        (20, "test"),
    }
    status, out, _ = run(*arguments)
    assert status == 0
    assert "Reused for model 'net': 4 analyses (1 to 4)." in out
    assert "Queued" not in out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["mnist"], "There is no problem 'mnist'; choose one of digits-mlp, char-gpt, mnist-mlp, "),
        (["mnist-mlp"], "set SEIGH_DATA_DIR"),
        (["digits-mlp", "--record", "0;20"], "'0;20' is no list of steps"),
        (["digits-mlp", "--steps", 10, "--record", "0,20"], "must lie between 0 and the 10 steps"),
        (["digits-mlp", "--k", 10], "give --submit MODEL with them"),
        (["digits-mlp", "--split", "test"], "give --submit MODEL with them"),
        (["digits-mlp", "--submit", "net", "--k", 7031], "k = 7,031 is more than the model's 7,030"),
        (["digits-mlp", "--submit", "net", "--samples", 541], "choose at most 52"),
        (["digits-mlp", "--batch", 2000], "A batch of 2,000 is more than the 1,257 samples"),
        (["digits-mlp", "--learning-rate", -1], "the learning rate be above 0"),
        (["digits-mlp", "--steps", 20, "--learning-rate", 1e38], "The training diverged"),
    ],
)
def test_a_training_that_cannot_work_gets_one_sentence(
    options: list[object], reason: str, run: Run, home: Settings
) -> None:
    status, out, err = run("train", *options)
    assert (status, out) == (2, "")
    sentence = err.splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert reason in sentence
    assert count_rows(home) == (0, 0)


def test_analyze_writes_one_object_per_checkpoint(run: Run, files: list[Path], tmp_path: Path) -> None:
    # The architecture is the one that the tensors fit.
    status, out, _ = run("analyze", *files, *SMALL, "--seed", 3, "--json", tmp_path / "out.json")
    assert status == 0
    assert "step_000000.pt" in out
    assert "step_000100.pt" in out

    results = json.loads((tmp_path / "out.json").read_text())
    assert len(results) == 2
    for file, result in zip(files, results, strict=True):
        assert result["parameters"] == 7030
        assert result["hvps"] > 0
        assert result["checkpoint_sha256"] == checkpoints.read(file).sha256
        assert [point["k"] for point in result["overlap"]] == list(range(1, 13))
        assert result["overlap"][6]["chance"] == pytest.approx(7 / 7030)
        assert len(result["residuals"]) == 12
        assert result["seconds"]["total"] > 0
        magnitudes = np.abs(result["eigenvalues"])
        assert len(magnitudes) == 12
        assert (np.diff(magnitudes) <= 0).all()
        assert result["settings"]["samples"] == 40
        assert result["settings"]["seed"] == 3
        settings = AnalysisSettings.model_validate(result["settings"])
        np.testing.assert_allclose(result["eigenvalues"], analyse(file, settings).eigenvalues, rtol=1e-4)


def test_files_before_one_in_training_are_told_by_their_steps(tmp_path: Path) -> None:
    files = [tmp_path / f"net_{number}.safetensors" for number in range(4)]
    for file, step in zip(files, (50, 0, None, 100), strict=True):
        tensors = architectures.build("tanh-mlp").state_dict()
        safetensors.torch.save_file(
            tensors, file, None if step is None else {"format": "pt", "step": str(step)}
        )

    wanted = AnalysisSettings(
        architecture="tanh-mlp", data="digits", curves=("update-share", "overlap-movement", "trace")
    )

    def named(given: list[int | None]) -> list[tuple[str, str]]:
        found = cli._by_step(wanted, files, given)
        return [(Path(each.previous).name, Path(each.initial).name) for each in found]

    first, second, unknown = (file.name for file in files[:3])
    assert named([None] * 4) == [(second, second), ("", ""), ("", ""), (first, second)]
    assert named([None, 70, 60, None]) == [("", ""), (unknown, first), (first, first), (second, first)]
    alone = cli._by_step(wanted, files[:1], [None])
    assert [each.curves for each in alone] == [("trace",)]


def test_analyze_takes_chosen_parameters_and_says_how_wrong_it_is(
    run: Run, files: list[Path], tmp_path: Path
) -> None:
    chosen = ["--parameters", "linear6.*", "--parameters", "linear5.bias", "--curvature", "ggn"]
    more = ["--precision", "float64", "--error-tests", 7, "--memory-gb", 0.5, "--json", tmp_path / "out.json"]
    status, out, _ = run("analyze", files[0], *SMALL, *chosen, *more)
    assert status == 0
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["parameters"] == 210 + 20
    assert result["settings"]["parameters"] == ["linear6.*", "linear5.bias"]
    assert (result["settings"]["curvature"], result["settings"]["error_tests"]) == ("ggn", 7)
    assert min(result["eigenvalues"]) > 0  # a GGN of the cross-entropy
    last = result["overlap"][-1]
    assert with_error(last["overlap"], last["error"]) in out
    assert f"chance is {12 / 230:.4f}" in out
    assert run("analyze", files[0], *SMALL, "--memory-gb", -1)[0] == 2


def test_analyze_needs_the_folder_of_its_json_beforehand(run: Run, files: list[Path], tmp_path: Path) -> None:
    status, _, err = run("analyze", *files, *SMALL, "--json", tmp_path / "no" / "out.json")
    assert status == 2
    assert "does not exist; make it first" in err


def test_analyze_keeps_the_results_before_a_failure(run: Run, files: list[Path], tmp_path: Path) -> None:
    flat = save_flat(tmp_path / "flat.pt")
    status, _, err = run(
        "analyze", files[0], flat, *SMALL, "--method", "seigh", "--json", tmp_path / "out.json"
    )
    assert status == 2
    assert re.search(r"^Error: .*numerical rank.*\.\n\Z", err, re.MULTILINE)
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1


@pytest.mark.stack
def test_submit_wait_and_export(
    run: Run, worker: Worker, home: Settings, files: list[Path], tmp_path: Path
) -> None:
    arguments = ["submit", *files, "--model", "net", *SMALL, "--split", "train", "--wait"]
    status, out, _ = run(*arguments)
    assert status == 0
    assert "Queued for model 'net': 2 analyses (1 to 2)." in out
    with sessions(home.database)() as s:
        runs = queries.runs(s)
        curves = queries.overlap_curves(s, [1, 2])
    assert set(runs["state"]) == {"finished"}
    assert sorted(runs["step"]) == [0, 100]
    assert set(runs["split"]) == {"train"}

    status, out, _ = run(*arguments)
    assert status == 0
    assert "Reused for model 'net': 2 analyses (1 to 2)." in out
    assert "Queued" not in out

    status, text, _ = run("export", "net")
    assert status == 0
    exported = {
        "csv": pd.read_csv(io.StringIO(text)),
        "json": pd.DataFrame(json.loads(run("export", "all", "--format", "json")[1])),
    }
    assert run("export", "net", "--format", "parquet", "--out", tmp_path / "net.parquet")[0] == 0
    layers = pd.read_csv(io.StringIO(run("export", "net", "--table", "layers")[1]))
    assert set(layers["analysis_id"]) == {1, 2}
    assert run("export", "net", "--format", "html", "--out", tmp_path / "net.html")[0] == 0
    page = (tmp_path / "net.html").read_text()
    assert page.count('class="chart"') == page.count("<section>") > 5
    assert re.search(r"At which magnitudes, k = 12: net[^<]*, step 100<", page)
    exported["parquet"] = pd.read_parquet(tmp_path / "net.parquet")
    for table in exported.values():
        assert len(table) == 2 * 3 * 12
        merged = table.merge(curves, on=["analysis_id", "mask", "k"], validate="1:1")
        np.testing.assert_allclose(merged["overlap_x"], merged["overlap_y"], rtol=1e-9)
    assert run("export", "net", "--format", "parquet")[0] == 2
    status, _, err = run("export", "other")
    assert status == 2
    assert err == "Error: There is no model 'other'; there is net.\n"

    flat = save_flat(tmp_path / "step_000200.pt")
    status, _, err = run("submit", flat, "--model", "net", *SMALL, "--method", "seigh", "--wait")
    assert status == 1
    assert re.search(r"^Analysis 3 \(step 200, test\) failed: .*numerical rank", err, re.MULTILINE)


def test_submit_without_a_broker_keeps_the_analyses_and_warns(
    run: Run, home: Settings, files: list[Path]
) -> None:
    status, out, err = run("submit", *files, "--model", "net", *SMALL)
    assert status == 0
    assert "Queued for model 'net'" in out
    assert err != ""
    assert count_rows(home) == (1, 2)


@pytest.mark.stack
def test_the_demo_trains_analyses_tabulates_and_reuses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "DEMO_STEPS", range(0, 41, 40))
    monkeypatch.setattr(cli, "DEMO_K", (3, 6, 12))
    small = tuple(each.model_copy(update={"samples": 40, "k": 12}) for each in cli.DEMO_SETTINGS)
    monkeypatch.setattr(cli, "DEMO_SETTINGS", small)

    status, out, err = run("demo", "--no-serve", "--port", 8720)
    assert (status, "Traceback" in err) == (0, False)
    assert "Queued for model 'digits tanh-MLP': 4 analyses" in out
    assert "Reused" not in out + err
    assert all(len(line) <= 100 for line in out.splitlines())
    rows = [
        [cell.strip() for cell in line.strip("│\n").split("│")]
        for line in out.splitlines()
        if line.startswith("│")
    ]
    with sessions(Settings().database)() as s:
        points = queries.overlap_by_step(s, 12).set_index(["split", "step"])
    assert [(row[0], int(row[1])) for row in rows] == [("train", 0), ("train", 40), ("test", 0), ("test", 40)]
    for row in rows:
        point = points.loc[(row[0], int(row[1]))]
        assert row[2] == f"{point['test_accuracy']:.1%}"
        assert float(row[3]) == pytest.approx(point["lambda_max"], rel=0.01)
        assert row[6] == f"{point['overlap']:.4f} ({point['overlap'] * 7030 / 12:.1f}×)"

    status, again, err = run("demo", "--no-serve", "--port", 8720)
    assert status == 0
    assert "Reused for model 'digits tanh-MLP': 4 analyses" in again
    assert "Queued" not in again
    assert "Reused the checkpoints" in err
    assert again.splitlines()[-8:] == out.splitlines()[-8:]
