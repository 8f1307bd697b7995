"""An analysis while the database's own disk is full."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from seigh.core.lab.models import Analysis, State
from seigh.core.lab.session import close, migrate, sessions
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks import analysis, attempt, work
from seigh.tasks.submit import Upload, submit
from tests.core.lab import lab

Make = Callable[..., Upload]


@pytest.fixture
def small_disk(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB, with the home's database on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a disk is not allowed here")
    url = f"sqlite:///{folder / 'lab.db'}"
    monkeypatch.setenv("SEIGH_DATABASE_URL", url)
    migrate(url)
    yield folder
    close(url)
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_of_the_database_is_said_soon_and_the_work_goes_on_when_there_is_room(
    small_disk: Path, checkpoint: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attempt, "_FULL_PATIENCE", 0.5)
    env = Settings()
    chosen = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=50, k=100)
    (number,) = submit([checkpoint()], model_name="mlp", settings=[chosen], user="ada", env=env).analysis_ids
    ballast = small_disk / "ballast"

    def run_with_full_disk(*arguments: object) -> None:
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 512):
                pass
        kept(*arguments)

    kept = analysis._keep
    monkeypatch.setattr(analysis, "_keep", run_with_full_disk)
    with caplog.at_level(logging.INFO):
        work.run("analysis", number)
    assert "left for later: The disk of the database is full, so nothing can be written" in caplog.text
    assert "Traceback" not in caplog.text
    assert any((env.scratch_folder / f"analysis-{number}").iterdir())

    ballast.unlink()
    monkeypatch.setattr(analysis, "_keep", kept)
    with sessions(env.database).begin() as s:
        assert s.get_one(Analysis, number).state is State.running
        assert lab.requeue_silent(s, Analysis) == [number]
    work.run("analysis", number)
    with sessions(env.database)() as s:
        assert s.get_one(Analysis, number).state is State.finished
