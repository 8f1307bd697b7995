"""How far a low-rank approximation is from the operator, from a few products with random vectors.

Tropp, Yurtsever, Udell, Cevher (TYUC), "Streaming Low-Rank Matrix Approximation with an Application to
Scientific Simulation", arXiv 1902.08651, §6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seigh.core.linalg.tiles import at_once, chunks
from seigh.core.spectra.eigenpairs import Eigenpairs
from seigh.core.spectra.measurements import Gaussian
from seigh.core.spectra.operators import Operator, check_square, multiply, typed

# Number of the test vectors among the matrices that one seed stands for; sketches have the first ones.
_STREAM = 10

# Test vectors that are multiplied at once, at most.
_BLOCK = 32

# Share of what an interval of the trace may miss that goes to the bound of ‖H − Ĥ‖_F in it.
_TO_NORM = 0.2

# Values of ‖H − Ĥ‖_F within its interval at which a band is evaluated.
_ENDS = 33


@dataclass(frozen=True)
class Interval:
    """A norm lies in [lower, upper] with at least the probability that was asked for."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Intervals:
    """Intervals of ‖H‖_F and ‖H − Ĥ‖_F that hold together with the requested probability."""

    norm: Interval
    error: Interval


@dataclass(frozen=True)
class Scree:
    """A band for the share of the energy ‖H‖²_F that the best approximation of each rank misses, r = 1 … k.

    scree(r) = (τ_{r+1}(H) / ‖H‖_F)² with τ²_{r+1} the sum of the squared eigenvalues but the r of largest
    |λ|. The whole curve lies in the band with the probability that was asked for.

    Attributes:
        lower: (k,).
        upper: (k,).
    """

    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class APosteriori:
    """Estimates of ‖H‖_F and ‖H − Ĥ‖_F, Ĥ = V diag(λ) Vᵀ, from Gaussian test vectors.

    V has orthonormal columns and λ_j = v_jᵀ H v_j, so that H − Ĥ is orthogonal to Ĥ and
    ‖H‖²_F = Σ_j λ_j² + ‖H − Ĥ‖²_F: only the second part is unknown. Where rounding moves λ_j by δ_j, the
    sum is off by 2 Σ_j λ_j δ_j.

    Attributes:
        known: Σ_j λ_j².
        error: Of ‖H − Ĥ‖_F; its square is unbiased. In fp32 the rounding errors of the products and of Ĥω are
            in it, some 1e-7 · ‖H‖_F to 1e-6 · ‖H‖_F: an error below that is not seen.
        tests: Number of test vectors, and so of products spent.
        held: Σ_j λ_j.
        forms: ωᵀ(H − Ĥ)ω of each test vector ω; none where they were not computed.
        off: How far |Σ_j λ_j v_jᵀHv_j − Σ_j λ_j²| may be from 0, as rounding of the products moves each λ_j.
    """

    known: float
    error: float
    tests: int
    held: float = 0.0
    forms: tuple[float, ...] = ()
    off: float = 0.0

    @property
    def trace(self) -> float:
        """An unbiased estimate of tr H: what the pairs hold, and the mean of the forms (Hutchinson 1990)."""
        return self.held + math.fsum(self.forms) / len(self.forms)

    def trace_interval(self, probability: float = 0.95, largest: float | None = None) -> Interval:
        """Where tr H lies, whatever H is.

        Let A = H − Ĥ, F = ‖A‖_F and b ≥ ‖A‖₂. The mean T of n forms of Gaussian vectors has

            P(|T − tr A| ≥ 2 F √(x/n) + 2 b x/n) ≤ 2 e^{−x},

        as each is a weighted sum of χ²₁ variables (Laurent & Massart 2000, Lemma 1). F is bounded by the mean
        X of ‖Aω‖² at a fifth of the allowance: by the interval of ``interval``, where b = F; or, if
        ``largest`` bounds ‖A‖₂, by the same lemma, X ≥ F² − 2 b F √(x/n).

        Args:
            probability: p.
            largest: What no |eigenvalue| of A exceeds; None where nothing is known.
        """
        allowance, n = 1 - probability, len(self.forms)
        spread = _TO_NORM * allowance
        lowest, _ = extremes(self.tests, spread)
        norm = self.error / math.sqrt(lowest)
        if largest is not None:
            c = largest * math.sqrt(-math.log(spread) / self.tests)
            norm = min(norm, c + math.sqrt(c * c + self.error**2))
        x = -math.log((allowance - spread) / 2)
        reach = 2 * norm * math.sqrt(x / n) + 2 * min(norm, largest if largest is not None else norm) * x / n
        return Interval(self.trace - reach, self.trace + reach)

    @property
    def norm(self) -> float:
        """Return the estimate of ‖H‖_F."""
        return math.sqrt(self.known + self.error**2)

    @property
    def relative_error(self) -> float:
        """‖H − Ĥ‖_F / ‖H‖_F as estimated, 0 for H = Ĥ = 0."""
        return self.error / self.norm if self.norm > 0 else 0.0

    def interval(self, probability: float = 0.95) -> Intervals:
        """Where the two norms lie, whatever H is.

        Let X be the estimate of a squared norm s = ‖A‖²_F from n vectors. TYUC §6.4 bound, for ε in (0, 1),

            P(X ≤ (1 − ε) s) ≤ (e^ε (1 − ε))^{n/2}    and    P(X ≥ (1 + ε) s) ≤ (e^{−ε} (1 + ε))^{n/2},

        the second one for any ε > 0 (both are Chernoff's bound for X/s, a convex combination of χ²₁/n
        sums, at its worst where A has rank 1). With ε₋ and ε₊ such that each is (1 − p)/2, s lies in
        [X/(1 + ε₊), X/(1 − ε₋)] with probability p at least, over the draw of the test vectors. That is
        applied to H − Ĥ, and ‖H‖_F follows from it and from what rounding has moved, so that both hold
        together.

        Args:
            probability: p.

        Raises:
            ValueError: p is not in (0, 1).
        """
        if not 0 < probability < 1:
            raise ValueError(f"The probability must be between 0 and 1; got {probability}.")
        lowest, highest = extremes(self.tests, (1 - probability) / 2)
        missed = Interval(self.error / math.sqrt(highest), self.error / math.sqrt(lowest))
        norm = Interval(
            math.sqrt(max(self.known + missed.lower**2 - 2 * self.off, 0.0)),
            math.sqrt(self.known + missed.upper**2 + 2 * self.off),
        )
        return Intervals(norm, missed)

    def scree(self, values: Tensor, uncertainty: Tensor | None = None, probability: float = 0.95) -> Scree:
        """A band that holds the whole scree curve with a probability, in the place of TYUC's §6.5.

        With S_r = Σ_{j≤r} λ_j², e the true ‖H − Ĥ‖_F and T_r the energy of the r largest |eigenvalues| of H,
        scree(r) = 1 − T_r / (S_k + e²). Rayleigh–Ritz values interlace, and any orthonormal V holds no more
        energy than the best one, so that T_r ≥ S_r. From above, T_r ≤ Σ_{j≤r} (|λ_j| + u_j)² where each |λ_j|
        is off by no more than u_j, and T_r ≤ (√S_r + e)² always, as the root of T_r is a norm of H. The only
        random number is e, and every bound is taken over the interval that holds it. Rounding moves sums of
        λ² by no more than twice ``off``.

        Args:
            values: (k,), λ of Ĥ.
            uncertainty: (k,), u; None where nothing is known of them.
            probability: Probability of the interval for e, and so of the band.
        """
        order = values.double().abs().argsort(descending=True)
        sizes = values.double().abs()[order]
        taken = sizes.square().cumsum(0)
        ends = self.interval(probability).error
        missed = torch.linspace(ends.lower, ends.upper, _ENDS, dtype=torch.float64, device=sizes.device)[
            :, None
        ]
        total = self.known + missed.square()
        off = 2 * self.off
        if float(total.max()) == 0:  # there is no energy to miss
            return Scree(torch.zeros_like(taken), torch.zeros_like(taken))
        tiny = torch.finfo(torch.float64).tiny
        total = total.clamp_min(tiny)
        most = (taken.sqrt() + missed).square()
        if uncertainty is not None:
            most = torch.minimum(most, (sizes + uncertainty.double()[order]).square().cumsum(0))
        lower = (1 - (most + off) / (total - off).clamp_min(tiny)).clamp(0, 1).amin(0)
        upper = (1 - (taken - off) / (total + off)).clamp(0, 1).amax(0)
        return Scree(lower, upper)


