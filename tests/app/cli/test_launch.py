"""The embedded stack as real processes."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from seigh.app.cli import launch
from seigh.core.lab import incidents
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings
from tests.conftest import wait_until

pytestmark = pytest.mark.stack


class Up:
    """A running ``seigh up``, and what it has said so far."""

    def __init__(
        self,
        *options: str,
        command: Sequence[str] = (sys.executable, "-m", "seigh.app.cli"),
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [*command, "up", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=cwd,
            env=env,
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said += line

    def wait_for(self, pattern: str) -> str:
        """Wait until it says something, and return what the pattern's group matched."""
        wait_until(lambda: bool(re.search(pattern, self.said)), 90, f"{pattern!r} in {self.said!r}")
        return re.search(pattern, self.said)[1]

    def end(self, number: int) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join()
        return status


@pytest.fixture
def start_up(home: Settings) -> Iterator[Callable[..., Up]]:
    """Starts ``seigh up`` for the home."""
    started: list[Up] = []

    def start(*options: str, **where: Any) -> Up:
        started.append(Up(*options, **where))
        return started[-1]

    yield start
    for up in started:
        pids = descendants(up.process.pid)
        up.process.kill()
        up.process.wait()
        for pid in left_of(pids):
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Entry:
    """A living process as /proc has it."""

    pid: int
    parent: int
    session: int


