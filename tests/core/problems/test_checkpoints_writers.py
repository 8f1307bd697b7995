"""Checkpoints that the writers' own code has just written."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from seigh.core.problems.checkpoints import Checkpoint, read, whole
from tests.core.problems.kinds import KINDS
from tests.docs.pages import DOCS

pytestmark = pytest.mark.filterwarnings("ignore")


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 4, generator=generator), torch.randint(2, (16,), generator=generator)
    return DataLoader(TensorDataset(x, y), 4)


def one(given: Path, tmp_path: Path) -> Checkpoint:
    [file] = whole([given], tmp_path / "whole")
    return read(file)


def assert_same(found: Checkpoint, net: nn.Module) -> None:
    state = net.state_dict()
    assert found.state.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found.state[name], tensor.cpu()), name


def test_lightning(tmp_path: Path) -> None:
    pl = pytest.importorskip("pytorch_lightning")
    torchmetrics = pytest.importorskip("torchmetrics")

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, rate: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.classifier = network()
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))
            self.train_acc = torchmetrics.Accuracy(task="multiclass", num_classes=2)
            self.train_acc.persistent(True)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            outputs = self.classifier(batch[0])
            self.train_acc(outputs, batch[1])
            return self.loss(outputs, batch[1])  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            adam = torch.optim.Adam(self.parameters())
            return [adam], [torch.optim.lr_scheduler.StepLR(adam, 1)]

    module = Module()
    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_progress_bar=False, default_root_dir=tmp_path, accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader())
    [file] = (tmp_path / "checkpoints").iterdir()
    found = read(file)
    assert_same(found, module.classifier)
    assert (found.step, found.epoch) == (8, 1)
    assert any("beside the network under 'classifier.'" in note for note in found.notes)


def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    net = network()
    accelerator = accelerate.Accelerator(cpu=True)
    model, _ = accelerator.prepare(net, torch.optim.AdamW(net.parameters()))
    accelerator.save_state(str(tmp_path / "step_40"))
    found = one(tmp_path / "step_40", tmp_path)
    assert_same(found, net)
    assert found.step == 40
    accelerator.save_model(model, str(tmp_path / "model"), max_shard_size=60)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    [file] = whole([tmp_path / "model"], tmp_path / "again")
    assert_same(read(file), net)


def test_hugging_face_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.layers(x)
            return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}

    rows = [{"x": x, "labels": y} for x, y in loader().dataset]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=4, save_steps=2, logging_steps=1,
        per_device_train_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model=Classifier(), args=arguments, train_dataset=rows)
    trainer.train()
    files = whole([tmp_path / "run"], tmp_path / "whole")
    found = [read(file) for file in files]
    assert [each.step for each in found] == [2, 4]
    assert_same(found[1], trainer.model)
    losses = {each["step"]: each["loss"] for each in trainer.state.log_history if "loss" in each}
    assert [each.metrics for each in found] == [{"train_loss": losses[2]}, {"train_loss": losses[4]}]
    rate = torch.load(f"{files[0].parent}/optimizer.pt")["param_groups"][0]["lr"]
    last = next(each["learning_rate"] for each in trainer.state.log_history if each["step"] == 4)
    assert [each.learning_rate for each in found] == [rate, last]  # the schedule has come to 0 after step 4


def test_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm.utils")
    from argparse import Namespace

    net = network()
    average = timm.ModelEmaV2(net, decay=0.5)
    saver = timm.CheckpointSaver(
        net, torch.optim.SGD(net.parameters(), lr=0.1), args=Namespace(model="mlp"), model_ema=average,
        checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(7, metric=0.5)
    found = read(tmp_path / "checkpoint-7.pth.tar")
    assert_same(found, net)
    assert (found.step, found.epoch) == (None, 7)
    assert found.offered == ("state_dict", "state_dict_ema")
    assert_same(read(tmp_path / "checkpoint-7.pth.tar", entry="state_dict_ema"), average.module)


def test_ignite(tmp_path: Path) -> None:
    pytest.importorskip("ignite")
    from ignite.engine import Engine, Events
    from ignite.handlers import Checkpoint as Saver
    from ignite.handlers import DiskSaver

    net, engine = network(), Engine(lambda *_: 0.0)
    saver = Saver({"model": net, "trainer": engine}, DiskSaver(str(tmp_path)), n_saved=None)
    engine.add_event_handler(Events.EPOCH_COMPLETED, saver)
    engine.run([1, 2, 3], max_epochs=2)
    found = read(tmp_path / "checkpoint_6.pt")
    assert_same(found, net)
    assert found.step == 6


def test_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        keras = pytest.importorskip("keras")
    if keras.config.backend() != "torch":
        pytest.skip("Keras was imported with another backend")
    model = keras.Sequential([keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(2)])
    model(torch.ones(1, 4))
    torch.save(model.state_dict(), tmp_path / "step_5.pt")
    found = read(tmp_path / "step_5.pt")
    assert_same(found, model)
    assert found.step == 5


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_fsdp(tmp_path: Path, group: None) -> None:
    from torch.distributed.checkpoint.state_dict import get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = network()
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    torch.save(get_model_state_dict(net), tmp_path / "step_3.pt")  # of DTensors
    assert_same(read(tmp_path / "step_3.pt"), network())


# --- The page ---------------------------------------------------------------------------------------------

# Tests, or kinds of file, by the rows of the page.
WRITERS: dict[str, tuple[Callable[..., None] | str, ...]] = {
    "torch.save": ("torch.save(model.state_dict())", "… in the old format", "a state dict as .pth.tar"),
    "safetensors": ("safetensors", "safetensors with metadata"),
    "Lightning": (test_lightning, "a Lightning module's 'my_net' with metrics and loss weights beside it"),
    "accelerate": (test_accelerate,),
    "Hugging Face Trainer": (test_hugging_face_trainer,),
    "timm": (test_timm, "timm: state_dict and state_dict_ema"),
    "Ignite": (test_ignite,),
    "Keras 3 on PyTorch": (test_keras,),
    "PEFT": ("test_an_adapter_is_merged_as_peft_merges_it",),
    "torch.distributed.checkpoint": ("test_a_folder_of_torch_distributed_checkpoint",),
    "DeepSpeed": ("test_deepspeed",),
    "FSDP": (test_fsdp, "names under '_fsdp_wrapped_module.'"),
    "fairseq, Megatron, mmcv, mmengine, detectron2, nanoGPT, Composer, basicsr, diffusers, ema-pytorch": (
        "fairseq's checkpoint",
        "state dicts of parts within one entry (Megatron)",
        "mmcv's meta",
        "beside the weights: mmengine's configuration",
        "detectron2's checkpoint",
        "nanoGPT's ckpt.pt",
        "Composer's state",
        "basicsr: params and params_ema",
        "diffusers: EMAModel",
        "ema-pytorch: online_model and ema_model",
    ),
    "your own loop": ("the entry of a mapping of one's own",),
}


def test_every_row_of_the_page_is_a_test() -> None:
    page = (DOCS / "checkpoints.md").read_text()
    table = page.partition("## Writers")[2].partition("##")[0]
    rows = [line.split("|")[1].strip().replace("`", "") for line in table.splitlines() if line[:1] == "|"]
    assert rows[2:] == list(WRITERS)
    kinds = {kind.what for kind in KINDS}
    folders = Path(__file__).with_name("test_checkpoints_folders.py").read_text()
    for tests in WRITERS.values():
        for each in tests:
            assert callable(each) or each in kinds or f"def {each}(" in folders, each


def test_every_refusal_of_the_page_is_a_kind() -> None:
    page = (DOCS / "checkpoints.md").read_text()
    table = page.partition("## What is refused")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line[:1] == "|"][2:]
    refused = {kind.what for kind in KINDS if kind.refused}
    assert len(lines) <= len(refused)
    for line in lines:
        for code in re.findall(r"`(torch\.save\([^`]+)`", line):
            compile(code.replace("(file", "('file'"), "page", "eval")