def a_posteriori(operator: Operator, pairs: Eigenpairs, *, tests: int = 10, seed: int = 0) -> APosteriori:
    """Estimate ‖H − V diag(λ) Vᵀ‖_F by ‖Hω − Ĥω‖ of Gaussian ω (TYUC §6), and ‖H‖_F by what V holds of it.

    Args:
        operator: H, D × D. Symmetry and signs do not matter.
        pairs: Ĥ, with orthonormal vectors and λ_j = v_jᵀ H v_j.
        tests: Number of test vectors and of products, at least 1; n of them leave a relative standard
            deviation of at most √(2/n) in the squared norm of H − Ĥ.
        seed: Seeds the test vectors. They are independent of everything that a method draws from the same
            seed, as they must be of Ĥ.

    Raises:
        ValueError: tests < 1.
        SpectrumError: A product is not finite.
    """
    operator = typed(operator)
    dimension = check_square(operator, 1, operator.shape[0])
    if tests < 1:
        raise ValueError(f"An error estimate needs at least 1 test vector; got {tests}.")
    error, forms = 0.0, []
    # More tests than coordinates are sound, but no matrix has more rows than columns.
    for number, first in enumerate(range(0, tests, dimension)):
        n = min(dimension, tests - first)
        draw = Gaussian(n, dimension, (seed, _STREAM, number), operator.dtype, operator.device)
        width = at_once(_BLOCK, dimension, operator.dtype.itemsize)
        for start in range(0, n, width):
            omega = draw.columns(start, min(start + width, n)).mul_(dimension**0.5)
            squared, inner = _missed(multiply(operator, omega), omega, pairs)
            error += squared
            forms += inner.tolist()
    values = pairs.values.double()
    known, held = float(values.square().sum()), float(values.sum())
    rounding = torch.zeros_like(values) if pairs.rounding is None else pairs.rounding.to(values)
    off = float((values.abs() * rounding).sum())
    return APosteriori(known, math.sqrt(error / tests), tests, held, tuple(forms), off)


