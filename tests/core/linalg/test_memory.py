"""Memory that runs out in the middle of a product: less at once from then on, and the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from seigh.core.curvature import CurvatureOperator
from seigh.core.linalg.memory import Layout, is_out_of_memory
from tests.core.curvature.problems import dense, problem

CE = nn.CrossEntropyLoss()

# More bytes than any machine can map.
ABSURD = 2**60


class Crowded(CurvatureOperator):
    """On a device with room for ``room`` vectors times samples at once; what does not fit is really asked for
    and really refused."""

    room = 8

    def multiply_batch(self, index: int, rows: Tensor) -> Tensor:
        if len(rows) * len(self._batches[index][0]) > self.room:
            torch.empty(ABSURD, dtype=torch.uint8)
        return super().multiply_batch(index, rows)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("path", ["double-backward", "linearize", "curvlinops"])
def test_products_go_on_with_less_at_once(path: str, keep: bool) -> None:
    model, x, y = problem("mlp", seed=0)
    truth = dense(model, CE, x, y, "hessian")
    block = torch.randn(len(truth), 5, dtype=torch.float64)
    told: list[int] = []
    operator = Crowded(
        model, CE, x, y, path=path, columns=4, batch_size=9, keep=keep, after_batch=told.append
    )
    torch.testing.assert_close(operator @ block, truth @ block)
    assert operator.out_of_memory == [Layout(4, 9, keep), Layout(2, 9, keep), Layout(1, 9, keep)]
    assert (operator.columns, operator.batch_size, operator.keep) == (1, 5, False)
    assert operator.hvps == told[-1] == 5
    torch.testing.assert_close(operator @ block, truth @ block)  # which does not run out again
    assert len(operator.out_of_memory) == 3
    assert operator.hvps == 10


def test_a_single_sample_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowded, "room", 0)
    model, x, y = problem("mlp", seed=0)
    operator = Crowded(model, CE, x, y, columns=2)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        operator @ torch.ones(operator.shape[0], dtype=torch.float64)
    assert (operator.columns, operator.batch_size) == (1, 1)


def test_a_loss_that_cannot_be_divided_is_not() -> None:
    model, x, y = problem("mlp", seed=0)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    operator = Crowded(model, loss, x, y, columns=2)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        operator @ torch.ones(operator.shape[0], dtype=torch.float64)
    assert operator.batch_size == len(x)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = problem("mlp", seed=0)
    operator = CurvatureOperator(model, CE, x, y, columns=4)

    def broken(index: int, rows: Tensor) -> Tensor:
        return torch.ones(2, 3) @ torch.ones(2, 3)

    monkeypatch.setattr(operator, "multiply_batch", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        operator @ torch.ones(operator.shape[0], dtype=torch.float64)
    assert operator.out_of_memory == []


def test_what_torch_really_raises_is_recognised() -> None:
    with pytest.raises(RuntimeError) as on_cpu:
        torch.empty(ABSURD, dtype=torch.uint8)
    with pytest.raises(MemoryError) as in_python:
        bytearray(ABSURD)
    assert is_out_of_memory(on_cpu.value)
    assert is_out_of_memory(in_python.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))


# A network whose products need 4 MB per vector, in an address space that has 160 MB left: 128 vectors at once
# do not fit. What the process maps on its way (thread stacks, the allocator's arenas) is mapped before.
_LIMITED = """
import json, resource, torch
from torch import nn
from seigh.core.curvature import CurvatureOperator

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 500), nn.Tanh(), nn.Linear(500, 3)).eval()
x, y = torch.rand(500, 4), torch.randint(0, 3, (500,))
block = torch.randn(4003, 128)
truth = CurvatureOperator(model, nn.CrossEntropyLoss(), x, y, columns=4) @ block
operator = CurvatureOperator(model, nn.CrossEntropyLoss(), x, y, columns=128)
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 160 * 2**20,) * 2)
product = operator @ block
print(json.dumps({
    "columns": operator.columns,
    "before": [layout.columns for layout in operator.out_of_memory],
    "error": float((product - truth).norm() / truth.norm()),
}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the address space like this")
def test_a_process_that_may_not_have_the_memory_computes_all_the_same() -> None:
    run = subprocess.run([sys.executable, "-c", _LIMITED], capture_output=True, text=True, check=True)
    facts = json.loads(run.stdout)
    assert facts["before"][0] == 128
    assert 1 <= facts["columns"] < 128
    assert facts["error"] < 1e-5
