"""Masks of diagonals: of the Hessian, the GGN and the empirical Fisher matrix, and OBD's saliency.

The diagonals of the GGN and of the empirical Fisher matrix are sums of squares of gradients of single samples
and are computed from these. That of the Hessian is not: it is exact where as many products as θ has
coordinates are few, and else estimated. With Rademacher vectors z,

    diag(H) = diag(Ĥ) + E[z ∘ (H − Ĥ)z],

without bias for any Ĥ (Bekas, Kokiopoulou & Saad 2007; deflated as the trace in Meyer et al. 2021, Hutch++).
The variance of entry i is Σ_{j ≠ i} (H − Ĥ)²_ij; it is estimated from the draws. Ĥ is Q(QᵀHQ)Qᵀ with the
whole basis Q of the Krylov space that the eigenpairs were found in, several times as many vectors as there
are pairs; its products are made already. Of other methods it is VΛVᵀ of the eigenpairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seigh.core.linalg.tiles import chunks
from seigh.core.methods import Request
from seigh.core.overlap.observables import Estimated, Scene, ScoredMask
from seigh.core.spectra import Operator

EXACT_UP_TO = 1024
"""D up to which the diagonal of the Hessian is exact, at D products."""

PROBES = 32
"""Random vectors that estimate it where D is larger, one product each; as many as eigenpairs if those are
more."""

OUTPUTS = 32
"""Outputs of the network up to which the diagonal of the GGN is exact; of more, so many random ones are drawn
for every sample."""

WIDTH = 4.0
"""Standard errors that a score may be off: with 31 degrees of freedom, 1 of 2,700 is off by more."""

# Columns that are multiplied at once.
_BLOCK = 32

# Rounding errors of a product, in units of the precision times |λ₁|.
_ROUNDING = 16.0


def _hessian_cost(request: Request) -> Mapping[str, float]:
    exact = request.dimension <= EXACT_UP_TO
    return {"diagonal of the Hessian": float(request.dimension if exact else probes(request.k))}


def probes(k: int) -> int:
    """How many random vectors estimate the diagonal beside k eigenpairs."""
    return max(PROBES, k)


def _hessian(scene: Scene) -> Estimated:
    return scene.once("diagonal of the Hessian", lambda: _hessian_diagonal(scene))


def _hessian_diagonal(scene: Scene) -> Estimated:
    landscape = scene.landscape
    operator = scene.hessian if landscape.kind == "hessian" else landscape.matrix("hessian")
    precision = scene.unit
    rounding = _ROUNDING * precision * float(scene.values.abs().max())
    dimension = operator.shape[0]
    if dimension <= EXACT_UP_TO:
        found = diagonal(operator, scene.vectors.dtype, scene.vectors.device)
        return Estimated(found, torch.full_like(found, rounding))
    seed = 0 if scene.request is None else scene.request.seed
    basis, core = scene.vectors, scene.values.double().diag()
    if scene.found is not None and scene.found.projected is not None:
        basis, core = scene.found.basis, scene.found.projected
    found, deviation = deflated_diagonal(operator, basis, core, probes(len(scene.vectors)), seed)
    return Estimated(found, WIDTH * deviation + rounding)


def diagonal(operator: Operator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The diagonal of a D×D operator by D products: (D,) float64."""
    dimension = operator.shape[0]
    found = torch.empty(dimension, dtype=torch.float64, device=device)
    for start in range(0, dimension, _BLOCK):
        part = torch.arange(start, min(start + _BLOCK, dimension), device=device)
        units = torch.zeros(dimension, len(part), dtype=dtype, device=device)
        units[part, torch.arange(len(part), device=device)] = 1
        found[part] = (operator @ units)[part, torch.arange(len(part), device=device)].double()
    return found


