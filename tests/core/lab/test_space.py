"""Room for artefacts, on a real disk that is full where the system lets us make one."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.space import check_room, mark, said_if_full, used
from seigh.core.lab.store import StoreError

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a disk is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_what_is_used_is_the_sum_of_all_files(tmp_path: Path) -> None:
    assert used(tmp_path) == used(tmp_path / "missing") == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "one").write_bytes(b"x" * 1000)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 500)
    assert used(tmp_path) == 1500


def test_a_quota_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    check_room(tmp_path, MIB, quota=2 * MIB)
    check_room(tmp_path, MIB, quota=None)
    with pytest.raises(StoreError, match=r"have no room; delete results .* SEIGH_ARTIFACTS_QUOTA_GB\.$"):
        check_room(tmp_path, MIB + 1, quota=2 * MIB)


def test_more_than_the_disk_has_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^The disk of the artefacts has .* left, and .* are needed"):
        check_room(tmp_path / "not" / "there" / "yet", 2**60, quota=None)


@pytest.mark.parametrize("writer", ["python", "safetensors"])
def test_a_disk_that_fills_up_is_said_whoever_writes(small_disk: Path, writer: str) -> None:
    def write() -> None:
        if writer == "python":
            (small_disk / "file").write_bytes(b"x" * 2 * MIB)
        else:
            save_file({"x": torch.zeros(2 * MIB, dtype=torch.uint8)}, small_disk / "file")

    with pytest.raises(StoreError, match=r"^The disk of the artefacts is full; make room"), said_if_full():
        write()


def test_other_trouble_is_left_as_it_is() -> None:
    for error in (OSError(errno.EIO, "Input/output error"), ValueError("os error")):
        with pytest.raises(type(error)), said_if_full():
            raise error


def _mark(folder: Path, results: multiprocessing.Queue[str]) -> None:
    results.put(mark(folder))


def test_all_who_see_a_folder_see_the_same_mark(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_mark, args=(tmp_path / "new", results)) for _ in range(8)]
    for process in processes:
        process.start()
    marks = {results.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert marks == {mark(tmp_path / "new")}
    assert mark(tmp_path / "other") not in marks
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".seigh-artifacts"]


def test_a_folder_that_cannot_be_written_is_said(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = ArtifactStore(tmp_path / "file" / "below")
    with pytest.raises(StoreError, match=r"cannot be written \(Not a directory\); make it writable"):
        below.put_arrays("eigenvectors/1-x", {"x": torch.zeros(3)}, {})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\); make it writable"):
        ArtifactStore(small_disk).put_arrays("eigenvectors/1-x", {"x": torch.zeros(3)}, {})
