"""Our methods and the peers', each from the checkpoint file to the overlap curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.problems import Task, load
from seigh.core.analysis import analyse
from seigh.core.overlap import largest_first, overlap_curve
from seigh.core.settings import Settings

# skerch makes this many measurements at once, so that curvlinops multiplies them under ``vmap``.
SKERCH_BLOCK = 64


@dataclass(frozen=True)
class Found:
    """What a method found.

    Attributes:
        values: (k,), by descending |λ|.
        vectors: Forms them, (D, k); not part of the time of those that need not form them.
        overlap: (k,).
        hvps: Hessian-vector products used.
        stages: Seconds of each stage, where the method tells.
    """

    values: Tensor
    vectors: Callable[[], Tensor]
    overlap: NDArray[np.float64]
    hvps: int
    stages: dict[str, float] = field(default_factory=dict)


class Counted:
    """A symmetric operator that counts the columns it is multiplied with, from the right or the left."""

    def __init__(self, operator: object) -> None:
        self.operator = operator
        self.shape = tuple(operator.shape)
        self.hvps = 0

    def __matmul__(self, block: Tensor) -> Tensor:
        self.hvps += block.shape[1] if block.ndim == 2 else 1
        return self.operator @ block

    def __rmatmul__(self, block: Tensor) -> Tensor:
        return (self @ block.T).T


def ours(task: Task, method: str) -> Found:
    """A whole analysis as the app runs it: random and best masks, residuals and record included."""
    sketched = method == "seigh"
    sizes = {"outer": task.outer, "inner": task.inner} if sketched else {}
    settings = task.settings(method=method, **sizes)
    result = analyse(Path(task.checkpoint), settings, environment=Settings(device=task.device))
    return Found(
        torch.as_tensor(result.eigenvalues),
        lambda: result.eigenvectors.T,
        result.overlap,
        result.hvps,
        {stage.name: stage.seconds for stage in result.stages},
    )


def paper(task: Task) -> Found:
    """SEIGH with the steps of the paper's scripts: one vector at a time, and pivoted QR.

    Kinder to it than the scripts are: the data are held as tensors, and nothing goes through files.
    """
    from skerch.measurements import SSRFT

    loaded = load(task)
    hessian = Counted(loaded.curvlinops())
    dimension, device = hessian.shape[0], task.device
    n_outer, n_inner = task.outer, task.inner
    left, right = task.seed + 1, task.seed + 1001

    def row(number: int, seed: int) -> Tensor:
        one_hot = torch.zeros(n_inner)
        one_hot[number] = 1
        return SSRFT.issrft(one_hot, dimension, seed=seed)

    outer = np.empty((dimension, n_outer), dtype=np.float32)
    inner = np.empty((n_inner, n_inner), dtype=np.float32)
    for number in range(n_inner):
        product = (hessian @ row(number, right).to(device)).cpu()
        if number < n_outer:
            outer[:, number] = product
        inner[:, number] = SSRFT.ssrft(product, n_inner, seed=left)

    basis = scipy.linalg.qr(outer, mode="economic", pivoting=True)[0]

    def solve(seed: int, target: NDArray[np.float32]) -> NDArray[np.float32]:
        reduced = np.empty((n_inner, n_outer), dtype=np.float32)
        for number in range(n_inner):
            reduced[number] = row(number, seed).numpy() @ basis
        return scipy.linalg.lstsq(reduced, target)[0]

    u, sigma, vh = scipy.linalg.svd(inner)
    core = solve(left, u) @ (sigma[:, None] * solve(right, vh.T).T)
    values, rotation = scipy.linalg.eigh(core)
    order = np.argsort(np.abs(values))[::-1]
    values, rotation = values[order], rotation[:, order]

    theta = loaded.theta.abs().cpu()
    overlap = np.empty(task.k)
    for k in range(1, task.k + 1):
        mask = theta.topk(k, sorted=False).indices
        overlap[k - 1] = ((basis[mask] @ rotation[:, :k]) ** 2).sum() / k
    return Found(
        torch.from_numpy(values[: task.k].copy()),
        lambda: torch.from_numpy(basis @ rotation[:, : task.k]),
        overlap,
        hessian.hvps,
    )


def skerch(task: Task, recovery: str) -> Found:
    """skerch's in-core SEIGH. Its oversampled recovery measures outer and inner sketch separately."""
    from skerch.algorithms import seigh

    loaded = load(task)
    hessian = Counted(loaded.curvlinops())
    values, vectors = seigh(
        hessian,
        task.device,
        torch.float32,
        task.outer,
        seed=task.seed,
        noise_type="ssrft",
        recovery_type=recovery.format(task.inner),
        meas_blocksize=SKERCH_BLOCK,
    )
    return _of_vectors(task, loaded.theta, values, vectors, hessian.hvps)


