"""Whether the stated errors and intervals of observables and masks hold the truth.

    python -m benchmarks.observables [--cases N] [--of matrices|networks]

Each case of the matrices draws a symmetric one of six kinds, computes its leading eigenpairs by block Krylov
from few, some or many products, and compares every observable of a matrix with its value for the whole
spectrum. Each case of the networks trains one of two small ones and analyses it as a user would, by several
methods and in two precisions, with all observables and masks there are; small matrices are multiplied out in
half of the cases, and treated like those of large networks in the others. The truth is dense and of its own
(``benchmarks.dense``). A curve is held if it is at every k; of the density, and of estimated scores, the
share of the places counts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.dense import (
    NETWORKS,
    SAMPLES,
    Trained,
    Truth,
    common,
    leading,
    trained,
    truth_of,
)
from seigh.core import curves
from seigh.core.analysis import Result, analyse
from seigh.core.methods import Request
from seigh.core.observables import BUILT_IN, dense
from seigh.core.observables.density import smoothed
from seigh.core.observables.direction import shares
from seigh.core.observables.powerlaw import fit
from seigh.core.overlap.masks import diagonal
from seigh.core.overlap.masks.built_in import MASKS
from seigh.core.overlap.observables import (
    Adam,
    Curve,
    Estimated,
    Landscape,
    Profile,
    Quantity,
    Scene,
    Unavailable,
    tilts,
)
from seigh.core.settings import AnalysisSettings
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
    usual = dense.EXACT_UP_TO, diagonal.EXACT_UP_TO
    dense.EXACT_UP_TO, diagonal.EXACT_UP_TO = 0, 0
    try:
        yield
    finally:
        dense.EXACT_UP_TO, diagonal.EXACT_UP_TO = usual


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
    return smoothed_spectrum(found.x, found.remark, case.values.numpy())


def smoothed_spectrum(places: Floats, remark: str, values: Floats, of: int = 0) -> Floats:
    """Eigenvalues as Gaussians of the width that a remark tells, the first or the one with number ``of``."""
    width = float(remark.split("deviation ")[1].split(";")[0].split(", ")[of])
    return smoothed(places, values, np.ones(len(values)), width) / len(values)


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


# --- Networks ----------------------------------------------------------------------------------------------

K_OF_NETWORKS = 12

# Method and tolerance; a coarse one leaves errors that show.
METHODS = (("krylov", None), ("krylov", 0.1), ("seigh", None), ("exact", None))

ASKED = (*BUILT_IN, *(mask.observable().name for mask in MASKS))

SCORES = tuple(f"scores of {mask.name}" for mask in MASKS)

# Scores that are known by the arithmetic alone are to be right to this share of the largest.
_SAME = 1e-6


@dataclass(frozen=True)
class Network:
    """An analysis of a small network, and the truth of it.

    Attributes:
        found: Its result.
        scores: Scores of every mask, as they were in it.
        vectors: (K, D), its eigenvectors, as its observables had them.
        truth: On the samples of the analysis.
        elsewhere: On those of the other split.
        past: θ of the initial checkpoint, and of the one before.
        run: The training.
        own: Scores of the user's own mask.
    """

    found: Result
    scores: Mapping[str, Estimated]
    vectors: Tensor
    truth: Truth
    elsewhere: Truth
    past: tuple[Tensor, Tensor]
    run: Trained
    own: Tensor


def network(number: int, folder: Path) -> Network:
    """A case by its number: networks, exactness, methods, precisions and penalties in turn."""
    architecture = [*NETWORKS][number % 2]
    method, tolerance = METHODS[number // 4 % len(METHODS)]
    run = trained(folder, architecture, number, 2 + number * 7 % 60)
    generator = torch.Generator().manual_seed(number)
    weights = torch.load(run.files[-1], weights_only=True)["model"]
    own = {name: torch.rand(each.shape, generator=generator) for name, each in weights.items()}
    torch.save(own, folder / "own.pt")
    settings = AnalysisSettings(
        architecture=architecture,
        data=NETWORKS[architecture],
        samples=SAMPLES,
        seed=number,
        k=K_OF_NETWORKS,
        method=method,
        tolerance=tolerance,
        precision=("float32", "float64")[number // 16 % 2],
        weight_decay=(0.0, 0.01)[number // 8 % 2],
        learning_rate=0.3,
        initial=str(run.files[0]),
        previous=str(run.files[1]),
        masks=(f"own={folder / 'own.pt'}",),
        curves=ASKED,
    )
    seen: list[Scene] = []
    with _observed(seen):
        if number // 2 % 2:
            with as_of_large_networks():
                found = analyse(run.files[-1], settings)
                scores = _scores(seen[0])
        else:
            found = analyse(run.files[-1], settings)
            scores = _scores(seen[0])
    truth, elsewhere = (truth_of(run.files[-1], settings, split) for split in ("test", "train"))
    first, before = (truth_of(file, settings, "test").theta for file in run.files[:2])
    flat = torch.cat([each.flatten() for each in own.values()]).double()
    return Network(found, scores, seen[0].vectors, truth, elsewhere, (first, before), run, flat)


@contextmanager
def _observed(seen: list[Scene]) -> Iterator[None]:
    """Inside, scenes of analyses are seen."""
    usual = curves.compute

    def compute(wanted: Any, scene: Scene) -> Any:
        seen.append(scene)
        return usual(wanted, scene)

    curves.compute = compute
    try:
        yield
    finally:
        curves.compute = usual


def _scores(scene: Scene) -> dict[str, Estimated]:
    given = {mask.name: mask.scores(scene) for mask in MASKS}
    return {name: each if isinstance(each, Estimated) else Estimated(each) for name, each in given.items()}


def true_scores(case: Network) -> dict[str, Tensor]:
    """Scores of every mask, and of the largest magnitudes: (D,) each."""
    truth = case.truth
    theta, gradient, diagonal_ = truth.theta, truth.gradient, truth.hessian.diagonal()
    saliency = 0.5 * diagonal_ * theta.square()
    ranks = []
    for p in truth.named.values():
        sizes = p.detach().flatten().abs()
        ranks.append(((sizes[None] <= sizes[:, None]).sum(1) - 0.5) / len(sizes))
    return {
        "magnitude": theta.abs(),
        "layerwise": torch.cat(ranks),
        "gradient": gradient.abs(),
        "snip": (theta * gradient).abs(),
        "ggn-diagonal": truth.ggn().diagonal(),
        "hessian-diagonal": diagonal_.abs(),
        "fisher-diagonal": truth.sample_gradients(truth.y).square().mean(0),
        "obd": saliency - saliency.min().clamp_max(0),
        "movement": (theta - case.past[0]).abs(),
        "update": (theta - case.past[1]).abs(),
        "sam": gradient.abs(),
        "asam": theta.square() * gradient.abs(),
        "own": case.own,
    }


def _share_of(direction: Tensor, vectors: Tensor) -> Floats:
    inner = (vectors.T @ direction).square()
    found: Floats = (inner.cumsum(0) / direction.square().sum()).numpy()
    return found[:K_OF_NETWORKS]


def _along(case: Network) -> Floats:
    profile, truth = case.found.profiles["loss-along"], case.truth
    vectors = case.vectors.double()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    moved = (
        vectors[int(line) - 1] * place for line, place in zip(profile["line"], profile["x"], strict=True)
    )
    return np.array([float(truth.loss(truth.theta + each)) for each in moved])


def _between(case: Network, name: str, before: Tensor) -> Floats:
    truth = case.truth
    step = truth.theta - before
    return np.array([float(truth.loss(before + place * step)) for place in case.found.profiles[name]["x"]])


def _overlap_in(case: Network) -> Floats:
    found = []
    for block, p in zip(case.truth.blocks(), case.truth.named.values(), strict=True):
        k = max(1, round(K_OF_NETWORKS / len(case.truth.theta) * len(block)))
        order = p.detach().flatten().abs().argsort(descending=True, stable=True)
        mask = torch.eye(len(block), dtype=torch.float64)[:, order[:k]]
        found.append(float((mask.T @ leading(block)[1][:, :k]).square().sum()) / k)
    return np.array(found)


def _density_in(case: Network) -> Floats:
    profile, said = case.found.profiles["layer-density"], case.found.record["remarks"]["layer-density"]
    parts = [
        smoothed_spectrum(
            profile["x"][profile["line"] == of + 1], said, torch.linalg.eigvalsh(block).numpy(), of
        )
        for of, block in enumerate(case.truth.blocks())
    ]
    return np.concatenate(parts)


def _sharpness_of_adam(case: Network) -> Floats:
    scale = case.run.preconditioner.rsqrt()
    return torch.linalg.eigvalsh(scale[:, None] * case.truth.hessian * scale)[-1].numpy()


def truths(case: Network) -> Iterator[tuple[str, Callable[[], Floats]]]:
    """What every observable is in truth, by its name."""
    truth, k = case.truth, K_OF_NETWORKS
    values, vectors = truth.eigenpairs
    top = values[:k]
    fourth = vectors[:, :k].pow(4).sum(0).numpy()
    matrices = truth.matrices(case.found.settings.seed)
    ours: dict[str, Callable[[], Any]] = {
        "participation": lambda: fourth.cumsum(),
        "participation-each": lambda: fourth,
        "gradient-share": lambda: _share_of(truth.gradient, vectors),
        "gradient-share-other-split": lambda: _share_of(case.elsewhere.gradient, vectors),
        "update-share": lambda: _share_of(truth.theta - case.past[1], vectors),
        "trace": lambda: float(values.sum()),
        "trace-share": lambda: (top.cumsum(0) / values.sum()).numpy(),
        "energy-share": lambda: (top.square().cumsum(0) / values.square().sum()).numpy(),
        "negative-count": lambda: (top < 0).cumsum(0).numpy(),
        "negative-mass": lambda: ((-top).clamp_min(0).cumsum(0) / top.abs().cumsum(0)).numpy(),
        "most-negative": lambda: float(values.min()),
        "density": lambda: smoothed_spectrum(
            case.found.profiles["density"]["x"], case.found.record["remarks"]["density"], values.numpy()
        ),
        "edge-of-stability": lambda: 0.15 * float(values.max()),
        "adam-sharpness": lambda: _sharpness_of_adam(case),
        "loss-along": lambda: _along(case),
        "loss-between": lambda: _between(case, "loss-between", case.past[1]),
        "loss-from-initial": lambda: _between(case, "loss-from-initial", case.past[0]),
        "layer-sharpness": lambda: np.array([_largest(block) for block in truth.blocks()]),
        "layer-trace": lambda: np.array([float(block.trace()) for block in truth.blocks()]),
        "layer-overlap": lambda: _overlap_in(case),
        "layer-density": lambda: _density_in(case),
        "block-diagonal-misses": lambda: math.sqrt(
            max(1 - sum(float(b.square().sum()) for b in truth.blocks()) / float(values.square().sum()), 0)
        ),
        "power-law": lambda: fit(top.abs().numpy())[0],
        "power-law-distance": lambda: fit(top.abs().numpy())[1],
    }
    for name, matrix in matrices.items():
        ours[f"eigenspace-{name}"] = lambda matrix=matrix: common(vectors, leading(matrix)[1], k)
        ours[f"error-{name}"] = lambda matrix=matrix: float(
            (matrix - truth.hessian).norm() / truth.hessian.norm()
        )
    for name, scores in true_scores(case).items():
        ours[f"overlap-{name}"] = lambda scores=scores: common(
            torch.eye(len(scores), dtype=torch.float64)[:, scores.argsort(descending=True, stable=True)],
            vectors,
            k,
        )
    yield from ours.items()


def held_of_network(case: Network) -> dict[str, Floats]:
    """Whether each number of what was stated is held by its error or interval, by its name."""
    found, results = case.found, {}
    magnitude = {
        "lower": found.overlap - found.overlap_error,
        "upper": found.overlap + found.overlap_error,
    }
    for name, true in truths(case):
        for told in (found.curves, {"overlap-magnitude": magnitude}, found.profiles, found.quantities):
            if name in told:
                truth = true()
                room = _ROUNDING + 1e-6 * np.abs(truth) if name not in _EXACT else _ROUNDING
                ends = told[name]["lower"], told[name]["upper"]
                results[name] = np.atleast_1d((ends[0] <= truth + room) & (truth - room <= ends[1]))
    scores = true_scores(case)
    for name, each in case.scores.items():
        off = each.scores.cpu() - scores[name]
        room = torch.zeros_like(off) if each.error is None else each.error.cpu()
        if name == "obd":  # what counts is the order, as all are moved until the least is 0
            off = off - off[room.argmin()]
        results[f"scores of {name}"] = (off.abs() <= room + _SAME * scores[name].max()).numpy()
    return results


# Of these no room is left but that of float64.
_EXACT = ("loss-along", "loss-between", "loss-from-initial")


def coverage_of_networks(numbers: range) -> dict[str, tuple[int, float]]:
    """As ``coverage``, of the cases of these numbers."""
    names = (*ASKED, "overlap-magnitude", "overlap-own", *SCORES)
    results: dict[str, list[float]] = {name: [] for name in names}
    for number in numbers:
        with TemporaryDirectory() as folder:
            case = network(number, Path(folder))
        for name, found in held_of_network(case).items():
            by_place = name.endswith("density") or name.startswith("scores of ")
            results[name].append(float(found.mean()) if by_place else float(found.all()))
            if results[name][-1] < (0.9 if by_place else 1.0):
                print(f"case {number}: {name} is not held at {int((~found).sum())} places", flush=True)
    return {name: (len(each), float(np.mean(each)) if each else np.nan) for name, each in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=360)
    parser.add_argument("--of", choices=("matrices", "networks"))
    arguments = parser.parse_args()
    wanted: dict[str, Callable[[], dict[str, tuple[int, float]]]] = {
        "matrices": lambda: coverage(arguments.cases),
        "networks": lambda: coverage_of_networks(range(arguments.cases)),
    }
    for of, found in wanted.items():
        if arguments.of in (None, of):
            print(f"{arguments.cases} {of}")
            for name, (count, share) in found().items():
                print(f"{name:28} stated in {count:4} cases, holds in {share:8.2%}")


if __name__ == "__main__":
    main()
