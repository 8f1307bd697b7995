"""Checkpoints in folders and archives, each read as its writer's own tools read it."""

from __future__ import annotations

import collections
import io
import json
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from seigh.core.problems.checkpoints import Checkpoint, CheckpointError, gather, read, whole
from seigh.core.reading import parent
from tests.core.problems import kinds

State = dict[str, Tensor]


def assert_same(found: Checkpoint, state: Mapping[str, Tensor]) -> None:
    assert {found.prefix + name for name in found.state} == set(state) or found.state.keys() == state.keys()
    for name, tensor in found.state.items():
        expected = state[name] if name in state else state[found.prefix + name]
        assert torch.equal(tensor.double(), expected.double()), name


def one(given: Path, tmp_path: Path, base: Path | None = None) -> Checkpoint:
    """The one checkpoint of a folder or an archive."""
    own = tmp_path / "whole"
    own.mkdir()
    [file] = whole([given], own, base)
    return read(file)


# --- torch.distributed.checkpoint -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def contents() -> dict[str, Any]:
    return {"model": kinds.state(), "optim": kinds.optimiser()["state"][0], "step": 70, "epoch": 2}


def test_a_folder_of_torch_distributed_checkpoint(tmp_path: Path) -> None:
    dcp.save(contents(), checkpoint_id=tmp_path / "run", no_dist=True)
    found = one(tmp_path / "run", tmp_path)
    assert_same(found, kinds.state())
    assert (found.step, found.epoch) == (70, 2)


def test_a_folder_of_sharded_tensors_is_put_together(tmp_path: Path, group: None) -> None:
    mesh = init_device_mesh("cpu", (1,))
    state = {k: distribute_tensor(v, mesh, [Shard(0)]) if v.ndim else v for k, v in kinds.state().items()}
    dcp.save({"model": state}, checkpoint_id=tmp_path / "run")
    assert_same(one(tmp_path / "run", tmp_path), kinds.state())


def test_pieces_of_several_processes_are_put_together(tmp_path: Path) -> None:
    """Two processes, one after the other here: each writes its half of every matrix."""
    folder = tmp_path / "run"
    two_halves(folder)
    assert_same(one(folder, tmp_path), {"w": torch.arange(24.0).reshape(6, 4), "b": torch.ones(3)})


def two_halves(folder: Path) -> None:
    from torch.distributed.checkpoint import metadata as meta
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    folder.mkdir()
    w, b = torch.arange(24.0).reshape(6, 4), torch.ones(3)
    chunks, places = {"w": [(0, w[:2]), (2, w[2:])], "b": [(0, b)]}, {}
    for rank in (0, 1):
        file = io.BytesIO()
        for name, pieces in chunks.items():
            if rank < len(pieces):
                offset, tensor = pieces[rank]
                start = file.tell()
                piece = io.BytesIO()
                torch.save(tensor.clone(), piece)
                file.write(piece.getvalue())
                index = meta.MetadataIndex(name, torch.Size([offset] + [0] * (tensor.ndim - 1)), rank)
                places[index] = _StorageInfo(f"__{rank}_0.distcp", start, file.tell() - start)
        (folder / f"__{rank}_0.distcp").write_bytes(file.getvalue())
    about = {
        name: meta.TensorStorageMetadata(
            meta.TensorProperties(torch.float32),
            torch.Size([sum(len(t) for _, t in pieces), *pieces[0][1].shape[1:]]),
            [meta.ChunkStorageMetadata(torch.Size([o] + [0] * (t.ndim - 1)), t.shape) for o, t in pieces],
        )
        for name, pieces in chunks.items()
    }
    whole = meta.Metadata(about, {name: (name,) for name in about}, places)
    import pickle

    (folder / ".metadata").write_bytes(pickle.dumps(whole))


def test_a_distributed_tensor_in_a_file(tmp_path: Path, group: None) -> None:
    mesh = init_device_mesh("cpu", (1,))
    state = {k: distribute_tensor(v, mesh, [Shard(0)]) if v.ndim else v for k, v in kinds.state().items()}
    torch.save(state, tmp_path / "a.pt")
    assert_same(read(tmp_path / "a.pt"), kinds.state())


