"""The recipes, as they are written and as they run; what interrupts a training changes no byte of it."""

import hashlib
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from seigh.core.problems import architectures, checkpoints, data, plugins, training
from seigh.core.problems.recorder import checkpoint_name
from seigh.core.problems.training import STATE, train
from seigh.core.settings import Settings, SettingsError
from tests.conftest import ROOT
from tests.core.problems.originals import (
    trust_cifar,
    trust_cifar_in_children,
    write_cifar,
    write_imagenet,
    write_mnist,
)
from tests.forking import Forked
from tests.plugging import forget


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
        "from pathlib import Path; from seigh.core.problems.training import train\n"
        f"train('digits-mlp', 20, [0, 20], Path({str(tmp_path / 'there')!r}), seed=3)"
    )
    assert Forked(script, ROOT, tmp_path / "log").wait(120) == 0, (tmp_path / "log").read_text()
    assert [sha256(file) for file in here] == [sha256(tmp_path / "there" / file.name) for file in here]
    other = train("digits-mlp", 20, [0, 20], tmp_path / "other", seed=4)
    assert not {sha256(file) for file in other} & {sha256(file) for file in here}


def test_a_longer_training_passes_through_the_same_weights(tmp_path: Path) -> None:
    short = train("digits-mlp", 10, [10], tmp_path / "short")
    long = train("digits-mlp", 20, [10, 20], tmp_path / "long")
    assert sha256(short[0]) == sha256(long[0])


def test_the_first_step_is_plain_sgd_on_the_first_batch(tmp_path: Path) -> None:
    recipe = training.problems()["digits-mlp"]
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
    with pytest.raises(
        SettingsError, match="no problem 'mnist'; choose one of digits-mlp, char-gpt, mnist-mlp, cifar"
    ):
        train("mnist", 10, [0], tmp_path)


def metadata(file: Path) -> dict[str, str]:
    with safetensors.safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


# --- The recipes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "samples", "table"),
    [
        ("mnist-mlp", 60_000, (0.3, 500, 100)),
        ("cifar10-3c3d", 50_000, (0.0226, 128, 312)),
        ("cifar100-all-cnn-c", 50_000, (0.1658, 256, 156)),
        ("imagenet-resnet18", 1_281_167, (0.1, 150, 8207)),
    ],
)
def test_recipes_are_those_of_table_1(problem: str, samples: int, table: tuple[float, int, int]) -> None:
    recipe = training.problems()[problem]
    learning_rate, batch, steps_per_epoch = table
    assert recipe.learning_rate == pytest.approx(learning_rate, abs=5e-5)
    assert recipe.batch == batch
    assert (samples - round(recipe.held_out * samples)) // batch == steps_per_epoch
    mlp = problem == "mnist-mlp"
    assert recipe.record() == tuple(range(0, 1001, 100) if mlp else range(0, 8001, 2000))


