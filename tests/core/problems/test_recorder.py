"""The recorder in loops like those that people write."""

import re
from pathlib import Path

import pytest
import safetensors
import torch
from torch import Tensor, nn

from seigh.core.problems import checkpoints
from seigh.core.problems.recorder import Recorder, checkpoint_name

PAGE = Path(__file__).resolve().parents[3] / "docs" / "train.md"


def state(path: Path | None) -> dict[str, Tensor]:
    assert path is not None
    return checkpoints.read(path).state


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


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(2, 1)
    recorder = Recorder(model, tmp_path, steps=[1])
    path = recorder(1)
    old = state(path)["weight"].clone()

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(OSError, match="No space"):
        recorder(1)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.equal(state(path)["weight"], old)


def test_gradients_mode_and_training_are_left_alone(tmp_path: Path) -> None:
    def trained(recorder_of: bool) -> dict[str, Tensor]:
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
        recorder = Recorder(model, tmp_path, steps=range(100))
        optimiser = torch.optim.Adam(model.parameters())
        for step in range(5):
            x, y = torch.randn(8, 3), torch.randint(2, (8,))
            optimiser.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
            if recorder_of:
                gradients = [parameter.grad for parameter in model.parameters()]
                recorder(step)
                assert model.training
                assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
                assert all(p.requires_grad for p in model.parameters())
            optimiser.step()
        return model.state_dict()

    alone, recorded = trained(False), trained(True)
    assert all(torch.equal(alone[name], recorded[name]) for name in alone)


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = {
            "parallel": nn.DataParallel(model),
            "distributed": nn.parallel.DistributedDataParallel(model),
            "compiled": torch.compile(model),
            "both": torch.compile(nn.parallel.DistributedDataParallel(model)),
        }
        for name, wrapper in wrapped.items():
            found = state(Recorder(wrapper, tmp_path / name, [0])(0))
            assert found.keys() == model.state_dict().keys()
            assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    finally:
        torch.distributed.destroy_process_group()


def _record_in_a_group(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, rank)
    path = Recorder(model, folder / "out", [0])(0)
    assert (path is None) == (rank == 1)
    torch.distributed.destroy_process_group()


def test_of_several_processes_the_first_writes(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_record_in_a_group, (tmp_path,), nprocs=2, start_method="fork")
    assert state(tmp_path / "out" / checkpoint_name(0))["weight"].item() == 0


def test_weights_of_any_layout_and_tied_ones_are_recorded(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
            self.first = nn.Linear(2, 2, bias=False)
            self.second = self.first
            self.low = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))

        def get_extra_state(self) -> object:
            return {"anything": object()}

        def set_extra_state(self, state: object) -> None:
            pass

    model = Net()
    assert not model.conv.weight.is_contiguous()
    found = state(Recorder(model, str(tmp_path), [0])(0))
    assert torch.equal(found["conv.weight"], model.conv.weight)
    assert torch.equal(found["first.weight"], found["second.weight"])
    assert torch.equal(found["low"], torch.ones(2))


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "Recorder(" in block]
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    names = {
        "model": model,
        "batches": [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(300)],
        "loss_function": nn.CrossEntropyLoss(),
        "optimiser": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    first = model.weight.detach().clone()
    exec(example, names)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert [checkpoints.read(file).step for file in files] == [0, 100, 200, 300]
    assert torch.equal(state(files[0])["weight"], first)
    assert torch.equal(state(files[-1])["weight"], model.weight)