def table() -> list[Entry]:
    """All living processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                found.append(Entry(int(folder.name), int(parent), int(session)))
    return found


def descendants(pid: int) -> set[int]:
    """The living processes that a process started, and those that they did."""
    entries = table()
    found: set[int] = set()
    while new := {e.pid for e in entries if e.parent in found | {pid}} - found:
        found |= new
    return found


def left_of(pids: Iterable[int]) -> set[int]:
    """Those processes, and others of their sessions, that live."""
    return {e.pid for e in table() if e.pid in set(pids) or e.session in set(pids)}


def status_of(url: str) -> int:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def taken_port() -> socket.socket:
    """A socket that listens on some port of 127.0.0.1."""
    server = socket.create_server((launch.HOST, 0))
    server.listen()
    return server


def test_up_serves_until_a_signal_and_leaves_no_process(start_up: Callable[..., Up], home: Settings) -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        up = start_up("--port", str(port))
        url = up.wait_for(r"SEIGH Lab runs at (http\S+)")
        up.wait_for("(Ctrl-C ends it)")
    assert f"Port {port} is taken; the dashboard uses {url.rpartition(':')[2]}." in up.said
    assert status_of(url) == 200

    assert stat.S_IMODE(home.redis_socket.parent.stat().st_mode) == 0o700
    with redis.Redis(unix_socket_path=str(home.redis_socket)) as client:
        assert client.config_get("port") == {"port": "0"}
    wait_until(
        lambda: " ready." in (home.root / "logs" / "worker.log").read_text(), 60, "the worker is ready"
    )
    pids = descendants(up.process.pid)
    assert len(pids) >= 4  # Redis, the worker and its child, Streamlit
    assert all(os.getsid(pid) in pids for pid in pids)  # out of reach of the terminal's Ctrl-C

    second = start_up()
    assert second.process.wait(60) == 0
    second.wait_for(rf"(already runs for this home \(process {up.process.pid}\)): {url}")
    assert status_of(url) == 200

    assert up.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert left_of(pids) == set()
    assert "Traceback" not in up.said


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
def test_a_killed_stack_leaves_no_process_and_can_be_started_again(
    start_up: Callable[..., Up], home: Settings
) -> None:
    up = start_up("--port", "8700")
    up.wait_for("(Ctrl-C ends it)")
    log = home.root / "logs" / "worker.log"
    wait_until(lambda: " ready." in log.read_text(), 60, "the worker is ready")
    pids = descendants(up.process.pid)
    assert len(pids) >= 4
    up.end(signal.SIGKILL)
    wait_until(lambda: left_of(pids) == set(), 60, "no process is left")
    again = start_up("--port", "8700")
    again.wait_for("(Ctrl-C ends it)")
    pids = descendants(again.process.pid)
    assert len(pids) >= 3
    assert again.end(signal.SIGINT) == 0
    assert left_of(pids) == set()
    assert "Traceback" not in again.said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_loses_is_heeded_all_the_same() -> None:
    class Collected:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with launch._signals_as_exceptions():
        launch.heed_signals()  # nothing was heard yet
        Collected()  # exceptions are lost there
        with pytest.raises(SystemExit) as left:
            launch.heed_signals()
    assert left.value.code == 128 + signal.SIGTERM
    with launch._signals_as_exceptions():
        launch.heed_signals()


def said(home: Settings) -> list[str]:
    """What the pages say of the installation."""
    with sessions(home.database)() as s:
        return [each.message for each in incidents.recent(s)]


def test_what_ends_or_hangs_is_started_again(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_HEALTH_SECONDS", 0.5)
    monkeypatch.setattr(launch, "_MISSING_ANSWERS", 2)
    with launch.stack(home, port=8710) as stack:
        processes = {process.name: process for process in stack.processes}
        pids = {name: process.popen.pid for name, process in processes.items()}
        stack.tend()
        assert {name: process.popen.pid for name, process in processes.items()} == pids

        os.kill(pids["worker"], signal.SIGKILL)
        processes["worker"].popen.wait()
        os.killpg(pids["dashboard"], signal.SIGSTOP)  # it listens, and answers no more; SIGTERM would wait

        def all_is_well() -> bool:
            stack.tend()
            return launch.dashboard_answers(stack.port)

        wait_until(all_is_well, 120, "the page answers again")
        assert {name for name, each in processes.items() if each.popen.pid != pids[name]} == {
            "worker",
            "dashboard",
        }
    assert left_of(process.popen.pid for process in stack.processes) == set()
    assert not launch.redis_answers(home)


def test_what_keeps_ending_is_held_back_and_said_and_the_rest_goes_on(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_LONGEST_PAUSE", 0.2)
    log = home.root / "logs" / "test.log"
    starts = home.root / "starts"
    dying = launch.Process("worker", ["sh", "-c", f"echo >> '{starts}'; exit 1"], {}, log)
    living = launch.Process("dashboard", ["sleep", "60"], {}, log)
    stack = launch.Stack(os.getpid(), 1, (dying, living), home.database)
    for process in stack.processes:
        process.start()

    def started(times: int) -> bool:
        stack.tend()
        return starts.exists() and len(starts.read_text()) >= times

    try:
        wait_until(lambda: started(4), 30, "it is started again and again")
        (sentence,) = said(home)
        assert re.match(r"The worker process ended unexpectedly, \d times in short succession", sentence)
        assert sentence.endswith(f"the end of {log} says why.")
        assert living.popen.poll() is None

        monkeypatch.setattr(launch, "_SHORTEST_LIFE", 0.0)
        dying.command = ["sleep", "60"]

        def all_is_well() -> bool:
            stack.tend()
            return said(home) == []

        wait_until(all_is_well, 30, "it stays, and nothing is said any more")
    finally:
        for process in stack.processes:
            process.kill()


def test_a_pause_of_the_supervisor_ends_nobody(home: Settings) -> None:
    """What has not answered, as the whole machine slept, is asked again before it is ended."""
    answers = iter([True, False, False, True, True])
    process = launch.Process(
        "dashboard", ["sleep", "60"], {}, home.root / "test.log", healthy=lambda _: next(answers)
    )
    process.start()
    first = process.popen.pid
    try:
        for _ in range(5):
            process._asked -= 3600  # an hour has passed
            process.tend()
        assert process.popen.pid == first
    finally:
        process.kill()


def test_a_process_that_does_not_start_is_said_with_its_log(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "redis_command", lambda _: [sys.executable, "-c", "print('no'); exit(1)"])
    with pytest.raises(
        launch.LaunchError, match=r"The redis process did not start; the end of .*redis\.log says why"
    ):
        launch.stack(home).__enter__()
    assert (home.root / "logs" / "redis.log").read_text() == "no\n"


def test_free_port_is_the_wanted_or_the_next() -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        found = launch.free_port(port)
        assert port < found < port + 100
        with socket.create_server((launch.HOST, found)):
            assert launch.free_port(found) > found
    with pytest.raises(launch.LaunchError, match="No port from 65536"):
        launch.free_port(65536)


def test_two_stacks_that_start_at_once_have_ports_of_their_own() -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        with launch._reserved_port(port) as one:
            with launch._reserved_port(port) as other:
                assert len({port, one, other}) == 3
            with launch._reserved_port(other) as again:
                assert again == other


def test_somebody_elses_socket_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "link"
    folder.symlink_to(tmp_path)
    with pytest.raises(launch.LaunchError, match="belongs to somebody else"):
        launch._prepare_socket_folder(folder)
