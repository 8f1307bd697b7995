"""The commands of an installation's single services."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch
from typer.testing import CliRunner

from seigh.app.cli import command as cli
from seigh.app.cli import launch, operations
from seigh.app.cli.launch import LaunchError
from seigh.app.cli.monitoring import Lab
from seigh.core import device
from seigh.core.device import Device
from seigh.core.lab.models import Analysis
from seigh.core.lab.session import close, revision, sessions
from seigh.core.problems import architectures
from seigh.core.settings import Settings, SettingsError
from tests.conftest import wait_until
from tests.core.lab import lab

GPU = Device("cuda", "A Card", 2**36, uuid="c0ffee")

# Takes the lock of a GPU as a worker does, becomes another program as a worker does, and holds it on.
_HOLDER = """
import os, sys
from seigh.app.cli.operations import _hold
_hold("c0ffee", "cuda:1")
os.execv(sys.executable, [sys.executable, "-c", "import time; print('held', flush=True); time.sleep(600)"])
"""


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What commands would have become, with which environment."""
    found: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda _, command, environment: found.append((command, environment)))
    return found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own for locks, for child processes too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_migrate_brings_a_database_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEIGH_HOME", str(tmp_path))
    monkeypatch.delenv("SEIGH_DATABASE_URL", raising=False)
    run("migrate")
    env = Settings()
    assert revision(env.database) is not None
    run("migrate")
    close(env.database)


@pytest.mark.stack
def test_a_worker_takes_what_suits_its_device(
    home: Settings,
    redis_server: redis.Redis,
    became: list[tuple[list[str], dict[str, str]]],
    temporary: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("worker", "--concurrency", "3")
    run("worker", "--queue", "gpu")
    monkeypatch.setattr(device, "describe_apart", lambda _: GPU)
    run("worker", "--device", "cuda:1")
    queues = [command[command.index("--queues") + 1] for command, _ in became]
    assert queues == ["seigh.cpu,seigh", "seigh.gpu", "seigh.gpu,seigh"]
    concurrency = [command[command.index("--concurrency") + 1] for command, _ in became]
    assert concurrency == ["3", "1", "1"]
    assert [environment["SEIGH_DEVICE"] for _, environment in became] == ["cpu", "cpu", "cuda:1"]
    with pytest.raises(SettingsError, match="One worker does one thing at a time on cuda:1"):
        run("worker", "--device", "cuda:1", "--concurrency", "2")


@pytest.mark.stack
def test_a_worker_for_a_device_that_is_not_there_does_not_start(
    home: Settings, redis_server: redis.Redis
) -> None:
    with pytest.raises(SettingsError, match="The device 'cuda:97' cannot be used here"):
        run("worker", "--device", "cuda:97")


def test_a_gpu_has_one_worker_at_a_time_even_after_it_has_become_another_program(temporary: None) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LaunchError, match="Another worker of this machine uses cuda:1 already"):
            operations._hold("c0ffee", "cuda:1")
        operations._hold("another", "cuda:0")
    finally:
        holder.kill()
        holder.wait()
    operations._hold("c0ffee", "cuda:1")


def test_a_pinned_analysis_is_pinned_until_that_is_undone(home: Settings) -> None:
    with sessions(home.database).begin() as s:
        number = lab.finished(s)

    def pinned() -> bool:
        with sessions(home.database)() as s:
            return s.get_one(Analysis, number).pinned

    run("pin", str(number))
    assert pinned()
    run("pin", str(number), "--undo")
    assert not pinned()


def test_work_is_submitted_for_a_place(home: Settings, tmp_path: Path) -> None:
    file = tmp_path / "step_000100.pt"
    torch.save(architectures.build("tanh-mlp").state_dict(), file)
    options = ["--model", "mlp", "--data", "digits", "--k", "5", "--place", "gpu"]
    run("submit", str(file), *options)
    with sessions(home.database)() as s:
        assert s.get_one(Analysis, 1).place == "gpu"


# --- Services as processes --------------------------------------------------------------------------------


@pytest.fixture
def start(home: Settings) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command of ours; it has ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "seigh.app.cli", *arguments]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def answer(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as found:
            return found.read().decode()
    except OSError:
        return None


@pytest.mark.stack
def test_the_app_alone_serves_the_dashboard_where_it_is_told(
    home: Settings, start: Callable[..., subprocess.Popen[str]]
) -> None:
    port = launch.free_port(8760)
    process = start("app", "--host", "127.0.0.1", "--port", str(port))
    wait_until(lambda: answer(f"http://127.0.0.1:{port}/_stcore/health") == "ok", 120, "the app answers")
    assert not home.redis_socket.exists()  # no stack of its own
    process.send_signal(signal.SIGTERM)
    process.wait(30)


@pytest.mark.stack
def test_metrics_are_those_of_the_moment(home: Settings, start: Callable[..., subprocess.Popen[str]]) -> None:
    port = launch.free_port(9470)
    start("metrics", "--port", str(port))
    url = f"http://127.0.0.1:{port}/metrics"
    wait_until(lambda: answer(url) is not None, 60, "metrics answer")
    assert 'seigh_work{kind="analysis",state="queued"} 0.0' in (answer(url) or "")
    with sessions(home.database).begin() as s:
        lab.queue(s)
    found = answer(url)
    assert found is not None
    assert 'seigh_work{kind="analysis",state="queued"} 1.0' in found
    assert "# TYPE seigh_work gauge" in found
    (taken,) = re.findall(r"^seigh_artifacts_bytes (\S+)$", found, re.MULTILINE)
    assert float(taken) == 0


def test_metrics_tell_that_the_database_is_away(home: Settings) -> None:
    away = home.model_copy(
        update={"database_url": "postgresql://ada@127.0.0.1:1/lab", "artifacts_quota_gb": 2}
    )
    samples = {sample.name: sample.value for metric in Lab(away).collect() for sample in metric.samples}
    assert samples["seigh_database_up"] == 0
    assert samples["seigh_artifacts_quota_bytes"] == 2**31
    assert "seigh_work" not in samples
