"""How far a low-rank approximation is from the operator, from a few products with random vectors.

Tropp, Yurtsever, Udell, Cevher (TYUC), "Streaming Low-Rank Matrix Approximation with an Application to
Scientific Simulation", arXiv 1902.08651, §6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from core.spectra.eigenpairs import Eigenpairs, chunks
from core.spectra.measurements import Gaussian
from core.spectra.operators import Operator, check_square, multiply

# Number of the test vectors among the matrices that one seed stands for; sketches have the first ones.
_STREAM = 10

# Coordinates that are summed in fp64 at once.
_SUMMED = 2**16

# Test vectors that are multiplied at once.
_BLOCK = 32


@dataclass(frozen=True)
class Interval:
    """A norm lies in [lower, upper] with at least the probability that was asked for."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Intervals:
    """Those of ‖H‖_F and of ‖H − Ĥ‖_F, each with the probability asked for (not both at once)."""

    norm: Interval
    error: Interval


@dataclass(frozen=True)
class Scree:
    """Share of the energy ‖H‖²_F that the best approximation of each rank misses, r = 1 … k.

    scree(r) = (τ_{r+1}(H) / ‖H‖_F)² with τ²_{r+1} the sum of the squared eigenvalues but the r of largest
    |λ|.

    Attributes:
        lower: (k,) TYUC's lower estimate, eq. 6.9.
        upper: (k,) TYUC's upper estimate, eq. 6.10.
    """

    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class APosteriori:
    """Estimates of ‖H‖_F and ‖H − Ĥ‖_F, Ĥ = V diag(λ) Vᵀ, from Gaussian test vectors.

    Their squares are unbiased.

    Attributes:
        norm: Of ‖H‖_F.
        error: Of ‖H − Ĥ‖_F. In fp32 the rounding errors of the products and of Ĥω are in it, some
            1e-7 · ‖H‖_F to 1e-6 · ‖H‖_F: an error below that is not seen.
        tests: Number of test vectors, and so of products spent.
    """

    norm: float
    error: float
    tests: int

    @property
    def relative_error(self) -> float:
        """‖H − Ĥ‖_F / ‖H‖_F as estimated, 0 for H = Ĥ = 0; ∞ where only H is 0."""
        if self.norm > 0:
            return self.error / self.norm
        return 0.0 if self.error == 0 else math.inf

    def interval(self, probability: float = 0.95) -> Intervals:
        """Where the two norms lie, whatever H is.

        Let X be the estimate of a squared norm s = ‖A‖²_F from n vectors. TYUC §6.4 bound, for ε in (0, 1),

            P(X ≤ (1 − ε) s) ≤ (e^ε (1 − ε))^{n/2}    and    P(X ≥ (1 + ε) s) ≤ (e^{−ε} (1 + ε))^{n/2},

        the second one for any ε > 0 (both are Chernoff's bound for X/s, a convex combination of χ²₁/n
        sums, at its worst where A has rank 1). With ε₋ and ε₊ such that each is (1 − p)/2, s lies in
        [X/(1 + ε₊), X/(1 − ε₋)] with probability p at least, over the draw of the test vectors.

        Args:
            probability: p, that each of the two intervals contains its norm; for both at once it is at
                least 2p − 1.

        Raises:
            ValueError: p is not in (0, 1).
        """
        if not 0 < probability < 1:
            raise ValueError(f"The probability must be between 0 and 1; got {probability}.")
        lowest, highest = _extremes(self.tests, (1 - probability) / 2)

        def around(estimate: float) -> Interval:
            return Interval(estimate / math.sqrt(highest), estimate / math.sqrt(lowest))

        return Intervals(around(self.norm), around(self.error))

    def scree(self, values: Tensor) -> Scree:
        """Bounds on the share of energy that rank r misses, for each r (TYUC §6.5).

        [(τ_{r+1}(Ĥ)/‖H‖_F)², ((τ_{r+1}(Ĥ) + ‖H − Ĥ‖_F)/‖H‖_F)²], with the estimated norms. Were these
        exact, the upper bound would hold always, by |τ_{r+1}(H) − τ_{r+1}(Ĥ)| ≤ ‖H − Ĥ‖_F, and the lower one
        wherever the |λ| are no larger than those of H, as Ritz values are (Cauchy interlacing), so for
        ``block_krylov`` and ``exact``; those of a sketched core may be, if by little.

        Args:
            values: (k,), λ of Ĥ.
        """
        squared = values.double().abs().sort(descending=True).values.square()
        tail = squared.flip(0).cumsum(0).flip(0) - squared
        tail = tail.clamp_min(0).sqrt()
        scale = self.norm if self.norm > 0 else 1.0
        return Scree((tail / scale).square(), ((tail + self.error) / scale).square())


