"""The dashboard as a process of its own, and a whole installation with Redis and a worker, all forked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seigh.app.cli import launch
from seigh.core.lab.session import migrate
from seigh.core.settings import Settings
from tests.conftest import ROOT, Worker, redis_of, wait_until
from tests.forking import Forked


@contextmanager
def dashboard(env: Settings, host: str, port: int, *options: str, **variables: str) -> Iterator[Path]:
    """A dashboard of an installation, which answers; the file of what it says."""
    log = env.root / f"app-{port}.log"
    arguments = ["--host", host, "--port", str(port), *options]
    program = f"from seigh.app.serve import main; main({arguments})"
    process = Forked(program, ROOT, log, variables={"SEIGH_HOME": str(env.root)} | variables)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        return launch.dashboard_answers(port)

    try:
        wait_until(answers, 90, "the dashboard answers")
        yield log
    finally:
        process.kill()


@contextmanager
def installation(env: Settings, port: int) -> Iterator[str]:
    """Redis, a worker and a dashboard, as ``launch.stack`` starts them; the address of the dashboard."""
    migrate(env.database)
    with redis_of(env):
        worker = Worker(env.root / "worker.log")
        try:
            with dashboard(env, "127.0.0.1", port):
                yield f"http://127.0.0.1:{port}"
        finally:
            worker.kill()
