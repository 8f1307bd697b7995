"""Commands for whoever runs an installation: its single services, and whether it is in order."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from seigh.app.cli import launch
from seigh.app.cli.doctor import Service, as_json, examine, examine_service, report
from seigh.core import logs, private
from seigh.core.access import OPERATOR
from seigh.core.names import Place
from seigh.core.settings import Settings, SettingsError

operations = typer.Typer()

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 means all addresses.")]


def environment(**changes: Any) -> Settings:
    """The configuration from the environment, with changes.

    Raises:
        SettingsError: If a variable is not usable.
    """
    try:
        env = Settings(**changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"SEIGH_{str(first['loc'][0]).upper()} is not usable: {first['msg']}.") from error
    private.begin(env)
    return env


@operations.command()
def app(
    host: Host = launch.HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard.")] = launch.PORT,
    behind_proxy: Annotated[
        bool,
        typer.Option("--behind-proxy", help="A proxy in front names who signed in, or admits only some."),
    ] = False,
) -> None:
    """Serve the dashboard alone; Redis, the database and workers run elsewhere.

    On a loopback address everybody who reaches it is this machine's user; on any other, people sign in with
    the accounts of 'seigh user' or with OpenID Connect.
    """
    from seigh.app.gate.visitors import access
    from seigh.core.lab.session import migrate as migrate_database

    env = environment()
    migrate_database(env.database)
    access(env, host, behind_proxy)  # refuses what would be open to everybody
    _become(launch.dashboard_command(port, host, behind_proxy), env)


@operations.command()
def migrate() -> None:
    """Upgrade the database to this version; running several at once does no harm."""
    from seigh.core.lab.session import migrate as migrate_database

    migrate_database(environment().database)


@operations.command()
def worker(
    concurrency: Annotated[int, typer.Option(min=1, help="Pieces of work at once, on a CPU.")] = 1,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda, cuda:1, …; SEIGH_DEVICE if not given. One worker for each GPU."),
    ] = None,
    queue: Annotated[
        Place | None,
        typer.Option(help="Take only work for any, cpu or gpu; if not given, what suits the device."),
    ] = None,
) -> None:
    """Run a worker, which does the lab's work until Ctrl-C."""
    from seigh.core.device import describe_apart
    from seigh.core.lab.session import migrate as migrate_database
    from seigh.tasks.queues import QUEUES, places_of

    env = environment(**({} if device is None else {"device": device}))
    if env.embedded_redis and not launch.redis_answers(env):
        raise launch.LaunchError(
            "There is no queue to work for: start 'seigh up' for this SEIGH_HOME, or set SEIGH_REDIS_URL."
        )
    facts = describe_apart(env.device)
    if facts.uuid is not None:
        if concurrency > 1:
            raise SettingsError(
                f"One worker does one thing at a time on {env.device}, whose memory it plans with; "
                "leave --concurrency out, and start a worker for each GPU."
            )
        _hold(facts.uuid, env.device)
    migrate_database(env.database)
    queues = [QUEUES[place] for place in ([queue] if queue else places_of(facts.kind))]
    _become(launch.celery_command(concurrency, queues), env)


def _become(command: list[str], env: Settings) -> None:
    """Go on as another program, which gets our configuration."""
    os.execve(command[0], command, os.environ | {"SEIGH_HOME": str(env.root), "SEIGH_DEVICE": env.device})


def _hold(uuid: str, device: str) -> None:
    """Hold a GPU's lock as long as this process and its children live, whatever programs they become.

    Raises:
        LaunchError: If another worker of this machine holds it.
    """
    path = Path(tempfile.gettempdir()) / f"seigh-{os.getuid()}-{uuid}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise launch.LaunchError(
            f"Another worker of this machine uses {device} already; end it, or choose another --device."
        ) from error
    os.set_inheritable(lock, True)


@operations.command()
def metrics(
    host: Host = launch.HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of /metrics.")] = 9464,
) -> None:
    """Serve metrics of the queue, the workers and the artefacts to Prometheus."""
    from seigh.app.cli.monitoring import serve

    env = environment()
    logs.configure(env.log)
    serve(env, host, port)


@operations.command()
def doctor(
    service: Annotated[
        Service | None, typer.Option(help="Check only what this service needs, quickly.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the app.")] = launch.PORT,
    as_list: Annotated[bool, typer.Option("--json", help="Write the findings as JSON.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare every stored file with its checksum.")
    ] = False,
) -> None:
    """Check the installation and say how to fix problems; the exit code is 1 if there is one."""
    env = environment()
    findings = examine(env, deep=deep) if service is None else examine_service(env, service, port)
    if as_list:
        found = list(findings)
        print(as_json(found))
        good = all(each.verdict != "bad" for each in found)
    else:
        good = report(findings, print)
    raise typer.Exit(0 if good else 1)


@operations.command()
def pin(
    analyses: Annotated[list[int], typer.Argument(help="Numbers of analyses.")],
    undo: Annotated[
        bool, typer.Option("--undo", help="Keep them no longer than the eigenvectors of others.")
    ] = False,
) -> None:
    """Keep the eigenvectors of analyses permanently, regardless of SEIGH_RETENTION_DAYS."""
    from seigh.core.lab import actions
    from seigh.core.lab.session import sessions

    with sessions(environment().database).begin() as s:
        for number in analyses:
            actions.pin(s, OPERATOR, number, not undo)