@pytest.fixture
def originals(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home whose data directory has small files of all the data sets."""
    folder = home.data_folder
    write_mnist(folder, train=60, test=20)
    write_cifar(folder, 10, train=60, test=20)
    write_cifar(folder, 100, train=110, test=20)
    write_imagenet(folder, train=3, test=2)
    for classes in (10, 100):
        trust_cifar(monkeypatch, folder, classes)
    return home


@pytest.mark.parametrize(
    ("problem", "batch", "trained_on"),
    [
        ("mnist-mlp", 20, 50),
        ("cifar10-3c3d", 20, 48),
        ("cifar100-all-cnn-c", 5, 88),
        ("imagenet-resnet18", 3, 12),
    ],
)
def test_every_problem_trains_on_files_in_the_original_format(
    problem: str, batch: int, trained_on: int, originals: Settings, tmp_path: Path
) -> None:
    recipe = training.problems()[problem]
    files = train(problem, 2, [0, 2], tmp_path / "out", batch=batch, env=originals)
    initial, trained = (checkpoints.read(file) for file in files)
    checkpoints.check_fits(trained, recipe.architecture)
    assert metadata(files[1])["batch"] == str(batch)

    whole = data.load(recipe.data, "train", env=originals)
    kept = torch.arange(len(whole.y))
    if problem != "imagenet-resnet18":  # of twelve images, 4 % are none
        drawn = torch.randperm(len(whole.y), generator=torch.Generator().manual_seed(0))
        kept = drawn[len(whole.y) - trained_on :]
    test = data.load(recipe.data, "test", env=originals)
    model = architectures.build(recipe.architecture)
    checkpoints.load_into(model, trained)
    for split, x, y in (("train", whole.x[kept], whole.y[kept]), ("test", test.x, test.y)):
        assert split == "test" or len(y) == trained_on
        with torch.no_grad():
            outputs = model(x)
        assert trained.metrics[f"{split}_loss"] == pytest.approx(
            nn.functional.cross_entropy(outputs, y).item(), rel=1e-4
        )
        accuracy = (outputs.argmax(1) == y).double().mean().item()
        assert trained.metrics[f"{split}_accuracy"] == pytest.approx(accuracy, rel=1e-6)
    counted = [name for name in trained.state if name.endswith("num_batches_tracked")]
    assert bool(counted) == (problem == "imagenet-resnet18")
    assert all(trained.state[name] == 2 for name in counted)
    assert all(
        not torch.equal(initial.state[name], trained.state[name])
        for name in trained.state
        if name.endswith("weight")
    )


@pytest.mark.parametrize(("problem", "bias"), [("cifar10-3c3d", 0.0), ("cifar100-all-cnn-c", 0.1)])
def test_deepobs_networks_start_as_deepobs_starts_them(
    problem: str, bias: float, originals: Settings, tmp_path: Path
) -> None:
    (file,) = train(problem, 0, [0], tmp_path / "out", batch=4, env=originals)
    for name, tensor in checkpoints.read(file).state.items():
        if name.endswith("bias"):
            assert torch.equal(tensor, torch.full_like(tensor, bias))
            continue
        field = tensor[0, 0].numel() if tensor.ndim == 4 else 1
        deviation = math.sqrt(2 / (field * (tensor.shape[0] + tensor.shape[1])))
        assert tensor.std().item() == pytest.approx(deviation, rel=6 / math.sqrt(2 * tensor.numel()))
        largest = tensor.abs().max().item() / deviation
        assert largest > 3 if tensor.ndim == 4 else largest <= math.sqrt(3) + 1e-6  # normal, or uniform


def test_the_all_cnn_c_trains_on_augmented_images_with_dropout(
    originals: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_step() -> dict[str, torch.Tensor]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        (file,) = train("cifar100-all-cnn-c", 1, [1], folder, batch=5, env=originals)
        return checkpoints.read(file).state

    whole = first_step()
    own = dict(training.problems())
    own["cifar100-all-cnn-c"] = replace(own["cifar100-all-cnn-c"], augment=None)
    monkeypatch.setattr(training, "_OWN", own)
    plain = first_step()
    assert not torch.equal(whole["conv1.weight"], plain["conv1.weight"])
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    assert not torch.equal(first_step()["conv1.weight"], plain["conv1.weight"])


def test_losses_in_parts_and_samples_read_on_demand_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = train("digits-mlp", 5, [5], tmp_path / "whole")
    monkeypatch.setattr(training, "_RESIDENT_BYTES", 0)
    (on_demand,) = train("digits-mlp", 5, [5], tmp_path / "on demand")
    assert sha256(on_demand) == sha256(whole)
    monkeypatch.setattr(training, "_METRIC_NUMBERS", 1)
    (parts,) = train("digits-mlp", 5, [5], tmp_path / "parts")
    first, second = checkpoints.read(whole).metrics, checkpoints.read(parts).metrics
    assert second == pytest.approx(first, rel=1e-6)


def test_losses_of_a_part_are_of_the_same_part_for_every_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = {"digits-mlp": replace(training.problems()["digits-mlp"], metric_samples=50)}
    monkeypatch.setattr(training, "_OWN", problems)
    (file,) = train("digits-mlp", 0, [0], tmp_path, seed=1)
    assert metadata(file)["metric_samples"] == "50"
    checkpoint = checkpoints.read(file)
    model = architectures.build("tanh-mlp")
    checkpoints.load_into(model, checkpoint)
    whole = data.load("digits", "test")
    part = torch.randperm(len(whole.y), generator=torch.Generator().manual_seed(0))[:50]
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(whole.x[part]), whole.y[part]).item()
    assert checkpoint.metrics["test_loss"] == pytest.approx(loss, rel=1e-5)


# --- What cannot work -------------------------------------------------------------------------------------


def test_what_cannot_be_trained_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="A batch of 1,258 is more than the 1,257 samples of digits"):
        train("digits-mlp", 1, [0], tmp_path, batch=1258)
    for learning_rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(SettingsError, match="the learning rate be above 0"):
            train("digits-mlp", 1, [0], tmp_path, learning_rate=learning_rate)
    with pytest.raises(SettingsError, match="at least one sample"):
        train("digits-mlp", 1, [0], tmp_path, batch=0)
    with pytest.raises(SettingsError, match="The device 'gpu' cannot be used here"):
        train("digits-mlp", 1, [0], tmp_path, env=Settings(device="gpu"))
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_says_so_and_records_no_such_weights(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"The training diverged: its loss was (nan|inf) at step"):
        train("digits-mlp", 20, range(21), tmp_path, learning_rate=1e38)
    recorded = [checkpoints.read(file) for file in tmp_path.glob("step_*")]
    assert recorded
    assert all(set(each.metrics) == set(checkpoints.METRICS) for each in recorded)


# --- Interruptions ----------------------------------------------------------------------------------------


def interrupted_at(stop: int, out: Path, seed: int = 5, **options: object) -> None:
    """Train as below until ``stop`` steps are done."""

    def progress(step: int, _: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("digits-mlp", 12, [0, 3, 6, 12], out, seed, progress, **options)


def steps_of_rest(out: Path, record: tuple[int, ...] = (0, 3, 6, 12)) -> list[int]:
    """The steps that are told when the training is started again."""
    told: list[int] = []
    train("digits-mlp", 12, record, out, 5, lambda step, _: told.append(step))
    return told


@pytest.fixture
def uninterrupted(tmp_path: Path) -> dict[str, str]:
    """Hashes of the files of a training that nothing interrupts, by name."""
    return {
        file.name: sha256(file) for file in train("digits-mlp", 12, [0, 3, 6, 12], tmp_path / "u", seed=5)
    }


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in folder.iterdir()}


def test_a_training_goes_on_from_its_last_recorded_step(
    tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    interrupted_at(8, tmp_path / "out")
    assert (tmp_path / "out" / STATE).exists()
    assert steps_of_rest(tmp_path / "out") == [6, 7, 8, 9, 10, 11, 12]
    assert hashes(tmp_path / "out") == uninterrupted


def test_between_recorded_steps_the_state_is_kept_after_a_time(
    tmp_path: Path, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_STATE_SECONDS", 0.0)
    interrupted_at(11, tmp_path / "out")
    assert steps_of_rest(tmp_path / "out") == [10, 11, 12]
    assert hashes(tmp_path / "out") == uninterrupted


@pytest.mark.parametrize(
    "harm", ["truncated", "emptied", "garbled", "removed file", "other seed", "other batch"]
)
def test_a_state_that_does_not_serve_is_not_used(
    harm: str, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    out = tmp_path / "out"
    interrupted_at(8, out, **({"batch": 499} if harm == "other batch" else {}))
    state = out / STATE
    match harm:
        case "truncated":
            state.write_bytes(state.read_bytes()[:-100])
        case "emptied":
            state.write_bytes(b"")
        case "garbled":
            state.write_bytes(b"\xff" * 1000)
        case "removed file":
            (out / checkpoint_name(3)).unlink()
        case "other seed":
            interrupted_at(8, tmp_path / "seed", seed=6)
            (tmp_path / "seed" / STATE).replace(state)
    assert steps_of_rest(out)[0] == 0
    assert hashes(out) == uninterrupted


def test_a_state_of_a_network_that_has_changed_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_at(8, tmp_path)
    build = architectures.build
    monkeypatch.setattr(architectures, "build", lambda name: build("tanh-mlp(width=8)"))
    for file in tmp_path.glob("step_*"):
        file.unlink()
    assert steps_of_rest(tmp_path, record=(12,))[0] == 0


def test_every_file_is_told_in_order_however_often_the_training_starts(tmp_path: Path) -> None:
    told: list[str] = []

    def recorded(file: Path) -> None:
        assert checkpoints.read(file).step is not None
        told.append(file.name)

    names = [checkpoint_name(step) for step in (0, 3, 6, 12)]
    interrupted_at(8, tmp_path, recorded=recorded)
    assert told == names[:3]
    told.clear()
    train("digits-mlp", 12, [0, 3, 6, 12], tmp_path, seed=5, recorded=recorded)
    assert told == names
    told.clear()
    train("digits-mlp", 12, [0, 3, 6, 12], tmp_path, seed=5, recorded=recorded)
    assert told == names


def test_a_file_that_could_not_be_handed_on_is_handed_on_next_time(tmp_path: Path) -> None:
    def fails(file: Path) -> None:
        if file.name == checkpoint_name(6):
            raise ConnectionError

    with pytest.raises(ConnectionError):
        train("digits-mlp", 12, [0, 3, 6, 12], tmp_path, seed=5, recorded=fails)
    told: list[Path] = []
    files = train("digits-mlp", 12, [0, 3, 6, 12], tmp_path, seed=5, recorded=told.append)
    assert told == files


def test_losses_are_those_of_the_batches(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    (file,) = train("digits-mlp", 2, [1], tmp_path, losses=lambda step, loss: told.append((step, loss)))
    assert [step for step, _ in told] == [1, 2]
    model = architectures.build("tanh-mlp")
    checkpoints.load_into(model, checkpoints.read(file))
    whole = data.load("digits", "train")
    second = torch.randperm(len(whole.y), generator=torch.Generator().manual_seed(0))[500:1000]
    loss = nn.functional.cross_entropy(model(whole.x[second]), whole.y[second]).item()
    assert told[1][1] == pytest.approx(loss, rel=1e-6)


# Trains, telling every step on standard output; the time after which the state is kept is an argument.
SCRIPT = """
import os
import signal
from pathlib import Path
from seigh.core.problems import training

def told(step, _):
    print(step, flush=True)
    if step == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)

