"""Checkpoints as other people's training code writes them."""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from seigh.core.problems import architectures
from seigh.core.problems.checkpoints import (
    Checkpoint,
    CheckpointError,
    check_fits,
    fitting_architectures,
    load_into,
    merge,
    read,
)
from tests.core.problems.kinds import classes

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return architectures.build("tanh-mlp").state_dict()


def saved(contents: object, path: Path) -> Checkpoint:
    torch.save(contents, path)
    return read(path)


def assert_same(checkpoint: Checkpoint, state: State) -> None:
    check_fits(checkpoint, "tanh-mlp")
    model = architectures.build("tanh-mlp")
    load_into(model, checkpoint)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


# --- Dictionaries around the weights ----------------------------------------------------------------------


def test_lightning(state: State, tmp_path: Path) -> None:
    wanted = {
        "lightning__fabric__utilities__data__AttributeDict": dict,
        "omegaconf__dictconfig__DictConfig": object,
        "omegaconf__base__ContainerMetadata": object,
        "omegaconf__nodes__AnyNode": object,
    }
    with classes(**wanted) as made:
        config = made["DictConfig"]()
        node, metadata = made["AnyNode"](), made["ContainerMetadata"]()
        node.__dict__ |= {"_val": 0.1, "_parent": config}
        metadata.__dict__ |= {"ref_type": dict, "key_type": int, "flags": {}}
        config.__dict__ |= {"_metadata": metadata, "_content": {"lr": node}}
        contents = {
            "epoch": 3,
            "global_step": 400,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {f"model.{key}": tensor for key, tensor in state.items()}
            | {"criterion.weight": torch.ones(10), "val_acc.tp": torch.zeros(10)},
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {
                "ModelCheckpoint{'monitor': None}": {"dirpath": pathlib.Path("/runs"), "best": None}
            },
            "lr_schedulers": [{"milestones": collections.Counter({30: 1}), "_last_lr": [0.1]}],
            "hparams_name": "kwargs",
            "hyper_parameters": made["AttributeDict"](lr=0.1, config=config),
        }
        torch.save(contents, tmp_path / "epoch=9-step=999.ckpt")
    checkpoint = read(tmp_path / "epoch=9-step=999.ckpt")
    assert_same(checkpoint, state)
    assert (checkpoint.step, checkpoint.epoch, checkpoint.prefix) == (400, 3, "model.")
    assert checkpoint.notes == (
        "The weights are the file's entry 'state_dict'; left aside: loops, callbacks, lr_schedulers, "
        "hyper_parameters.",
        "criterion.weight and 1 more, beside the network under 'model.', is left out.",
    )


def test_timm(state: State, tmp_path: Path) -> None:
    checkpoint = saved(
        {
            "epoch": 12,
            "arch": "mlp",
            "state_dict": state,
            "optimizer": {
                "state": {0: {"exp_avg": torch.zeros(3)}},
                "param_groups": [{"betas": (0.9, 0.99)}],
            },
            "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("/out")),
            "state_dict_ema": {key: torch.zeros_like(tensor) for key, tensor in state.items()},
            "metric": np.float64(71.5),
        },
        tmp_path / "checkpoint.pth.pth",
    )
    assert_same(checkpoint, state)
    assert (checkpoint.step, checkpoint.epoch) == (None, 12)
    assert checkpoint.notes == (
        "An average over training steps, 'state_dict_ema', is not taken; choose it with --entry.",
        "The weights are the file's entry 'state_dict'; left aside: optimizer, args.",
    )


