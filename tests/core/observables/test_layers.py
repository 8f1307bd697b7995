"""The blocks of H on the diagonal against a dense Hessian, multiplied out and as of larger networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.dense import Truth
from seigh import analyse
from seigh.core.observables import dense
from tests.core.observables.test_approximations import CLASSES, N, cnn, mlp

NAMES = ("layer-sharpness", "layer-trace", "block-diagonal-misses")


@pytest.mark.parametrize(("make", "exact"), [(mlp, False), (cnn, True)])
def test_a_sweep_over_tensors_is_that_of_the_dense_blocks(
    make: Callable[[int], tuple[nn.Module, Tensor]], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "EXACT_UP_TO", 4000 if exact else 0)
    model, x = make(4)
    y = torch.randint(CLASSES, (N,))
    more = {"curves": NAMES, "weight_decay": 0.01, "hvp_path": "double-backward", "precision": "float32"}
    found = analyse(model, "cross-entropy", (x, y), k=6, **more)
    assert "curves_failed" not in found.record
    truth = Truth(model, x, y, 0.01)
    matrix, blocks = truth.hessian, truth.blocks()
    sharpness, trace = (found.profiles[each] for each in NAMES[:2])
    assert sharpness["x"].tolist() == [*range(1, len(blocks) + 1)]
    for number, block in enumerate(blocks):
        values = torch.linalg.eigvalsh(block)
        largest = float(values[values.abs().argmax()])
        assert sharpness["lower"][number] <= largest <= sharpness["upper"][number]
        assert sharpness["value"][number] == pytest.approx(largest, rel=1e-4)
        assert trace["lower"][number] <= float(block.trace()) <= trace["upper"][number]
    inside = sum(float(block.square().sum()) for block in blocks)
    missed = float((1 - inside / matrix.square().sum()).sqrt())
    told = found.quantities["block-diagonal-misses"]
    assert told["lower"] <= missed <= told["upper"]
    assert told["value"] == pytest.approx(missed, rel=1e-4 if exact else 0.15)
    assert told["upper"] - told["lower"] < (1e-3 if exact else 0.6)
