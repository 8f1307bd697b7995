"""Grassmannian metrics between two subspaces of one dimension, all from the principal angles between them.

The cosines of the angles are the singular values of UᵀV, the sines those of (I − UUᵀ)V, for orthonormal U
and V; the former are accurate for large angles, the latter for small ones (Björck & Golub 1973; Knyazev &
Argentati 2002). Both are small matrices that sum over the D coordinates, so nothing is D×D.

Example:
    >>> first = torch.eye(4)[:2]
    >>> second = torch.eye(4)[1:3]
    >>> {name: round(value, 3) for name, value in metrics(align(first, second).angles(2)).items()}
    {'geodesic': 1.571, 'chordal_2': 1.414, 'chordal_f': 1.414, 'projection_2': 1.0, 'projection_f': 1.0, \
'fubini_study': 1.571, 'overlap': 0.5}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seigh.core.linalg.tiles import chunks
from seigh.core.names import LARGEST, SPARSITIES, Metric

Floats = NDArray[np.float64]
Kind = Literal["subspaces", "masks"]

# Below this angle, rounding errors of fp32 vectors, which are not quite of length 1, show in it.
_CLOSE = 0.1

# Beyond this one, so do rounding errors of fp64.
_EQUAL = 1 - 1e-9

# Square of the part of a vector beyond those before it that is as good as none.
_DEPENDENT = 1e-12

# Of a baseline: draws at most and at least; in between, so many eigenvalues in all.
_MOST, _LEAST, _DRAWN = 64, 8, 2048

# Sizes that are closer to the last one tell nothing new.
_APART = 0.98


class Rows(Protocol):
    """An (n, D) matrix of which columns can be read: a tensor, or one in a file."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, part: tuple[slice, slice], /) -> Tensor: ...


@dataclass(frozen=True)
class Alignment:
    """How two nested sequences of subspaces, span(U_k) and span(V_k) for k = 1 … n, lie to each other.

    Attributes:
        cross: W = UᵀV of orthonormal U and V, (n, n) fp64.
        residual: RᵀR with R = V − UW, (n, n) fp64; None where I − WᵀW tells the same.
    """

    cross: Tensor
    residual: Tensor | None = None

    def angles(self, k: int) -> Floats:
        """Principal angles of span(U_k) and span(V_k), ascending, in [0, π/2]: (k,) fp64.

        Wrong by less than 10⁻⁷ each.
        """
        cosines = torch.linalg.svdvals(self.cross[:k, :k]).clamp_max(1)
        if self.residual is None:
            squares = (1 - cosines) * (1 + cosines)
        else:
            # (I − U_kU_kᵀ)V_k has a part within U and one without.
            beyond = self.cross[k:, :k]
            squares = torch.linalg.eigvalsh(self.residual[:k, :k] + beyond.T @ beyond).clamp_min(0)
        angles: Floats = torch.atan2(squares.sqrt(), cosines).numpy()
        return angles


def align(
    first: Rows,
    second: Rows,
    *,
    most: int | None = None,
    factors: tuple[Tensor, Tensor] | None = None,
    device: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> Alignment:
    """The subspaces that the leading rows of two matrices span, whether or not these are orthonormal.

    Args:
        first: Uᵀ: (m, D), read in blocks of columns.
        second: Vᵀ: (n, D).
        most: How many leading rows of either to align; min(m, n) when not given, or when that is less.
        factors: The ``factor`` of each, where they are known; of at least as many rows.
        device: Where blocks are multiplied; the CPU when not given.
        progress: Told the part of the product that is done, in [0, 1]; what it raises ends the work.

    Raises:
        ValueError: The vectors have different lengths, or the rows of one are dependent.
    """
    n = min(first.shape[0], second.shape[0], most or first.shape[0])
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"Vectors of {first.shape[1]:,} and {second.shape[1]:,} entries span no common space."
        )
    left, right = factors or (factor(first, n, device=device), factor(second, n, device=device))
    left, right = left[:n, :n], right[:n, :n]
    cross = _zeros(n, device)
    for one, other in _blocks(first, second, n=n, device=device, progress=progress):
        cross += one @ other.T
    cross = _divided(left, _divided(right, cross.T).T)
    if float(torch.linalg.matrix_norm(cross, 2)) < _EQUAL:
        return Alignment(cross.cpu())
    residual = _zeros(n, device)
    for one, other in _blocks(first, second, n=n, device=device):
        outside = _divided(right, other) - cross.T @ _divided(left, one)
        residual += outside @ outside.T
    return Alignment(cross.cpu(), residual.cpu())