def test_what_is_wrong_with_a_distributed_checkpoint_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    two_halves(folder)
    (folder / "__1_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"names '__1_0.distcp', which is not there"):
        one(folder, tmp_path)
    two_halves(tmp_path / "other")
    (tmp_path / "other" / "__1_0.distcp").write_bytes(b"PK" * 900)
    (tmp_path / "b").mkdir()
    with pytest.raises(CheckpointError, match="damaged"):
        one(tmp_path / "other", tmp_path / "b")


def test_a_metadata_file_is_never_unpickled(tmp_path: Path) -> None:
    import os
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        one(tmp_path / "run", tmp_path)
    assert not (tmp_path / "executed").exists()


# --- DeepSpeed --------------------------------------------------------------------------------------------


def deepspeed(folder: Path, stage: int, ranks: int) -> State:
    """A checkpoint as DeepSpeed's engine writes it: what to read of it.

    ``zero_to_fp32.py`` of DeepSpeed 0.19 reads these files as the tensors that are given back.
    """
    folder.mkdir(parents=True)
    net = kinds.network()
    names = dict(net.named_parameters())
    groups = [[n for n in names if "weight" in n], [n for n in names if "bias" in n]]
    shapes = [collections.OrderedDict((n, names[n].shape) for n in group) for group in groups]
    buffers = dict(net.named_buffers())
    flat: list[list[Tensor]] = [[] for _ in range(ranks)]
    for group in groups:
        if stage <= 2:
            vector = torch.cat([names[n].detach().flatten() for n in group])
            aligned = 2 * ranks * math.ceil(len(vector) / (2 * ranks))
            vector = torch.cat([vector, torch.zeros(aligned - len(vector))])
            for rank, part in enumerate(vector.chunk(ranks)):
                flat[rank].append(part.clone())
        else:
            for rank in range(ranks):
                flat[rank].append(torch.cat([third(names[n].detach(), rank, ranks) for n in group]))
    for rank in range(ranks):
        module = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        if stage == 3:
            module = {k: v if k in buffers else torch.zeros(0) for k, v in module.items()}
        model = {
            "module": module,
            "buffer_names": list(buffers),
            "optimizer": None,
            "param_shapes": shapes,
            "frozen_param_shapes": None,
            "shared_params": {"again.weight": "fc.weight"},
            "frozen_param_fragments": None,
            "lr_scheduler": None,
            "data_sampler": None,
            "random_ltd": None,
            "sparse_tensor_module_names": set(),
            "skipped_steps": 0,
            "global_steps": 10,
            "global_samples": 80,
            "dp_world_size": ranks,
            "mp_world_size": 1,
            "ds_config": {"zero_optimization": {"stage": stage}},
            "ds_version": "0.19.8",
        }
        if stage == 3:
            torch.save(model, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        elif rank == 0:
            torch.save(model, folder / "mp_rank_00_model_states.pt")
        key = "single_partition_of_fp32_groups" if stage <= 2 else "fp32_flat_groups"
        with kinds.classes(deepspeed__runtime__fp16__loss_scaler__LossScaler=object) as made:
            scaler = made["LossScaler"]()
            scaler.cur_scale = 1.0
            optimiser = {
                "loss_scaler": scaler,
                "dynamic_loss_scale": False,
                "overflow": False,
                "zero_stage": stage,
                "partition_count": [ranks, ranks] if stage <= 2 else ranks,
                "base_optimizer_state": [],
                key: flat[rank],
            }
            contents = {"optimizer_state_dict": optimiser, "ds_config": {}, "ds_version": "0.19.8"}
            torch.save(contents, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (folder.parent / "latest").write_text(folder.name)
    state = dict(net.state_dict()) | {"again.weight": net.fc.weight.detach()}
    return {k: v.half().float() if k in buffers and v.is_floating_point() else v for k, v in state.items()}


def third(tensor: Tensor, rank: int, ranks: int) -> Tensor:
    """A process's part of a parameter in stage 3, padded to equal length."""
    size = math.ceil(tensor.numel() / ranks)
    padded = torch.cat([tensor.flatten(), torch.zeros(size * ranks - tensor.numel())])
    return padded[rank * size : (rank + 1) * size]


@pytest.mark.parametrize(("stage", "ranks"), [(1, 1), (2, 3), (3, 1), (3, 3)])
def test_deepspeed(stage: int, ranks: int, tmp_path: Path) -> None:
    expected = deepspeed(tmp_path / "run" / "global_step10", stage, ranks)
    found = one(tmp_path / "run", tmp_path)
    assert_same(found, expected)
    assert found.step == 10


def test_shares_that_are_missing_are_said(tmp_path: Path) -> None:
    deepspeed(tmp_path / "run" / "global_step10", 2, 2)
    (tmp_path / "run/global_step10/zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(CheckpointError, match=r"written by 2 processes, and of 1 there is a file"):
        one(tmp_path / "run", tmp_path)


# --- LoRA -------------------------------------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.proj = nn.Linear(6, 5)
        self.conv = nn.Conv1d(1, 1, 1)
        self.plane = nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(5, 3)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"proj": 3}}], ids=str)
