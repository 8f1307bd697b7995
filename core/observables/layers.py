"""The blocks of H on the diagonal, one for each parameter tensor, and what lies outside of them.

All of it comes from one sweep: products with random vectors that are zero outside of one tensor give the
trace of its block and the norms inside and outside of it; block Krylov within each tensor gives its largest
eigenvalue, or its leading eigenspace. Small networks are multiplied out, and everything is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seigh.core.methods import Request
from seigh.core.observables import dense
from seigh.core.observables.density import smoothed_density
from seigh.core.observables.direction import tilted
from seigh.core.overlap.observables import Observable, Profile, Quantity, Scene, Unavailable
from seigh.core.spectra import APosteriori, Eigenpairs, Operator, block_krylov
from seigh.core.spectra.aposteriori import extremes
from seigh.core.spectra.measurements import Gaussian
from seigh.core.spectra.operators import multiply

Floats = NDArray[np.float64]

PROBABILITY = 0.95

PROBES, PRODUCTS = 20, 24
"""Of each larger network's tensor: random vectors, and products for its largest eigenvalue."""

STARTS, STEPS, PLACES = 4, 16, 81
"""Of each tensor's density: random vectors, steps of Lanczos, and places across what is not known."""

WIDTH = 0.02
"""Standard deviation of its Gaussians, in units of the block's largest |eigenvalue|, at least: so that
tensors whose eigenvalues are all known look like the others."""

_BLOCK, _FURTHER = 4, 4

# Number of this draw among the matrices that one seed stands for.
_STREAM = 13

# Rounding errors of a product, in units of the precision times |λ₁|.
_UNITS = 64.0

# Tensors that a forecast counts with, which does not know the network.
_USUAL = 12


class _Within:
    """The block of H of some coordinates, from products with H."""

    def __init__(self, operator: Operator, part: slice) -> None:
        self.shape = (part.stop - part.start,) * 2
        self.dtype = operator.dtype
        self.device = operator.device
        self._operator = operator
        self._part = part

    def __matmul__(self, block: Tensor) -> Tensor:
        """(d, b) → (d, b)."""
        whole = torch.zeros(self._operator.shape[0], *block.shape[1:], dtype=block.dtype, device=block.device)
        whole[self._part] = block
        return (self._operator @ whole)[self._part]


@dataclass(frozen=True)
class _Probes:
    """What products with random vectors within each tensor say.

    Attributes:
        inside: (L,), mean of ‖[(H − Ĥ) z_l]_l‖² of each tensor l.
        within: Mean of Σ_l ‖[H z_l]_l‖².
        outside: Mean of Σ_l Σ_{m≠l} ‖[H z_l]_m‖².
        missed: The same of H − Ĥ.
        cross: Mean of Σ_l Σ_{m≠l} [Ĥ z_l]_mᵀ [(H − Ĥ) z_l]_m.
        forms: (n, L), z_lᵀ (H − Ĥ) z_l.
    """

    inside: Tensor
    within: float
    outside: float
    missed: float
    cross: float
    forms: Tensor


def _parts(scene: Scene) -> list[slice]:
    ends = np.cumsum([0, *(tensor.numel() for tensor in scene.tensors.values())])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def _dense(scene: Scene) -> Tensor | None:
    """H where it is small, (D, D) float64."""
    if not dense.is_small(scene.vectors.shape[1]):
        return None
    h = dense.hessian(scene)
    return (h + h.T) / 2


def _rounding(scene: Scene) -> float:
    return _UNITS * scene.unit * float(scene.values.abs().max())


def _probes(scene: Scene) -> _Probes:
    def make() -> _Probes:
        parts, device = _parts(scene), scene.vectors.device
        dimension = scene.vectors.shape[1]
        values = scene.values.to(device, torch.float64)
        seed = 0 if scene.request is None else scene.request.seed
        draw = Gaussian(PROBES, dimension, (seed, _STREAM), scene.hessian.dtype, device)
        z = draw.columns(0, PROBES) * dimension**0.5
        inside, forms = torch.zeros(len(parts)), torch.zeros(PROBES, len(parts))
        inside, forms = inside.double(), forms.double()
        within = outside = missed = cross = 0.0
        for number, part in enumerate(parts):
            block = torch.zeros_like(z)
            block[part] = z[part]
            image = multiply(scene.hessian, block).double()
            rows = scene.vectors[:, part].double()
            known = scene.vectors.T.double() @ (values[:, None] * (rows @ z[part].double()))
            rest = image - known
            forms[:, number] = (rest[part] * z[part].double()).sum(0).cpu()
            inside[number] = float(rest[part].square().sum()) / PROBES
            within += float(image[part].square().sum()) / PROBES
            for each in (image, rest, known):
                each[part] = 0
            outside += float(image.square().sum()) / PROBES
            missed += float(rest.square().sum()) / PROBES
            cross += float((known * rest).sum()) / PROBES
        return _Probes(inside, within, outside, missed, cross, forms)

    return scene.once("probes of tensors", make)


