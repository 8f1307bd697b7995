"""Masks of estimated scores: whether the stated error of the overlap covers the truth, and how large it is.

``python -m benchmarks.masks`` draws random matrices of several kinds, finds their leading eigenpairs,
estimates the diagonal from products with random vectors beyond these, and compares the overlap of its mask
and its stated error with those of the true diagonal and the true eigenvectors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seigh.core.analysis import Eigenspace, _overlap_of
from seigh.core.overlap.masks.diagonal import PROBES, WIDTH, deflated_diagonal
from seigh.core.overlap.observables import Estimated
from seigh.core.spectra import block_krylov

D, K = 400, 12


@dataclass(frozen=True)
class Measured:
    """One case: whether the errors at all sizes cover the truth, and the median stated error ÷ overlap."""

    covered: bool
    relative: float


def kinds() -> Mapping[str, Callable[[torch.Generator], Tensor]]:
    """Random symmetric matrices (D, D), by what they are like."""

    def rotated(values: Tensor, generator: torch.Generator, localised: float) -> Tensor:
        start = torch.randn(D, D, generator=generator, dtype=torch.float64)
        scale = (localised * torch.randn(D, generator=generator, dtype=torch.float64)).exp()
        q = torch.linalg.qr(scale[:, None] * start).Q
        return (q * values) @ q.T

    decay = 0.85 ** torch.arange(D, dtype=torch.float64)

    def signs(generator: torch.Generator) -> Tensor:
        values = decay.clone()
        values[::3] *= -1
        return rotated(values, generator, 1.5)

    def gauss_newton(generator: torch.Generator) -> Tensor:
        scale = (2 * torch.randn(D, generator=generator, dtype=torch.float64)).exp()
        rows = torch.randn(300, D, generator=generator, dtype=torch.float64) * scale
        rows *= (0.97 ** torch.arange(300, dtype=torch.float64))[:, None]
        return rows.T @ rows / 300

    return {
        "even": lambda generator: rotated(decay, generator, 0.0),
        "localised": lambda generator: rotated(decay, generator, 2.0),
        "signs": signs,
        "Gauss-Newton": gauss_newton,
        "power law": lambda generator: rotated(
            1 / torch.arange(1, D + 1, dtype=torch.float64), generator, 1.0
        ),
    }


def measured(kind: str, seed: int) -> Measured:
    """One random case."""
    matrix = kinds()[kind](torch.Generator().manual_seed(seed))
    pairs = block_krylov(matrix, K, products=120, further=8, seed=seed)
    top = pairs.top(K).formed(torch.empty(K, D, dtype=torch.float64))
    found, deviation = deflated_diagonal(matrix, top.basis, top.values, PROBES, seed)
    assert pairs.residuals is not None
    nothing = torch.zeros(K)
    space = Eigenspace(pairs, pairs.residuals, nothing, nothing, nothing, K, None, 0)
    curve = _overlap_of(space, top, Estimated(found.abs(), WIDTH * deviation))
    values, vectors = torch.linalg.eigh(matrix)
    vectors = vectors[:, values.abs().argsort(descending=True)[:K]]
    order = matrix.diagonal().abs().argsort(descending=True)[:K]
    mass = vectors[order].square().cumsum(0).cumsum(1).diagonal()
    truth = (mass / torch.arange(1, K + 1)).numpy()
    assert curve.error is not None
    covered = bool((np.abs(curve.value - truth) <= curve.error + 1e-12).all())
    return Measured(covered, float(np.median(curve.error / np.maximum(curve.value, 1e-300))))


def main() -> None:
    """Print, of every kind, how often the errors cover the truth at all sizes, and how large they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=80, help="random cases of each kind")
    seeds = parser.parse_args().seeds
    total = held = 0
    for kind in kinds():
        found = [measured(kind, seed) for seed in range(seeds)]
        covered = sum(each.covered for each in found)
        total, held = total + seeds, held + covered
        relative = float(np.median([each.relative for each in found]))
        print(f"{kind:14} covered {covered} of {seeds} curves; median stated error {relative:.3g} of overlap")
    print(f"all            covered {held} of {total} ({held / total:.2%})")


if __name__ == "__main__":
    main()