def test_an_adapter_is_merged_as_peft_merges_it(options: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = Network()
    torch.save(net.state_dict(), tmp_path / "base.pt")
    targets = ["embed", "proj", "plane"]
    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=targets,
        modules_to_save=["head"],
        init_lora_weights=False,
        **options,
    )
    model = peft.get_peft_model(net, config)
    with torch.no_grad():
        model.base_model.model.head.modules_to_save["default"].weight.add_(1)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    (folder / "README.md").write_text("")
    expected = model.merge_and_unload().state_dict()
    found = one(folder, tmp_path, tmp_path / "base.pt")
    assert found.state.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found.state[name], expected[name])
    shutil.copyfile(tmp_path / "base.pt", folder / "base.pt")
    assert [each.kind for each in gather({p.name: p for p in folder.iterdir()})] == ["adapter"]
    assert gather({p.name: p for p in folder.iterdir()})[0].base == folder / "base.pt"


def adapter(folder: Path, state: State, **config: Any) -> Path:
    folder.mkdir()
    about = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "org/base"} | config
    (folder / "adapter_config.json").write_text(json.dumps(about))
    safetensors.torch.save_file(state, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "name", "base", "reason"),
    [
        ({}, "fc", False, "changes the weights of 'org/base'; give the file of that model, too"),
        ({}, "gone", True, "which 'base.pt' does not have; give its own base"),
        ({}, "conv", True, "has not the shape of the base's weights"),
        ({"use_dora": True}, "fc", True, "is of the kind DoRA, not LoRA"),
        ({"peft_type": "IA3"}, "fc", True, "is of the kind IA3, not LoRA"),
        ({"r": "x"}, "fc", True, "is no configuration of a LoRA adapter"),
    ],
)
def test_an_adapter_that_cannot_be_merged(
    config: dict[str, Any], name: str, base: bool, reason: str, tmp_path: Path
) -> None:
    torch.save(kinds.state(), tmp_path / "base.pt")
    front = f"base_model.model.{name}"
    state = {f"{front}.lora_A.weight": torch.ones(1, 12), f"{front}.lora_B.weight": torch.ones(4, 1)}
    folder = adapter(tmp_path / "adapter", state, **config)
    with pytest.raises(CheckpointError, match=reason):
        one(folder, tmp_path, tmp_path / "base.pt" if base else None)


# --- Folders of Hugging Face, and archives ----------------------------------------------------------------


def run(folder: Path) -> None:
    """A training of Hugging Face's Trainer: two checkpoints, with what lies beside them."""
    for step in (500, 1000):
        own = folder / f"checkpoint-{step}"
        own.mkdir(parents=True)
        safetensors.torch.save_file(
            {k: v + step if v.is_floating_point() else v for k, v in kinds.state().items()},
            own / "model.safetensors",
            {"format": "pt"},
        )
        optimiser = torch.optim.AdamW([nn.Parameter(torch.ones(3))], lr=1 / step)
        torch.save(optimiser.state_dict(), own / "optimizer.pt")
        torch.save({"last_epoch": step}, own / "scheduler.pt")
        (own / "training_args.bin").write_bytes(b"")
        history = [
            {"step": at, "epoch": at / 100, "loss": 300 / at, "learning_rate": 9.0}
            for at in (400, 500, 900, 1000)
        ]
        history.append({"step": step, "eval_loss": 0.25, "eval_accuracy": 0.5, "eval_runtime": 3.0})
        state = {"global_step": step, "epoch": step / 100, "log_history": history}
        (own / "trainer_state.json").write_text(json.dumps(state))


