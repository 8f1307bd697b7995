"""Half a minute of everything that can happen to a small study; ``benchmarks.chaos`` has a large one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import stack
from benchmarks.chaos import BATCH, Numbers, Study, checkpoints, run
from seigh.core.analysis import analyse
from seigh.core.settings import Settings
from tests.conftest import IMPATIENT
from tests.forking import begun

pytestmark = pytest.mark.stack

STUDY = Study(analyses=4, shared=2, samples=300, k=24, shared_k=60)


def undisturbed(folder: Path) -> Numbers:
    """The same numbers from this process."""
    found = Numbers()
    for step, upload in enumerate(checkpoints(folder, STUDY.analyses // 2)):
        for split in ("train", "test"):
            settings = STUDY.settings(shared=step < STUDY.shared // 2, split=split)
            result = analyse(upload.path, settings, environment=Settings(home=folder, device="cpu"))
            found.eigenvalues[step, split, settings.k] = np.array(result.eigenvalues)
            found.overlap[step, split, settings.k] = np.array(result.overlap)
    return found


def test_nothing_stops_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(stack, "begin", begun)
    said: list[str] = []
    # Not below pytest's folders: PostgreSQL runs as another user, who may not enter those.
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(
            *(STUDY, 2, 30, (0.5, 2.0), 6, Path(folder), said.append), stopped=6, most=10, setup=IMPATIENT
        )
    assert outcome.disturbances.total() == 10, said
    assert {"clock", "malformed messages"} <= outcome.disturbances.keys(), said
    assert outcome.problems(STUDY, undisturbed(tmp_path), BATCH) == []
