from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor

from seigh.core.overlap import (
    MaskCurves,
    error,
    find_ties,
    largest_first,
    mask_curves,
    overlap_curve,
    resolved,
    stated_extremes,
    stated_overlap,
)
from seigh.core.spectra import Eigenpairs
from seigh.core.spectra.eigenpairs import by_magnitude
from tests.core.spectra.matrices import hessian_like, symmetric

SPECTRA = ("power", "exponential", "network", "flat", "indefinite", "multiple", "paired", "noisy", "close")

# Relative distance below which eigenvalues count as equal.
TIE = 1e-12

# Further pairs, which show what lies beyond the last one.
FURTHER = 16


def spectrum(kind: str, size: int, g: torch.Generator) -> Tensor:
    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=g))

    def uniform() -> Tensor:
        return torch.rand(size, generator=g, dtype=torch.float64)

    i = torch.arange(1, size + 1, dtype=torch.float64)
    jitter = 1 + 0.3 * uniform()
    match kind:
        case "power":
            return i ** -between(0.5, 3) * jitter
        case "exponential":
            return torch.exp(-i / between(4, 60)) * jitter
        case "network":
            bulk = i ** -between(0.8, 1.6) * jitter * between(0.01, 0.3)
            bulk[:8] += 0.5 + 2 * uniform()[:8]
            return torch.where((uniform() < between(0.1, 0.5)) & (i > 8), -bulk / 2, bulk)
        case "flat":
            return torch.randn(size, generator=g, dtype=torch.float64)
        case "indefinite":
            return i ** -between(0.5, 2.5) * jitter * torch.where(uniform() < 0.5, -1.0, 1.0)
        case "multiple":
            return torch.exp(-((i - 1) // 3) / between(3, 30))
        case "paired":
            return ((i + 1) // 2) ** -between(0.5, 2) * torch.where(i % 2 == 0, -1.0, 1.0)
        case "noisy":
            return 1e-3 * uniform() + torch.where(i <= 60, torch.exp(-i / between(10, 50)), 0.0)
        case "close":
            apart = 10 ** between(-8, -2) * torch.randn(size, generator=g, dtype=torch.float64)
            return torch.exp(-((i - 1) // 3) / between(3, 30)) * (1 + apart)
    raise ValueError(kind)


@dataclass(frozen=True)
class Case:
    """A matrix, a mask, and a subspace of ``columns`` vectors in rounds of ``block``."""

    matrix: Tensor
    order: Tensor
    dtype: torch.dtype
    block: int
    columns: int
    seed: int

    @classmethod
    def drawn(cls, kind: str, seed: int) -> "Case":
        g = torch.Generator().manual_seed(seed)

        def pick(choices: tuple[int, ...]) -> int:
            return choices[int(torch.randint(len(choices), (), generator=g))]

        size = pick((100, 160, 240))
        values = spectrum(kind, size, g) * 10.0 ** pick((-3, 0, 2))
        vectors, _ = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))
        if pick((0, 1)):  # localised
            sparse = torch.rand(size, size, generator=g, dtype=torch.float64) < 0.03
            skew = torch.randn(size, size, generator=g, dtype=torch.float64) * sparse
            vectors, _ = torch.linalg.qr(torch.linalg.matrix_exp(skew - skew.T))
            vectors = vectors[torch.randperm(size, generator=g)]
        matrix = (vectors * values) @ vectors.T
        n = min(pick((1, 3, 10, 20, 40, 70, 100)), size // 2)
        theta = torch.randn(size, generator=g, dtype=torch.float64)
        if pick((0, 1)):  # aligned with the eigenvectors
            theta *= vectors[:, by_magnitude(values, vectors)[0].argsort()[:n]].norm(dim=1)
        columns = n + pick((n // 4, n // 2, n, 2 * n)) + pick((2, 20, 60, 128))
        return cls(
            (matrix + matrix.T) / 2,
            largest_first(theta, n),
            (torch.float32, torch.float64)[pick((0, 1))],
            pick((3, 4, 8, 16) if kind in ("multiple", "close") else (1, 2, 4, 8, 16)),
            min(size, columns),
            seed,
        )

    def pairs(self, columns: int | None = None, leave: float = 0.15) -> Eigenpairs:
        """Rayleigh–Ritz on a block Krylov basis, and on that without its last rounds."""
        columns = columns or self.columns
        size = len(self.matrix)
        g = torch.Generator().manual_seed(self.seed)
        operator = self.matrix.to(self.dtype)
        basis = torch.empty(size, 0, dtype=self.dtype)
        new = torch.randn(size, min(self.block, columns), generator=g, dtype=torch.float64).to(self.dtype)
        while True:
            for _ in range(3):
                new, _ = torch.linalg.qr(new - basis @ (basis.T @ new))
            basis = torch.cat([basis, new], dim=1)
            if basis.shape[1] == columns:
                break
            new = (operator @ new)[:, : columns - basis.shape[1]]
        left_out = max(1, round(leave * columns / self.block)) * self.block
        n = len(self.order)
        pairs = self._ritz(basis, n)
        if columns - left_out < n:
            return pairs
        return Eigenpairs(
            pairs.basis,
            pairs.coefficients,
            pairs.values,
            pairs.residuals,
            columns,
            coarser=self._ritz(basis[:, : columns - left_out], n),
        )

    def _ritz(self, basis: Tensor, n: int) -> Eigenpairs:
        operator = self.matrix.to(self.dtype)
        projected = (basis.T @ (operator @ basis)).double()
        values, rotation = by_magnitude(*torch.linalg.eigh((projected + projected.T) / 2))
        values, rotation = values[: n + FURTHER], rotation[:, : n + FURTHER]
        vectors = basis @ rotation.to(self.dtype)
        residuals = (operator @ vectors - vectors * values.to(self.dtype)).double().norm(dim=0)
        return Eigenpairs(basis.T.contiguous(), rotation, values, residuals, basis.shape[1])

    def truth(self) -> tuple[Tensor, Tensor]:
        """Least and largest overlap of every admissible V_k, k = 1 … n."""
        n = len(self.order)
        values, vectors = self.exact
        sizes, rows = values.abs(), vectors[self.order]
        least, largest = torch.empty(n, dtype=torch.float64), torch.empty(n, dtype=torch.float64)
        tie = TIE * sizes[0]
        for k in range(1, n + 1):
            sure = int((sizes > sizes[k - 1] + tie).sum())
            tied = rows[:k, sure : int((sizes >= sizes[k - 1] - tie).sum())]
            spectrum = torch.linalg.eigvalsh(tied.T @ tied)
            mass = rows[:k, :sure].square().sum()
            least[k - 1] = (mass + spectrum[: k - sure].sum()) / k
            largest[k - 1] = (mass + spectrum.flip(0)[: k - sure].sum()) / k
        return least, largest

    @cached_property
    def exact(self) -> tuple[Tensor, Tensor]:
        """Eigenpairs of the matrix that is multiplied with."""
        return by_magnitude(*torch.linalg.eigh(self.matrix.to(self.dtype).double()))

    def missed(self, pairs: Eigenpairs) -> Tensor:
        """Whether an eigenvalue that matters to V_k lies beyond its interval: no residual can show it."""
        n = len(self.order)
        sizes = self.exact[0].abs()
        assert pairs.residuals is not None
        unseen = sizes[: len(pairs.values)] - pairs.values.abs() > pairs.residuals + 1e-10 * sizes[0]
        matter = (sizes >= sizes[:n, None] * (1 - TIE)).sum(1).clamp_max(len(unseen) - 1)
        return unseen.int().cummax(0).values.bool()[matter]


def stated_and_true(case: Case, pairs: Eigenpairs) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap, its stated error, and the true one: the distance to the farthest admissible value."""
    assert pairs.residuals is not None
    overlap, stated, _ = stated_overlap(pairs, case.order, pairs.residuals)
    least, largest = case.truth()
    return overlap, stated, torch.maximum(overlap - least, largest - overlap)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Case, Eigenpairs]]:
    """Cases of every kind, and their pairs."""
    cases = [
        Case.drawn(kind, 100 * number + seed) for number, kind in enumerate(SPECTRA) for seed in range(12)
    ]
    return [(case, case.pairs()) for case in cases]


def test_stated_errors_are_honest_and_not_vacuous(drawn: list[tuple[Case, Eigenpairs]]) -> None:
    sizes = covered = curves = honest = converged = claimed = 0
    for case, pairs in drawn:
        overlap, stated, true = stated_and_true(case, pairs)
        good = (true <= stated + 1e-12) | case.missed(pairs)
        sizes, covered = sizes + len(good), covered + int(good.sum())
        curves, honest = curves + 1, honest + bool(good.all())
        if resolved(overlap, true, 0.001) == len(overlap):
            converged += 1
            claimed += resolved(overlap, stated) == len(overlap)
    assert covered / sizes >= 0.99
    assert honest / curves >= 0.95
    assert converged >= 40
    assert claimed / converged >= 0.85


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stated_errors_fall_with_the_true_ones(seed: int) -> None:
    matrix, _, _ = hessian_like(200, seed)
    theta = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    case = Case(matrix, largest_first(theta, 30), torch.float64, 4, 0, seed)
    errors = []
    for columns in (40, 60, 80, 120):
        _, stated, true = stated_and_true(case, case.pairs(columns))
        errors.append(float(stated.max()))
        assert float(true.max()) <= errors[-1]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_choice_within_a_multiple_eigenvalue_is_covered(sign: float, seed: int) -> None:
    values = torch.tensor([5.0, 3.0, 3.0 * sign, 3.0, 1.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    _, vectors = symmetric(values, seed)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:5]
    pairs = Eigenpairs(
        vectors.T, torch.eye(8, dtype=torch.float64), values, torch.zeros(8, dtype=torch.float64), 8
    )
    overlap, stated, _ = stated_overlap(pairs, order, torch.zeros(8, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(200):
        # Bases of the two eigenspaces of ±3, in any order.
        turned = vectors.clone()
        for member in ([1, 2, 3],) if sign > 0 else ([1, 3],):
            random = torch.randn(len(member), len(member), generator=generator, dtype=torch.float64)
            turned[:, member] = vectors[:, member] @ torch.linalg.qr(random)[0]
        shuffled = torch.cat(
            [torch.tensor([0]), 1 + torch.randperm(3, generator=generator), torch.arange(4, 8)]
        )
        other = overlap_curve(turned[order][:, shuffled[:5]])
        assert bool(((other - overlap).abs() <= stated + 1e-12).all())
    # Where the set of eigenvectors is unique, so is the overlap.
    assert float(stated[[0, 3, 4]].max()) < 1e-10
    assert float(stated[[1, 2]].min()) > 1e-3


def test_a_pair_beyond_the_last_shows_that_the_last_is_ambiguous() -> None:
    values = torch.tensor([2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    _, vectors = symmetric(values, 0)
    order = torch.tensor([0, 1])

    def stated(count: int) -> Tensor:
        pairs = Eigenpairs(vectors.T, torch.eye(4, dtype=torch.float64), values, None, 4).top(count)
        return stated_overlap(pairs, order, torch.zeros(count, dtype=torch.float64)).error

    assert float(stated(2)[1]) < 1e-10
    assert float(stated(3)[1]) > 1e-3


def test_large_clusters_are_bounded_too() -> None:
    values = torch.tensor([2.0] + [1.0] * 20 + [0.5] * 9, dtype=torch.float64)
    _, vectors = symmetric(values, 0)
    order = torch.arange(20)
    zeros = torch.zeros(30, dtype=torch.float64)
    pairs = Eigenpairs(vectors.T, torch.eye(30, dtype=torch.float64), values, zeros, 30)
    overlap, stated, _ = stated_overlap(pairs, order, zeros)
    for k in range(2, 21):
        tied = vectors[:k, 1:21]
        masses = torch.linalg.eigvalsh(tied.T @ tied)
        sure = vectors[:k, 0].square().sum()
        for mass in (masses[: k - 1].sum(), masses.flip(0)[: k - 1].sum()):
            assert float(((sure + mass) / k - overlap[k - 1]).abs()) <= float(stated[k - 1]) + 1e-12


def test_pairs_that_know_nothing_state_that_any_overlap_is_possible() -> None:
    vectors, _ = torch.linalg.qr(torch.randn(50, 10, generator=torch.Generator().manual_seed(0)).double())
    residuals = torch.full((10,), 5.0, dtype=torch.float64)
    ones = torch.ones(10, dtype=torch.float64)
    pairs = Eigenpairs(vectors.T, torch.eye(10, dtype=torch.float64), ones, residuals, 0)
    order = torch.arange(10)
    overlap, stated, _ = stated_overlap(pairs, order, residuals)
    assert bool((stated <= torch.maximum(overlap, 1 - overlap) + 1e-12).all())
    assert resolved(overlap, stated) == 0
    assert float((stated / overlap).min()) > 0.5


def test_an_estimate_that_is_small_by_accident_is_that_of_the_sizes_beside_it() -> None:
    mass = 0.5 * torch.arange(1, 201, dtype=torch.float64)
    none = torch.zeros(200, dtype=torch.bool)
    estimate = 0.01 * mass
    estimate[120] = estimate[0] = 0
    counted = error._nearby(estimate, mass, none)
    # An error that is the same share everywhere stays that, and the gaps are filled.
    torch.testing.assert_close(counted, 0.01 * mass)
    # One that is far larger further on counts as far as k/10 and 3 sizes before it, and where there is hardly
    # any mass, only as the share of it.
    estimate[100] = mass[100]
    far = error._nearby(estimate, mass, none)
    torch.testing.assert_close(far[:88], 0.01 * mass[:88])
    assert bool((far[90:110] > 0.5 * mass[90:110]).all())
    assert bool((far >= estimate).all())
    # What a multiple eigenvalue leaves open at the size that cuts it says nothing of others.
    cut = none.clone()
    cut[100] = True
    alone = error._nearby(estimate, mass, cut)
    torch.testing.assert_close(alone[:100], 0.01 * mass[:100])
    assert alone[100] == mass[100]
    tiny = mass.clone()
    tiny[99] = 1e-9
    assert float(error._nearby(estimate, tiny, none)[99]) <= max(1e-9, float(estimate[99]))


def test_resolved_is_the_last_size_before_the_first_error_above_the_tolerance() -> None:
    overlap = torch.tensor([0.5, 0.4, 0.3, 0.2])
    assert resolved(overlap, torch.tensor([0.001, 0.002, 0.01, 0.0])) == 2
    assert resolved(overlap, torch.tensor([0.001, 0.002, 0.01, 0.0]), tolerance=0.05) == 4
    assert resolved(overlap, torch.tensor([0.1, 0.0, 0.0, 0.0])) == 0
    assert resolved(overlap, torch.full((4,), torch.nan)) == 0


def test_residuals_that_do_not_fit_the_pairs_are_refused() -> None:
    pairs = Eigenpairs(torch.eye(6).double()[:3], torch.eye(3).double(), torch.ones(3).double(), None, 0)
    with pytest.raises(ValueError, match="2 residuals of 3 pairs"):
        stated_overlap(pairs, torch.arange(3), torch.zeros(2))
    with pytest.raises(ValueError, match="pair for each of 4 coordinates"):
        stated_overlap(pairs, torch.arange(4), torch.zeros(3))


def extremes(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Best mask and standard deviation over all masks by their definitions, from rows of V: 2 × (n,)."""
    dimension, n = vectors.shape
    masses = vectors.double().square().cumsum(1)
    best = torch.stack([masses[:, k].topk(k + 1).values.sum() / (k + 1) for k in range(n)])
    k = torch.arange(1, n + 1, dtype=torch.float64)
    variance = masses.var(0, unbiased=False) * dimension / (dimension - 1) * (dimension - k) / dimension / k
    return best, variance.sqrt()


def test_errors_of_best_and_random_masks_are_honest_and_not_vacuous(
    drawn: list[tuple[Case, Eigenpairs]],
) -> None:
    sizes = covered = curves = honest = 0
    shares: list[Tensor] = []
    for case, pairs in drawn:
        assert pairs.residuals is not None
        n = len(case.order)
        theta = torch.zeros(len(case.matrix))
        theta[case.order] = torch.arange(n, 0, -1.0)
        rows = pairs.rows(torch.arange(len(case.matrix)))[:, :n]
        masks = mask_curves(rows.T.contiguous(), find_ties(theta, case.order), torch.zeros(n), [1])
        values, exact = case.exact
        for stated, found, true in zip(
            stated_extremes(pairs, pairs.residuals, masks),
            (masks.best, masks.random_std),
            extremes(exact[:, :n]),
            strict=True,
        ):
            assert bool((stated >= 0).all())
            unique = values.abs()[:n] - values.abs()[1 : n + 1] > TIE * values.abs().max()
            good = ((found - true).abs() <= stated + 1e-12) | case.missed(pairs)
            sizes, covered = sizes + int(unique.sum()), covered + int(good[unique].sum())
            curves, honest = curves + 1, honest + bool(good[unique].all())
            converged = unique & ((found - true).abs() <= 1e-6 * true)
            shares.append((stated / found.clamp_min(1e-12))[converged])
    assert covered / sizes >= 0.99
    assert honest / curves >= 0.95
    assert float(torch.cat(shares).median()) <= 0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_choice_within_a_multiple_eigenvalue_is_in_the_errors_of_best_and_random_masks(
    seed: int,
) -> None:
    """Of λ₂ = λ₃ = λ₄ every orthonormal basis is one of eigenvectors: the errors hold all of them."""
    g = torch.Generator().manual_seed(seed)
    vectors, _ = torch.linalg.qr(torch.randn(60, 60, generator=g, dtype=torch.float64))
    values = torch.cat([torch.tensor([5.0, 3.0, 3.0, 3.0]), torch.linspace(1, 0.1, 56)]).double()
    n = 6

    def drawn() -> tuple[Eigenpairs, MaskCurves]:
        turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))
        basis = torch.cat([vectors[:, :1], vectors[:, 1:4] @ turn, vectors[:, 4:12]], 1)
        pairs = Eigenpairs(basis.T.contiguous(), torch.eye(12).double(), values[:12], torch.zeros(12), 12)
        theta = torch.arange(60, 0, -1.0)
        ties = find_ties(theta, largest_first(theta, n))
        return pairs, mask_curves(pairs.basis[:n], ties, torch.zeros(n), [1])

    pairs, masks = drawn()
    assert pairs.residuals is not None
    best, std = stated_extremes(pairs, pairs.residuals, masks)
    spread = torch.zeros(2, n, dtype=torch.float64)
    for _ in range(50):
        _, others = drawn()
        spread = torch.maximum(
            spread, torch.stack([others.best - masks.best, others.random_std - masks.random_std]).abs()
        )
    assert bool((spread <= torch.stack([best, std]) + 1e-12).all())
    assert bool((spread[:, 1:3] > 1e-3 * torch.stack([masks.best, masks.random_std])[:, 1:3]).all())
    unique = [0, 3, 4, 5]
    assert bool((best[unique] < 1e-6).all() and (std[unique] < 1e-6).all())