def say_all(found: list[Checkpoint]) -> None:
    """Losses at the very step, and the optimiser's learning rate, are known of the checkpoints of ``run``."""
    assert [each.metrics for each in found] == [
        {"train_loss": 300 / step, "test_loss": 0.25, "test_accuracy": 0.5} for step in (500, 1000)
    ]
    assert [each.learning_rate for each in found] == [1 / 500, 1 / 1000]
    assert all(each.rate_is_beside for each in found)
    assert all("the trainer's mean" in " ".join(each.notes) for each in found)


def test_files_of_a_trainer_that_are_none_tell_nothing(tmp_path: Path) -> None:
    run(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoint-500"
    for state in (
        b"{",
        b"[" * 10_000,
        b'{"global_step": 500, "log_history": [1, {"step": 500, "loss": "x"}]}',
    ):
        (folder / "trainer_state.json").write_bytes(state)
        (folder / "optimizer.pt").write_bytes(b"PK\3\4 and nothing else")
        found = read(folder / "model.safetensors")
        assert (found.step, found.metrics, found.learning_rate) == (500, {}, None)
        assert "tells no learning rate" in " ".join(found.notes)


def test_a_folder_of_checkpoints(tmp_path: Path) -> None:
    run(tmp_path / "run")
    found = [read(file) for file in whole([tmp_path / "run"], tmp_path / "own")]
    assert [(each.step, each.epoch) for each in found] == [(500, 5), (1000, 10)]
    say_all(found)
    assert_same(found[1], {k: v + 1000 if v.is_floating_point() else v for k, v in kinds.state().items()})


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent))
    return target


def test_an_archive_of_checkpoints(tmp_path: Path) -> None:
    run(tmp_path / "run")
    archive = zipped(tmp_path / "run", tmp_path / "run.zip")
    found = [read(file) for file in whole([archive], tmp_path / "own")]
    assert [each.step for each in found] == [500, 1000]
    say_all(found)
    assert_same(found[0], {k: v + 500 if v.is_floating_point() else v for k, v in kinds.state().items()})


def test_an_archive_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    two_halves(tmp_path / "step_9")
    archive = zipped(tmp_path / "step_9", tmp_path / "a.zip")
    found = one(archive, tmp_path)
    assert_same(found, {"w": torch.arange(24.0).reshape(6, 4), "b": torch.ones(3)})
    assert found.step == 9


def test_a_file_of_torch_save_called_zip(tmp_path: Path) -> None:
    torch.save(kinds.state(), tmp_path / "a.zip")
    assert_same(one(tmp_path / "a.zip", tmp_path), kinds.state())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"PK\3\4 and nothing else"), "is a damaged archive"),
        (lambda path: kinds.in_zip(path, {"readme.txt": b"hello"}), "holds no checkpoint"),
        (lambda path: kinds.in_zip(path, {"a.pt": bytes(2**22)}), "unpacks to more than the limit"),
    ],
    ids=["damaged", "nothing", "bomb"],
)
def test_archives_that_are_refused(
    make: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent, "_LEAST_OUTPUT", 2**20)
    make(tmp_path / "a.zip")
    with pytest.raises(CheckpointError, match=reason):
        one(tmp_path / "a.zip", tmp_path)


def test_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    kinds.in_zip(tmp_path / "a.zip", {"../../evil/step_3.pt": kinds.in_bytes(kinds.state())})
    found = one(tmp_path / "a.zip", tmp_path)
    assert found.step == 3
    assert found.path.is_relative_to(tmp_path / "whole")