def _by_tensor(value: list[float], lower: list[float], upper: list[float]) -> Profile:
    x = np.arange(1.0, len(value) + 1)
    return Profile(x, np.array(value), np.array(lower), np.array(upper))


def _sharpness(scene: Scene) -> Profile:
    """The eigenvalue of largest |λ| of each block, within its residual."""
    value, off = [], []
    rounding, whole = _rounding(scene), _dense(scene)
    for part in _parts(scene):
        if whole is not None:
            values = torch.linalg.eigvalsh(whole[part, part])
            value.append(float(values[values.abs().argmax()]))
            off.append(rounding)
            continue
        size = part.stop - part.start
        pairs = block_krylov(
            _Within(scene.hessian, part),
            1,
            block=min(_BLOCK, size),
            products=min(PRODUCTS, size),
            complete=False,
            seed=0 if scene.request is None else scene.request.seed,
        )
        assert pairs.residuals is not None
        value.append(float(pairs.values[0]))
        off.append(float(pairs.residuals[0]) + rounding)
    lower = [a - b for a, b in zip(value, off, strict=True)]
    return _by_tensor(value, lower, [a + b for a, b in zip(value, off, strict=True)])


def _trace(scene: Scene) -> Profile:
    """The trace of each block: what the pairs found have of it, and Hutchinson's estimate of the rest."""
    value, lower, upper = [], [], []
    whole = _dense(scene)
    squares = scene.values.to(scene.vectors.device, torch.float64)
    for number, part in enumerate(_parts(scene)):
        if whole is not None:
            value.append(float(whole[part, part].trace()))
            reach = _rounding(scene) * math.sqrt(part.stop - part.start)
            lower.append(value[-1] - reach)
            upper.append(value[-1] + reach)
            continue
        probes = _probes(scene)
        held = float(squares @ scene.vectors[:, part].double().square().sum(1))
        estimate = APosteriori(
            0.0,
            math.sqrt(float(probes.inside[number])),
            PROBES,
            held,
            tuple(probes.forms[:, number].tolist()),
        )
        interval = estimate.trace_interval(PROBABILITY)
        value.append(estimate.trace)
        lower.append(interval.lower)
        upper.append(interval.upper)
    return _by_tensor(value, lower, upper)


def _sizes(scene: Scene) -> list[int]:
    """k of every tensor: the share K/D of its coordinates, as of all of θ, and 1 at least."""
    k, dimension = scene.vectors.shape
    return [max(1, round(k / dimension * (part.stop - part.start))) for part in _parts(scene)]


def _blocks(scene: Scene) -> list[Eigenpairs]:
    """The leading eigenpairs of every block, at least as many as ``_sizes`` says, with residuals."""

    def make() -> list[Eigenpairs]:
        whole, found = _dense(scene), []
        for part, k in zip(_parts(scene), _sizes(scene), strict=True):
            size = part.stop - part.start
            if whole is not None:
                values, vectors = torch.linalg.eigh(whole[part, part])
                order = values.abs().argsort(descending=True)
                off = torch.full_like(values, _rounding(scene))
                found.append(
                    Eigenpairs(vectors[:, order].T, torch.eye(size).to(values), values[order], off, 0)
                )
                continue
            found.append(
                block_krylov(
                    _Within(scene.hessian, part),
                    k,
                    block=min(_BLOCK, size),
                    products=min(_products_of(k), size),
                    further=_FURTHER,
                    complete=False,
                    seed=0 if scene.request is None else scene.request.seed,
                )
            )
        return found

    return scene.once("eigenpairs of tensors", make)


def _products_of(k: int) -> int:
    return 3 * k + 20


