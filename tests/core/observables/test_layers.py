"""The blocks of H on the diagonal against a dense Hessian, multiplied out and as of larger networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.dense import Truth
from seigh import analyse
from seigh.core.observables import dense
from tests.core.observables.test_approximations import CLASSES, N, cnn, mlp

NAMES = ("layer-sharpness", "layer-trace", "block-diagonal-misses", "layer-overlap", "layer-density")


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
    overlap, density = (found.profiles[each] for each in NAMES[3:])
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    start, widths = 0, found.record["remarks"]["layer-density"]
    for number, block in enumerate(blocks):
        size = len(block)
        k = max(1, round(6 * size / len(theta)))
        mask = theta[start : start + size].abs().topk(k).indices
        values, vectors = torch.linalg.eigh(block)
        vectors = vectors[:, values.abs().argsort(descending=True)[:k]]
        share = float(vectors[mask].square().sum()) / k
        assert overlap["lower"][number] <= share <= overlap["upper"][number]
        assert overlap["value"][number] == pytest.approx(share, abs=1e-3)
        assert overlap["reference"][number] == pytest.approx(k / size)
        mine = density["line"] == number + 1
        width = float(widths.split("deviation ")[1].split(", tensor")[0].split(", ")[number])
        smooth = np.exp(-0.5 * ((density["x"][mine][:, None] - values.numpy()) / width) ** 2).sum(1)
        smooth /= size * width * np.sqrt(2 * np.pi)
        within = (density["lower"][mine] <= smooth + 1e-6) & (smooth <= density["upper"][mine] + 1e-6)
        assert within.mean() >= 0.95
        start += size
    assert (overlap["upper"] - overlap["lower"]).min() < 0.05


def test_equal_weights_of_a_tensor_are_a_mean_over_all_choices() -> None:
    """Biases that are all zero admit every mask: the mean of their masses is chance."""
    model, x = mlp(4)
    with torch.no_grad():
        model[0].bias.zero_()
    y = torch.randint(CLASSES, (N,))
    more = {"curves": ("layer-overlap",), "weight_decay": 0.01, "hvp_path": "double-backward"}
    found = analyse(model, "cross-entropy", (x, y), k=6, **more).profiles["layer-overlap"]
    assert found["value"][1] == pytest.approx(1 / 6)  # of 6 biases
    assert found["lower"][1] < 0.1 < 0.3 < found["upper"][1]