def deflated_diagonal(
    operator: Operator, basis: Tensor, core: Tensor, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The diagonal of a symmetric operator, estimated beyond QTQᵀ, and its standard errors.

    Args:
        operator: D × D.
        basis: Qᵀ, (m, D), orthonormal rows; any will do, those of a Krylov space leave little variance.
        core: T, (m, m) symmetric, best QᵀHQ.
        count: How many products.
        seed: Seed of the Rademacher vectors.

    Returns:
        2 × (D,) float64.
    """
    size, dimension = basis.shape
    device = operator.device
    core = core.to(device, torch.float64)
    parts = chunks(dimension, size, cached=device)
    generator = torch.Generator().manual_seed(seed)
    mean, square = torch.zeros(2, dimension, dtype=torch.float64, device=device)
    known = torch.empty(dimension, dtype=torch.float64, device=device)
    for part in parts:
        rows = basis[:, part].to(device).double()
        known[part] = (rows * (core @ rows)).sum(0)
    for done in range(0, count, _BLOCK):
        signs = torch.randint(
            0, 2, (dimension, min(_BLOCK, count - done)), generator=generator, dtype=torch.int8
        )
        z = (2 * signs - 1).to(device, operator.dtype)
        rest = (operator @ z).double()
        inner = torch.zeros(size, z.shape[1], dtype=torch.float64, device=device)
        for part in parts:
            inner += basis[:, part].to(device).double() @ z[part].double()
        for part in parts:
            rest[part] -= basis[:, part].to(device).double().T @ (core @ inner)
        draws = rest * z
        mean, square = mean + draws.sum(1) / count, square + draws.square().sum(1) / count
    deviation = ((square - mean.square()).clamp_min(0) / (count - 1)).sqrt()
    return known + mean, deviation


def _magnitude(estimated: Estimated) -> Estimated:
    return Estimated(estimated.scores.abs(), estimated.error)


def _obd(scene: Scene) -> Estimated:
    """½ h_ii θ_i², which may be negative: what counts is the order."""
    found, half = _hessian(scene), 0.5 * scene.landscape.theta.square()
    assert found.error is not None
    saliency = half * found.scores
    return Estimated(saliency - saliency.min().clamp_max(0), half * found.error)


def _ggn(scene: Scene) -> Estimated:
    found, deviation = scene.landscape.ggn_diagonal(OUTPUTS)
    return Estimated(found, WIDTH * deviation) if bool(deviation.any()) else Estimated(found)


def _fisher(scene: Scene) -> Tensor:
    total = torch.zeros_like(scene.landscape.theta)
    for weights, gradients in scene.landscape.sample_gradients():
        total += weights @ gradients.square()
    return total


HESSIAN = ScoredMask(
    "hessian-diagonal",
    "the largest |Hᵢᵢ|",
    f"scores are the magnitudes of the Hessian's diagonal. They are exact up to D = {EXACT_UP_TO:,}; beyond, "
    f"k products with random vectors, at least {PROBES}, estimate the part that the method has not found. "
    "The error covers every mask that the scores admit within four standard errors.",
    lambda scene: _magnitude(_hessian(scene)),
    _hessian_cost,
)

GGN = ScoredMask(
    "ggn-diagonal",
    "the largest Gᵢᵢ",
    "scores are the diagonal of the generalised Gauss–Newton matrix. They are exact up to "
    f"{OUTPUTS} outputs; beyond, {OUTPUTS} random combinations of outputs for every sample estimate them, "
    "and the error covers every mask that the scores admit within four standard errors.",
    _ggn,
    lambda _: {"diagonal of the GGN": 0.5 * OUTPUTS},
)

FISHER = ScoredMask(
    "fisher-diagonal",
    "the largest empirical Fᵢᵢ",
    "scores are the diagonal of the empirical Fisher matrix, the mean of the squared per-sample gradients "
    "(Kunstner et al. 2019, eq. 4), without the penalty of weight decay.",
    _fisher,
    lambda _: {"gradients of the samples": 0.5},
)

OBD = ScoredMask(
    "obd",
    "the largest ½ Hᵢᵢ θᵢ²",
    "scores are the saliencies of Optimal Brain Damage (LeCun et al. 1990, eq. 5), with the sign of Hᵢᵢ: to "
    "second order, how much the loss changes if a weight is removed at a minimum. The diagonal is computed "
    "as for overlap-hessian-diagonal.",
    _obd,
    _hessian_cost,
)