def factor(rows: Rows, n: int, *, device: str | None = None) -> Tensor:
    """L such that L⁻¹ times the first n rows is orthonormal, for every k the first k of the span of the first
    k rows: (n, n) fp64, lower triangular.

    Raises:
        ValueError: The rows are dependent.
    """
    gram = _zeros(n, device)
    for (block,) in _blocks(rows, n=n, device=device):
        gram += block @ block.T
    lower, failed = torch.linalg.cholesky_ex(gram)
    # What is left of each row beyond those before it; of a failed one, nothing.
    left = lower.diagonal().square() / gram.diagonal()
    dependent = int(failed) or int((~(left > _DEPENDENT)).any()) * (1 + int(left.argmin()))
    if dependent:
        raise ValueError(f"The first {dependent:,} vectors are linearly dependent.")
    found: Tensor = lower
    return found


def mask_angles(vectors: Tensor, order: Tensor, sizes: Sequence[int]) -> list[Floats]:
    """Principal angles of the span of the first k coordinates of ``order`` and span(V_k), for every size k.

    Args:
        vectors: Vᵀ, (n, D): an eigenvector in each row, orthonormal as far as their precision goes.
        order: (n,), the mask's coordinates.
        sizes: The sizes k, ascending, up to n.
    """
    block = vectors[:, order.to(vectors.device)].T.double().cpu()
    alignment = Alignment(block)
    angles = [alignment.angles(k) for k in sizes]
    nearest = min(float(each[0]) for each in angles)
    if vectors.dtype == torch.float64 or nearest > _CLOSE:
        return angles
    alignment = Alignment(
        _divided(factor(vectors, len(vectors), device=str(vectors.device)).cpu(), block.T).T
    )
    return [alignment.angles(k) for k in sizes]


@dataclass(frozen=True)
class MaskMetric:
    """A metric between the mask of size k and V_k.

    Attributes:
        k: Size.
        metric: Its name.
        value: As ``metrics`` has it.
        error: How far it may be from that of the true eigenspace; None where that is not known.
        random_mean: Over random subspaces instead of V_k.
        random_std: Standard deviation over them.
    """

    k: int
    metric: Metric
    value: float
    error: float | None
    random_mean: float
    random_std: float


def mask_metrics(
    vectors: Tensor, order: Tensor, sizes: Sequence[int], overlap: Sequence[float], error: Sequence[float]
) -> list[MaskMetric]:
    """Every metric between the mask and the eigenspace of each size k, with its error and chance.

    Args:
        vectors: Vᵀ, (n, D): an eigenvector in each row.
        order: (n,), the mask's coordinates, largest |θ| first; the metrics are of this mask, whatever others
            equal magnitudes admit.
        sizes: Ascending, up to n.
        overlap: (n,), of every k = 1 … n.
        error: (n,), how far each may be from the true one.
    """
    found = []
    for k, angles in zip(sizes, mask_angles(vectors, order, sizes), strict=True):
        errors = metric_errors(k, float(overlap[k - 1]), float(error[k - 1]))
        chance = random_metrics(vectors.shape[1], k)
        found += [
            MaskMetric(k, metric, value, errors.get(metric), chance[metric].mean, chance[metric].std)
            for metric, value in sorted(metrics(angles).items())
        ]
    return found


def metrics(angles: Floats) -> dict[Metric, float]:
    """Every metric of two subspaces of dimension k, from the principal angles between them: (k,)."""
    return {metric: float(value) for metric, value in _metrics(angles).items()}


def _metrics(angles: Floats) -> dict[Metric, Floats]:
    """The same of many pairs of subspaces: (…, k) → (…)."""
    widest, squares = angles.max(-1), np.sin(angles) ** 2
    with np.errstate(divide="ignore"):
        log_product = 0.5 * np.log1p(-squares).sum(-1)  # of the cosines
    return {
        "geodesic": _norm(angles),
        "chordal_2": 2 * np.sin(widest / 2),
        "chordal_f": 2 * _norm(np.sin(angles / 2)),
        "projection_2": np.sin(widest),
        "projection_f": np.sqrt(squares.sum(-1)),
        "fubini_study": np.arctan2(np.sqrt(-np.expm1(2 * log_product)), np.exp(log_product)),
        "overlap": 1 - squares.mean(-1),
    }