training._STATE_SECONDS = {seconds}
training.train({problem!r}, {steps}, {record}, Path({out!r}), 1, told, batch={batch})
"""

# A plug-in as a lab installs it: its network has dropout and batch normalisation.
PLUGIN = """
from torch import nn
from seigh.core.problems.training import Problem

def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(1152, 4)
    )

def register(registry):
    registry.architecture("lab-net", net, takes=(3, 14, 14))
    registry.problem(
        "lab-problem", Problem("lab-net", "random(3x14x14,classes=4)", 0.1, 16, 20, every=10, held_out=0.1)
    )
    registry.problem("digits-mlp", Problem("lab-net", "digits", 0.1, 16, 20, every=10))
    registry.problem("no-problem", "lab-net")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plug-in, installed for this process and those that it starts."""
    site = tmp_path / "site"
    info = site / "lab-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "lab_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nlab = lab_plugin:register\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    forget()
    yield
    forget()


@pytest.mark.usefixtures("plugin")
def test_plugins_add_problems_and_do_not_replace_any(caplog: pytest.LogCaptureFixture) -> None:
    assert training.known("lab-problem").batch == 16
    assert training.known("digits-mlp").architecture == "tanh-mlp"
    assert "no-problem" not in training.problems()
    assert "'digits-mlp' is left out" in caplog.text
    assert "'no-problem' is left out" in caplog.text


@pytest.mark.usefixtures("plugin", "originals")
@pytest.mark.parametrize(
    ("problem", "steps", "record", "batch", "seconds", "kill_at"),
    [
        ("digits-mlp", 40, (0, 15, 40), 500, 30.0, 23),  # goes on from step 15
        ("lab-problem", 40, (0, 15, 40), 16, 0.0, 33),
        ("cifar100-all-cnn-c", 4, (2, 4), 4, 30.0, 3),
    ],
)
def test_a_killed_process_goes_on_to_the_same_bytes(
    problem: str,
    steps: int,
    record: tuple[int, ...],
    batch: int,
    seconds: float,
    kill_at: int,
    home: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust_cifar_in_children(monkeypatch, tmp_path / "trust", home.data_folder, (10, 100))

    out, log, errors = (tmp_path / name for name in ("killed", "log", "errors"))

    def run(kill_at: int) -> int:
        values = {"problem": problem, "steps": steps, "record": record, "batch": batch, "seconds": seconds}
        return Forked(SCRIPT.format(**values, out=str(out), kill_at=kill_at), ROOT, log, errors).wait(120)

    assert run(kill_at) == -signal.SIGKILL, errors.read_text()
    assert int(log.read_text().split()[-1]) == kill_at
    assert (out / STATE).exists()
    assert not (out / checkpoint_name(steps)).exists()

    log.write_text("")
    assert run(0) == 0, errors.read_text()
    began = int(log.read_text().split()[0])
    assert began >= (kill_at - 1 if seconds == 0.0 else max(each for each in record if each <= kill_at)) > 0
    whole = train(problem, steps, record, tmp_path / "whole", 1, batch=batch, env=home)
    assert hashes(out) == hashes(tmp_path / "whole") == {file.name: sha256(file) for file in whole}
