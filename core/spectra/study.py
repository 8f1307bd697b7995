"""How exact each method is on matrices whose spectrum is known, by its sizes: the study of sketches.

The matrices are H = Q diag(λ) Qᵀ with a uniformly drawn orthogonal Q and the spectra of Tropp, Yurtsever,
Udell and Cevher (TYUC, arXiv 1902.08651, §7.3.1): R eigenvalues of magnitude 1, and a tail that decays as a
power, as an exponential, or not at all. Fernandez et al. (TMLR 2025, arXiv 2504.14701) measure SEIGH on such
matrices. Everything is float64, so that what is seen is the method and not rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from seigh.core.spectra.krylov import block_krylov
from seigh.core.spectra.sketched import seigh, ssvd


@dataclass(frozen=True)
class Tail:
    """How the eigenvalues behind the R leading ones go on.

    Attributes:
        title: For people.
        rate: What its number is, for people.
        default: Default of the rate.
        least: Least value of the rate.
        most: Largest value of the rate.
        values: Gives the magnitudes of the ranks 1, 2, … in the tail, for a rate.
    """

    title: str
    rate: str
    default: float
    least: float
    most: float
    values: Callable[[Tensor, float], Tensor]


TAILS: Mapping[str, Tail] = MappingProxyType(
    {
        "power": Tail(
            "Power law", "exponent p: |λ| = (i + 1)⁻ᵖ", 1.0, 0.1, 4.0, lambda i, rate: (i + 1) ** -rate
        ),
        "exponential": Tail(
            "Exponential", "rate q: |λ| = 10^(−q·i)", 0.05, 0.001, 1.0, lambda i, rate: 10 ** (-rate * i)
        ),
        "flat": Tail("Flat noise", "level: |λ|", 0.01, 0.0, 0.5, lambda i, rate: torch.full_like(i, rate)),
    }
)


@dataclass(frozen=True)
class Kind:
    """A kind of matrix.

    Attributes:
        dimension: D.
        rank: R, how many eigenvalues have magnitude 1.
        tail: A name of ``TAILS``.
        rate: Rate of the tail.
        both_signs: Whether every second eigenvalue is negative, as those of a Hessian may be.
    """

    dimension: int
    rank: int
    tail: str
    rate: float
    both_signs: bool = True

    def eigenvalues(self) -> Tensor:
        """(D,) fp64, by descending magnitude."""
        behind = torch.arange(1, self.dimension - self.rank + 1, dtype=torch.float64)
        values = torch.cat(
            [torch.ones(self.rank, dtype=torch.float64), TAILS[self.tail].values(behind, self.rate)]
        )
        if self.both_signs:
            values[1::2] *= -1
        return values

    def best(self, rank: int) -> float:
        """The least ‖H − Ĥ‖_F / ‖H‖_F of all Ĥ of a rank (Eckart & Young 1936)."""
        squares = self.eigenvalues().square()
        return float((squares[rank:].sum() / squares.sum()).sqrt())


@dataclass(frozen=True)
class Accuracy:
    """How exact one method was, over several draws of its test matrices.

    Attributes:
        method: Its name.
        outer: n_O, the rank of what it returns.
        inner: n_I; None for a method without.
        products: Products with H, the mean over the draws.
        error: ‖H − Ĥ‖_F / ‖H‖_F, the mean over the draws.
        error_std: Its standard deviation.
        error_least: The least of the draws.
        error_greatest: The greatest of them.
        overlap: Overlap of its V_k with the true one, 1 where they are the same, the mean.
        overlap_std: Its standard deviation.
        best: The least error of all matrices of rank n_O.
    """

    method: str
    outer: int
    inner: int | None
    products: float
    error: float
    error_std: float
    error_least: float
    error_greatest: float
    overlap: float
    overlap_std: float
    best: float


def study(
    kind: Kind,
    sizes: Sequence[tuple[str, int, int | None]],
    k: int,
    *,
    draws: int = 5,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, float | str | None]]:
    """Measure methods of several sizes on a matrix of one kind.

    Args:
        kind: Kind of the matrix.
        sizes: Method (``seigh``, ``ssvd`` or ``krylov``), n_O and n_I of each; n_I is None for Krylov, which
            chooses the number of its products for n_O pairs itself.
        k: Size of the eigenspace that is compared with the true one; R ≤ k ≤ every n_O, as any R vectors of
            the span of equal eigenvalues are eigenvectors.
        draws: How often each is run, with other test matrices.
        seed: Seed of the matrix and of all draws.
        progress: Told the share of the whole that is done.

    Returns:
        A row of ``Accuracy`` for each of the sizes.

    Raises:
        ValueError: k is out of these bounds.
    """
    if not kind.rank <= k <= min((outer for _, outer, _ in sizes), default=k):
        raise ValueError(f"k = {k} is not between R = {kind.rank} and the least n_O.")
    vectors = _orthogonal(kind.dimension, seed)
    values = kind.eigenvalues()
    matrix = (vectors * values) @ vectors.T
    matrix = (matrix + matrix.T) / 2
    rows = []
    for number, (method, outer, inner) in enumerate(sizes):
        found = list(_measured(matrix, vectors[:, :k], method, outer, inner, k, draws, seed))
        products, errors, overlaps = torch.tensor(found, dtype=torch.float64).T
        rows.append(
            asdict(
                Accuracy(
                    method,
                    outer,
                    inner,
                    products=float(products.mean()),
                    error=float(errors.mean()),
                    error_std=_spread(errors),
                    error_least=float(errors.min()),
                    error_greatest=float(errors.max()),
                    overlap=float(overlaps.mean()),
                    overlap_std=_spread(overlaps),
                    best=kind.best(outer),
                )
            )
        )
        if progress is not None:
            progress((number + 1) / len(sizes))
    return rows


def _spread(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0


def _measured(
    matrix: Tensor, truth: Tensor, method: str, outer: int, inner: int | None, k: int, draws: int, seed: int
) -> Iterator[tuple[float, float, float]]:
    """Products, relative error and overlap of each draw."""
    norm = torch.linalg.matrix_norm(matrix)
    for draw in range(draws):
        left, core, right, products = _run(matrix, method, outer, inner, seed + draw)
        missed = torch.linalg.matrix_norm(matrix - (left * core) @ right.T)
        overlap = (truth.T @ left[:, :k]).square().sum() / k
        yield float(products), float(missed / norm), float(overlap)


def _run(
    matrix: Tensor, method: str, outer: int, inner: int | None, seed: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Run a method: left vectors (D, n_O), values (n_O,), right vectors (D, n_O), and its products."""
    if method == "ssvd":
        assert inner is not None
        triplets = ssvd(matrix, outer, inner, seed=seed)
        return triplets.vectors(), triplets.values, triplets.right.vectors(), triplets.hvps
    pairs = (
        block_krylov(matrix, outer, seed=seed).top(outer)
        if inner is None
        else seigh(matrix, outer, inner, seed=seed)
    )
    vectors = pairs.vectors()
    return vectors, pairs.values, vectors, pairs.hvps


def _orthogonal(dimension: int, seed: int) -> Tensor:
    """A uniformly drawn orthogonal matrix (Stewart 1980): Q of a Gaussian matrix, with the signs of R."""
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(dimension, dimension, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    uniform: Tensor = q * r.diagonal().sign()
    return uniform


def grid(k: int, dimension: int, outer: int, inner: int) -> list[int]:
    """Sizes for a table of n_O × n_I: some between k and D, with the two chosen ones among them.
    Args:
        k: The least size.
        dimension: D, the largest.
        outer: A chosen n_O.
        inner: A chosen n_I.
    """
    spaced = torch.logspace(0, 1, 5, base=max(dimension / k, 1.0), dtype=torch.float64) * k
    rounded = {min(max(round(each), k), dimension) for each in spaced.tolist()}
    apart = {each for each in rounded if all(abs(each - one) > each / 8 for one in (outer, inner))}
    return sorted(apart | {outer, inner})
