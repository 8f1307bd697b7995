"""Temporary files that killed processes leave beside the artefacts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.leftovers import in_use, sweep, temporary_files
from seigh.core.lab.space import used
from tests.conftest import ROOT, wait_until
from tests.forking import Forked

_WRITE = """
import os, time
from pathlib import Path
from seigh.core.lab.artifacts import ArtifactStore
with ArtifactStore(Path({folder!r}))._appearing("eigenvectors/1-x") as temporary:
    temporary.write_bytes(b"x" * 5000)
    os.utime(temporary, (0, 0))
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_is_written_is_not(tmp_path: Path) -> None:
    folder, log = tmp_path / "artefacts", tmp_path / "log"
    writer = Forked(_WRITE.format(folder=str(folder)), ROOT, log)
    try:
        wait_until(lambda: log.read_text() == "writing\n", 60, "it writes")
        (file,) = temporary_files(folder)
        assert sweep(folder) == []  # however old it seems
        assert used(folder) == 0
    finally:
        writer.kill()
    assert sweep(folder) == [file]
    assert temporary_files(folder) == []


def test_what_was_written_lately_stays_and_artefacts_always(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path)
    artifacts.put_arrays("eigenvectors/1-y", {"x": np.zeros(3)}, {})
    os.utime(artifacts.path("eigenvectors/1-y"), (0, 0))
    (tmp_path / "checkpoints").mkdir()
    recent = tmp_path / "checkpoints" / "a.pt.0.tmp"
    recent.touch()
    assert sweep(tmp_path) == []
    os.utime(recent, (time.time() - 700,) * 2)
    assert sweep(tmp_path) == [recent]
    assert artifacts.path("eigenvectors/1-y").is_file()


def test_a_file_is_made_once(tmp_path: Path) -> None:
    with in_use(tmp_path / "new"), pytest.raises(FileExistsError), in_use(tmp_path / "new"):
        pass
