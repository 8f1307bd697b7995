"""Pairs of stored eigenvectors against those in memory, and masks against sets."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import subspace_angles

from seigh.core.overlap.masks import largest_first
from seigh.core.overlap.metrics import factor
from seigh.core.overlap.pairs import eigenspaces, mask_iou, stored_vectors
from tests.core.overlap.test_metrics import drawn, independent


def write(path: Path, k: int, seed: int) -> torch.Tensor:
    vectors = drawn(500, k, seed).float().contiguous()
    save_file({"eigenvectors": vectors, "eigenvalues": torch.ones(k)}, path)
    return vectors


def test_stored_eigenspaces_at_every_k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seigh.core.linalg.tiles.CHUNK_BYTES", 2**14)  # many blocks
    one, other = write(tmp_path / "one", 12, 0), write(tmp_path / "other", 9, 1)
    with stored_vectors(tmp_path / "one") as first, stored_vectors(tmp_path / "other") as second:
        assert first.shape == (12, 500)
        found = eigenspaces(first, second, [1, 4, 9, 12])
        again = eigenspaces(first, second, [4], factors=(factor(first, 12), factor(second, 9)))
        seen: list[float] = []
        assert eigenspaces(first, second, [10, 12], progress=seen.append) == {}
        eigenspaces(first, second, [9], progress=seen.append)
    assert set(found) == {1, 4, 9}
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == 1
    for k, values in found.items():
        truth = independent(subspace_angles(one[:k].T.double().numpy(), other[:k].T.double().numpy()))
        assert values == pytest.approx(truth, abs=1e-6)
    assert again[4] == pytest.approx(found[4], abs=1e-12)


def test_an_analysis_is_like_itself(tmp_path: Path) -> None:
    write(tmp_path / "one", 12, 0)
    with stored_vectors(tmp_path / "one") as first, stored_vectors(tmp_path / "one") as second:
        found = eigenspaces(first, second, [12])[12]
    assert found["overlap"] == pytest.approx(1, abs=1e-12)
    assert max(value for name, value in found.items() if name != "overlap") < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_iou_of_masks_as_sets(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(200, generator=generator)
    later = theta + 0.5 * torch.randn(200, generator=generator)
    first, second = largest_first(theta, 80), largest_first(later, 60)
    found = mask_iou(first, second, [1, 5, 60, 61])
    assert set(found) == {1, 5, 60}
    for k, value in found.items():
        one, other = set(first[:k].tolist()), set(second[:k].tolist())
        assert value == len(one & other) / len(one | other)