def eigsh(task: Task) -> Found:
    """ARPACK through scipy: implicitly restarted Lanczos, one vector at a time."""
    loaded = load(task)
    hessian = Counted(loaded.curvlinops())
    dimension = hessian.shape[0]

    def product(vector: NDArray[np.float32]) -> NDArray[np.float32]:
        return (hessian @ torch.from_numpy(vector.ravel()).to(task.device)).cpu().numpy()

    operator = scipy.sparse.linalg.LinearOperator((dimension, dimension), matvec=product, dtype=np.float32)
    start = np.random.default_rng(task.seed).standard_normal(dimension).astype(np.float32)
    values, vectors = scipy.sparse.linalg.eigsh(operator, task.k, which="LM", v0=start)
    order = np.argsort(np.abs(values))[::-1].copy()
    return _of_vectors(
        task,
        loaded.theta,
        torch.from_numpy(values[order]),
        torch.from_numpy(vectors[:, order]).to(task.device),
        hessian.hvps,
    )


def hessian_eigenthings(task: Task, reorthogonalize: bool | None) -> Found:
    """hessian-eigenthings' Lanczos, of 2k steps; by default it does not reorthogonalise beyond 50."""
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    loaded = load(task)
    operator = HessianOperator(loaded.model, [(loaded.x, loaded.y)], supervised_loss(loaded.loss))
    found = lanczos(operator, k=task.k, seed=task.seed, reorthogonalize=reorthogonalize)
    return _of_vectors(task, loaded.theta, found.eigenvalues, found.eigenvectors.T, found.iterations)


def _of_vectors(task: Task, theta: Tensor, values: Tensor, vectors: Tensor, hvps: int) -> Found:
    values, vectors = values[: task.k], vectors[:, : task.k]
    overlap = overlap_curve(vectors[largest_first(theta, task.k)])
    return Found(values.cpu(), lambda: vectors.cpu(), overlap.cpu().numpy(), hvps)


METHODS: MappingProxyType[str, Callable[[Task], Found]] = MappingProxyType(
    {
        "ours-krylov": lambda task: ours(task, "krylov"),
        "ours-seigh": lambda task: ours(task, "seigh"),
        "paper": paper,
        "skerch": lambda task: skerch(task, "oversampled_{}"),
        "skerch-hmt": lambda task: skerch(task, "hmt"),
        "eigsh": eigsh,
        "hessian-eigenthings": lambda task: hessian_eigenthings(task, None),
        "hessian-eigenthings-reorthogonalised": lambda task: hessian_eigenthings(task, True),
    }
)
OURS = ("ours-krylov", "ours-seigh")

# What is imported only when it is first needed, by ours or within torch; loaded before any time starts.
LATE = ("scipy.fft", "scipy.linalg.lapack", "scipy.optimize", "torch.fx.experimental.symbolic_shapes")

# What a method needs beyond this project's own dependencies, and loads before its time starts.
PEERS = MappingProxyType(
    {
        "paper": ("skerch.measurements",),
        "skerch": ("skerch.algorithms",),
        "skerch-hmt": ("skerch.algorithms",),
        "hessian-eigenthings": ("hessian_eigenthings",),
        "hessian-eigenthings-reorthogonalised": ("hessian_eigenthings",),
    }
)