def _norm(values: Floats) -> Floats:
    norm: Floats = np.linalg.norm(values, axis=-1)
    return norm


def largest(metric: Metric, k: int) -> float:
    """The distance between orthogonal subspaces of dimension k; 1 for the overlap, that of equal ones."""
    if metric == "overlap":
        return 1.0
    scale, power = LARGEST[metric]
    return scale * float(k**power)


def normalised(metric: Metric, value: float, k: int) -> float:
    """A metric as a likeness in [0, 1], as the paper plots it: 1 for equal and 0 for orthogonal subspaces.

    That is 1 − distance / largest distance, and the overlap as it is.
    """
    return value if metric == "overlap" else 1 - value / largest(metric, k)


def metric_errors(k: int, overlap: float, error: float) -> dict[Metric, float]:
    """How far metrics may be from the true ones if the overlap is within ``error`` of the true one.

    Only those are known that are functions of the overlap: itself and the projection Frobenius norm, which
    is √(k (1 − overlap)). The others depend on how the angles share it.
    """
    missing = 1 - overlap
    reach = [min(max(missing + sign * error, 0.0), 1.0) for sign in (-1, 1)]
    furthest = max(abs(math.sqrt(k * each) - math.sqrt(k * max(missing, 0.0))) for each in reach)
    return {"overlap": error, "projection_f": furthest}


def sizes(n: int, dimension: int) -> tuple[int, ...]:
    """The sizes k at which structure is told: 1, 2, 5, 10, 20, 50, …, the paper's ρ·D up to n, and n itself.

    Those less than 2 % below n are left out.

    Example:
        >>> sizes(355, 7030)
        (1, 2, 5, 10, 20, 35, 50, 70, 100, 200, 355)
    """
    steps = (digit * 10**power for power in range(len(str(n))) for digit in (1, 2, 5))
    ratios = (round(ratio * dimension) for ratio in SPARSITIES)
    inner = {size for size in (*steps, *ratios) if 1 <= size < _APART * n}
    return (*sorted(inner), n)


