"""Further curves against dense truth, and their stated errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from seigh.core.overlap.masks.built_in import MASKS
from seigh.core.overlap.observables import OBSERVABLES, Curve, Scene, tilts
from seigh.core.spectra import Eigenpairs, block_krylov, exact

D = 60


def matrix(seed: int, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    if kind == "localised":
        q = torch.linalg.qr(
            torch.eye(D, dtype=torch.float64)
            + 0.1 * torch.randn(D, D, generator=generator, dtype=torch.float64)
        ).Q
    values = 0.9 ** torch.arange(D, dtype=torch.float64)
    if kind == "close":  # neighbours at 1e-5 of each other
        values[1::2] = values[::2] * (1 - 1e-5)
    if kind == "signs":
        values[::3] *= -1
    return (q * values) @ q.T


def scene(pairs: Eigenpairs, k: int, tensors: Mapping[str, Tensor] | None = None) -> Scene:
    assert pairs.residuals is not None
    return Scene(
        pairs.top(k).vectors().T,
        pairs.values[:k].double(),
        tilts(pairs, pairs.residuals, k),
        tensors or {},
        lambda scores: pytest.fail("no overlap is asked for"),
    )


def participation(vectors: Tensor, k: int) -> np.ndarray:
    """The definition, in a double loop."""
    total, found = 0.0, []
    for i in range(k):
        for j in range(len(vectors)):
            total += float(vectors[j, i]) ** 4
        found.append(total)
    return np.array(found)


@pytest.mark.parametrize("kind", ["random", "localised", "close", "signs"])
def test_the_participation_ratio_lies_within_its_stated_error(kind: str) -> None:
    k, resolved = 6, 0
    for seed in range(10):  # ``python -m benchmarks.observables`` has hundreds
        dense = matrix(seed, kind)
        values, vectors = torch.linalg.eigh(dense)
        truth = participation(vectors[:, values.abs().argsort(descending=True)], k)
        for products in (20, 32, 48):
            pairs = block_krylov(dense, k, products=products, further=8, seed=seed)
            curve = OBSERVABLES["participation"].compute(scene(pairs, k))
            assert curve.error is not None
            assert (np.abs(curve.value - truth) <= curve.error).all(), (seed, products)
            resolved += int((curve.error <= 0.01 * curve.value).sum())
    assert resolved >= 10 * k / (6 if kind == "close" else 1)  # and says something


def test_exact_pairs_give_the_exact_participation_ratio_beside_chance() -> None:
    dense = matrix(0, "random")
    curve = OBSERVABLES["participation"].compute(scene(exact(dense, 5, further=55), 5))
    values, vectors = torch.linalg.eigh(dense)
    truth = participation(vectors[:, values.abs().argsort(descending=True)], 5)
    np.testing.assert_allclose(curve.value, truth, rtol=1e-9)
    assert curve.error is not None
    assert (curve.error < 1e-8).all()
    draws = torch.randn(20_000, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws /= draws.norm(dim=1, keepdim=True)
    assert curve.chance is not None
    np.testing.assert_allclose(curve.chance, float(draws.pow(4).sum(1).mean()) * np.arange(1, 6), rtol=0.01)


def test_unresolved_vectors_are_not_claimed() -> None:
    """Of two equal eigenvalues any rotation will do: the sum may lie anywhere."""
    dense = torch.diag(torch.tensor([3.0, 3.0, *np.linspace(1, 0, D - 2)], dtype=torch.float64))
    curve = OBSERVABLES["participation"].compute(scene(exact(dense, 2, further=D - 2), 2))
    assert curve.error is not None
    assert curve.error[0] > 0.4
    assert curve.error[1] > 0.9


def test_the_layerwise_mask_takes_the_same_share_of_every_tensor() -> None:
    (mask,) = (each for each in MASKS if each.name == "layerwise")
    torch.manual_seed(0)
    tensors = {"small": torch.randn(8, 10), "large": 1000 * torch.randn(40, 10), "bias": torch.randn(20)}
    flat = torch.cat([each.flatten() for each in tensors.values()])
    given = Scene(
        torch.empty(1, len(flat)), torch.ones(1), torch.zeros(1), tensors, lambda _: Curve(np.ones(1))
    )
    scores = mask.scores(given)
    assert len(scores.unique()) > 400
    for k in (50, 125, 250, 400):
        chosen = scores.topk(k).indices
        ends = np.cumsum([each.numel() for each in tensors.values()])
        for start, end, tensor in zip([0, *ends], ends, tensors.values(), strict=False):
            inside = chosen[(chosen >= start) & (chosen < end)] - start
            share = k / len(flat)
            assert abs(len(inside) - share * tensor.numel()) <= 1
            largest = tensor.flatten().abs().topk(len(inside)).indices
            assert set(inside.tolist()) == set(largest.tolist())