def _overlap(scene: Scene) -> Profile:
    """‖MᵀU‖²/k of the k largest |θ| of every tensor and the k leading eigenvectors U of its block."""
    value, lower, upper, chance = [], [], [], []
    together = zip(scene.tensors.values(), _blocks(scene), _sizes(scene), strict=True)
    for theta, pairs, k in together:
        assert pairs.residuals is not None
        magnitudes, size = theta.detach().flatten().abs(), theta.numel()
        mass = pairs.top(k).vectors().double().square().sum(1).cpu()
        # Where the k-th |θ| is that of several weights, any of them may be in the mask.
        last = magnitudes.topk(k).values[-1]
        inside, tied = (magnitudes > last).cpu(), mass[(magnitudes == last).cpu()].sort().values
        sure, taken = float(mass[inside].sum()), k - int(inside.sum())
        value.append((sure + taken * float(tied.mean())) / k)
        angles = tilted(
            pairs.values.double().cpu().abs(), pairs.residuals.double().cpu(), pairs.outside, size
        )[k - 1]
        # Projectors of rank k differ in no trace with another one by more than the sum of the sines.
        reach = math.sqrt(k * min(float(angles), k)) / k + _UNITS * scene.unit
        least, most = (sure + float(part.sum()) for part in (tied[:taken], tied[len(tied) - taken :]))
        lower.append(min(max(least / k - reach, 0.0), value[-1]))
        upper.append(max(min(most / k + reach, 1.0), value[-1]))
        chance.append(k / size)
    return replace(_by_tensor(value, lower, upper), reference=np.array(chance))


def _densities(scene: Scene) -> Profile:
    """``density`` of every block, in which its own leading eigenpairs are those that are known."""
    rows, said = [], []
    request = scene.request or Request(1, scene.vectors.shape[1], 1, 0)
    for number, (part, pairs) in enumerate(zip(_parts(scene), _blocks(scene), strict=True)):
        k = len(pairs.values)
        block = Scene(
            pairs.vectors().T,
            pairs.values,
            torch.zeros(k),
            {},
            scene.overlap,
            found=pairs,
            residuals=pairs.residuals,
            operator=_Within(scene.hessian, part),
            request=replace(request, k=k, dimension=part.stop - part.start),
        )
        found, width = smoothed_density(block, STARTS, STEPS, PLACES, WIDTH)
        line = np.full(len(found.x), number + 1.0)
        assert found.lower is not None
        assert found.upper is not None
        rows.append(np.column_stack([found.x, found.value, found.lower, found.upper, line]))
        said.append(width)
    x, value, lower, upper, line = np.concatenate(rows).T
    widths = ", ".join(f"{width:.3g}" for width in said)
    remark = (
        f"Smoothed by Gaussians of standard deviation {widths}, tensor by tensor; {STARTS} random vectors, "
        f"{STEPS} steps."
    )
    return Profile(x, value, lower, upper, line=line, remark=remark)


def _missed(scene: Scene) -> Quantity:
    """‖H − B‖_F / ‖H‖_F with B the blocks of H on its diagonal.

    With Ĥ of the pairs found and A = H − Ĥ, the part of H outside of the blocks has a norm between the
    difference and the sum of the norms of Ĥ's part, which is known, and of A's part; and so has the part
    inside. Random vectors bound the norms of A's parts and of H's parts, and the share follows from both.
    """
    parts, matrix = _parts(scene), _dense(scene)
    if len(parts) == 1:
        raise Unavailable("θ is a single tensor, so there is nothing outside of its block.")
    rounding = _UNITS * scene.unit
    if matrix is not None:
        whole = float(matrix.square().sum())
        blocks = sum(float(matrix[part, part].square().sum()) for part in parts)
        if not whole > 0:
            raise Unavailable("‖H‖_F is exactly 0 here, so nothing of it lies anywhere.")
        value = math.sqrt(max(whole - blocks, 0.0) / whole)
        return Quantity(value, max(value - rounding, 0.0), min(value + rounding, 1.0))
    probes = _probes(scene)
    values = scene.values.to(scene.vectors.device, torch.float64)
    known, in_blocks = float(values.square().sum()), 0.0
    for part in parts:
        rows = scene.vectors[:, part].double()
        gram = (rows @ rows.T) * values
        in_blocks += float((gram * gram.T).sum())
    off = math.sqrt(max(known - in_blocks, 0.0))
    rest = probes.missed + float(probes.inside.sum())
    total = known + rest  # as A is orthogonal to Ĥ
    # Six bounds hold together: two of H's and one of A's norm, outside of the blocks and inside.
    lowest, highest = extremes(PROBES, (1 - PROBABILITY) / 6)

    def between(held: float, of_rest: float, of_whole: float) -> tuple[float, float]:
        reach = math.sqrt(of_rest / lowest)
        least = max(math.sqrt(of_whole / highest), held - reach)
        return least, min(math.sqrt(of_whole / lowest), held + reach)

    outside = between(off, probes.missed, probes.outside)
    inside = between(math.sqrt(in_blocks), float(probes.inside.sum()), probes.within)
    value = math.sqrt(max(off**2 + 2 * probes.cross + probes.missed, 0.0) / total)
    lower = max(_part(outside[0], inside[1]) - rounding, 0.0)
    upper = min(_part(outside[1], inside[0]) + rounding, 1.0)
    return Quantity(min(max(value, lower), upper), lower, upper)


