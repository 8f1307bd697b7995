"""Masks of estimated scores: whether the stated error of the overlap covers the truth, and how large it is.

``python -m benchmarks.masks`` draws random matrices of several kinds, finds their leading eigenpairs,
estimates the diagonal from products with random vectors beyond the Krylov space of these, or with
``--beyond pairs`` beyond the pairs alone, and compares the overlap of its mask and its stated error with
those of the true diagonal and the true eigenvectors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seigh.core.analysis import Eigenspace, _overlap_of
from seigh.core.overlap.masks.diagonal import WIDTH, deflated_diagonal, probes
from seigh.core.overlap.observables import Estimated
from seigh.core.spectra import block_krylov

D, K = 400, 12
PRODUCTS = 48


@dataclass(frozen=True)
class Measured:
    """One case.

    Attributes:
        covered: Whether the errors at all sizes cover the truth.
        relative: The median stated error ÷ overlap.
        scores: Share of the D scores that lie within their errors.
        resolved: Share of the K coordinates of the last mask that are certain.
    """

    covered: bool
    relative: float
    scores: float
    resolved: float


def kinds() -> Mapping[str, Callable[[torch.Generator], Tensor]]:
    """Random symmetric matrices (D, D), by what they are like."""

    def rotated(values: Tensor, generator: torch.Generator, localised: float) -> Tensor:
        start = torch.randn(D, D, generator=generator, dtype=torch.float64)
        scale = (localised * torch.randn(D, generator=generator, dtype=torch.float64)).exp()
        q = torch.linalg.qr(scale[:, None] * start).Q
        return (q * values) @ q.T

    decay = 0.96 ** torch.arange(D, dtype=torch.float64)

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


def measured(kind: str, seed: int, *, pairs_alone: bool = False) -> Measured:
    """One random case, estimated beyond the Krylov space or beyond the ``pairs_alone``."""
    matrix = kinds()[kind](torch.Generator().manual_seed(seed))
    pairs = block_krylov(matrix, K, products=PRODUCTS, further=8, seed=seed)
    top = pairs.top(K).formed(torch.empty(K, D, dtype=torch.float64))
    assert pairs.projected is not None
    assert pairs.residuals is not None
    basis, core = (top.basis, top.values.diag()) if pairs_alone else (pairs.basis, pairs.projected)
    found, deviation = deflated_diagonal(matrix, basis, core, probes(K), seed)
    nothing = torch.zeros(K)
    space = Eigenspace(pairs, pairs.residuals, nothing, nothing, nothing, K, None, 0)
    curve = _overlap_of(space, top, Estimated(found.abs(), WIDTH * deviation))
    values, vectors = torch.linalg.eigh(matrix)
    vectors = vectors[:, values.abs().argsort(descending=True)[:K]]
    order = matrix.diagonal().abs().argsort(descending=True)[:K]
    mass = vectors[order].square().cumsum(0).cumsum(1).diagonal()
    truth = (mass / torch.arange(1, K + 1)).numpy()
    assert curve.error is not None
    assert curve.mask is not None
    return Measured(
        bool((np.abs(curve.value - truth) <= curve.error + 1e-12).all()),
        float(np.median(curve.error / np.maximum(curve.value, 1e-300))),
        float(((found - matrix.diagonal()).abs() <= WIDTH * deviation + 1e-12).double().mean()),
        1 - float(curve.mask.open[-1]) / K,
    )


def main() -> None:
    """Print, of every kind, how often the errors cover the truth at all sizes, and how large they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=80, help="random cases of each kind")
    parser.add_argument("--beyond", choices=("basis", "pairs"), default="basis")
    arguments = parser.parse_args()
    seeds, pairs_alone = arguments.seeds, arguments.beyond == "pairs"
    total = held = 0
    for kind in kinds():
        found = [measured(kind, seed, pairs_alone=pairs_alone) for seed in range(seeds)]
        covered = sum(each.covered for each in found)
        total, held = total + seeds, held + covered
        relative = float(np.median([each.relative for each in found]))
        scores, resolved = (
            float(np.mean([getattr(each, name) for each in found])) for name in ("scores", "resolved")
        )
        print(
            f"{kind:14} covered {covered} of {seeds} curves; median stated error {relative:.3g} of overlap; "
            f"{scores:.2%} of scores within theirs; {resolved:.0%} of coordinates certain"
        )
    print(f"all            covered {held} of {total} ({held / total:.2%})")


if __name__ == "__main__":
    main()
