import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from core.problems import architectures, checkpoints, data, training
from core.problems.training import Recorder, train
from core.settings import SettingsError


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_digits_mlp_reaches_95_percent_and_records_what_it_says(tmp_path: Path) -> None:
    files = train("digits-mlp", 1000, [0, 1000], tmp_path)
    assert [file.name for file in files] == ["step_000000.safetensors", "step_001000.safetensors"]
    assert sorted(tmp_path.iterdir()) == files

    initial, trained = (checkpoints.read(file) for file in files)
    assert (initial.step, trained.step) == (0, 1000)
    assert initial.metrics["test_accuracy"] < 0.3
    assert trained.metrics["test_accuracy"] >= 0.95

    model = architectures.build("tanh-mlp")
    checkpoints.check_fits(trained, "tanh-mlp")
    checkpoints.load_into(model, trained)
    for split in ("train", "test"):
        whole = data.load("digits", split)
        with torch.no_grad():
            outputs = model(whole.x)
        loss = nn.functional.cross_entropy(outputs, whole.y).item()
        accuracy = (outputs.argmax(1) == whole.y).double().mean().item()
        assert trained.metrics[f"{split}_loss"] == pytest.approx(loss, rel=1e-5)
        assert trained.metrics[f"{split}_accuracy"] == pytest.approx(accuracy, rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    torch.manual_seed(5)
    here = train("digits-mlp", 20, [0, 20], tmp_path / "here", seed=3)
    script = (
        "import sys; from pathlib import Path; from core.problems.training import train\n"
        "train('digits-mlp', 20, [0, 20], Path(sys.argv[1]), seed=3)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "there"], check=True)
    assert [sha256(file) for file in here] == [sha256(tmp_path / "there" / file.name) for file in here]
    other = train("digits-mlp", 20, [0, 20], tmp_path / "other", seed=4)
    assert not {sha256(file) for file in other} & {sha256(file) for file in here}


def test_a_longer_training_passes_through_the_same_weights(tmp_path: Path) -> None:
    short = train("digits-mlp", 10, [10], tmp_path / "short")
    long = train("digits-mlp", 20, [10, 20], tmp_path / "long")
    assert sha256(short[0]) == sha256(long[0])


def test_the_first_step_is_plain_sgd_on_the_first_batch(tmp_path: Path) -> None:
    recipe = training.PROBLEMS["digits-mlp"]
    before, after = (
        checkpoints.read(file).state for file in train("digits-mlp", 1, [0, 1], tmp_path, seed=2)
    )
    whole = data.load("digits", "train")
    order = torch.randperm(len(whole.y), generator=torch.Generator().manual_seed(2))[: recipe.batch]
    model = architectures.build("tanh-mlp")
    model.load_state_dict(before)
    loss = nn.functional.cross_entropy(model(whole.x[order]), whole.y[order])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(after[name], parameter.detach() - recipe.learning_rate * gradient)


def test_training_leaves_the_random_state_and_tells_its_progress(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    told: list[tuple[int, int]] = []
    train("digits-mlp", 3, [3], tmp_path, progress=lambda step, steps: told.append((step, steps)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_finished_trainings_are_reused_and_others_are_not(tmp_path: Path) -> None:
    def trains(steps: int, record: list[int], seed: int = 0) -> bool:
        told: list[int] = []
        train("digits-mlp", steps, record, tmp_path, seed, lambda step, _: told.append(step))
        return bool(told)

    assert trains(4, [0, 4])
    assert not trains(4, [0, 4])
    assert not trains(4, [4])
    assert trains(4, [0, 2, 4])  # one is missing
    assert trains(4, [0, 4], seed=1)  # these are of another seed
    (tmp_path / "step_000004.safetensors").write_bytes(b"half a file")
    assert trains(4, [0, 4], seed=1)
    assert checkpoints.read(tmp_path / "step_000004.safetensors").step == 4


@pytest.mark.parametrize("record", [[], [-1], [0, 11]])
def test_steps_outside_the_training_are_refused(record: list[int], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="between 0 and the 10 steps"):
        train("digits-mlp", 10, record, tmp_path)


def test_an_unknown_problem_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no problem 'mnist-mlp'; choose one of digits-mlp"):
        train("mnist-mlp", 10, [0], tmp_path)


def test_the_recorder_serves_anyones_loop(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    recorder = Recorder(model, tmp_path / "new" / "folder", steps=[0, 2], facts={"lab": "ours"})
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    written = []
    for step in range(4):
        written.append(recorder(step, train_loss=1 / (step + 1)))
        with torch.no_grad():
            model.weight.fill_(step + 1.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [path is not None for path in written] == [True, False, True, False]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == [path for path in written if path]

    checkpoint = checkpoints.read(written[2])
    assert checkpoint.step == 2
    assert checkpoint.metrics == {"train_loss": 1 / 3}
    assert torch.equal(checkpoint.state["weight"], torch.full((1, 2), 2.0))
    with safetensors.safe_open(written[2], framework="pt") as file:
        assert file.metadata()["lab"] == "ours"


def test_the_recorder_overwrites_whole_files_and_refuses_unknown_metrics(tmp_path: Path) -> None:
    recorder = Recorder(nn.Linear(2, 1), tmp_path, steps=[1])
    recorder(1)
    path = recorder(1, test_accuracy=0.5)
    assert checkpoints.read(path).metrics == {"test_accuracy": 0.5}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError, match="unknown metrics acc"):
        recorder(1, acc=0.5)
