"""The density of all D eigenvalues, smoothed: those found as they are, the others by Lanczos quadrature.

Stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017; of networks' Hessians Ghorbani, Krishnan & Xiao 2019,
arXiv 1901.10159, appendix A), deflated: the random vectors are orthogonal to the K eigenvectors found, whose
eigenvalues are known and need no estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seigh.core.linalg.tiles import chunks
from seigh.core.methods import Request
from seigh.core.overlap.observables import Observable, Profile, Scene
from seigh.core.spectra import Operator
from seigh.core.spectra.measurements import Gaussian
from seigh.core.spectra.operators import multiply

Floats = NDArray[np.float64]

VECTORS, STEPS = 8, 24
PROBABILITY = 0.95

# Standard deviation of the Gaussians that smooth, times the steps, in units of the largest |eigenvalue|
# beyond the pairs: so wide that polynomials of 2·STEPS − 1 degrees, which the quadrature integrates exactly,
# follow.
_WIDTH = 2.2

# Number of this draw among the matrices that one seed stands for.
_STREAM = 11

# Places on the axis: across the others' eigenvalues, and about each of those found, in units of the width, as
# finely as the number of places allows. The last ones keep the peak and both feet of every bump.
_ACROSS, _MOST = 201, 2000
_ABOUT = (
    (-6.0, -4.5, -3.5, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.5, 4.5, 6.0),
    (-6.0, -4.0, -2.5, -1.75, -1.0, -0.5, 0.0, 0.5, 1.0, 1.75, 2.5, 4.0, 6.0),
    (-6.0, -3.5, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5, 6.0),
    (-5.0, -1.5, 0.0, 1.5, 5.0),
    (-3.0, 0.0, 3.0),
)

# Places that are closer than this are one, in units of the width: bumps change less in between.
_SAME = 0.2

# Ritz values of Lanczos may lie so much inside of the ends of the spectrum.
_MARGIN = 1.02

# Nodes of the Chebyshev series that tells how well polynomials follow.
_NODES = 512


@dataclass(frozen=True)
class Quadrature:
    """Σ_i w_i f(τ_i) ≈ ωᵀ f(B) ω for each random vector ω, B = H on the complement of the eigenvectors.

    Attributes:
        nodes: (n, m), τ.
        weights: (n, m) ≥ 0; their sum is ‖ω‖².
        steps: m.
    """

    nodes: Floats
    weights: Floats
    steps: int


def lanczos(operator: Operator, vectors: Tensor, starts: int, steps: int, seed: int) -> Quadrature:
    """Quadrature rules of Gaussian vectors that are orthogonal to ``vectors``; starts · steps products.

    The vectors of each recurrence are kept, and made orthogonal to each other twice (Parlett 1998, §6.9).

    Args:
        operator: H, D × D.
        vectors: (K, D), orthonormal rows.
        starts: n, random vectors, of which all are multiplied at once.
        steps: m ≤ D − K.
        seed: Seed of the random vectors.
    """
    dimension = operator.shape[0]
    draw = Gaussian(starts, dimension, (seed, _STREAM), operator.dtype, operator.device)
    block = _outside(vectors, draw.columns(0, starts) * dimension**0.5)
    lengths = _lengths(block)
    kept = torch.empty(steps, *block.shape, dtype=block.dtype, device=block.device)
    diagonal, beside = torch.zeros(2, starts, steps, dtype=torch.float64)
    scale = torch.zeros(starts, dtype=torch.float64)
    alive = lengths > 0
    block = _divided(block, lengths, alive)
    for step in range(steps):
        kept[step] = block
        image = multiply(operator, block)
        diagonal[:, step] = (block.double() * image.double()).sum(0).cpu() * alive
        image = _outside(vectors, image)
        for _ in range(2):
            before = kept[: step + 1]
            image = image - torch.einsum("sdn,sn->dn", before, torch.einsum("sdn,dn->sn", before, image))
        image = _outside(vectors, image)
        length = _lengths(image)
        scale = torch.maximum(scale, torch.maximum(diagonal[:, step].abs(), length))
        # What is left is rounding alone where a recurrence has found all that its vector has.
        alive &= length > 64 * torch.finfo(block.dtype).eps * scale
        beside[:, step] = length * alive
        block = _divided(image, length, alive)
    matrix = (
        torch.diag_embed(diagonal)
        + torch.diag_embed(beside[:, :-1], 1)
        + torch.diag_embed(beside[:, :-1], -1)
    )
    nodes, rotation = torch.linalg.eigh(matrix)
    weights = rotation[:, 0, :].square() * lengths.square()[:, None]
    return Quadrature(nodes.numpy(), weights.numpy(), steps)


def _divided(block: Tensor, lengths: Tensor, alive: Tensor) -> Tensor:
    """Columns (D, n) over their lengths, 0 where they are not alive."""
    safe = torch.where(alive, lengths, 1.0)
    return block / safe.to(block) * alive.to(block)


def _lengths(block: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(block, dim=0, dtype=torch.float64).cpu()
    return lengths


def _outside(vectors: Tensor, block: Tensor) -> Tensor:
    """The part of the columns (D, n) that is orthogonal to the rows of ``vectors`` (K, D)."""
    parts = chunks(vectors.shape[1], len(vectors), vectors.itemsize, cached=block.device)
    inner = torch.zeros(len(vectors), block.shape[1], dtype=torch.float64, device=block.device)
    for part in parts:
        inner += (vectors[:, part].to(block) @ block[part]).double()
    out = block.clone()
    for part in parts:
        out[part] -= vectors[:, part].to(block).T @ inner.to(block.dtype)
    return out


def smoothed(places: Floats, values: Floats, weights: Floats, width: float) -> Floats:
    """Σ_i w_i N(x; λ_i, width²) at each place x."""
    out = np.zeros(len(places))
    for value, weight in zip(values, weights, strict=True):
        out += weight * np.exp(-0.5 * ((places - value) / width) ** 2)
    return out / (width * math.sqrt(2 * math.pi))


def unfollowed(places: Floats, width: float, end: float, degree: int) -> Floats:
    """How far N(x; t, width²) on [−end, end] is from the best polynomial in t of a degree, at most.

    It is the sum of the |coefficients| of its Chebyshev series beyond that degree.
    """
    nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    heights = np.exp(-0.5 * ((places[:, None] - end * nodes) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    orders = np.arange(degree + 1, min(_NODES, 4 * degree + 4))
    cosines = np.cos(orders[:, None] * np.arccos(nodes))
    found: Floats = np.abs(2 / _NODES * heights @ cosines.T).sum(1)
    return found


def sampling(total: Floats, highest: Floats, tests: int, probability: float) -> tuple[Floats, Floats]:
    """Between what tr f(B) lies, from the mean T of n forms ωᵀf(B)ω of Gaussian ω, 0 ≤ f ≤ ``highest``.

    As tr f² ≤ highest · tr f, with c = highest · x/n and x = log(2/(1 − p)), Lemma 1 of Laurent & Massart
    (2000) says that tr f − 2 √(c tr f) ≤ T ≤ tr f + 2 √(c tr f) + 2 c, each but for e^{−x}.
    """
    c = highest * math.log(2 / (1 - probability)) / tests
    lower = np.maximum(np.sqrt(np.maximum(total - c, 0)) - np.sqrt(c), 0) ** 2
    upper = (np.sqrt(c) + np.sqrt(c + total)) ** 2
    return lower, upper


def density(scene: Scene) -> Profile:
    """The share of all D eigenvalues per unit of λ, smoothed, with its interval."""
    return smoothed_density(scene)[0]


def smoothed_density(
    scene: Scene,
    starts: int = VECTORS,
    steps: int = STEPS,
    across: int = _ACROSS,
    least_width: float = 1e-4,
) -> tuple[Profile, float]:
    """``density``, and the standard deviation of the Gaussians that smooth it.

    Args:
        scene: H and its pairs.
        starts: Random vectors.
        steps: Steps of Lanczos from each.
        across: Places across what is not known.
        least_width: What the width is at least, in units of the largest |eigenvalue|.
    """
    k, dimension = scene.vectors.shape
    assert scene.request is not None
    assert scene.residuals is not None
    values = scene.values.double().cpu().numpy()
    assert scene.found is not None
    residuals = scene.residuals[:k].double().cpu().numpy()
    known_rounding = scene.found.rounding
    rounding = residuals if known_rounding is None else known_rounding[:k].double().cpu().numpy()
    rest = dimension - k
    steps = min(steps, rest)
    if steps:
        found = lanczos(scene.hessian, scene.vectors, starts, steps, scene.request.seed)
        end = _MARGIN * float(np.abs(found.nodes).max())
    else:
        found, end = Quadrature(np.zeros((1, 0)), np.zeros((1, 0)), 0), 0.0
    size = float(np.abs(values).max(initial=end))
    width = max(_WIDTH * end / max(steps, 1), least_width * size, 1e-300)
    width = float(f"{width:.3g}")  # that it is exactly what is told
    places = _places(values, end, width, across)
    outside = smoothed(places, found.nodes.ravel(), found.weights.ravel() / starts, width)
    away = np.maximum(np.abs(places) - end, 0)  # from all eigenvalues that are not known
    lower, upper = sampling(outside, _bell(away, width), starts, PROBABILITY) if steps else (outside, outside)
    # A rule with positive weights is off by at most twice what polynomials do not follow, times its weight.
    off = 2 * rest * unfollowed(places, width, end, 2 * steps - 1) if 0 < steps < rest else 0 * places
    # What the vectors found lack moves their eigenvalues, and by as much in all those of the complement.
    moved = 2 * residuals**2 / np.maximum(np.abs(values) - end, 1e-300) + rounding
    moved = np.minimum(residuals, moved)
    steepest = np.maximum(away - moved.max(), width)
    off = off + float(moved.sum()) * (rest > 0) * steepest / width**2 * _bell(steepest, width)
    distance = np.abs(places[:, None] - values)
    most = _bell(np.maximum(distance - moved, 0), width).sum(1)
    least = _bell(distance + moved, width).sum(1)
    known = _bell(distance, width).sum(1)
    value = known + outside
    profile = Profile(
        places,
        value / dimension,
        np.minimum(least + np.maximum(lower - off, 0), value) / dimension,
        np.maximum(most + upper + off, value) / dimension,
        known / dimension,
        remark=f"Smoothed by Gaussians of standard deviation {width:.3g}; {starts} random vectors, {steps} "
        "steps.",
    )
    return profile, width


def _bell(distance: Floats, width: float) -> Floats:
    """The density of a Gaussian at distances from its centre."""
    found: Floats = np.exp(-0.5 * (distance / width) ** 2) / (width * math.sqrt(2 * math.pi))
    return found


def _places(values: Floats, end: float, width: float, number: int = _ACROSS) -> Floats:
    """Where the density is told: across what is not known, and about what is, no bump left out."""
    across = np.linspace(-end - 4 * width, end + 4 * width, number)
    about = across[:0]
    for offsets in _ABOUT:
        # Peaks come first, so that of places that are close to each other a peak is kept.
        about = _apart(np.concatenate([values + width * each for each in sorted(offsets, key=abs)]), width)
        about = about[np.abs(about) > end + 4 * width]
        if len(about) <= _MOST * number // _ACROSS - number:
            break
    return np.unique(np.concatenate([across, about]))


def _apart(places: Floats, width: float) -> Floats:
    """One place of each cell of the axis that has some, the first."""
    _, first = np.unique(np.floor(places / (_SAME * width)), return_index=True)
    return places[np.sort(first)]


def _cost(request: Request) -> Mapping[str, float]:
    return {"density": VECTORS * min(STEPS, request.dimension - request.k)}


DENSITY = Observable(
    "density",
    "density of eigenvalues per unit of λ",
    "the share of all D eigenvalues near λ, smoothed by a Gaussian. The k computed eigenvalues appear as "
    "bumps where no others are near; the others are estimated by stochastic Lanczos quadrature. At each λ, "
    "the band contains the smoothed density with at least 95 % probability.",
    density,
    _cost,
    kind="profile",
    x="λ",
    reference="the k eigenvalues found alone",
    log=True,
)