def a_posteriori(operator: Operator, pairs: Eigenpairs, *, tests: int = 10, seed: int = 0) -> APosteriori:
    """Estimate ‖H‖_F and ‖H − V diag(λ) Vᵀ‖_F by ‖Hω‖ and ‖Hω − Ĥω‖ of Gaussian ω (TYUC §6).

    Args:
        operator: H, D × D. Symmetry and signs do not matter.
        pairs: Ĥ.
        tests: Number of test vectors and of products, at least 1; n of them leave a relative standard
            deviation of at most √(2/n) in the squared norms.
        seed: Seeds the test vectors. They are independent of everything that a method draws from the same
            seed, as they must be of Ĥ.

    Raises:
        ValueError: tests < 1.
        SpectrumError: A product is not finite.
    """
    dimension = check_square(operator, 1, operator.shape[0])
    if tests < 1:
        raise ValueError(f"An error estimate needs at least 1 test vector; got {tests}.")
    norm = error = 0.0
    # More tests than coordinates are sound, but no matrix has more rows than columns.
    for number, first in enumerate(range(0, tests, dimension)):
        n = min(dimension, tests - first)
        draw = Gaussian(n, dimension, (seed, _STREAM, number), operator.dtype, operator.device)
        for start in range(0, n, _BLOCK):
            omega = draw.columns(start, min(start + _BLOCK, n)) * dimension**0.5
            products = multiply(operator, omega)
            norm += sum(float(p.double().square().sum()) for p in torch.split(products, _SUMMED))
            error += _squared_distance(products, omega, pairs)
    return APosteriori(math.sqrt(norm / tests), math.sqrt(error / tests), tests)


def _squared_distance(products: Tensor, vectors: Tensor, pairs: Eigenpairs) -> float:
    """‖HΩ − V diag(λ) VᵀΩ‖²_F from HΩ and Ω, (D, n) each, in two passes over the basis."""
    parts = chunks(pairs.basis.shape[1], len(pairs.basis), cached=vectors.device)
    projected = torch.zeros(len(pairs.basis), vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for part in parts:
        projected += pairs.basis[:, part].to(vectors.device).double() @ vectors[part].double()
    coefficients = pairs.coefficients.to(vectors.device)
    inner = coefficients.T @ projected
    outer = coefficients @ (pairs.values.to(vectors.device)[:, None] * inner)
    total = 0.0
    for part in parts:
        approximate = pairs.basis[:, part].to(vectors.device).double().T @ outer
        total += float((products[part].double() - approximate).square().sum())
    return total


def _extremes(tests: int, tail: float) -> tuple[float, float]:
    """1 − ε₋ and 1 + ε₊ at which TYUC's bounds for n tests equal ``tail``.

    In logarithms: ε + log(1 − ε) and log(1 + ε) − ε are both (2/n) log(tail).
    """
    target = 2 / tests * math.log(tail)
    # 1 − ε₋ = e^l, with few tests closer to 0 than 1 − ε₋ could tell.
    lowest = brentq(lambda l: 1 - math.exp(l) + l - target, target - 1, 0)
    # log(1 + ε) ≤ √ε for all ε > 0, so the root lies below the ε with ε − √ε = −target.
    above = brentq(lambda e: math.log1p(e) - e - target, 0, (1 + math.sqrt(1 - 4 * target)) ** 2 / 4)
    return math.exp(lowest), 1 + above
