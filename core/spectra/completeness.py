"""Bound the eigenvalues outside a subspace with a fresh random block.

A Krylov space that grows from b random vectors holds at most b eigenvectors of an eigenvalue, however often
that comes, and its residuals say nothing of the others. A few random vectors orthogonal to the space, and the
Krylov space that they span in its orthogonal complement, find what is there.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

# Confidence level of the bound.
PROBABILITY = 0.95

# Halvings of the interval that the bound lies in: it is found to a millionth of itself.
_HALVINGS = 40


@dataclass(frozen=True)
class Completeness:
    """The bound of a fresh random block on eigenvalues that the rest of the basis misses.

    Attributes:
        products: Products spent on fresh blocks.
        missed: How many of the k leading pairs came out of a fresh block, so that the subspace from one block
            alone would have missed them. They are in the result.
        largest_outside: The largest |eigenvalue| that the last fresh block found outside the basis.
        bound: At most k − 1 eigenvalues of H have an |λ| above this, with ``probability``; ∞ where the block
            is too small to tell.
        probability: Confidence level of ``bound``, over the draw of the last fresh block.
        complete: Whether the last fresh block found nothing that belongs to the k leading pairs.
    """

    products: int
    missed: int
    largest_outside: float
    bound: float
    probability: float
    complete: bool

    def to_json(self, last: float) -> dict[str, Any]:
        """Return JSON types, with the ratio of the bound to ``last`` = |λ_k|, and a sentence."""
        finite = math.isfinite(self.bound)
        facts = asdict(self) | {
            "bound": self.bound if finite else None,
            "ratio": self.bound / last if finite and last > 0 else None,
        }
        return facts | {"sentence": self.sentence(last)}

    def sentence(self, last: float) -> str:
        """Say the bound in a sentence; ``last`` is |λ_k|."""
        if not self.complete:
            found = (
                f"Fresh random vectors still find eigenvalues up to {self.largest_outside:.4g}, which belong "
                "to the leading pairs: some are missing."
            )
        elif self.missed:
            found = f"Fresh random vectors found {self.missed:,} of the leading pairs, and then no more."
        elif self.largest_outside > last:
            found = (
                "Fresh random vectors found no further leading pair beside those that have converged. Pairs "
                f"near k that have not lie outside in part, where there is up to {self.largest_outside:.4g}, "
                "more than |λ_k|; their residuals and the stated errors say so."
            )
        else:
            found = (
                "Fresh random vectors found no further leading pair: the largest eigenvalue outside is "
                f"{self.largest_outside:.4g} in magnitude."
            )
        if math.isfinite(self.bound) and last > 0:
            found += (
                f" With {self.probability:.0%} probability the true |λ_k| is at most {self.bound / last:.3g} "
                "times the computed one."
            )
        return found


def shortfall(dimension: int, rounds: int, width: int, risk: float) -> float:
    """ε such that a Krylov space misses an end of the spectrum by ε of its width with at most ``risk``.

    For a symmetric matrix of size n and q Lanczos vectors from a random start, the largest Ritz value lies
    below λ_max by more than ε (λ_max − λ_min) with a probability of at most 1.648 √n e^{−√ε (2q − 1)}
    (Kuczyński & Woźniakowski, SIAM J. Matrix Anal. Appl. 13(4), 1992, Theorem 4.2; the space does not change
    when the matrix is shifted). A block of independent starts contains the space of each, so its risk is the
    product of theirs.

    Args:
        dimension: n.
        rounds: q, the block itself included.
        width: Independent random vectors in the block.
        risk: The probability allowed.

    Returns:
        ε, or ∞ where the space is too small for the theorem to say anything.
    """
    if rounds >= dimension:
        return 0.0
    needed = math.log(1.648 * math.sqrt(dimension)) - math.log(risk) / width
    root = needed / (2 * rounds - 1)
    return root**2 if root < 1 else math.inf


def bound_outside(
    values: Tensor,
    k: int,
    coupling: list[tuple[Tensor, Tensor]],
    outside: Tensor,
    *,
    dimension: int,
    rounds: int,
    width: int,
) -> tuple[float, float]:
    """The largest |Ritz value| outside a subspace, and a bound that at most k − 1 eigenvalues of H exceed.

    In an orthonormal basis of the subspace and of its complement, H = [[Θ, Bᵀ], [B, A]] with Θ the Ritz
    values. ``outside`` is A compressed to a Krylov space of A from random vectors, and so tells, with
    ``PROBABILITY``, an a that no |eigenvalue| of A exceeds (``shortfall``). For c > a, H has as many
    eigenvalues above c as the Schur complement Θ − c + Bᵀ (c − A)⁻¹ B has above 0, which are no more than
    those of Θ − c + BᵀB / (c − a); likewise below −c. B has a few rows, so that these are counted from small
    matrices (Haynsworth's inertia formula). In exact arithmetic; the residuals of the compression are not
    used.

    Args:
        values: Θ, (m,).
        k: Which |λ| is bounded.
        coupling: Matrices (b, m) and (b, b) fp64: B y = R (tail y), and RᵀR.
        outside: A in its Krylov space, (s, s).
        dimension: Size of A.
        rounds: Blocks in that Krylov space, the first one included.
        width: Vectors in a block.

    Returns:
        The two numbers; the second one ∞ where nothing can be said.
    """
    if not len(outside):
        return 0.0, math.inf
    found = torch.linalg.eigvalsh(outside)
    largest = max(float(found[-1]), -float(found[0]), 0.0)
    share = shortfall(dimension, rounds, width, (1 - PROBABILITY) / 2)
    if share >= 0.5:
        return largest, math.inf
    spread = float(found[-1] - found[0]) / (1 - 2 * share)
    beyond = max(largest + share * spread, torch.finfo(torch.float64).tiny)
    roots = [_root(gramian) @ tail for tail, gramian in coupling if len(tail)]
    factors = torch.cat(roots) if roots else values.new_zeros(0, len(values))

    def exceeding(c: float) -> int:
        return sum(_count(sign * values - c, factors / math.sqrt(c - beyond)) for sign in (1, -1))

    high = max(float(values.abs().max()) + float(factors.square().sum()) ** 0.5, beyond) * (1 + 1e-9)
    low = beyond
    if not high > beyond or exceeding(2 * high) >= k:
        return largest, math.inf
    high = 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle > beyond and exceeding(middle) < k:
            high = middle
        else:
            low = middle
    return largest, high


def _count(diagonal: Tensor, factors: Tensor) -> int:
    """How many eigenvalues of diag(d) + FᵀF are positive, F (b, m)."""
    safe = torch.where(diagonal == 0, torch.finfo(torch.float64).tiny, diagonal)
    inner = (factors / safe) @ factors.T
    raised = torch.linalg.eigvalsh(-inner - torch.eye(len(inner), dtype=inner.dtype, device=inner.device))
    return int((diagonal > 0).sum()) + int((raised > 0).sum())


def _root(gramian: Tensor) -> Tensor:
    """A matrix S with SᵀS = gramian, (b, b)."""
    values, vectors = torch.linalg.eigh(gramian)
    root: Tensor = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return root
