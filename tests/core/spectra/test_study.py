"""The study of sketches: its matrices have the spectrum that they claim, its numbers are those of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seigh.core.spectra import seigh, ssvd
from seigh.core.spectra.study import TAILS, Kind, _orthogonal, grid, study

KINDS = [
    Kind(80, 5, "power", 1.0),
    Kind(80, 4, "exponential", 0.05, both_signs=False),
    Kind(80, 6, "flat", 0.02),
]


def dense(kind: Kind, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """H and its eigenvectors by descending |λ|, written out."""
    vectors = _orthogonal(kind.dimension, seed).numpy()
    values = kind.eigenvalues().numpy()
    return sum(value * np.outer(v, v) for value, v in zip(values, vectors.T, strict=True)), vectors


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.tail)
def test_eigenvalues_are_those_of_the_paper(kind: Kind) -> None:
    values = kind.eigenvalues().numpy()
    assert len(values) == kind.dimension
    magnitudes = np.abs(values)
    assert (magnitudes[: kind.rank] == 1).all()
    assert (np.diff(magnitudes) <= 0).all()
    i = 7  # in the tail, from 1
    expected = {"power": 8**-1.0, "exponential": 10 ** (-0.05 * 7), "flat": 0.02}[kind.tail]
    assert magnitudes[kind.rank + i - 1] == pytest.approx(expected)
    assert ((values[1::2] < 0) == kind.both_signs).all()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.tail)
def test_errors_and_overlaps_are_those_of_dense_matrices(kind: Kind, seed: int) -> None:
    k, outer, inner = 8, 15, 30
    matrix, vectors = dense(kind, seed)
    rows = study(kind, [("seigh", outer, inner), ("ssvd", outer, inner)], k, draws=2, seed=seed)
    for row, run in zip(rows, (seigh, ssvd), strict=True):
        errors, overlaps = [], []
        for draw in range(2):
            found = run(torch.from_numpy(matrix), outer, inner, seed=seed + draw)
            u, s = found.vectors().numpy(), found.values.numpy()
            v = found.right.vectors().numpy() if run is ssvd else u
            errors.append(np.linalg.norm(matrix - u @ np.diag(s) @ v.T) / np.linalg.norm(matrix))
            cosines = np.linalg.svd(vectors[:, :k].T @ u[:, :k], compute_uv=False)
            overlaps.append(np.mean(cosines**2))
        assert row["error"] == pytest.approx(np.mean(errors), rel=1e-6)
        assert row["error_std"] == pytest.approx(np.std(errors, ddof=1), rel=1e-4, abs=1e-9)
        assert row["error_least"] == pytest.approx(min(errors), rel=1e-6)
        assert row["error_greatest"] == pytest.approx(max(errors), rel=1e-6)
        assert row["overlap"] == pytest.approx(np.mean(overlaps), rel=1e-6)
        assert row["products"] == (inner if run is seigh else 2 * outer + inner)
        best = np.sort(np.linalg.eigvalsh(matrix) ** 2)[::-1]
        assert row["best"] == pytest.approx(np.sqrt(best[outer:].sum() / best.sum()), rel=1e-6)
        assert row["error"] >= row["best"]


def test_krylov_is_nearly_as_good_as_any_matrix_of_its_rank() -> None:
    [row] = study(KINDS[0], [("krylov", 15, None)], 8, draws=2)
    assert row["inner"] is None
    assert row["error"] == pytest.approx(row["best"], rel=1e-3)
    assert row["overlap"] == pytest.approx(1, abs=1e-6)
    assert 15 < row["products"] <= 160  # the search for missed pairs included


def test_a_whole_sketch_is_exact_and_more_measurements_are_better() -> None:
    rows = study(KINDS[0], [("seigh", 20, n) for n in (24, 40, 80)] + [("seigh", 80, 80)], 8, draws=3)
    errors = [row["error"] for row in rows]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-10


def test_equal_leading_eigenvalues_are_compared_as_a_whole() -> None:
    with pytest.raises(ValueError, match="k = 4 is not between R = 5 and"):
        study(KINDS[0], [("seigh", 20, 40)], 4)
    with pytest.raises(ValueError, match="least n_O"):
        study(KINDS[0], [("seigh", 7, 40)], 8)


@pytest.mark.parametrize(("k", "outer", "inner"), [(1, 1, 1), (20, 60, 120), (20, 300, 300), (150, 150, 299)])
def test_the_table_has_the_chosen_sizes_and_no_others_beside_them(k: int, outer: int, inner: int) -> None:
    sizes = grid(k, 300, outer, inner)
    assert {outer, inner} <= {*sizes}
    assert sizes == sorted({*sizes})
    assert min(sizes) >= k
    assert max(sizes) <= 300
    assert len(sizes) <= 7


def test_every_tail_can_be_drawn_at_its_bounds() -> None:
    for name, tail in TAILS.items():
        for rate in (tail.least, tail.default, tail.most):
            values = Kind(300, 10, name, rate).eigenvalues()
            assert torch.isfinite(values).all()
            assert (values.abs().diff() <= 0).all()