def test_a_training_loop_of_ones_own(state: State, tmp_path: Path) -> None:
    history = collections.defaultdict(list, {"loss": [2.3, np.float32(1.5)]})
    checkpoint = saved(
        {
            "model": state,
            "optimizer": {"state": {}, "param_groups": []},
            "epoch": np.int64(4),
            "global_step": np.int32(77),
            "test_accuracy": np.float64(0.25),
            "train_loss": np.float16(0.5),
            "history": history,
            "seen": {1, 2, "a"},
            "last": collections.deque([1.0, 2.0], maxlen=2),
            "random": {"numpy": np.random.get_state(), "torch": torch.get_rng_state()},
        },
        tmp_path / "net.bin",
    )
    assert_same(checkpoint, state)
    assert (checkpoint.step, checkpoint.epoch) == (77, 4)
    assert checkpoint.metrics == {"test_accuracy": 0.25, "train_loss": 0.5}


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("module.", lambda inner: {"module": inner, "global_steps": 5}),  # DeepSpeed
        ("module._orig_mod.", lambda inner: {"model_state_dict": inner, "step": torch.tensor(5)}),
        ("net.", lambda inner: {"meta": {"epoch": 1, "iter": 5}, "state_dict": inner}),  # mmcv
        ("_orig_mod.model.backbone.", lambda inner: {"model": {"state_dict": inner}, "iteration": 5}),
    ],
)
def test_wrappers(prefix: str, wrap: Any, state: State, tmp_path: Path) -> None:
    checkpoint = saved(wrap({prefix + key: tensor for key, tensor in state.items()}), tmp_path / "a.pt")
    assert_same(checkpoint, state)
    assert (checkpoint.step, checkpoint.prefix) == (5, prefix)


def test_what_stands_beside_the_network_is_left_out_only_if_it_is_known_to_be_no_part(
    state: State, tmp_path: Path
) -> None:
    inner = {f"model.{key}": tensor for key, tensor in state.items()}
    checkpoint = saved(inner | {"decoder.weight": torch.ones(3)}, tmp_path / "a.pt")
    assert checkpoint.prefix == ""
    assert "decoder.weight" in checkpoint.state
    with pytest.raises(CheckpointError, match="do not fit"):
        check_fits(checkpoint, "tanh-mlp")


def test_an_averaged_model_is_said_to_be_one(state: State, tmp_path: Path) -> None:
    model = architectures.build("tanh-mlp")
    model.load_state_dict(state)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    checkpoint = saved(averaged.state_dict(), tmp_path / "a.pt")
    assert_same(checkpoint, state)
    assert checkpoint.notes == ("The weights are an average over training steps (AveragedModel).",)
    checkpoint = saved({"model_ema": state, "epoch": 1}, tmp_path / "b.pt")
    assert_same(checkpoint, state)
    assert checkpoint.notes == (
        "The weights are an average over training steps, the file's entry 'model_ema'.",
    )


def test_names_that_are_the_architectures_own_come_back(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 2)

    torch.manual_seed(0)
    source, target = Wrapped(), Wrapped()
    checkpoint = saved(
        {f"module.{key}": value for key, value in source.state_dict().items()}, tmp_path / "a.pt"
    )
    assert checkpoint.prefix == "module.net."
    load_into(target, checkpoint)
    assert torch.equal(target.net.weight, source.net.weight)