def _part(outside: float, inside: float) -> float:
    whole = math.hypot(outside, inside)
    if not whole > 0:
        raise Unavailable("‖H‖_F is exactly 0 here, so nothing of it lies anywhere.")
    return outside / whole


def _products(each: int) -> Mapping[str, float]:
    return {f"{each} products within every tensor": float(_USUAL * each)}


def _cost_of_probes(request: Request) -> Mapping[str, float]:
    return dense.cost(request) if dense.is_small(request.dimension) else _products(PROBES)


def _cost_of_overlap(request: Request) -> Mapping[str, float]:
    if dense.is_small(request.dimension):
        return dense.cost(request)
    return {"leading eigenpairs of every tensor": float(3 * request.k + 20 * _USUAL)}


def _cost_of_densities(request: Request) -> Mapping[str, float]:
    if dense.is_small(request.dimension):
        return dense.cost(request)
    return {**_cost_of_overlap(request), **_products(STARTS * STEPS)}


def _cost_of_sharpness(request: Request) -> Mapping[str, float]:
    return dense.cost(request) if dense.is_small(request.dimension) else _products(PRODUCTS)


SHARPNESS = Observable(
    "layer-sharpness",
    "largest eigenvalue of the block",
    "for each parameter tensor, the eigenvalue of largest |λ| of its diagonal block of H: how sharp the loss "
    "is if only this tensor moves. It is off by no more than its residual.",
    _sharpness,
    _cost_of_sharpness,
    kind="profile",
    x="tensor",
)

TRACE = Observable(
    "layer-trace",
    "trace of the block",
    "for each parameter tensor, the sum of all eigenvalues of its diagonal block of H; the traces of all "
    "tensors sum to the trace of H. Each interval holds with at least 95 % probability.",
    _trace,
    _cost_of_probes,
    kind="profile",
    x="tensor",
)

MISSED = Observable(
    "block-diagonal-misses",
    "share of ‖H‖_F that the block diagonal misses",
    "‖H − B‖_F / ‖H‖_F, where B has the diagonal blocks of H, one for each parameter tensor, and is zero "
    "elsewhere, as methods that treat layers separately assume. It is 0 if tensors do not interact. The "
    "interval holds with at least 95 % probability.",
    _missed,
    _cost_of_probes,
    kind="quantity",
)

OVERLAP = Observable(
    "layer-overlap",
    "overlap of |θ| within the tensor",
    "for each parameter tensor by itself, the overlap ‖MᵀU‖²/k of its k largest weights with the k leading "
    "eigenvectors U of its own block of H. The share of masked weights is the same as in all of θ; chance "
    "is k divided by the tensor's size. It is not a part of the overlap of all of θ, whose eigenvectors "
    "couple tensors. The interval covers the block's true eigenspace and ties.",
    _overlap,
    _cost_of_overlap,
    kind="profile",
    x="tensor",
    reference="chance",
)

DENSITY = Observable(
    "layer-density",
    "density of λ of the block",
    "for each parameter tensor, the share of the eigenvalues of its diagonal block of H near λ, smoothed by "
    "a Gaussian. At each λ, the band contains the smoothed density with at least 95 % probability.",
    _densities,
    _cost_of_densities,
    kind="profile",
    x="λ",
    line="tensor",
    log=True,
)
