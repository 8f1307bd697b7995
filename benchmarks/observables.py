"""Whether the stated errors and intervals of observables hold the truth, on random matrices.

    python -m benchmarks.observables [--cases N]

Each case draws a symmetric matrix of one of six kinds, computes its leading eigenpairs by block Krylov from
few, some or many products, and compares every observable of a matrix with its value for the whole spectrum.
A curve is held if it is at every k; a profile (the density) at one place after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seigh.core.methods import Request
from seigh.core.observables import BUILT_IN, dense
from seigh.core.observables.density import smoothed
from seigh.core.observables.direction import shares
from seigh.core.observables.powerlaw import fit
from seigh.core.overlap.observables import (
    Adam,
    Curve,
    Landscape,
    Profile,
    Quantity,
    Scene,
    Unavailable,
    tilts,
)
from seigh.core.spectra import a_posteriori, block_krylov

Floats = NDArray[np.float64]

DIMENSION, K = 96, 12
PRODUCTS = (36, 48, 72)
_ROUNDING = 1e-9

KINDS = ("decaying", "close", "signs", "flat", "gap", "power-law")


# θ as three tensors.
SIZES = (60, 6, 30)


class Ground:
    """A landscape with the Hessian ``matrix``, the GGN ``other``, and second moments of Adam."""

    kind = "hessian"

    def __init__(self, matrix: Tensor, other: Tensor, preconditioner: Tensor) -> None:
        self.hessian, self.other_matrix, self.preconditioner = matrix, other, preconditioner

    def adam(self) -> Adam:
        return Adam(self.preconditioner, 0.1, 0.9, 7)

    def product(self, vector: Tensor) -> Tensor:
        return self.hessian @ vector

    def matrix(self, _: str) -> Tensor:
        return self.other_matrix


@dataclass(frozen=True)
class Case:
    """A matrix with its whole spectrum by descending |λ|, a direction, and what was found of the matrix."""

    matrix: Tensor
    values: Tensor
    vectors: Tensor
    direction: Tensor
    scene: Scene

    @property
    def ground(self) -> Ground:
        return cast(Ground, self.scene.ground)


def draw(kind: str, seed: int, products: int) -> Case:
    """A case; equal arguments give the same one."""
    generator = torch.Generator().manual_seed(1000 * KINDS.index(kind) + seed)
    d = DIMENSION
    q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    place = torch.arange(d, dtype=torch.float64)
    values = 0.93**place
    if kind == "close":
        values[1::2] = values[::2] * (1 - 1e-5)
    if kind == "signs":
        values = values * torch.where(
            torch.rand(d, generator=generator, dtype=torch.float64) < 0.3, -1.0, 1.0
        )
    if kind == "flat":
        values = (1 + place) ** -0.3
    if kind == "gap":
        values[K // 2 :] *= 0.05
    if kind == "power-law":
        values = (1 + place) ** -1.2
    matrix = (q * values) @ q.T
    matrix = (matrix + matrix.T) / 2
    whole, vectors = torch.linalg.eigh(matrix)
    order = whole.abs().argsort(descending=True)
    direction = torch.randn(d, generator=generator, dtype=torch.float64)
    if seed % 2:  # as gradients have, more of the leading eigenvectors
        direction = matrix @ direction
    noise = torch.randn(d, d, generator=generator, dtype=torch.float64) / d
    other = matrix + 10.0 ** -(seed % 3) * (noise + noise.T)
    scales = torch.randn(d, generator=generator, dtype=torch.float64).exp()
    pairs = block_krylov(matrix, K, products=products, further=8, seed=seed)
    assert pairs.residuals is not None
    scene = Scene(
        pairs.top(K).vectors().T,
        pairs.values[:K],
        tilts(pairs, pairs.residuals, K),
        dict(enumerate(torch.zeros(d).split(SIZES))),
        _no_overlap,
        found=pairs,
        residuals=pairs.residuals,
        operator=matrix,
        estimate=a_posteriori(matrix, pairs.top(K), tests=10, seed=seed),
        request=Request(K, d, 1, seed),
        ground=cast(Landscape, Ground(matrix, other, scales)),
    )
    return Case(matrix, whole[order], vectors[:, order], direction, scene)


def _no_overlap(_: Tensor) -> Curve:
    raise AssertionError


def _share(case: Case) -> Floats:
    inner = (case.vectors.T @ case.direction).square()
    return (inner.cumsum(0)[:K] / case.direction.square().sum()).numpy()


def _blocks(case: Case) -> list[Tensor]:
    ends = np.cumsum([0, *SIZES])
    return [case.matrix[a:b, a:b] for a, b in pairwise(ends)]


def _largest(block: Tensor) -> float:
    values = torch.linalg.eigvalsh(block)
    return float(values[values.abs().argmax()])


def _missed(case: Case) -> Floats:
    inside = sum(float(block.square().sum()) for block in _blocks(case))
    return np.sqrt(1 - inside / float(case.matrix.square().sum()))


def _preconditioned(case: Case) -> Floats:
    scale = case.ground.preconditioner.rsqrt()
    return torch.linalg.eigvalsh(scale[:, None] * case.matrix * scale)[-1].numpy()


def _common(case: Case) -> Floats:
    values, vectors = torch.linalg.eigh(case.ground.other_matrix)
    vectors = vectors[:, values.abs().argsort(descending=True)]
    inner = (case.vectors.T @ vectors).square().cumsum(0).cumsum(1).diagonal()[:K]
    return (inner / torch.arange(1, K + 1)).numpy()


def _fourth(case: Case) -> Floats:
    return case.vectors[:, :K].pow(4).sum(0).numpy()


TRUTHS: MappingProxyType[str, Callable[[Case], Floats]] = MappingProxyType(
    {
        "gradient-share": _share,
        "adam-sharpness": _preconditioned,
        "eigenspace-ggn": _common,
        "error-ggn": lambda case: (
            (case.ground.other_matrix - case.matrix).norm() / case.matrix.norm()
        ).numpy(),
        "layer-sharpness": lambda case: np.array([_largest(block) for block in _blocks(case)]),
        "layer-trace": lambda case: np.array([float(block.trace()) for block in _blocks(case)]),
        "block-diagonal-misses": _missed,
        "participation": lambda case: np.cumsum(_fourth(case)),
        "participation-each": _fourth,
        "trace": lambda case: case.values.sum().numpy(),
        "trace-share": lambda case: (case.values.cumsum(0)[:K] / case.values.sum()).numpy(),
        "energy-share": lambda case: (
            case.values.square().cumsum(0)[:K] / case.values.square().sum()
        ).numpy(),
        "negative-count": lambda case: (case.values[:K] < 0).cumsum(0).numpy(),
        "negative-mass": lambda case: (
            (-case.values[:K]).clamp_min(0).cumsum(0) / case.values[:K].abs().cumsum(0)
        ).numpy(),
        "most-negative": lambda case: case.values.min().numpy(),
        "power-law": lambda case: np.array(fit(case.values[:K].abs().numpy())[0]),
        "power-law-distance": lambda case: np.array(fit(case.values[:K].abs().numpy())[1]),
    }
)
"""The definitions, of the whole spectrum."""


@contextmanager
def as_of_large_networks() -> Iterator[None]:
    """Inside, nothing is multiplied out as it is for small networks."""
    usual, dense.EXACT_UP_TO = dense.EXACT_UP_TO, 0
    try:
        yield
    finally:
        dense.EXACT_UP_TO = usual


def held(name: str, case: Case) -> Floats | None:
    """Whether each number of an observable is held by its error or interval; None where it is not stated."""
    try:
        if name == "gradient-share":
            found = shares(case.scene, case.direction, "the direction")
        else:
            with as_of_large_networks():
                found = BUILT_IN[name].compute(case.scene)
    except Unavailable:
        return None
    if isinstance(found, Curve):
        assert found.error is not None
        return np.abs(found.value - TRUTHS[name](case)) <= found.error + _ROUNDING
    assert found.lower is not None
    assert found.upper is not None
    if isinstance(found, Quantity):
        truth = TRUTHS[name](case)
    elif name == "density":
        truth = smoothed_density(found, case)
    else:
        truth = TRUTHS[name](case)
    room = _ROUNDING + 1e-6 * np.abs(truth)
    return np.atleast_1d((found.lower <= truth + room) & (truth - room <= found.upper))


def smoothed_density(found: Profile, case: Case) -> Floats:
    """All eigenvalues as Gaussians of the width that the observable tells."""
    width = float(found.remark.split("deviation ")[1].split(";")[0])
    return smoothed(found.x, case.values.numpy(), np.ones(DIMENSION), width) / DIMENSION


def cases(count: int) -> Iterator[Case]:
    """So many cases of every kind and number of products in turn."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        yield draw(kind, number // len(KINDS), PRODUCTS[number // len(KINDS) % len(PRODUCTS)])


# Those that compute eigenpairs of other matrices.
COSTLY = ("adam-sharpness", "eigenspace-ggn", "error-ggn", "layer-sharpness")


def coverage(count: int, every: int = 1) -> dict[str, tuple[int, float]]:
    """By observable: in how many of ``count`` cases it is stated, and of which share of them it holds; of the
    density, the share of places. Costly ones are compared in each ``every``-th case."""
    results: dict[str, list[float]] = {name: [] for name in (*TRUTHS, "density")}
    for number, case in enumerate(cases(count)):
        for name in results:
            if name in COSTLY and number % every:
                continue
            found = held(name, case)
            if found is not None:
                results[name].append(float(found.mean()) if name == "density" else float(found.all()))
    return {name: (len(each), float(np.mean(each)) if each else np.nan) for name, each in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=360)
    arguments = parser.parse_args()
    for name, (count, share) in coverage(arguments.cases).items():
        print(f"{name:20} stated in {count:4} of {arguments.cases} cases, holds in {share:8.2%}")


if __name__ == "__main__":
    main()
