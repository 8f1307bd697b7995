"""Limits of an installation and places of work: what is refused, what waits, and what is kept anyway."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import func, select, update

from seigh.core.lab import queries, store, workers
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.models import Analysis, Checkpoint, Eigenvalue, State, now
from seigh.core.lab.session import sessions
from seigh.core.lab.space import mark
from seigh.core.lab.store import StoreError
from seigh.core.settings import AnalysisSettings, Settings, SettingsError
from seigh.tasks import readiness, work
from seigh.tasks.recovery import Sweeper
from seigh.tasks.submit import Upload, submit
from tests.conftest import Worker, wait_until
from tests.core.lab import lab

Make = Callable[..., Upload]

QUICK = AnalysisSettings(architecture="tanh-mlp", data="digits", samples=50, k=10)
EIGENVECTORS = 4 * 10 * 7030  # bytes


def queue(env: Settings, file: Upload, **more: Any) -> int:
    (number,) = submit([file], model_name="mlp", settings=[QUICK], user="ada", env=env, **more).analysis_ids
    return number


def row(env: Settings, number: int) -> Analysis:
    with sessions(env.database)() as s:
        return s.get_one(Analysis, number)


def count(env: Settings, table: Any) -> int:
    with sessions(env.database)() as s:
        return s.execute(select(func.count()).select_from(table)).scalar_one()


def files(env: Settings) -> list[str]:
    return sorted(str(path.relative_to(env.artifact_folder)) for path in env.artifact_folder.rglob("*.*"))


def quota(env: Settings, size: int) -> Settings:
    return env.model_copy(update={"artifacts_quota_gb": size / 2**30})


# --- k, and the quota at submission -----------------------------------------------------------------------


def test_a_k_above_the_largest_is_refused(home: Settings, checkpoint: Make) -> None:
    with pytest.raises(SettingsError, match=r"^k = 10 is more than this installation allows, 9; .*MAX_K"):
        queue(home.model_copy(update={"max_k": 9}), checkpoint())
    assert count(home, Analysis) == 0
    queue(home.model_copy(update={"max_k": 10}), checkpoint())


def test_files_without_room_are_refused_before_any_is_kept(home: Settings, checkpoint: Make) -> None:
    uploads = [checkpoint(step, seed=step) for step in (1, 2)]
    size = sum(upload.path.stat().st_size for upload in uploads)

    def both(env: Settings) -> None:
        submit(uploads, model_name="mlp", settings=[QUICK], user="ada", env=env)

    with pytest.raises(StoreError, match="SEIGH_ARTIFACTS_QUOTA_GB"):
        both(quota(home, size - 1))
    assert (files(home), count(home, Analysis), count(home, Checkpoint)) == ([], 0, 0)
    both(quota(home, size))
    assert len(files(home)) == 2
    both(quota(home, size))  # what is there already needs no room


# --- Room for eigenvectors --------------------------------------------------------------------------------


def test_an_analysis_whose_eigenvectors_have_no_room_is_not_begun(
    home: Settings, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = queue(home, checkpoint())
    taken = sum(path.stat().st_size for path in home.artifact_folder.rglob("*.pt"))
    monkeypatch.setenv("SEIGH_ARTIFACTS_QUOTA_GB", repr((taken + EIGENVECTORS - 1) / 2**30))
    work.run("analysis", number)
    failed = row(home, number)
    assert failed.state is State.failed
    assert failed.message is not None
    assert "have no room; delete results" in failed.message
    assert failed.hvps is None

    monkeypatch.delenv("SEIGH_ARTIFACTS_QUOTA_GB")
    with sessions(home.database).begin() as s:
        store.retry(s, Analysis, number)
    work.run("analysis", number)
    assert row(home, number).state is State.finished


@pytest.fixture
def full_disk(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """The artefacts on a disk of 2 MiB; calling it leaves so many bytes free."""
    folder = home.root / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a disk is not allowed here")
    monkeypatch.setenv("SEIGH_ARTIFACTS", str(folder))

    def fill(free: int) -> None:
        there = os.statvfs(folder)
        (folder / "filler").write_bytes(b"x" * (there.f_bavail * there.f_frsize - free))

    yield fill
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_meanwhile_costs_the_eigenvectors_and_no_number(
    home: Settings,
    checkpoint: Make,
    full_disk: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = Settings()
    first = queue(env, checkpoint(1, seed=1))
    work.run("analysis", first)
    kept = row(env, first).eigenvectors
    assert kept is not None
    before = ArtifactStore(env.artifact_folder).path(kept).read_bytes()

    second = queue(env, checkpoint(2, seed=2))
    reserve = store.reserve_eigenvectors

    def somebody_fills_the_disk(*arguments: Any) -> store.Standing:
        full_disk(EIGENVECTORS // 2)
        return reserve(*arguments)

    monkeypatch.setattr(store, "reserve_eigenvectors", somebody_fills_the_disk)
    work.run("analysis", second)
    finished = row(env, second)
    assert finished.state is State.finished
    assert finished.eigenvectors is None
    assert finished.record is not None
    assert "The disk of the artefacts has" in finished.record["eigenvectors_lost"]
    assert count(env, Eigenvalue) == 20
    assert ArtifactStore(env.artifact_folder).path(kept).read_bytes() == before
    assert [name for name in files(env) if name.endswith(".tmp")] == []


# --- Eigenvectors that expire -----------------------------------------------------------------------------


def test_the_sweep_deletes_eigenvectors_that_are_old(
    home: Settings, redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = ArtifactStore(home.artifact_folder)
    with sessions(home.database).begin() as s:
        for step in (1, 2):
            key = f"eigenvectors/{step}.safetensors"
            artifacts.path(key).parent.mkdir(parents=True, exist_ok=True)
            artifacts.path(key).touch()
            number = lab.finished(s, step=step, changes={"eigenvectors": key})
        store.pin(s, number, True)
        s.execute(update(Analysis).values(finished_at=now() - timedelta(days=3)))
    Sweeper().sweep()
    assert len(files(home)) == 2  # without a limit they are kept
    monkeypatch.setenv("SEIGH_RETENTION_DAYS", "2.5")
    Sweeper().sweep()
    assert files(home) == ["eigenvectors/2.safetensors"]


# --- Places and devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "name"), [("any", "seigh"), ("cpu", "seigh.cpu"), ("gpu", "seigh.gpu")])
def test_work_is_sent_to_its_queue_and_found_again_there(
    home: Settings, redis_server: redis.Redis, checkpoint: Make, place: Any, name: str
) -> None:
    queue(home, checkpoint(), place=place)
    names = ("seigh", "seigh.cpu", "seigh.gpu")
    assert {each: redis_server.llen(each) for each in names} == {each: int(each == name) for each in names}
    redis_server.flushall()
    with sessions(home.database).begin() as s:
        s.execute(update(Analysis).values(submitted_at=now() - timedelta(minutes=1)))
    Sweeper().sweep()
    Sweeper().sweep()
    assert {each: redis_server.llen(each) for each in names} == {each: int(each == name) for each in names}


def test_a_worker_without_its_device_leaves_work_to_others(
    home: Settings, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_LATER", 0.0)
    number = queue(home, checkpoint())
    monkeypatch.setenv("SEIGH_DEVICE", "cuda:97")
    work.run("analysis", number)
    assert (row(home, number).state, row(home, number).attempts) == (State.queued, 0)
    assert readiness.reason_to_wait("cpu") is None
    monkeypatch.setitem(readiness._LEAST, "cpu", 2**60)
    monkeypatch.setenv("SEIGH_DEVICE", "cpu")
    work.run("analysis", number)
    assert row(home, number).state is State.queued


@pytest.mark.stack
def test_a_worker_says_that_it_is_there_and_goes(home: Settings, worker: Worker) -> None:
    def known() -> list[str]:
        with sessions(home.database)() as s:
            return list(queries.workers(s)["name"])

    wait_until(lambda: bool(known()), 60, "the worker is in the database")
    with sessions(home.database)() as s:
        (there,) = workers.alive(s)
    assert there.name.endswith(f":{worker.process.pid}")
    assert (there.pid, there.device, there.concurrency) == (worker.process.pid, "cpu", 1)
    assert there.memory > 2**28
    assert there.queues == ["seigh"]
    assert there.artifacts == mark(home.artifact_folder)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(60)
    assert known() == []
