"""Processes that start at once, forked from one that has imported ``tests.libraries``: a worker's start takes
five seconds of a core otherwise, and tests start dozens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.libraries"])


class Forked:
    """Runs a program in a session of its own, in ``folder``; what it says goes to ``log``.

    It has the methods of ``subprocess.Popen`` that tests use.

    Args:
        program: Python code.
        folder: Where it is run.
        log: The file of its standard output, and of its standard error unless ``errors`` is given.
        errors: The file of its standard error.
        variables: Of its environment, beside ours.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        log: Path,
        errors: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        files = (log, errors or log)
        for file in files:
            file.touch()
        mask = os.umask(0)
        os.umask(mask)
        arguments = (program, str(folder), *map(str, files), dict(os.environ) | dict(variables or {}), mask)
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        # The child would run the file of __main__ again, which is a page's where a test has opened one.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            self._process.start()
        finally:
            sys.modules["__main__"] = main
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, minus the signal that has killed it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit status."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL it with all that it has started, and wait for its end."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.send_signal(signal.SIGKILL)  # it may have had no group yet
        self.wait()


def seigh(*arguments: object, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the ``seigh`` command in a forked process, in this folder, until it ends."""
    command = ["seigh", *map(str, arguments)]
    program = f"import sys; sys.argv = {command}; from seigh.app.cli import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = Forked(program, Path.cwd(), out, err)
        try:
            status = process.wait(seconds)
        finally:
            process.send_signal(signal.SIGKILL)
        return subprocess.CompletedProcess(command, status, out.read_text(), err.read_text())


def begun(command: Sequence[str], *, env: Mapping[str, str], **more: Any) -> Forked | subprocess.Popen[bytes]:
    """Start a process as ``subprocess.Popen`` does: by a fork, if it runs Python as this user."""
    options = list(command[1:])
    while options[:1] == ["-P"] or options[:1] == ["-W"]:
        del options[: 1 + (options[0] == "-W")]
    if command[0] != sys.executable or more["user"] is not None or options[0] not in ("-c", "-m"):
        return subprocess.Popen(command, env=env, **more)
    program = options[1]
    if options[0] == "-m":
        program = f"import runpy; runpy.run_module({program!r}, None, '__main__', True)"
    rest = f"for each in set(os.environ) - {set(env)}: del os.environ[each]"  # nothing of ours beside it
    only = f"import os, sys; sys.argv = {['-c', *options[2:]]}\n{rest}"
    return Forked(f"{only}\n{program}", Path(more["cwd"]), Path(more["stdout"].name), variables=env)


def _run(program: str, folder: str, log: str, errors: str, environment: dict[str, str], mask: int) -> None:
    """What the forked process does: it becomes like one that was started with this environment."""
    os.setsid()
    os.chdir(folder)
    os.umask(mask)
    for number, file in ((1, log), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # which may have been asked for before
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c"]
    sys.path[:0] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.modules.pop("sitecustomize", None)
    with suppress(ImportError):
        import_module("sitecustomize")
    threads = environment.get("OMP_NUM_THREADS")
    if threads:  # torch has read it before
        import torch

        torch.set_num_threads(int(threads))
    exec(compile(program, "<worker>", "exec"), {"__name__": "__main__"})
