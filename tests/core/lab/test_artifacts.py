"""Files in the artefact store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.keys import content_key, eigenvectors_key
from seigh.core.lab.store import StoreError


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def all_files(artifacts: ArtifactStore) -> list[str]:
    return sorted(
        path.relative_to(artifacts.folder).as_posix()
        for path in artifacts.folder.rglob("*")
        if path.is_file()
    )


def test_a_file_lies_under_the_hash_of_its_content_once(artifacts: ArtifactStore, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    for name in ("first.PT", "second.pt"):
        (tmp_path / name).write_bytes(content)
        key = artifacts.put_file("checkpoints", tmp_path / name, sha256(content), Path(name).suffix)
        assert (
            key == content_key("checkpoints", sha256(content), ".pt") == f"checkpoints/{sha256(content)}.pt"
        )
    assert artifacts.path(key).read_bytes() == content
    assert all_files(artifacts) == [key]


def test_a_file_that_has_changed_is_not_stored(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"changed since")
    with pytest.raises(StoreError, match=r"'data.npz' changed while it was being stored"):
        artifacts.put_file("data", tmp_path / "data.npz", sha256(b"as checked"), ".npz")
    assert all_files(artifacts) == []


def test_arrays_come_back(artifacts: ArtifactStore) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    key = eigenvectors_key(7, "token")
    fixed = np.arange(4.0)
    fixed.flags.writeable = False
    arrays = {"eigenvectors": vectors[:, ::-1], "eigenvalues": fixed}
    arrays["transposed"] = torch.from_numpy(vectors).T
    artifacts.put_arrays(key, arrays, {"k": "4"})
    with safe_open(artifacts.path(key), framework="np") as file:
        assert file.metadata() == {"k": "4"}
        np.testing.assert_array_equal(file.get_tensor("eigenvectors"), vectors[:, ::-1])
        np.testing.assert_array_equal(file.get_tensor("eigenvalues"), np.arange(4.0))
        np.testing.assert_array_equal(file.get_tensor("transposed"), vectors.T)


def test_deleting_removes_a_file_and_its_unfinished_forms_alone(artifacts: ArtifactStore) -> None:
    mine, yours = eigenvectors_key(7, "mine"), eigenvectors_key(7, "yours")
    for key in (mine, yours):
        artifacts.put_arrays(key, {"eigenvectors": np.ones(3)}, {})
        artifacts.path(f"{key}.123.tmp").write_bytes(b"half a fi")
    artifacts.delete(mine)
    artifacts.delete(mine)  # twice is no error
    assert all_files(artifacts) == [yours, f"{yours}.123.tmp"]


@pytest.mark.parametrize("key", ["", "..", "../x", "data/../../x", "/etc/passwd", "a\\..\\b", "nul\0"])
def test_keys_that_lead_out_of_the_folder_are_refused(artifacts: ArtifactStore, key: str) -> None:
    with pytest.raises(StoreError, match="is not the key of a stored file"):
        artifacts.path(key)
