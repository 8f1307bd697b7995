"""The checkpoints of a run in their order, from what each of them tells."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from seigh.core.problems.checkpoints import CheckpointError, Position, positions, read_name, settled


@dataclass(frozen=True)
class File:
    name: str
    step: int | None = None
    epoch: int | None = None
    guess: int | None = None


def named(*names: str) -> list[File]:
    """Files that tell what their names do."""
    facts = [read_name(name) for name in names]
    return [File(name, each.step, each.epoch, each.guess) for name, each in zip(names, facts, strict=True)]


@pytest.mark.parametrize(
    "names",
    [
        ["epoch=0-val_loss=0.9.pt", "epoch=1-val_loss=0.71.pt", "epoch=2-val_loss=0.35.pt"],
        ["epoch_8_acc_93.pt", "epoch_9_acc_92.pt", "epoch_10_acc_91.pt"],
        ["step_1_acc_93.5.pt", "step_2_acc_92.5.pt", "step_10_acc_91.5.pt"],
        ["iter_5-loss_0.9.pt", "iter_40-loss_0.3.pt", "iter_300-loss_0.2.pt"],
        ["checkpoint_1_1200.pt", "checkpoint_2_2400.pt", "checkpoint_3_3600.pt"],
        ["model_1.pth", "model_2.pth", "model_10.pth"],
        ["model_0004999.pth", "model_0009999.pth", "model_0014999.pth"],
        ["ep1-ba100-rank0.pt", "ep1-ba200-rank0.pt", "ep2-ba300-rank0.pt"],
    ],
)
def test_training_runs_forwards(names: list[str]) -> None:
    steps, _ = settled(named(*names))
    assert steps == sorted(set(steps))
    assert settled(named(*reversed(names)))[0] == steps[::-1]


def test_epochs_stand_in_where_no_step_is_told_and_this_is_said() -> None:
    steps, notes = settled(named("epoch_3.pt", "epoch_12.pt"))
    assert steps == [3, 12]
    assert notes == [
        "The files tell their epochs and no training step, so the epochs stand in for the steps."
    ]
    assert settled(named("epoch_3.pt"))[1] == [
        "'epoch_3.pt' tells its epoch and no training step, so the epoch stands in for the step."
    ]


def test_what_is_told_needs_no_words() -> None:
    assert settled(named("step_3.pt", "epoch=1-step=12.pt")) == ([3, 12], [])


def test_epochs_become_steps_at_the_rate_of_files_that_tell_both() -> None:
    files = [*named("epoch=0-step=100.pt", "epoch=2-step=300.pt", "epoch_4.pt"), File("a.pt", epoch=1)]
    assert positions(files)[2:] == [Position(500, "converted"), Position(200, "converted")]
    steps, (note,) = settled(files)
    assert steps == [100, 300, 500, 200]
    assert "Step 500 of 'epoch_4.pt' follows from its epoch, 4" in note
    assert "likewise for 1 more" in note


@pytest.mark.parametrize(
    "names",
    [
        ["step_300.pt", "epoch_4.pt"],
        ["epoch=1-step=100.pt", "epoch_4.pt"],  # after epoch 1 or within it, nobody knows
        ["epoch=1-step=100.pt", "epoch=2-step=250.pt", "epoch=3-step=300.pt", "epoch_4.pt"],
        ["epoch=1-step=300.pt", "epoch=2-step=200.pt", "epoch_4.pt"],
        ["epoch=1-step=100.pt", "epoch=3-step=201.pt", "epoch_4.pt"],  # no whole step
        ["epoch=1-step=100.pt", "epoch=1-step=150.pt", "epoch_4.pt"],
    ],
)
def test_steps_and_epochs_are_not_mixed(names: list[str]) -> None:
    with pytest.raises(
        CheckpointError, match=r"'epoch_4.pt' tells its epoch, 4, and no training step, while '.*--step"
    ):
        settled(named(*names))


def test_guesses_that_one_pattern_of_names_supports_are_accepted_and_said() -> None:
    steps, (note,) = settled(named("model_1.pth", "model_02.pth", "model_10.pth"))
    assert steps == [1, 2, 10]
    assert "The steps 1, 2, 10 are guesses from the names of the files (model_*.pth)" in note
    assert "--step" in note


@pytest.mark.parametrize(
    "names",
    [
        ["model_40.pth"],
        ["model_40.pth", "net_80.pth"],
        ["model_40.pth", "step_80.pth"],
        ["resnet18_40.pth", "resnet34_80.pth"],
    ],
)
def test_other_guesses_are_asked_about(names: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"40 in its name may be the step; give --step 40 if it is"):
        settled(named(*names))


@pytest.mark.parametrize(
    "names", [["vit_b_16.pt"], ["step_3.pt", "vit_b_16.pt"], ["model_1.pt", "vit_b_16.pt"]]
)
def test_where_nothing_is_told_the_options_are_named(names: list[str]) -> None:
    files = named(*names)
    if names[0] == "model_1.pt":
        files = files[::-1]
    with pytest.raises(
        CheckpointError, match=r"Neither the name of 'vit_b_16.pt' nor its content .* give --step or --epoch"
    ):
        settled(files)


def test_a_file_among_epochs_that_tells_none_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"'model_40.pt' tells neither its epoch nor its training step"):
        settled(named("epoch_1.pt", "model_40.pt"))