# --- Number types and tied weights ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "note"),
    [
        (torch.float16, "Weights in float16 are computed in the precision of the analysis."),
        (torch.bfloat16, "Weights in bfloat16 are computed in the precision of the analysis."),
        (torch.float64, "Weights in float64 are rounded to float32, unless the analysis is in float64."),
        (torch.float8_e4m3fn, "Weights in float8_e4m3fn are computed in the precision of the analysis."),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_precisions_are_said(
    dtype: torch.dtype, note: str, suffix: str, state: State, tmp_path: Path
) -> None:
    other = {key: tensor.to(dtype) for key, tensor in state.items()}
    path = tmp_path / f"a{suffix}"
    safetensors.torch.save_file(other, path) if suffix == ".safetensors" else torch.save(other, path)
    checkpoint = read(path)
    assert checkpoint.notes == (note,)
    for key, tensor in checkpoint.state.items():
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        assert tensor.dtype == kept
        assert torch.equal(tensor, other[key].to(kept))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight


@pytest.mark.parametrize("kept", [("first.weight", "second.weight"), ("first.weight",), ("second.weight",)])
def test_of_tied_weights_one_name_is_enough(
    kept: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        skeleton = Tied().state_dict(keep_vars=True)
    monkeypatch.setattr(architectures, "expected_tensors", lambda name: skeleton)
    monkeypatch.setattr(architectures, "fitting", lambda shapes: [])
    source, target = Tied(), Tied()
    checkpoint = saved({key: source.state_dict()[key] for key in kept}, tmp_path / "a.pt")
    assert checkpoint.notes == (("first.weight and second.weight are one tensor.",) if len(kept) == 2 else ())
    check_fits(checkpoint, "tied")
    load_into(target, checkpoint)
    assert torch.equal(target.first.weight, source.first.weight)
    assert target.second.weight is target.first.weight

    torch.save({"first.weight": torch.zeros(4, 4), "second.weight": torch.ones(4, 4)}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=r"second\.weight differs from first\.weight"):
        check_fits(read(tmp_path / "b.pt"), "tied")


# --- DeepOBS ----------------------------------------------------------------------------------------------


class Same(nn.Module):
    """TensorFlow's "same" padding for a square kernel, as its documentation defines it."""

    def __init__(self, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for size in (x.shape[-1], x.shape[-2]):
            total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return functional.pad(x, padding)


def deepobs_3c3d() -> nn.Sequential:
    """The modules that DeepOBS's 3c3d has, by their names; dropout and initialisation do not matter."""
    layers = collections.OrderedDict[str, nn.Module]()
    convolutions = [(3, 64, 5, False), (64, 96, 3, False), (96, 128, 3, True)]
    for number, (before, after, kernel, same) in enumerate(convolutions, start=1):
        padding = [Same(kernel)] if same else []
        layers[f"conv{number}"] = nn.Sequential(*padding, nn.Conv2d(before, after, kernel))
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"maxpool{number}"] = nn.Sequential(Same(3, 2), nn.MaxPool2d(3, 2))
    layers["flatten"] = nn.Flatten()
    for number, (before, after) in enumerate([(1152, 512), (512, 256), (256, 10)], start=1):
        layers[f"dense{number}"] = nn.Linear(before, after)
        if number < 3:
            layers[f"relu{number + 3}"] = nn.ReLU()
    return nn.Sequential(layers)


def deepobs_all_cnn_c() -> nn.Sequential:
    layers = collections.OrderedDict[str, nn.Module]()
    widths = [3, 96, 96, 96, 192, 192, 192, 192, 192, 100]
    for number in range(1, 10):
        kernel, stride = 1 if number > 7 else 3, 2 if number in (3, 6) else 1
        padding = [] if number == 7 else [Same(kernel, stride)]
        convolution = nn.Conv2d(widths[number - 1], widths[number], kernel, stride)
        layers[f"conv{number}"] = nn.Sequential(*padding, convolution)
        layers[f"relu{number}"] = nn.ReLU()
    layers["mean"] = nn.Sequential(nn.AvgPool2d(6), nn.Flatten())
    return nn.Sequential(layers)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize(
    ("build", "name", "renamed"),
    [
        (deepobs_3c3d, "3c3d", "conv1.0.weight is conv1.weight"),
        (deepobs_all_cnn_c, "all-cnn-c", "conv1.1.weight is conv1.weight"),
    ],
)
def test_deepobs(build: Any, name: str, renamed: str, sequential: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = build().eval()
    state = theirs.state_dict()
    if not sequential:  # older versions derive their convolutions from Conv2d
        state = {key.replace(".0.", ".").replace(".1.", "."): value for key, value in state.items()}
    checkpoint = saved(state, tmp_path / "a.pt")
    assert fitting_architectures(checkpoint) == [name]
    check_fits(checkpoint, name)
    assert checkpoint.notes == (
        (f"The layers are named as in DeepOBS; {renamed} here.",) if sequential else ()
    )
    ours = architectures.build(name)
    load_into(ours, checkpoint)
    images = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))


# --- Several files ----------------------------------------------------------------------------------------


def split(state: State, folder: Path, suffix: str) -> tuple[Path, dict[str, Path]]:
    """The state dict in two files with an index, as Hugging Face writes them."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = [f"{stem}-0000{number}-of-00002{suffix}" for number in (1, 2)]
    keys = list(state)
    parts = dict(zip(names, (keys[:5], keys[5:]), strict=True))
    for name, part in parts.items():
        tensors = {key: state[key] for key in part}
        if suffix == ".safetensors":
            safetensors.torch.save_file(tensors, folder / name, {"format": "pt"})
        else:
            torch.save(tensors, folder / name)
    index = folder / f"{stem}{suffix}.index.json"
    places = {key: name for name, part in parts.items() for key in part}
    index.write_text(json.dumps({"metadata": {"total_size": 28120}, "weight_map": places}))
    return index, {name: folder / name for name in names}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_several_files_become_one(suffix: str, state: State, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    index, shards = split(state, folder, suffix)
    (folder / "trainer_state.json").write_text(json.dumps({"epoch": 2.5, "global_step": 500}))
    target = merge(index, shards, tmp_path / "whole.safetensors")
    assert target == tmp_path / "whole.safetensors"
    checkpoint = read(target)
    assert_same(checkpoint, state)
    assert (checkpoint.step, checkpoint.epoch) == (500, 2)
    state_beside = target.with_name("whole.safetensors.trainer_state.json")
    assert sorted(tmp_path.iterdir()) == [folder, target, state_beside]
    with pytest.raises(CheckpointError, match="is the index of a checkpoint in several files"):
        read(index)


def test_tied_weights_in_several_files_are_written_twice(tmp_path: Path) -> None:
    tied = torch.randn(3, 4)
    index, shards = split({f"w{number}": tied for number in range(6)} | {"v": tied.T}, tmp_path, ".bin")
    state = read(merge(index, shards, tmp_path / "a.safetensors")).state
    assert all(torch.equal(state[f"w{number}"], tied) for number in range(6))
    assert torch.equal(state["v"], tied.T)


def test_a_folder_of_hugging_face_tells_the_step(state: State, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-40"
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "model.safetensors")
    assert read(folder / "model.safetensors").step == 40
    assert (
        read(folder / "model.safetensors", "model.safetensors").step is None
    )  # an upload's folder tells nothing
    (folder / "trainer_state.json").write_text(json.dumps({"epoch": 1.9, "global_step": 41}))
    checkpoint = read(folder / "model.safetensors")
    assert (checkpoint.step, checkpoint.epoch) == (41, 1)


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        (None, "is no index of a checkpoint in several files"),
        ([], "names no tensors"),
        ({}, "names no tensors"),
        ({"w": 3}, "names no tensors"),
        ({"w": "../a.safetensors"}, "names '../a.safetensors', which is no plain file name"),
        ({"w": "/etc/passwd"}, "which is no plain file name"),
        ({"w": "..\\a"}, "which is no plain file name"),
        ({"w": ".."}, "which is no plain file name"),
        ({"w": "a\x00b"}, "which is no plain file name"),
        ({"w": "gone.safetensors"}, "names 'gone.safetensors', which is not there"),
        ({"w": "a.safetensors", "x": "a.safetensors"}, "only one of them has the tensor 'x'"),
        ({"w": "a.safetensors", "x": "b.safetensors"}, "only one of them has the tensor 'w'"),
    ],
)
def test_an_index_that_does_not_belong_is_refused(weight_map: object, reason: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(3)}, tmp_path / "a.safetensors")
    safetensors.torch.save_file({"w": torch.zeros(3), "x": torch.ones(2)}, tmp_path / "b.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"metadata": {}} | ({} if weight_map is None else {"weight_map": weight_map}))
    )
    shards = {name: tmp_path / name for name in ("a.safetensors", "b.safetensors")}
    with pytest.raises(CheckpointError) as refused:
        merge(index, shards, tmp_path / "whole.safetensors")
    assert reason in str(refused.value)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("whole*"))


@pytest.mark.parametrize(
    "contents", [b"", b"{", b"[" * 200_000, b'{"weight_map": ' + b"9" * 5000, b"\xff\xfe"]
)
def test_an_index_that_is_none_is_refused(contents: bytes, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(contents)
    with pytest.raises(CheckpointError, match="is no index of a checkpoint in several files"):
        merge(index, {}, tmp_path / "whole.safetensors")
