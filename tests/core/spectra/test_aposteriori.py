import math
import warnings

import pytest
import torch
from torch import Tensor

from seigh.core.spectra import Eigenpairs, SpectrumError, block_krylov, exact, rayleigh, seigh
from seigh.core.spectra.aposteriori import APosteriori, Scree, a_posteriori
from tests.core.spectra.matrices import hessian_like, symmetric

SIZE = 24
SPECTRA = {
    "flat": torch.ones(SIZE, dtype=torch.float64),
    "decaying": torch.exp(-torch.arange(SIZE, dtype=torch.float64)),
    "indefinite": torch.tensor([3.0, -3.0, 2.0, -1.0] * (SIZE // 4), dtype=torch.float64),
    "rank-1": torch.tensor([2.0] + [0.0] * (SIZE - 1), dtype=torch.float64),
    "rank-2": torch.tensor([2.0, -1.5] + [0.0] * (SIZE - 2), dtype=torch.float64),
}


def poor_pairs(matrix: Tensor, seed: int, k: int = 4) -> Eigenpairs:
    """Random orthonormal vectors with their Rayleigh quotients: no eigenpairs at all."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(len(matrix), k, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(random)[0].T.contiguous()
    values = (basis @ matrix @ basis.T).diagonal()
    return Eigenpairs(basis, torch.eye(k, dtype=torch.float64), values, residuals=None, hvps=0)


def dense(pairs: Eigenpairs) -> Tensor:
    vectors = pairs.vectors().double()
    return (vectors * pairs.values) @ vectors.T


class Counted:
    """A dense operator that counts its products."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.hvps = matrix, 0
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, block: Tensor) -> Tensor:
        self.hvps += block.shape[1]
        return self.matrix @ block


@pytest.mark.parametrize("tests", [1, 2, 5, 20])
@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_contain_the_truth_as_often_as_they_say(name: str, tests: int) -> None:
    runs = 200
    matrix, _ = symmetric(SPECTRA[name], 0)
    pairs = poor_pairs(matrix, 0)
    norm, error = float(matrix.norm()), float((matrix - dense(pairs)).norm())
    estimates = [a_posteriori(matrix, pairs, tests=tests, seed=seed) for seed in range(runs)]
    for probability in (0.5, 0.8, 0.95):
        covered = {"norm": 0, "error": 0}
        below = above = 0
        slack = 1e-9 * norm  # an error of exactly 0 is one up to rounding
        for estimate in estimates:
            intervals = estimate.interval(probability)
            covered["norm"] += intervals.norm.lower - slack <= norm <= intervals.norm.upper + slack
            covered["error"] += intervals.error.lower - slack <= error <= intervals.error.upper + slack
            below += error < intervals.error.lower - slack
            above += error > intervals.error.upper + slack
        for count in covered.values():
            assert count >= probability * runs
        # Each side errs at most half as often as both may.
        assert max(below, above) <= (1 - probability) / 2 * runs


def test_intervals_are_not_wider_than_the_bounds_need() -> None:
    # A rank-1 matrix is the worst case: X/s is χ²ₙ/n. There the interval is too wide by a modest factor only.
    scipy_stats = pytest.importorskip("scipy.stats")
    for tests in (1, 3, 10, 100):
        for probability in (0.5, 0.95, 0.999):
            interval = APosteriori(0.0, 1.0, tests).interval(probability).error
            low, high = 1 / interval.upper**2, 1 / interval.lower**2
            tail = (1 - probability) / 2
            chi2 = scipy_stats.chi2(tests)
            assert 0.02 * tail < chi2.cdf(low * tests) <= tail
            assert 0.02 * tail < chi2.sf(high * tests) <= tail


def test_intervals_solve_tyucs_bounds_and_nest() -> None:
    for tests in (1, 7, 50):
        previous = None
        for probability in (0.1, 0.9, 0.999999):
            interval = APosteriori(4.0, 0.5, tests).interval(probability)
            for part, estimate in ((interval.error, 0.5),):
                assert 0 < part.lower < estimate < part.upper < math.inf
                below = 1 - (estimate / part.upper) ** 2
                above = (estimate / part.lower) ** 2 - 1
                tail = (1 - probability) / 2
                # TYUC §6.4, as method.md writes it. With 1 − ε for what rounding leaves of it.
                assert (math.exp(below) * (1 - below)) ** (tests / 2) == pytest.approx(tail, rel=1e-3)
                assert (math.exp(above) / (1 + above)) ** (-tests / 2) == pytest.approx(tail, rel=1e-6)
            # ‖H‖²_F is what is known of it and what is missed.
            assert interval.norm.lower == pytest.approx(math.sqrt(4 + interval.error.lower**2))
            assert interval.norm.upper == pytest.approx(math.sqrt(4 + interval.error.upper**2))
            if previous is not None:
                assert interval.norm.lower < previous.norm.lower
                assert interval.norm.upper > previous.norm.upper
            previous = interval


@pytest.mark.parametrize("name", SPECTRA)
def test_squared_estimates_are_unbiased(name: str) -> None:
    matrix, values = symmetric(SPECTRA[name], 1)[0], SPECTRA[name]
    pairs = poor_pairs(matrix, 1)
    runs, tests = 300, 7
    estimates = [a_posteriori(matrix, pairs, tests=tests, seed=seed) for seed in range(runs)]
    difference = matrix - dense(pairs)
    squares = [e.error**2 for e in estimates]
    spectrum = torch.linalg.eigvalsh(difference)
    # Var ‖Aω‖² = 2 Σ σ⁴.
    deviation = math.sqrt(2 * float(spectrum.pow(4).sum()) / (runs * tests))
    assert abs(sum(squares) / runs - float(difference.square().sum())) < 4 * deviation
    spread = torch.tensor(squares, dtype=torch.float64).std() * math.sqrt(tests)
    assert float(spread) == pytest.approx(math.sqrt(2 * float(spectrum.pow(4).sum())), rel=0.35)
    # With Rayleigh quotients H − Ĥ is orthogonal to Ĥ, so that the squared norm is unbiased as well.
    mean = sum(e.norm**2 for e in estimates) / runs
    assert abs(mean - float(values.square().sum())) < 4 * deviation


def scree_truth(matrix: Tensor, k: int) -> Tensor:
    squared = torch.linalg.eigvalsh(matrix).square().sort(descending=True).values
    return torch.stack([squared[r:].sum() for r in range(1, k + 1)]) / squared.sum()


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", ["exact", "krylov", "poor", "seigh"])
def test_the_whole_scree_curve_lies_in_its_band_as_often_as_it_says(name: str, method: str) -> None:
    runs, k, probability = 30, 10, 0.8
    matrix, _ = symmetric(SPECTRA[name], 0)
    truth = scree_truth(matrix, k)
    all_pairs = exact(matrix, k)
    inside = 0
    for seed in range(runs):
        match method:
            case "exact":
                pairs = all_pairs
            case "krylov":
                pairs = block_krylov(matrix, k, block=2, columns=12, seed=seed)
            case "poor":
                pairs = poor_pairs(matrix, seed, k)
            case _:
                pairs = rayleigh(matrix, seigh(matrix, k, 20, seed=seed))
        estimate = a_posteriori(matrix, pairs, tests=3, seed=seed)
        known = pairs.residuals if method in ("exact", "krylov") else None
        scree = estimate.scree(pairs.values, known, probability)
        n = len(scree.lower)  # a sketch of low rank has fewer
        inside += bool(((scree.lower <= truth[:n] + 1e-9) & (truth[:n] <= scree.upper + 1e-9)).all())
    assert inside >= probability * runs


def test_scree_is_exact_where_the_spectrum_is_known() -> None:
    values = torch.tensor([-4.0, 3.0, 0.0, 0.0], dtype=torch.float64)
    scree: Scree = APosteriori(known=25.0, error=0.0, tests=1).scree(values)
    expected = torch.tensor([9 / 25, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(scree.lower, expected)
    torch.testing.assert_close(scree.upper, expected)
    # What is missed widens the band, more at a higher probability, and uncertain values widen it downwards.
    estimate = APosteriori(known=25.0, error=1.0, tests=10)
    usual, surer = (estimate.scree(values, torch.zeros(4), probability) for probability in (0.5, 0.99))
    assert bool((surer.upper > usual.upper).all())
    assert bool((surer.lower <= usual.lower).all())
    upper = 1 - values.square().cumsum(0) / (25 + estimate.interval(0.99).error.upper ** 2)
    torch.testing.assert_close(surer.upper, upper)
    uncertain = estimate.scree(values, torch.tensor([0.1, 0.1, 0.0, 0.0]), 0.5)
    assert bool((uncertain.lower <= usual.lower).all())
    assert float(uncertain.lower[0]) < float(usual.lower[0])


@pytest.mark.parametrize("seed", range(3))
def test_estimates_of_real_methods_are_near_the_truth(seed: int) -> None:
    matrix, values, _ = hessian_like(300, seed)
    counted = Counted(matrix)
    for pairs in (
        exact(matrix, 40),
        block_krylov(matrix, 30, seed=seed),
        rayleigh(matrix, seigh(matrix, 60, 120, seed=seed)),
        rayleigh(matrix, seigh(matrix, 60, 120, k=30, seed=seed, test_matrix="gaussian")),
    ):
        before = counted.hvps
        estimate = a_posteriori(counted, pairs, tests=100, seed=seed)
        assert counted.hvps - before == estimate.tests == 100
        truth = float((matrix - dense(pairs)).norm())
        assert estimate.norm == pytest.approx(float(values.norm()), rel=0.25)
        assert estimate.error == pytest.approx(truth, rel=0.4)
        assert estimate.relative_error == estimate.error / estimate.norm


def test_test_vectors_are_independent_of_the_sketch_of_the_same_seed() -> None:
    # Measured with the sketch's own vectors the error would look smaller than it is: Ĥ reproduces H there.
    matrix, _ = symmetric(SPECTRA["flat"], 0)
    ratios = []
    for seed in range(30):
        pairs = seigh(matrix, 6, 6, seed=seed, test_matrix="gaussian")
        truth = float((matrix - dense(pairs)).square().sum())
        ratios.append(a_posteriori(matrix, pairs, tests=6, seed=seed).error ** 2 / truth)
    assert sorted(ratios)[len(ratios) // 2] > 0.5


def test_an_exact_fp32_approximation_has_an_error_of_rounding_size() -> None:
    values = torch.zeros(400, dtype=torch.float64)
    values[:20] = torch.linspace(10, 1, 20)
    matrix = symmetric(values, 0)[0].float()
    pairs = exact(matrix, 20)
    rounded = Eigenpairs(
        pairs.basis.float(), pairs.coefficients, pairs.values, residuals=None, hvps=pairs.hvps
    )
    assert a_posteriori(matrix, rounded, tests=5).relative_error < 1e-6
    assert a_posteriori(matrix.double(), pairs, tests=5).relative_error < 1e-6


@pytest.mark.parametrize("size", [1, 2, 5])
def test_more_tests_than_coordinates(size: int) -> None:
    matrix = torch.diag(torch.arange(1.0, size + 1, dtype=torch.float64))
    estimate = a_posteriori(matrix, exact(matrix, size), tests=2000)
    assert estimate.norm == pytest.approx(float(matrix.norm()), rel=0.1)
    assert estimate.error == pytest.approx(0, abs=1e-12)


def test_blocks_do_not_change_the_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, _, _ = hessian_like(100, 0)
    pairs = block_krylov(matrix, 10)
    whole = a_posteriori(matrix, pairs, tests=70)
    monkeypatch.setattr("seigh.core.linalg.tiles.CHUNK_BYTES", 8 * 13 * len(pairs.basis))
    monkeypatch.setattr("seigh.core.spectra.aposteriori._BLOCK", 9)
    blocks = a_posteriori(matrix, pairs, tests=70)
    assert blocks.error == pytest.approx(whole.error, rel=1e-10)
    assert blocks.norm == pytest.approx(whole.norm, rel=1e-10)
    assert a_posteriori(matrix, pairs, tests=70, seed=1).error != pytest.approx(whole.error, rel=1e-6)


def test_zero_matrices_have_no_relative_error() -> None:
    zero = torch.zeros(8, 8, dtype=torch.float64)
    estimate = a_posteriori(zero, exact(zero, 3))
    assert (estimate.norm, estimate.error, estimate.relative_error) == (0, 0, 0)
    assert estimate.interval().norm.upper == 0
    assert estimate.scree(torch.zeros(3)).upper.tolist() == [0, 0, 0]
    assert APosteriori(known=0.0, error=1.0, tests=1).relative_error == 1


def test_agrees_with_skerch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("skerch.a_posteriori")
    for tests in (1, 10):
        for probability in (0.5, 0.95):
            interval = APosteriori(0.0, 1.0, tests).interval(probability).error
            below = 1 - 1 / interval.upper**2
            low, _ = peer.apost_error_bounds(tests, below).values()
            assert low == pytest.approx((1 - probability) / 2, rel=1e-6)
            above = 1 / interval.lower**2 - 1
            if above <= 1:  # skerch takes no larger ones
                _, high = peer.apost_error_bounds(tests, above).values()
                assert high == pytest.approx((1 - probability) / 2, rel=1e-6)

    matrix, _, _ = hessian_like(100, 0)
    pairs = rayleigh(matrix, seigh(matrix, 20, 40))
    # skerch's vectors have norm √D exactly, which leaves the estimates within a few per cent of one another.
    (norm, _, error), _ = peer.apost_error(matrix, dense(pairs), "cpu", torch.float64, num_meas=100)
    ours = a_posteriori(matrix, pairs, tests=1000)
    assert ours.norm == pytest.approx(math.sqrt(float(norm)), rel=0.25)
    assert ours.error == pytest.approx(math.sqrt(float(error)), rel=0.25)


def test_impossible_arguments_are_refused() -> None:
    matrix, _, _ = hessian_like(10, 0)
    pairs = exact(matrix, 2)
    with pytest.raises(ValueError, match="at least 1 test vector"):
        a_posteriori(matrix, pairs, tests=0)
    for probability in (0.0, 1.0, -1.0, 95.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            a_posteriori(matrix, pairs).interval(probability)
    with pytest.raises(SpectrumError, match="not finite"):
        a_posteriori(matrix * float("inf"), pairs)
