"""SEIGH and SSVD with each kind of test matrix."""

import pytest
import torch
from torch import Tensor

import seigh.core.spectra.sketched as sketched
from seigh.core.names import TEST_MATRICES
from seigh.core.spectra import Eigenpairs, SpectrumError, Storage, block_krylov, eigenpairs_of, seigh, ssvd
from tests.core.spectra.matrices import hessian_like, subspace_overlap, symmetric

SEEDS = [0, 1, 2]
METHODS = {
    "seigh": seigh,
    "ssvd": lambda *args, **kwargs: eigenpairs_of(ssvd(*args, **kwargs)),
}

every_kind = pytest.mark.parametrize("kind", TEST_MATRICES)
every_method = pytest.mark.parametrize("method", METHODS)


def of_rank(rank: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """An indefinite matrix of that rank, its nonzero λ by descending |λ|, and their vectors."""
    values = torch.zeros(size, dtype=torch.float64)
    values[:rank] = torch.linspace(5, 1, rank) * torch.tensor([1.0, -1.0]).repeat(rank)[:rank]
    matrix, vectors = symmetric(values, seed)
    return matrix, values[:rank], vectors[:, :rank]


def dense(pairs: Eigenpairs) -> Tensor:
    vectors = pairs.vectors().double()
    return (vectors * pairs.values) @ vectors.T


@pytest.mark.parametrize("seed", SEEDS)
@every_kind
@every_method
@pytest.mark.parametrize(
    ("rank", "outer", "inner"), [(1, 1, 1), (1, 1, 3), (7, 7, 7), (7, 7, 15), (10, 33, 67)]
)
def test_a_matrix_of_at_most_the_outer_rank_is_recovered(
    method: str, rank: int, outer: int, inner: int, kind, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketched, "CHUNK_BYTES", 0)  # blocks of 32, which divide neither 67 nor 15
    matrix, values, vectors = of_rank(rank, 90, seed)
    pairs = METHODS[method](matrix, outer, inner, seed=seed, test_matrix=kind)
    # n_O > rank: the sketch is rank-deficient, and nothing is made up for what is missing.
    assert len(pairs.values) == rank
    torch.testing.assert_close(pairs.values, values, rtol=1e-6, atol=0)
    assert subspace_overlap(pairs.vectors(), vectors) == pytest.approx(1, abs=1e-8)
    torch.testing.assert_close(dense(pairs), matrix, rtol=0, atol=1e-5)
    assert pairs.hvps == (inner if method == "seigh" else inner + 2 * outer)
    top = METHODS[method](matrix, outer, inner, k=1, seed=seed, test_matrix=kind)
    torch.testing.assert_close(top.values, values[:1], rtol=1e-6, atol=0)
    assert top.vectors().shape == (90, 1)


@every_kind
@every_method
@pytest.mark.parametrize(("size", "outer", "inner"), [(1, 1, 1), (2, 1, 2), (2, 2, 2), (3, 2, 3), (5, 5, 5)])
def test_tiny_operators(method: str, size: int, outer: int, inner: int, kind) -> None:
    matrix, values, _ = of_rank(outer, size, 0)
    pairs = METHODS[method](matrix, outer, inner, seed=3, test_matrix=kind)
    # Two random signs are parallel half the time: a sketch of two coordinates may then miss a dimension.
    if kind != "rademacher":
        torch.testing.assert_close(pairs.values, values, rtol=1e-6, atol=0)
    assert bool(pairs.values.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_kind
@every_method
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_operator_does_not_matter(
    method: str, kind, scale: float, dtype: torch.dtype
) -> None:
    matrix, _, _ = hessian_like(200, 0)
    truth = METHODS[method](matrix, 40, 80, k=10, test_matrix=kind)
    pairs = METHODS[method]((matrix * scale).to(dtype), 40, 80, k=10, test_matrix=kind)
    rounding = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(pairs.values / scale, truth.values, rtol=rounding, atol=0)
    assert subspace_overlap(pairs.vectors(), truth.vectors()) > 1 - rounding
    gram = pairs.basis.double() @ pairs.basis.double().T
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=rounding)


@every_kind
def test_all_kinds_are_about_as_accurate(kind) -> None:
    # TYUC §7: the error hardly depends on the kind. The best error at rank n_O is the unit.
    errors = []
    for seed in range(5):
        matrix, values, _ = hessian_like(200, seed)
        approximation = dense(seigh(matrix, 40, 80, seed=seed, test_matrix=kind))
        errors.append(float((matrix - approximation).norm() / values[40:].norm()))
    assert 1 < sorted(errors)[2] < 4


@every_kind
@every_method
def test_no_block_size_changes_the_result(method: str, kind, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, _, _ = hessian_like(150, 0)
    whole = METHODS[method](matrix, 30, 61, seed=1, test_matrix=kind)
    for block in (1, 7, 61):
        monkeypatch.setattr(sketched, "CHUNK_BYTES", 0)
        monkeypatch.setattr(sketched, "BLOCK", block)
        pairs = METHODS[method](matrix, 30, 61, seed=1, test_matrix=kind)
        torch.testing.assert_close(pairs.values, whole.values, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(dense(pairs), dense(whole), rtol=0, atol=1e-7)


@every_kind
@every_method
def test_a_seed_gives_the_same_numbers_again_and_another_seed_others(method: str, kind) -> None:
    matrix = hessian_like(100, 0)[0].float()
    first, again, other = (METHODS[method](matrix, 10, 21, seed=seed, test_matrix=kind) for seed in (4, 4, 5))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.vectors(), again.vectors())
    assert not torch.allclose(first.values, other.values, rtol=1e-4)


@every_method
def test_the_operator_is_multiplied_once_per_measurement(method: str) -> None:
    matrix, _, _ = hessian_like(60, 0)
    seen: list[Tensor] = []

    class Recorder:
        shape, dtype, device = matrix.shape, matrix.dtype, matrix.device

        def __matmul__(self, block: Tensor) -> Tensor:
            seen.append(block.clone())
            return matrix @ block

    pairs = METHODS[method](Recorder(), 10, 25)
    vectors = torch.cat(seen, dim=1)
    assert vectors.shape[1] == pairs.hvps
    # No vector is spent on what another one has measured.
    assert int(torch.linalg.matrix_rank(vectors)) == pairs.hvps


@every_method
def test_a_zero_operator_has_no_pairs(method: str) -> None:
    pairs = METHODS[method](torch.zeros(20, 20), 5, 10)
    assert len(pairs.values) == 0
    assert pairs.vectors().shape == (20, 0)


@pytest.mark.parametrize("seed", SEEDS)
@every_kind
def test_signs_from_ssvd_are_those_of_the_eigenvalues(kind, seed: int) -> None:
    matrix, values, _ = hessian_like(200, seed)
    triplets = ssvd(matrix, 80, 160, k=12, seed=seed, test_matrix=kind)
    assert bool((triplets.values > 0).all())
    pairs = eigenpairs_of(triplets)
    assert torch.equal(pairs.values.abs(), triplets.values)
    assert torch.equal(pairs.values.sign(), values[:12].sign())
    truth = block_krylov(matrix, 12, columns=150)
    torch.testing.assert_close(pairs.values, truth.values, rtol=1e-2, atol=0)


@every_method
def test_an_unknown_test_matrix_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="choose one of ssrft, gaussian, rademacher"):
        METHODS[method](torch.eye(20), 2, 4, test_matrix="dct")


class Interrupted:
    """A matrix whose products stop after some."""

    def __init__(self, matrix: torch.Tensor, stop: int | None = None) -> None:
        self.matrix, self.stop, self.products = matrix, stop, 0
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, block: torch.Tensor) -> torch.Tensor:
        if self.stop is not None and self.products + block.shape[1] > self.stop:
            raise KeyboardInterrupt
        self.products += block.shape[1]
        return self.matrix @ block


