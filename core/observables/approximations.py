"""Matrices that stand for the Hessian, beside it: GGN, Fisher matrices, KFAC and EKFAC.

Of each: how much of its leading eigenspace is H's, and how far it is from H in the Frobenius norm. The
penalty of weight decay is added to all of them, as it is part of H.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from seigh.core.device import available_memory
from seigh.core.methods import Request
from seigh.core.observables import dense
from seigh.core.observables.direction import tilted
from seigh.core.overlap.observables import (
    Curve,
    EmpiricalFisher,
    Observable,
    Quantity,
    Scene,
    Unavailable,
)
from seigh.core.spectra import Eigenpairs, Operator, block_krylov
from seigh.core.spectra.aposteriori import extremes
from seigh.core.spectra.measurements import Gaussian

PROBABILITY = 0.95

PROBES = 10
"""Random vectors that estimate what lies outside of the eigenvectors of both."""

# Number of this draw among the matrices that one seed stands for.
_STREAM = 12

# Rounding units of a product's norm.
_UNITS = 64.0

# Part of the free memory that the eigenvectors of both, and their products, may take in float64.
_SHARE = 0.5


@dataclass(frozen=True)
class _Matrix:
    """One of them.

    Attributes:
        name: Short, of the observables.
        title: In titles.
        note: What it is.
        make: Of a scene, the operator with its penalty.
        weight: What a product costs, in products with H.
    """

    name: str
    title: str
    note: str
    make: Callable[[Scene], Operator]
    weight: float


def _fisher(scene: Scene, *, drawn: bool) -> Operator:
    return scene.landscape.penalised(EmpiricalFisher(scene.landscape, drawn=drawn))


def _kronecker(kind: str) -> Callable[[Scene], Operator]:
    return lambda scene: scene.landscape.penalised(scene.landscape.kronecker(kind))


MATRICES = (
    _Matrix(
        "ggn",
        "the GGN",
        "the generalised Gauss–Newton matrix (Schraudolph 2002)",
        lambda scene: scene.landscape.matrix("ggn"),
        1.0,
    ),
    _Matrix(
        "fisher",
        "the Monte Carlo Fisher matrix",
        "the Fisher matrix with one label per sample drawn from the network (Kunstner et al. 2019, eq. 3)",
        lambda scene: _fisher(scene, drawn=True),
        0.5,
    ),
    _Matrix(
        "empirical-fisher",
        "the empirical Fisher matrix",
        "the mean of ∇ℓ∇ℓᵀ over the samples with the labels of the data (Kunstner et al. 2019, eq. 4)",
        lambda scene: _fisher(scene, drawn=False),
        0.5,
    ),
    _Matrix(
        "kfac",
        "KFAC",
        "the Kronecker-factored GGN, a block for each tensor of linear and convolutional layers (Martens & "
        "Grosse 2015)",
        _kronecker("kfac"),
        0.1,
    ),
    _Matrix(
        "ekfac",
        "EKFAC",
        "KFAC with the variances in its eigenbasis measured (George et al. 2018)",
        _kronecker("ekfac"),
        0.1,
    ),
)


def _operator(scene: Scene, matrix: _Matrix) -> Operator:
    return scene.once(f"matrix {matrix.name}", lambda: matrix.make(scene))


def _products(k: int, dimension: int) -> int:
    return min(dimension, 3 * k + 20)


def _pairs(scene: Scene, matrix: _Matrix) -> Eigenpairs:
    """The leading K eigenpairs of the matrix and some further ones."""

    def find() -> Eigenpairs:
        k, dimension = scene.vectors.shape
        seed = 0 if scene.request is None else scene.request.seed
        products = _products(k, dimension)
        return block_krylov(_operator(scene, matrix), k, products=products, further=4, seed=seed)

    return scene.once(f"eigenpairs of {matrix.name}", find)


def _overlap(matrix: _Matrix) -> Callable[[Scene], Curve]:
    def compute(scene: Scene) -> Curve:
        assert scene.found is not None
        assert scene.residuals is not None
        k, dimension = scene.vectors.shape
        pairs = _pairs(scene, matrix)
        assert pairs.residuals is not None
        if len(pairs.values) < k:
            raise Unavailable(
                f"Only {len(pairs.values):,} eigenvectors of {matrix.title} were found; choose a smaller k."
            )
        inner = scene.vectors.double() @ pairs.top(k).vectors().to(scene.vectors.device).double()
        common = inner.square().cumsum(0).cumsum(1).diagonal().cpu()
        sizes = torch.arange(1, k + 1, dtype=torch.float64)
        reach = torch.zeros_like(sizes)
        for found, residuals in ((scene.found, scene.residuals), (pairs, pairs.residuals)):
            values, off = found.values.double().cpu().abs(), residuals.double().cpu()
            angles = tilted(values, off, found.outside, dimension)[:k]
            # The trace of a projector of rank k with a difference of two others is at most the sum of the
            # sines of the angles between these, and that is at most √k times the root of their squares.
            reach += torch.minimum(angles, sizes).sqrt() * sizes.sqrt()
        reach += _UNITS * scene.unit * sizes
        # V_k and U_k grow with k, and so does the trace of the product of their projectors.
        lower = (common - reach).cummax(0).values.clamp_min(0)
        upper = torch.minimum((common + reach).flip(0).cummin(0).values.flip(0), sizes)
        return Curve.between(common / sizes, lower / sizes, upper / sizes, sizes.numpy() / dimension)

    return compute


def _difference(matrix: _Matrix) -> Callable[[Scene], Quantity]:
    def compute(scene: Scene) -> Quantity:
        other = _operator(scene, matrix)
        rounding = _UNITS * scene.unit
        if dense.is_small(scene.vectors.shape[1]):
            h = dense.hessian(scene)
            distance = float((dense.multiplied_out(other, scene.vectors.device) - h).norm())
            value = _ratio(distance, float(h.norm()))
            return Quantity(value, max(value - rounding, 0), value + rounding)
        return _estimated(scene, matrix, other, rounding)

    return compute


def _estimated(scene: Scene, matrix: _Matrix, other: Operator, rounding: float) -> Quantity:
    """‖A‖²_F = 2 ‖AQ‖²_F − ‖QᵀAQ‖²_F + ‖(I − P) A (I − P)‖²_F, A = F − H and then H, P = QQᵀ.

    Q are orthonormal vectors that span the eigenvectors of both, so that little is left to the last term,
    which products with random vectors estimate.
    """
    k, dimension = scene.vectors.shape
    room = 8 * dimension * 2 * k * 4
    if room > _SHARE * available_memory(scene.vectors.device):
        raise Unavailable(
            f"The eigenvectors of H and of {matrix.title} take {room / 2**30:.1f} GiB together; choose a "
            "smaller k."
        )
    pairs = _pairs(scene, matrix)
    both = torch.cat([scene.vectors.T.double(), pairs.vectors().to(scene.vectors.device).double()], 1)
    q = torch.linalg.qr(both).Q
    seed = 0 if scene.request is None else scene.request.seed
    draw = Gaussian(PROBES, dimension, (seed, _STREAM), torch.float64, scene.vectors.device)
    z = draw.columns(0, PROBES) * dimension**0.5
    z = z - q @ (q.T @ z)
    products = [
        torch.cat([dense.columns(each, q), dense.columns(each, z)], 1) for each in (other, scene.hessian)
    ]
    known, rest = [], []
    for image in (products[0] - products[1], products[1]):
        inside = q.T @ image
        kept = 2 * image[:, : q.shape[1]].square().sum() - inside[:, : q.shape[1]].square().sum()
        known.append(float(kept.clamp_min(0)))
        left = (image - q @ inside)[:, q.shape[1] :]
        rest.append(float(left.square().sum()) / PROBES)
    lowest, highest = extremes(PROBES, (1 - PROBABILITY) / 4)
    value = _ratio(math.sqrt(known[0] + rest[0]), math.sqrt(known[1] + rest[1]))
    least = math.sqrt((known[0] + rest[0] / highest) / (known[1] + rest[1] / lowest))
    most = math.sqrt((known[0] + rest[0] / lowest) / (known[1] + rest[1] / highest))
    return Quantity(value, max(least - rounding, 0), most + rounding)


def _ratio(part: float, whole: float) -> float:
    if not whole > 0:
        raise Unavailable("‖H‖_F is exactly 0 here, so nothing can be compared with it.")
    return part / whole


def _overlap_cost(matrix: _Matrix) -> Callable[[Request], Mapping[str, float]]:
    return lambda request: {
        f"eigenpairs of {matrix.name}": matrix.weight * 1.5 * _products(request.k, request.dimension)
    }


def _difference_cost(matrix: _Matrix) -> Callable[[Request], Mapping[str, float]]:
    def cost(request: Request) -> Mapping[str, float]:
        if dense.is_small(request.dimension):
            of_it = {f"{matrix.name}, multiplied out": matrix.weight * request.dimension}
            return {**dense.cost(request), **of_it}
        columns = 2 * request.k + PROBES
        return {
            **_overlap_cost(matrix)(request),
            f"difference of {matrix.name}": (1 + matrix.weight) * columns,
        }

    return cost


def _observables(matrix: _Matrix) -> tuple[Observable, Observable]:
    return (
        Observable(
            f"eigenspace-{matrix.name}",
            f"overlap of the eigenspaces of {matrix.title} and H",
            f"the overlap ‖VₖᵀUₖ‖²/k of Vₖ, the leading eigenspace of H, with Uₖ, the leading eigenspace "
            f"of {matrix.note}; it is 1 if they are the same. The error covers the true eigenspaces of both.",
            _overlap(matrix),
            _overlap_cost(matrix),
        ),
        Observable(
            f"error-{matrix.name}",
            f"relative error of {matrix.title} as H",
            f"‖F − H‖_F / ‖H‖_F, where F is {matrix.note}. It is exact up to D = {dense.EXACT_UP_TO:,}. For "
            "larger networks, the part in the span of the leading eigenvectors of both is exact, and "
            f"{PROBES} random vectors estimate the rest; the interval holds with at least 95 % probability.",
            _difference(matrix),
            _difference_cost(matrix),
            kind="quantity",
        ),
    )


OBSERVABLES = tuple(each for matrix in MATRICES for each in _observables(matrix))