def _missed(products: Tensor, vectors: Tensor, pairs: Eigenpairs) -> tuple[float, Tensor]:
    """‖AΩ‖²_F and ωᵀAω of each column (n,), A = H − V diag(λ) Vᵀ, in two passes over the basis.

    Args:
        products: HΩ, (D, n).
        vectors: Ω, (D, n).
        pairs: V and λ.
    """
    parts = chunks(pairs.basis.shape[1], len(pairs.basis), cached=vectors.device)
    projected = torch.zeros(len(pairs.basis), vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for part in parts:
        projected += pairs.basis[:, part].to(vectors.device).double() @ vectors[part].double()
    coefficients = pairs.coefficients.to(vectors.device)
    inner = coefficients.T @ projected
    outer = coefficients @ (pairs.values.to(vectors.device)[:, None] * inner)
    total, forms = 0.0, torch.zeros(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for part in parts:
        approximate = pairs.basis[:, part].to(vectors.device).double().T @ outer
        missed = products[part].double() - approximate
        total += float(missed.square().sum())
        forms += (missed * vectors[part].double()).sum(0)
    return total, forms.cpu()


def extremes(tests: int, tail: float) -> tuple[float, float]:
    """1 − ε₋ and 1 + ε₊ at which TYUC's bounds for n tests equal ``tail``: with X the mean of ‖Aω‖² over n
    Gaussian ω, ‖A‖²_F lies below X/(1 + ε₊), or above X/(1 − ε₋), with no more than this probability each.

    In logarithms: ε + log(1 − ε) and log(1 + ε) − ε are both (2/n) log(tail).
    """
    from scipy.optimize import brentq  # SciPy takes long to import

    target = 2 / tests * math.log(tail)
    # 1 − ε₋ = e^l, with few tests closer to 0 than 1 − ε₋ could tell.
    lowest = brentq(lambda l: 1 - math.exp(l) + l - target, target - 1, 0)
    # log(1 + ε) ≤ √ε for all ε > 0, so the root lies below the ε with ε − √ε = −target.
    above = brentq(lambda e: math.log1p(e) - e - target, 0, (1 + math.sqrt(1 - 4 * target)) ** 2 / 4)
    return math.exp(lowest), 1 + above
