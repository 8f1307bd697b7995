"""GGN, Fisher matrices, KFAC and EKFAC beside H, against matrices that are written down here in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.dense import Truth, common, leading
from seigh import analyse
from seigh.core.analysis import Result
from seigh.core.observables import dense
from seigh.core.observables.approximations import MATRICES

N, K, CLASSES = 24, 6, 4
NAMES = tuple(f"{kind}-{each.name}" for each in MATRICES for kind in ("eigenspace", "error"))


def mlp(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    return model, torch.randn(N, 5, dtype=torch.float64)


def cnn(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES, bias=False)
    ).double()
    return model, torch.randn(N, 1, 4, 4, dtype=torch.float64)


def analysed(model: nn.Module, x: Tensor, y: Tensor, **more: Any) -> Result:
    more = {"curves": NAMES, "weight_decay": 0.01, "hvp_path": "double-backward", "seed": 3} | more
    return analyse(model, "cross-entropy", (x, y), k=K, **more)


@pytest.mark.parametrize(("make", "seed", "exact"), [(mlp, 0, False), (cnn, 1, True)])
def test_they_are_as_far_from_h_as_their_dense_matrices(
    make: Any, seed: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(dense, "EXACT_UP_TO", 0)
    model, x = make(seed)
    y = torch.randint(CLASSES, (N,))
    found, truth = analysed(model, x, y), Truth(model, x, y, 0.01)
    assert "curves_failed" not in found.record
    h, (_, vectors) = truth.hessian, truth.eigenpairs
    for name, matrix in truth.matrices(3).items():
        distance = float((matrix - h).norm() / h.norm())
        told = found.quantities[f"error-{name}"]
        assert told["lower"] - 1e-9 <= distance <= told["upper"] + 1e-9, name
        assert told["value"] == pytest.approx(distance, rel=1e-6 if exact else 0.3), name
        overlap = common(vectors, leading(matrix)[1], K)
        curve = found.curves[f"eigenspace-{name}"]
        assert (np.abs(curve["value"] - overlap) <= curve["error"] + 1e-9).all(), name
        assert np.median(curve["error"]) < 0.1, name


def test_what_they_are_not_defined_for_is_a_sentence() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    x, y = torch.randn(N, 5, dtype=torch.float64), torch.randint(CLASSES, (N,))
    named = [f"error-{each.name}" for each in MATRICES]
    found = analysed(model, x, y, curves=named)
    failed = found.record["curves_failed"]
    assert failed.keys() == {"error-kfac", "error-ekfac"}
    assert failed["error-kfac"].startswith("KFAC is defined for linear and convolutional layers alone")
    smoothed = analysed(mlp(0)[0], x, y, curves=named, label_smoothing=0.1)
    assert smoothed.record["curves_failed"]["error-fisher"].startswith("Labels can be drawn for plain")
    assert "error-ggn" in smoothed.quantities
