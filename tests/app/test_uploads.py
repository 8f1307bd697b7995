from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from seigh.app.uploads import Brought, Part, UploadFolder, in_order, proposed_steps, read, shared_notes
from seigh.core.problems import architectures, checkpoints
from seigh.core.problems.checkpoints import Position

Keep = Callable[..., Part]
State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return architectures.build("tanh-mlp(num_classes=7)").state_dict()


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Keeps a file as the page does: of its own name, in a folder of its own."""
    count = iter(range(100))

    def kept(name: str, content: object) -> Part:
        number = f"id-{next(count)}"
        path = tmp_path / number / "upload" / name
        path.parent.mkdir(parents=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return Part(number, name, path)

    return kept


def several(keep: Keep, state: State, index: str = "model.safetensors.index.json") -> list[Part]:
    """The state dict in two files and their index, as Hugging Face writes them."""
    halves = list(state.items())[::2], list(state.items())[1::2]
    parts, places = [], {}
    for number, half in enumerate(halves, start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        places |= {key: name for key, _ in half}
        parts.append(keep(name, safetensors.torch.save(dict(half))))
    return [*parts, keep(index, json.dumps({"metadata": {}, "weight_map": places}).encode())]


def test_a_checkpoint_is_read_and_its_architecture_proposed(keep: Keep, state: State, tmp_path: Path) -> None:
    half = {f"module.{key}": tensor.half() for key, tensor in state.items()}
    part = keep("last.ckpt", {"state_dict": half, "epoch": 2, "global_step": 40})
    (brought,) = read([part], tmp_path)
    assert (brought.name, brought.step, brought.epoch, brought.refusal) == ("last.ckpt", 40, 2, None)
    assert brought.fitting == ("tanh-mlp(num_classes=7)",)
    assert brought.notes == ("Weights in float16 are computed in the precision of the analysis.",)
    assert brought.misfit("tanh-mlp(num_classes=7)") is None
    sentence = brought.misfit("tanh-mlp")
    assert sentence is not None
    assert "linear6.weight is 7×20 instead of 10×20" in sentence
    assert "choose tanh-mlp(num_classes=7)" in sentence


def test_what_is_remembered_of_a_checkpoint_takes_no_memory(keep: Keep, state: State, tmp_path: Path) -> None:
    (brought,) = read([keep("a.pt", state)], tmp_path)
    assert brought.outline is not None
    assert {k: t.shape for k, t in brought.outline.state.items()} == {k: t.shape for k, t in state.items()}
    assert sum(tensor.untyped_storage().nbytes() for tensor in brought.outline.state.values()) < 100


def test_several_files_with_their_index_become_one(keep: Keep, state: State, tmp_path: Path) -> None:
    parts = several(keep, state)
    (brought,) = read(parts, tmp_path)
    assert (brought.name, brought.fitting) == ("model.safetensors", ("tanh-mlp(num_classes=7)",))
    merged = checkpoints.read(brought.path, brought.name).state
    assert merged.keys() == state.keys()
    assert all(torch.equal(merged[key], state[key]) for key in state)
    assert not any(part.path.exists() for part in parts)  # the disk holds it once


def test_several_files_and_others_are_told_apart(keep: Keep, state: State, tmp_path: Path) -> None:
    together = several(keep, state)
    found = read([keep("step_5.pt", state), *together, keep("config.json", b"{}")], tmp_path)
    assert {each.name: each.refusal is None for each in found} == {
        "model.safetensors": True,
        "config.json": False,
        "step_5.pt": True,
    }


@pytest.mark.parametrize(
    ("left_out", "sentences"),
    [
        ("model-00002-of-00002.safetensors", ["'model-00002-of-00002.safetensors', which is not there"]),
        (
            "model.safetensors.index.json",
            [f"'model-0000{number}-of-00002.safetensors' is one of several files" for number in (1, 2)],
        ),
    ],
)  # fmt: skip
def test_several_files_are_refused_unless_all_are_there(
    keep: Keep, state: State, tmp_path: Path, left_out: str, sentences: list[str]
) -> None:
    found = read([part for part in several(keep, state) if part.name != left_out], tmp_path)
    assert len(found) == len(sentences)
    for brought, sentence in zip(found, sentences, strict=True):
        assert brought.refusal is not None
        assert sentence in brought.refusal


def test_files_of_two_checkpoints_with_the_same_names_are_never_mixed(
    keep: Keep, state: State, tmp_path: Path
) -> None:
    other = {key: tensor + 1 for key, tensor in state.items()}
    found = read([*several(keep, state), *several(keep, other)], tmp_path)
    assert len(found) == 2
    assert all(each.refusal and "one checkpoint at a time" in each.refusal for each in found)


def test_files_that_cannot_be_read_get_a_sentence_and_are_not_kept(
    keep: Keep, state: State, tmp_path: Path
) -> None:
    broken = keep("broken.pt", b"PK\3\4")
    first, second = read([broken, keep("step_5.pt", state)], tmp_path)
    assert first.refusal is not None
    assert "'broken.pt' is damaged" in first.refusal
    assert not broken.path.exists()
    assert second.refusal is None


def brought(name: str, keep: Keep, tmp_path: Path, state: State, **facts: int) -> Brought:
    return read([keep(name, {"model": state, **facts})], tmp_path)[0]


def test_files_are_in_the_order_of_their_steps(keep: Keep, state: State, tmp_path: Path) -> None:
    files = [
        brought("z.pt", keep, tmp_path, state, step=5),
        brought("step_1000.pt", keep, tmp_path, state),
        brought("unknown.pt", keep, tmp_path, state, epoch=1),
        brought("step_200.pt", keep, tmp_path, state),
    ]
    assert [file.name for file in in_order(files)] == ["z.pt", "step_200.pt", "step_1000.pt", "unknown.pt"]
    assert proposed_steps(files)[files[2].id] == Position()  # an epoch is no step among steps


def test_epochs_stand_in_for_steps_where_no_file_tells_any(keep: Keep, state: State, tmp_path: Path) -> None:
    files = [
        brought("b.pt", keep, tmp_path, state, epoch=12),
        brought("epoch_3.pt", keep, tmp_path, state),
        brought("a.pt", keep, tmp_path, state),
    ]
    assert [(file.name, proposed_steps(files)[file.id]) for file in in_order(files)] == [
        ("epoch_3.pt", Position(3, "epoch")),
        ("b.pt", Position(12, "epoch")),
        ("a.pt", Position()),
    ]


def test_guesses_are_marked_as_such_and_give_way_to_what_is_told(
    keep: Keep, state: State, tmp_path: Path
) -> None:
    guessed = [brought(f"model_{number}.pt", keep, tmp_path, state) for number in (100, 20)]
    assert [(file.name, proposed_steps(guessed)[file.id]) for file in in_order(guessed)] == [
        ("model_20.pt", Position(20, "guess")),
        ("model_100.pt", Position(100, "guess")),
    ]
    known = brought("model_9.pt", keep, tmp_path, state, step=900)
    assert proposed_steps([known, *guessed])[known.id] == Position(900, "told")


def test_a_note_that_many_files_share_is_said_once(keep: Keep, state: State, tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in state.items()}
    files = read([keep("step_1.pt", half), keep("step_2.pt", half), keep("step_3.pt", state)], tmp_path)
    assert shared_notes(files) == [
        ("step_1.pt and 1 more", "Weights in float16 are computed in the precision of the analysis.")
    ]


def test_folders_of_sessions_whose_process_was_killed_are_removed_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = """
import time
from seigh.app.uploads import UploadFolder
folder = UploadFolder()
(folder.path / "file").write_bytes(b"x")
print(folder.path, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        ours = UploadFolder()
        assert left.parent == ours.path.parent == tmp_path
        assert left.is_dir()  # its process is alive
        other.kill()
    old, new = tmp_path / "seigh-upload-old", tmp_path / "seigh-upload-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    assert set(UploadFolder.sweep(tmp_path)) == {left, old}
    assert sorted(tmp_path.iterdir()) == sorted([ours.path, new])