@pytest.mark.parametrize("stop", [16, 40, 75])
@every_method
def test_a_resumed_sketch_equals_an_uninterrupted_one(
    method: str, stop: int, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketched, "CHUNK_BYTES", 0)
    monkeypatch.setattr(sketched, "BLOCK", 8)
    matrix = hessian_like(150, 0)[0].float()
    run = METHODS[method]
    here = run(matrix, 20, 80)
    whole = run(matrix, 20, 80, storage=Storage(0, tmp_path / "whole"))
    assert whole.record["kept_in"] == "file"
    torch.testing.assert_close(whole.values, here.values)
    storage = Storage(0, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(matrix, stop), 20, 80, storage=storage)
    rest, counts = Interrupted(matrix), []
    resumed = run(rest, 20, 80, storage=storage, resumed=counts.append)
    assert counts == [stop // 8 * 8] == [resumed.record["resumed"]]
    assert rest.products == resumed.hvps - counts[0]
    assert torch.equal(resumed.values, whole.values)
    assert torch.equal(resumed.vectors(), whole.vectors())


@every_method
def test_sketches_that_do_not_fit_are_refused(method: str) -> None:
    with pytest.raises(SpectrumError, match=r"vectors of D = 150, and 19 fit .* choose a smaller n_O"):
        METHODS[method](hessian_like(150, 0)[0], 20, 40, storage=Storage(19 * 150 * 8))