# --- Chance -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """A metric over random subspaces: mean, and standard deviation (n−1 in the denominator) over draws; and
    the 5 %, 50 % and 95 % quantiles of the draws."""

    mean: float
    std: float
    low: float
    median: float
    high: float


@lru_cache(maxsize=4096)
def random_metrics(
    dimension: int, k: int, *, kind: Kind = "subspaces", draws: int | None = None, seed: int = 0
) -> Mapping[Metric, Baseline]:
    """Every metric between two random subspaces of dimension k in R^D, D = ``dimension``.

    Args:
        dimension: D; the work does not grow with it.
        k: 1 … D.
        kind: ``subspaces`` for uniformly drawn ones (one of the two may as well be any fixed one, such as
            a mask), ``masks`` for two that are spanned by k uniformly drawn coordinates each.
        draws: How many are drawn, at least 2; from 64 for small k down to 8 for large ones, whose metrics
            hardly vary, when not given. For the overlap, mean k/D and standard deviation are exact.
        seed: Seeds the draws.
    """
    generator = np.random.default_rng((seed, dimension, k))
    drawn = draws or min(_MOST, max(_LEAST, _DRAWN // k))
    draw = random_angles if kind == "subspaces" else random_mask_angles
    found = {
        metric: Baseline(float(values.mean()), float(values.std(ddof=1)), *_quantiles(values))
        for metric, values in _metrics(draw(dimension, k, drawn, generator)).items()
    }
    exact = {"mean": k / dimension, "std": _overlap_std(dimension, k, kind)}
    return found | {"overlap": replace(found["overlap"], **exact)}


def _quantiles(values: Floats) -> list[float]:
    quantiles: list[float] = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return quantiles


def random_angles(dimension: int, k: int, draws: int, generator: np.random.Generator) -> Floats:
    """Principal angles of two uniformly drawn k-dimensional subspaces of R^D: (draws, k), ascending.

    A k×k block of a uniformly drawn orthogonal matrix has the singular values of a bidiagonal one with
    independent entries (Edelman & Sutton 2008, β = 1), whatever D is. Where 2k > D, at least 2k − D angles
    are zero, and the others are those of the orthogonal complements.
    """
    equal = max(0, 2 * k - dimension)
    angles = np.zeros((draws, k))
    if equal == k:
        return angles
    order, excess = np.arange(k - equal, 0, -1), abs(dimension - 2 * k)
    squares = generator.beta(0.5 * order, 0.5 * (excess + order), (draws, len(order)))
    others = generator.beta(0.5 * order[1:], 0.5 * (excess + 1 + order[1:]), (draws, len(order) - 1))
    diagonal = np.sqrt(squares * np.pad(1 - others, ((0, 0), (1, 0)), constant_values=1))
    beside = np.sqrt((1 - squares[:, :-1]) * others)
    # B Bᵀ of the upper bidiagonal B.
    centre, off = diagonal**2 + np.pad(beside**2, ((0, 0), (0, 1))), diagonal[:, 1:] * beside
    cosines = np.stack([_tridiagonal(*each)[::-1] for each in zip(centre, off, strict=True)]).clip(0, 1)
    angles[:, equal:] = np.arctan2(np.sqrt(1 - cosines), np.sqrt(cosines))
    return angles


def _tridiagonal(diagonal: Floats, beside: Floats) -> Floats:
    """Eigenvalues of a symmetric tridiagonal matrix, ascending, by LAPACK itself: SciPy's checks of its input
    take longer than a small matrix."""
    values: Floats = diagonal
    if len(diagonal) > 1:
        from scipy.linalg.lapack import dsterf  # SciPy takes long to import

        values, failed = dsterf(diagonal, beside)
        if failed:
            raise RuntimeError("LAPACK's dsterf did not converge.")
    return values


def random_mask_angles(dimension: int, k: int, draws: int, generator: np.random.Generator) -> Floats:
    """Principal angles of the spans of two uniformly drawn sets of k coordinates: (draws, k), ascending.

    Zero for each coordinate in both, and a right angle for every other.
    """
    common = generator.hypergeometric(k, dimension - k, k, draws)
    return np.where(np.arange(k) < common[:, None], 0.0, math.pi / 2)


def random_study(
    sizes: Iterable[tuple[int, int]], *, kind: Kind = "subspaces", draws: int = 32, seed: int = 0
) -> list[dict[str, float | str]]:
    """The paper's synthetic study (§4): how every metric sees random subspaces.

    Args:
        sizes: D and k ≤ D of each pair of subspaces.
        kind: As of ``random_metrics``.
        draws: How many pairs are drawn of each size.
        seed: Seeds the draws.

    Returns:
        Rows with ``dimension``, ``k``, ``metric``, ``mean``, ``std``; and of the likeness in [0, 1],
        ``normalised_mean``, ``normalised_std`` and the 5 %, 50 % and 95 % quantiles ``normalised_low``,
        ``normalised_median`` and ``normalised_high``.
    """
    rows: list[dict[str, float | str]] = []
    for dimension, k in sizes:
        for metric, found in random_metrics(dimension, k, kind=kind, draws=draws, seed=seed).items():
            # A small distance is a large likeness.
            ends = sorted(normalised(metric, end, k) for end in (found.low, found.high))
            rows.append(
                {
                    "dimension": dimension,
                    "k": k,
                    "metric": metric,
                    "mean": found.mean,
                    "std": found.std,
                    "normalised_mean": normalised(metric, found.mean, k),
                    "normalised_std": found.std / largest(metric, k),
                    "normalised_low": ends[0],
                    "normalised_median": normalised(metric, found.median, k),
                    "normalised_high": ends[1],
                }
            )
    return rows


def _overlap_std(dimension: int, k: int, kind: Kind) -> float:
    """Standard deviation of the overlap over random subspaces, or masks (that of a hypergeometric / k)."""
    if dimension == 1:
        return 0.0
    rest = (dimension - k) / dimension
    if kind == "masks":
        return rest / math.sqrt(dimension - 1)
    return rest * math.sqrt(2 / ((dimension - 1) * (dimension + 2)))


# --- Blocks -----------------------------------------------------------------------------------------------


def _blocks(
    *rows: Rows, n: int, device: str | None, progress: Callable[[float], None] | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """The first n rows of every matrix, in fp64, some columns at a time."""
    dimension = rows[0].shape[1]
    for part in chunks(dimension, len(rows) * n):
        yield tuple(each[:n, part].to(device).double() for each in rows)
        if progress is not None:
            progress(part.stop / dimension)


def _divided(lower: Tensor, right: Tensor) -> Tensor:
    """L⁻¹ · right."""
    quotient: Tensor = torch.linalg.solve_triangular(lower, right, upper=False)
    return quotient


def _zeros(n: int, device: str | None) -> Tensor:
    return torch.zeros(n, n, dtype=torch.float64, device=device)
