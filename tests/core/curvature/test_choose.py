"""The choice of path, columns and batches: it works, keeps to its memory, and is quick for small jobs."""

import json
import time

import pytest
import torch
from torch import nn

from seigh.core.curvature import CurvatureOperator, Measurement, choose
from seigh.core.curvature.choose import Footprint, _Trials, footprint
from seigh.core.problems import architectures
from tests.core.curvature.problems import NAMES, dense, problem

CE = nn.CrossEntropyLoss()
PLENTY = 2**32


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("memory", [1, 20_000, PLENTY])
def test_what_is_chosen_multiplies(name: str, kind: str, memory: int) -> None:
    model, x, y = problem(name, seed=1)
    operator, measurements = choose(model, CE, x, y, kind=kind, block=5, products=10, memory=memory)
    truth = dense(model, CE, x, y, kind)
    block = torch.randn(len(truth), 5, dtype=torch.float64)
    torch.testing.assert_close(operator @ block, truth @ block)
    assert operator.hvps == 5
    assert measurements[0].seconds_per_product is not None
    assert json.loads(json.dumps([m.to_json() for m in measurements]))[0]["path"] == "double-backward"


def test_a_small_job_tries_nothing_else() -> None:
    torch.manual_seed(0)
    model, x, y = architectures.build("tanh-mlp"), torch.rand(500, 1, 16, 16), torch.randint(0, 10, (500,))
    operator, (first, *others) = choose(model, CE, x, y, block=35, products=70, memory=PLENTY)
    assert (operator.path, operator.columns, operator.batch_size) == ("double-backward", 35, 500)
    assert first.seconds_per_product is not None
    assert [m.path for m in others] == ["linearize", "double-backward"]
    assert all(m.seconds_per_product is None and "too long" in str(m.reason) for m in others)


def test_a_large_job_tries_all_and_takes_the_fastest_unless_it_is_close() -> None:
    model, x, y = problem("conv-bn", seed=0, dtype=torch.float32)
    operator, measurements = choose(model, CE, x, y, block=4, products=10**9, memory=PLENTY)
    assert {m.path for m in measurements} == {"double-backward", "linearize"}
    assert all(m.seconds_per_product is not None and m.reason is None for m in measurements)
    taken = [m for m in measurements if (m.path, m.columns) == (operator.path, operator.columns)]
    assert taken[0].seconds_per_product <= 1.05 * min(m.seconds_per_product for m in measurements)


def test_a_path_is_not_judged_by_its_first_call() -> None:
    class Cold:
        """Takes a tenth of a second once."""

        columns, batch_size, keep = 1, 10, True
        shape, dtype, device = (3, 3), torch.float32, torch.device("cpu")
        calls = 0

        def prepare(self, index: int) -> None: ...

        def multiply_batch(self, index: int, rows: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            time.sleep(0.1 if self.calls == 1 else 0)
            return rows

    operator = Cold()
    trials = _Trials(lambda _: operator, 10, block=1, products=40, usage=Footprint(1, 1, 0, 1))
    trials.time(Measurement("double-backward", 1, 10, True))
    assert operator.calls == 3
    assert trials.best[0].seconds_per_product < 0.1


def test_less_memory_means_fewer_columns_then_smaller_batches() -> None:
    model, x, y = problem("conv-bn", seed=0, dtype=torch.float32, samples=64)
    per_sample = footprint(model, CE, x, y).per_sample
    chosen: list[CurvatureOperator] = []
    for share in (200, 70, 10):
        memory = share * per_sample + footprint(model, CE, x, y).fixed
        operator, _ = choose(model, CE, x, y, block=8, products=1, memory=memory)
        kept = 64 if operator.keep else operator.batch_size
        assert (kept + operator.batch_size * operator.columns) * per_sample <= memory
        chosen.append(operator)
    plenty, little, less = chosen
    assert (plenty.columns, plenty.batch_size, plenty.keep) == (2, 64, True)
    assert little.keep
    assert little.columns * little.batch_size <= 6
    assert (less.keep, less.columns) == (False, 1)
    assert less.batch_size <= 5


def test_the_footprint_is_what_is_kept() -> None:
    """Counted by hand for the tanh MLP: what each operation's second derivative needs, once each.

    Five times 20 values after tanh, their gradients before and after each tanh, and ten log-probabilities.
    """
    torch.manual_seed(0)
    model, x, y = architectures.build("tanh-mlp"), torch.rand(4, 1, 16, 16), torch.randint(0, 10, (4,))
    usage = footprint(model, CE, x, y)
    assert usage.per_sample == pytest.approx(4 * (3 * 5 * 20 + 10), rel=0.1)
    assert usage.largest == 4 * 20
    assert usage.fixed < 1000


def test_memory_errors_shrink_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with room for 8 vector-samples at once, which says so only when they are multiplied."""
    model, x, y = problem("mlp", seed=0)
    multiply = CurvatureOperator.multiply_batch

    def limited(self: CurvatureOperator, index: int, rows: torch.Tensor) -> torch.Tensor:
        if len(rows) * self.batch_size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return multiply(self, index, rows)

    monkeypatch.setattr(CurvatureOperator, "multiply_batch", limited)
    operator, measurements = choose(model, CE, x, y, block=4, products=1, memory=PLENTY)
    tried = [(m.columns, m.batch_size) for m in measurements]
    assert tried[:4] == [(4, 11), (2, 11), (1, 11), (1, 6)]
    truth = dense(model, CE, x, y, "hessian")
    block = torch.randn(len(truth), 3, dtype=torch.float64)
    torch.testing.assert_close(operator @ block, truth @ block)


def test_a_model_without_second_derivatives_is_told_so() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):  # type: ignore[no-untyped-def]
            return g * ctx.saved_tensors[0].cos()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Once.apply(self.layer(x))

    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        choose(
            Model().eval(), CE, torch.rand(4, 3), torch.tensor([0, 1, 0, 1]), block=2, products=9, memory=9**9
        )


def test_measurements_are_json() -> None:
    assert Measurement("linearize", 1, 5, True).to_json() == {
        "path": "linearize",
        "columns": 1,
        "batch_size": 5,
        "keep": True,
        "seconds_per_product": None,
        "reason": None,
    }
