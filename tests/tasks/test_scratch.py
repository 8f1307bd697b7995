"""Folders that outlive a process that dies, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from seigh.core.lab import store
from seigh.core.lab.models import Analysis, State
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings
from seigh.tasks import recovery, work
from seigh.tasks.scratch import scratch, sweep
from tests.core.lab import lab


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*"))


def test_a_folder_goes_with_its_analysis_and_stays_for_the_next_attempt(tmp_path: Path) -> None:
    def die() -> None:
        with scratch(tmp_path, "analysis", 7, "first") as folder:
            (folder / "basis").write_text("half")
            raise SystemExit

    with pytest.raises(SystemExit):
        die()
    with scratch(tmp_path, "analysis", 7, "second") as again:
        assert again == tmp_path / "analysis-7"
        assert (again / "basis").read_text() == "half"
    assert names(tmp_path) == []


def test_an_attempt_that_is_not_dead_after_all_keeps_its_folder(tmp_path: Path) -> None:
    with scratch(tmp_path, "analysis", 7, "first") as first:
        (first / "basis").write_text("mine")
        with scratch(tmp_path, "analysis", 7, "second") as second:
            assert second.name == "analysis-7-second"
            assert names(tmp_path) == ["analysis-7", "analysis-7-second"]
        assert (first / "basis").read_text() == "mine"
    assert names(tmp_path) == []


def test_a_sweep_removes_what_is_neither_wanted_nor_in_use(tmp_path: Path) -> None:
    for name in ("analysis-1", "analysis-2", "analysis-2-token", "analysis-3", "training-2", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "basis").touch()
    (tmp_path / "analysis-4").touch()
    asked = []

    def wanted(ids: list[int]) -> set[int]:
        asked.append(ids)
        return {1}

    with scratch(tmp_path, "analysis", 3, "token"):
        assert sorted(sweep(tmp_path, "analysis", wanted)) == ["analysis-2", "analysis-2-token"]
        assert names(tmp_path) == ["analysis-1", "analysis-3", "analysis-4", "notes", "training-2"]
    assert asked == [[1, 2, 3]]
    assert sweep(tmp_path / "nowhere", "analysis", wanted) == []


def test_workers_clear_what_ended_analyses_left(home: Settings, redis_server: redis.Redis) -> None:
    with sessions(home.database).begin() as s:
        ended, waits, works = lab.finished(s, step=1), lab.queue(s, step=2).id, lab.queue(s, step=3).id
        assert lab.claim(s, works)
        gone = lab.queue(s, step=4).id
        store.delete(s, Analysis, gone)
    for number in (ended, waits, works, gone):
        (home.scratch_folder / f"analysis-{number}").mkdir(parents=True)
    recovery.Sweeper().sweep()
    assert names(home.scratch_folder) == [f"analysis-{waits}", f"analysis-{works}"]


def test_a_scratch_that_cannot_be_written_fails_the_work_with_a_sentence(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEIGH_SCRATCH", str(tmp_path / "file" / "below"))
    with sessions(home.database).begin() as s:
        number = lab.queue(s).id
    work.run("analysis", number)
    with sessions(home.database)() as s:
        analysis = s.get_one(Analysis, number)
        assert analysis.state is State.failed
        assert str(analysis.message).endswith(
            "cannot be written (Not a directory); make it writable for the workers, or set SEIGH_SCRATCH and "
            "SEIGH_ARTIFACTS to folders that are."
        )
