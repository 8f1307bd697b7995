import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from seigh.core.problems import architectures
from seigh.core.problems.checkpoints import (
    CheckpointError,
    check_fits,
    fitting_architectures,
    load_into,
    read,
)

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return architectures.build("tanh-mlp").state_dict()


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def refusal(path: Path, name: str | None = None) -> str:
    """The sentence that a file is refused with."""
    with pytest.raises(CheckpointError) as refused:
        read(path, name)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


# --- What is read -----------------------------------------------------------------------------------------


def as_is(state: State) -> object:
    return state


def in_a_dictionary(state: State) -> object:
    return {"model": state, "optimizer": {"lr": 0.3}, "epoch": 7, "global_step": 40, "test_accuracy": 0.5}


def wrapped(state: State) -> object:
    return {"state_dict": {f"module._orig_mod.{key}": tensor for key, tensor in state.items()}, "step": 40}


def in_half_precision(state: State) -> object:
    return {key: tensor.half() for key, tensor in state.items()}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("saved", [as_is, in_a_dictionary, wrapped])
def test_state_dicts_are_read_as_people_save_them(
    saved: Callable[[State], object], legacy: bool, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "net.pth"
    torch.save(saved(state), path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read(path)
    check_fits(checkpoint, "tanh-mlp")
    model = architectures.build("tanh-mlp")
    load_into(model, checkpoint)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert checkpoint.step == (None if saved is as_is else 40)
    assert checkpoint.metrics == ({"test_accuracy": 0.5} if saved is in_a_dictionary else {})
    assert checkpoint.size == path.stat().st_size


def test_half_precision_becomes_float32_and_integer_buffers_stay(state: State, tmp_path: Path) -> None:
    torch.save(in_half_precision(state) | {"count": torch.tensor(3)}, tmp_path / "half.pt")
    read_state = read(tmp_path / "half.pt").state
    assert read_state.pop("count").dtype == torch.int64
    assert {tensor.dtype for tensor in read_state.values()} == {torch.float32}
    torch.testing.assert_close(read_state["linear1.weight"], state["linear1.weight"], atol=1e-3, rtol=1e-3)


def test_safetensors_with_metadata_whatever_its_suffix(state: State, tmp_path: Path) -> None:
    metadata = {"step": "300", "train_loss": "0.25", "test_accuracy": "nan", "format": "pt"}
    path = tmp_path / "upload-x81"
    safetensors.torch.save_file(state, path, metadata)
    for name in ("epoch_3.safetensors", "renamed.pt"):
        checkpoint = read(path, name)
        check_fits(checkpoint, "tanh-mlp")
        assert checkpoint.step == 300
        assert checkpoint.metrics == {"train_loss": 0.25}
        assert checkpoint.name == name


def test_the_hash_is_that_of_the_file(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pt")
    printed = subprocess.run(["sha256sum", tmp_path / "a.pt"], capture_output=True, text=True, check=True)
    assert read(tmp_path / "a.pt").sha256 == printed.stdout.split()[0]


@pytest.mark.parametrize(
    ("name", "facts", "step", "epoch", "guess"),
    [
        ("step_000300.pt", {}, 300, None, None),
        ("step_000300.pt", {"epoch": 3}, 300, 3, None),
        ("step_000300.pt", {"step": 7}, 7, None, None),
        ("epoch=1-val_loss=0.71.pt", {}, None, 1, None),
        ("checkpoint-12.pt", {}, 12, None, None),
        ("checkpoint-12.pt", {"epoch": 12}, None, 12, None),  # as timm counts
        ("checkpoint-12.pt", {"epoch": 11}, None, 11, None),
        ("checkpoint-500.pt", {"epoch": 2}, 500, 2, None),
        ("model_40.pt", {}, None, None, 40),
        ("model_40.pt", {"epoch": 40}, None, 40, None),
        ("model_40.pt", {"step": 4000}, 4000, None, None),
        ("vit_b_16.pt", {}, None, None, None),
    ],
)
def test_what_file_and_name_tell_together(
    state: State,
    tmp_path: Path,
    name: str,
    facts: dict[str, int],
    step: int | None,
    epoch: int | None,
    guess: int | None,
) -> None:
    torch.save({"model": state} | facts, tmp_path / name)
    found = read(tmp_path / name)
    assert (found.step, found.epoch, found.guess) == (step, epoch, guess)


# --- What fits --------------------------------------------------------------------------------------------


def test_tensors_of_another_architecture_are_named(state: State, tmp_path: Path) -> None:
    odd = dict(state)
    del odd["linear1.bias"]
    odd["linear2.weight"] = torch.zeros(30, 20)
    odd["head.weight"] = torch.zeros(3)
    torch.save(odd, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError) as refused:
        check_fits(read(tmp_path / "odd.pt"), "tanh-mlp")
    assert str(refused.value) == (
        "The tensors of 'odd.pt' do not fit tanh-mlp (linear1.bias is missing; linear2.weight is 30×20 "
        "instead of 20×20; head.weight is unexpected); choose its own architecture."
    )
    assert fitting_architectures(read(tmp_path / "odd.pt")) == []


def test_the_fitting_architecture_is_proposed(tmp_path: Path) -> None:
    torch.save(architectures.build("3c3d").state_dict(), tmp_path / "net.pt")
    checkpoint = read(tmp_path / "net.pt")
    assert fitting_architectures(checkpoint) == ["3c3d"]
    with pytest.raises(CheckpointError, match=r"and \d+ more\); choose 3c3d, which they do fit\.$"):
        check_fits(checkpoint, "all-cnn-c")


def test_batch_norm_buffers_are_loaded_and_its_counter_may_be_missing(tmp_path: Path) -> None:
    saved = architectures.build("resnet18").state_dict()
    saved["bn1.running_mean"].fill_(0.5)
    saved = {name: tensor for name, tensor in saved.items() if not name.endswith("num_batches_tracked")}
    torch.save(saved, tmp_path / "net.pt")
    checkpoint = read(tmp_path / "net.pt")
    check_fits(checkpoint, "resnet18")
    model = architectures.build("resnet18")
    load_into(model, checkpoint)
    assert torch.equal(model.state_dict()["bn1.running_mean"], torch.full((64,), 0.5))


def test_integers_in_place_of_weights_do_not_fit(state: State, tmp_path: Path) -> None:
    state["linear3.bias"] = torch.zeros(20, dtype=torch.int8)
    torch.save(state, tmp_path / "int.pt")
    with pytest.raises(CheckpointError, match=r"linear3\.bias holds integers"):
        check_fits(read(tmp_path / "int.pt"), "tanh-mlp")


# --- What is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bare_pickle_with_code_is_refused_and_not_executed(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for name in ("evil.pt", "evil.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Malicious(marker), protocol))
        sentence = refusal(tmp_path / name)
        assert "contains more than tensors" in sentence
        assert "nothing in it was executed" in sentence
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pytorch_file_with_code_is_refused_and_not_executed(
    legacy: bool, state: State, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    torch.save(
        {**state, "linear1.weight": Malicious(marker)},
        tmp_path / "evil.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    assert "contains more than tensors" in refusal(tmp_path / "evil.pt")
    assert not marker.exists()
    # The test's own weapon is sharp: without precautions it does execute.
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert marker.exists()


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(architectures.build("tanh-mlp"), tmp_path / "model.pt")
    assert "save model.state_dict() instead" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("depth", [0, 200])
def test_a_torchscript_program_is_refused(depth: int, tmp_path: Path) -> None:
    # Programs carry their call stack, compressed: a deep one unpacks to more than the file's size.
    def save(depth: int) -> None:
        if depth:
            return save(depth - 1)
        program = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
        return program.save(tmp_path / "program.pt")

    save(depth)
    assert "TorchScript program" in refusal(tmp_path / "program.pt")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_an_empty_file_is_refused(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").touch()
    assert refusal(tmp_path / f"a{suffix}").startswith(f"'a{suffix}' is an empty file")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_half_a_file_is_refused_wherever_it_ends(form: str, state: State, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / ("half.safetensors" if form == "safetensors" else "half.pt")
    if form == "safetensors":
        safetensors.torch.save_file(state, whole)
    else:
        torch.save(state, whole, _use_new_zipfile_serialization=form == "zip")
    contents = whole.read_bytes()
    for length in [1, 7, 8, 9, 20, 100, *range(1000, len(contents), len(contents) // 20), len(contents) - 1]:
        half.write_bytes(contents[:length])
        assert "damaged or incomplete" in refusal(half)


@pytest.mark.parametrize(
    "contents", [b"hello", b"<html></html>", b"\0" * 100, bytes(range(256)), b"PK\x03\x04"]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_files_are_refused(contents: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(contents)
    assert "not a readable" in refusal(tmp_path / f"a{suffix}")


def test_other_suffixes_and_missing_files_are_refused(tmp_path: Path) -> None:
    assert "does not end in .pt, .pth, .ckpt, .bin, .safetensors," in refusal(tmp_path / "weights.h5")
    assert refusal(tmp_path / "gone.pt") == "'gone.pt' cannot be read: No such file or directory."


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ([torch.zeros(3)], "holds a list, not a state dict"),
        ({}, "holds no tensors"),
        ({"model": {}}, "holds no tensors"),
        ({"lr": 0.1}, "its entry 'lr' has a float"),
        ({3: torch.zeros(3)}, "its entry '3' has a number where"),
        ({"w": torch.tensor([1.0, float("nan")])}, "The tensor 'w' in 'a.pt' holds NaN"),
        ({"w": torch.tensor([1.0, float("inf")])}, "The tensor 'w' in 'a.pt' holds NaN or infinite"),
        ({"w": torch.zeros(3, dtype=torch.complex64)}, "is complex"),
        ({"w": torch.eye(3).to_sparse()}, "is sparse, not a dense array"),
        ({"w": torch.empty(3, device="meta")}, "without numbers (on the meta device)"),
        ({"w": torch.zeros(1).expand(10**12)}, "claim more numbers than the file holds"),
    ],
)
def test_files_of_something_else_than_weights_are_refused(
    contents: object, reason: str, tmp_path: Path
) -> None:
    torch.save(contents, tmp_path / "a.pt")
    assert reason in refusal(tmp_path / "a.pt")


def test_many_names_of_one_tensor_are_read_and_stay_one(tmp_path: Path) -> None:
    half = torch.rand(100_000).half()
    torch.save({f"w{number}": half for number in range(1000)}, tmp_path / "a.pt")
    state = read(tmp_path / "a.pt").state
    assert len(state) == 1000
    assert torch.equal(state["w999"], half.float())
    assert len({tensor.data_ptr() for tensor in state.values()}) == 1


def test_expanded_tensors_and_views_of_one_storage_are_read(tmp_path: Path) -> None:
    base = torch.rand(12, 1000)
    contents = {f"layer{n}": base[n] for n in range(12)} | {f"row{n}": base[n, :5] for n in range(12)}
    contents |= {"expanded": base[:1].expand(40, 1000), "turned": base.T, "one": torch.ones(1).expand(30, 30)}
    for legacy in (False, True):
        torch.save(contents, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        state = read(tmp_path / "a.pt").state
        assert state.keys() == contents.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in contents.items())


def test_tied_weights_are_read(tmp_path: Path) -> None:
    tied = torch.ones(1000)
    torch.save({"embedding": tied, "head": tied}, tmp_path / "a.pt")
    assert torch.equal(read(tmp_path / "a.pt").state["head"], tied)


def test_a_zip_bomb_takes_no_memory(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2**24)}, tmp_path / "plain.pt")  # 64 MiB of zeros, which deflate to 0.1
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    (tmp_path / "plain.pt").unlink()
    script = (
        "import resource, sys; from pathlib import Path; from seigh.core.problems import checkpoints\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: checkpoints.read(Path(sys.argv[1]))\n"
        "except checkpoints.CheckpointError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "bomb.pt"], capture_output=True, text=True, check=True
    )
    sentence, growth = printed.stdout.splitlines()
    assert "unpacks to more than its own size" in sentence
    assert int(growth) < 50_000  # KiB on Linux
