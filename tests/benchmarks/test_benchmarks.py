"""The benchmarks without the peers: our own method in a child process, and what the figures rest on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import hvp, paint, scaling, spectra, stopping
from benchmarks.methods import Counted
from benchmarks.problems import Task, Truth, load, measured_residuals
from seigh.core.lab import queries
from seigh.core.lab.session import sessions
from seigh.core.overlap import overlap_curve
from seigh.core.problems import architectures
from seigh.core.problems.recorder import Recorder
from seigh.core.settings import Settings
from tests.core.spectra.matrices import hessian_like


@pytest.fixture
def task(tmp_path: Path) -> Task:
    torch.manual_seed(0)
    checkpoint = Recorder(architectures.build("tanh-mlp"), tmp_path, [0])(0)
    return Task("digits-mlp", "tanh-mlp", str(checkpoint), "digits", "test", 20, 0, 2, 4, 8)


def test_our_method_is_measured_in_a_process_of_its_own(task: Task) -> None:
    found = spectra.measure("ours-krylov", task, None, repeats=1, threads=1)
    loaded = load(task, torch.float64)
    assert found["hvps"] > task.k
    assert found["seconds"] > sum(found["stages"].values()) * 0.99 > 0
    assert found["largest_residual"] < 1e-3
    assert found["orthogonality"] < 1e-5
    # The eigenvalues are those of the task's own Hessian: each Ritz value lies within its residual of one.
    operator = loaded.curvlinops()
    vector = torch.randn(operator.shape[0], dtype=torch.float64)
    for _ in range(100):
        vector = operator @ (vector / vector.norm())
    assert vector.norm().item() == pytest.approx(abs(found["values"][0]), rel=1e-2)


def test_residuals_are_those_of_the_hessian(task: Task) -> None:
    """Against finite differences of the gradient."""
    loaded = load(task, torch.float64)
    parameters = list(loaded.model.parameters())
    vector = torch.randn(len(loaded.theta), dtype=torch.float64)
    vector /= vector.norm()

    def gradient(step: float) -> torch.Tensor:
        nn.utils.vector_to_parameters(loaded.theta + step * vector, parameters)
        loss = loaded.loss(loaded.model(loaded.x), loaded.y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    product = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    expected = (product - 0.3 * vector).norm().item()
    measured = measured_residuals(task, torch.tensor([0.3]), vector[:, None])
    assert measured.item() == pytest.approx(expected, rel=1e-6)


def test_overlap_error_is_relative_to_the_truth() -> None:
    errors = Truth(np.array([0.5, 0.2, 0.1])).errors(np.array([0.5, 0.21]))
    assert errors == pytest.approx([0.0, 0.05])


def test_products_are_counted_on_both_sides() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    counted = Counted(matrix)
    block = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    assert torch.equal(counted @ block, matrix @ block)
    assert torch.equal(block.T @ counted, block.T @ matrix)
    assert torch.equal(counted @ block[:, 0], matrix[:, 0])
    assert counted.hvps == 3 + 3 + 1


@pytest.mark.parametrize("method", scaling.METHODS)
def test_scaling_counts_products_and_takes_their_time_off(method: str) -> None:
    row = scaling.seconds_outside(method, 500, 4, 32)
    assert row["hvps"] >= 32
    assert 0 < row["outside"] < row["total"]


def test_the_synthetic_operator_is_symmetric_and_indefinite() -> None:
    dense = scaling.Synthetic(40) @ torch.eye(40)
    assert torch.allclose(dense, dense.T, atol=1e-6)
    values = torch.linalg.eigvalsh(dense)
    assert values[0] < 0 < values[-1]


def test_a_cubic_has_exponent_three() -> None:
    assert scaling.exponent([10, 100, 1000], [2e3, 2e6, 2e9]) == pytest.approx(3)


def test_every_path_is_timed(task: Task) -> None:
    rows = hvp.measure(task, [2], [None], repeats=1, count_flops=True)
    assert [row["path"] for row in rows] == ["curvlinops matvec", *hvp.PATHS]
    assert all(row["ms"] > 0 for row in rows)
    # At least the two matrix products per layer of one backward pass through the tangents.
    weights = sum(p.numel() for p in load(task).model.parameters() if p.ndim == 2)
    assert all(row["flops"] > 2 * 2 * task.samples * weights for row in rows)


def test_the_task_survives_json(task: Task) -> None:
    assert Task(**json.loads(task.to_json())) == task


def test_what_a_run_would_have_stated_is_held_against_the_truth() -> None:
    matrix, _, vectors = hessian_like(300, 0)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:20]
    true = stopping.true_overlap(matrix, order)
    torch.testing.assert_close(true, overlap_curve(vectors[order, :20]), rtol=1e-8, atol=0)
    seen = stopping.observe(matrix, order, true, 2)
    products = [each.products for each in seen]
    assert products == sorted(products)
    assert len(seen) > 5
    assert not seen[0].right
    claimed, right = stopping.first_claimed(seen), stopping.right_from(seen)
    assert claimed is not None
    assert claimed.worst <= 0.01
    assert right is not None
    assert all(each.right for each in seen if each.products >= right)
    wrong = [each.products for each in seen if not each.right]
    assert right > max(wrong)
    assert stopping.right_from(seen[:1]) is None


@pytest.mark.parametrize("k", [1, 100, 150])
def test_made_up_results_of_every_size_are_finished_analyses(tmp_path: Path, k: int) -> None:
    env = Settings(home=tmp_path)
    paint.fill(env, analyses=4, k=k, models=1)
    with sessions(env.database)() as s:
        found = queries.comparable(s)
        sizes = queries.layer_shares(s, int(found["analysis_id"].iloc[0]))["k"].unique().tolist()
    assert found["k"].tolist() == [k] * 4
    assert sizes == sorted({1, min(10, k), min(100, k), k})
