"""Whether an installation is in order: ``seigh doctor``, and the health checks of its containers.

Each check is a function that finds out one thing, and says in one sentence what to do if it is not in order.
Nothing is imported before the check that needs it: a health check runs every half minute.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seigh.core.logs import redact
from seigh.core.settings import Settings, SettingsError

if TYPE_CHECKING:
    from seigh.core.lab.models import Worker

Verdict = Literal["ok", "note", "bad"]
Service = Literal["app", "worker"]

_SECONDS = 5.0  # for an answer over the network
_LARGEST_SKEW = 5.0  # seconds between our clock and the database's
_LEAST_FREE = 2**30  # bytes that the scratch should have


@dataclass(frozen=True)
class Finding:
    """The finding of a check.

    Attributes:
        check: What was looked at.
        verdict: ``ok``; ``bad`` if work cannot go on like this; ``note`` if it can, but one may want to know.
        found: What it is like.
        fix: What to do about it, a sentence; empty if it is in order.
    """

    check: str
    verdict: Verdict
    found: str
    fix: str = ""


def examine(env: Settings, *, deep: bool = False) -> Iterator[Finding]:
    """Everything about the installation that ``env`` describes; ``deep``, all that is stored is read, too."""
    database = _database(env)
    yield database
    if database.verdict == "ok":
        migrations = _migrations(env)
        yield migrations
        yield _clock(env)
    yield _redis(env)
    yield _artifacts(env)
    yield _scratch(env)
    yield _reading()
    yield from _data(env)
    yield _device(env)
    if database.verdict == "ok" and migrations.verdict == "ok":
        yield _workers(env)
        if deep:
            yield _whole_database(env)
            yield from _whole_artifacts(env)
    elif deep:
        yield Finding("whole", "bad", "not looked at, as the database cannot be used", "Mend that first.")


def examine_service(env: Settings, service: Service, port: int) -> Iterator[Finding]:
    """Run the quick checks of one service, for the health check of its container."""
    database = _database(env)
    yield database
    if database.verdict != "ok":
        return
    migrations = _migrations(env)
    yield migrations
    if service == "app":
        yield _artifacts(env)
        yield _dashboard(port)
        return
    yield _redis(env)
    if migrations.verdict == "ok":
        yield _worker_here(env)


def as_json(findings: Sequence[Finding]) -> str:
    """All findings as a JSON list."""
    return json.dumps([asdict(each) for each in findings], indent=1, ensure_ascii=False)


# --- Database ---------------------------------------------------------------------------------------------


def _database(env: Settings) -> Finding:
    from sqlalchemy import make_url, select, text
    from sqlalchemy.exc import SQLAlchemyError

    from seigh.core.lab.session import in_words, sessions

    try:
        address = make_url(env.database)
        if address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
            return Finding(
                "database",
                "bad",
                f"there is no {address.database}",
                "Run 'seigh migrate' to make it, or set SEIGH_HOME or SEIGH_DATABASE_URL to where it is.",
            )
        with sessions(env.database)() as s:
            s.execute(select(1))
            if address.get_backend_name() == "sqlite":  # which has not looked into its file yet
                s.execute(text("SELECT count(*) FROM sqlite_master"))
    except (SQLAlchemyError, OSError) as error:
        sentence = in_words(error)
        if "damaged" in sentence:
            found, _, fix = sentence.partition("; ")
            return Finding("database", "bad", found, f"{fix[:1].upper()}{fix[1:]}")
        reason = redact(str(getattr(error, "orig", None) or error).strip().partition("\n")[0])
        return Finding(
            "database",
            "bad",
            f"does not answer: {reason}",
            "See that it runs, and that SEIGH_DATABASE_URL has its address, user and password.",
        )
    return Finding("database", "ok", address.render_as_string(hide_password=True))


def _migrations(env: Settings) -> Finding:
    from seigh.core.lab.session import newest_revision, revision

    present, newest = revision(env.database), newest_revision()
    if present == newest:
        return Finding("migrations", "ok", f"up to date ({newest})")
    found = f"at {present or 'none'}, this program needs {newest}"
    if present is not None and present > newest:
        return Finding(
            "migrations", "bad", found, "This program is older than its database; install the newer version."
        )
    return Finding("migrations", "bad", found, "Run 'seigh migrate'.")


def _clock(env: Settings) -> Finding:
    from seigh.core.lab.clock import present
    from seigh.core.lab.models import now
    from seigh.core.lab.session import sessions

    with sessions(env.database)() as s:
        skew = abs((present(s) - now()).total_seconds())
    if skew <= _LARGEST_SKEW:
        return Finding("clock", "ok", f"within {_LARGEST_SKEW:.0f} s of the database's")
    return Finding(
        "clock",
        "note",
        f"{skew:.0f} s from the database's",
        "Synchronise the clocks of the machines (NTP), or the times in logs will not match.",
    )


# --- Broker and dashboard ---------------------------------------------------------------------------------


def _redis(env: Settings) -> Finding:
    import redis

    address = env.redis.replace("redis+socket://", "unix://", 1)
    shown = address if address.startswith("unix:") else address.rpartition("@")[2]
    try:
        with redis.Redis.from_url(
            address, socket_connect_timeout=_SECONDS, socket_timeout=_SECONDS
        ) as client:
            client.ping()
    except redis.AuthenticationError as error:
        return Finding(
            "redis",
            "bad",
            f"{shown} refuses us: {error}",
            "Set SEIGH_REDIS_URL with the password of that Redis.",
        )
    except (redis.RedisError, OSError, ValueError) as error:
        fix = "Start 'seigh up' for this SEIGH_HOME, or set SEIGH_REDIS_URL to a Redis that runs."
        if not env.embedded_redis:
            fix = "See that Redis runs and SEIGH_REDIS_URL has its address; what is queued waits meanwhile."
        return Finding("redis", "bad", f"does not answer: {redact(str(error))}", fix)
    return Finding("redis", "ok", shown)


def _dashboard(port: int) -> Finding:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", "/_stcore/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return Finding(
            "dashboard",
            "bad",
            f"port {port} does not answer: {error}",
            "See the app's log for why it does not run.",
        )
    finally:
        connection.close()
    if status not in (200, 401):  # who has not signed in is told 401 where all is well
        return Finding("dashboard", "bad", f"port {port} answers {status}", "See the app's log; restart it.")
    return Finding("dashboard", "ok", f"answers on port {port}")


# --- Folders ----------------------------------------------------------------------------------------------


def _artifacts(env: Settings) -> Finding:
    from seigh.core.lab.space import mark, used

    folder = env.artifact_folder
    try:
        mark(folder)
        _write_and_remove(folder)
    except OSError as error:
        return Finding(
            "artefacts",
            "bad",
            f"{folder} cannot be written: {error.strerror or error}",
            "Make the folder writable for this user, or set SEIGH_ARTIFACTS to one that is.",
        )
    taken = used(folder)
    found = f"{folder}, {_gib(taken)} used, {_gib(shutil.disk_usage(folder).free)} free"
    if env.artifacts_quota is not None and taken >= env.artifacts_quota:
        return Finding(
            "artefacts",
            "bad",
            f"{found}, the quota of {_gib(env.artifacts_quota)} is used up",
            "Delete results that are no longer needed, or raise SEIGH_ARTIFACTS_QUOTA_GB.",
        )
    if shutil.disk_usage(folder).free < _LEAST_FREE:
        return Finding("artefacts", "note", found, "Make room on that disk.")
    return Finding("artefacts", "ok", found)


def _scratch(env: Settings) -> Finding:
    folder = env.scratch_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_and_remove(folder)
    except OSError as error:
        return Finding(
            "scratch",
            "bad",
            f"{folder} cannot be written: {error.strerror or error}",
            "Make the folder writable for this user, or set SEIGH_SCRATCH to one that is, best a local one.",
        )
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {_gib(free)} free"
    if free < _LEAST_FREE:
        return Finding("scratch", "note", found, "Make room there, or set SEIGH_SCRATCH to a larger disk.")
    return Finding("scratch", "ok", found)


def _reading() -> Finding:
    """Report the confinement of the process that reads files from anyone."""
    from seigh.core.reading import parent

    try:
        state = parent.state()
    except parent.Refused as error:
        return Finding("reading", "bad", str(error), "See the app's and the worker's log.")
    if state["confined"] and not state["network"]:
        return Finding(
            "reading", "ok", "files are read in a process without network, programs and write access"
        )
    return Finding(
        "reading",
        "note",
        "files are read in a process of its own, which this system does not keep from network and files",
        "Linux on x86-64 or 64-bit ARM does, unless a container's settings forbid seccomp.",
    )


def _write_and_remove(folder: Path) -> None:
    file = folder / f".doctor-{uuid.uuid4().hex}.tmp"
    try:
        file.write_bytes(b"written")
    finally:
        file.unlink(missing_ok=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


# --- Whether all is whole ---------------------------------------------------------------------------------


def _whole_database(env: Settings) -> Finding:
    from sqlalchemy.exc import SQLAlchemyError

    from seigh.core.lab import whole
    from seigh.core.lab.session import in_words, sessions

    try:
        with sessions(env.database)() as s:
            said = whole.database(s)
    except SQLAlchemyError as error:
        said = [in_words(error)]
    if said:
        return Finding("whole database", "bad", "; ".join(said), "Restore a copy of it.")
    return Finding("whole database", "ok", "every row can be read")


def _whole_artifacts(env: Settings) -> Iterator[Finding]:
    from seigh.core.lab import whole
    from seigh.core.lab.session import sessions

    with sessions(env.database)() as s:
        flaws = list(whole.artifacts(s, env.artifact_folder))
    for flaw in flaws:
        yield _flaw(flaw.key, flaw.trouble, flaw.of)
    if not flaws:
        yield Finding("whole artefacts", "ok", "each is what was stored, and none is left over")


def _flaw(key: str, trouble: str, of: str) -> Finding:
    if trouble == "orphaned":
        return Finding("artefact", "note", f"{key} belongs to nothing", "Delete it, if nobody needs it.")
    if trouble == "temporary":
        fix = "Workers delete it when nobody has written to it for ten minutes."
        return Finding("artefact", "note", f"{key} was not finished", fix)
    said = {"missing": "is gone", "damaged": "is damaged", "unreadable": "cannot be read"}[trouble]
    fix = "Submit it again."
    if key.startswith("eigenvectors/"):
        fix = "Delete the analysis and run it again, or compare it: then it is computed anew."
        if trouble == "missing":
            fix = "Delete the analysis and run it again; its numbers are in the database."
    return Finding("artefact", "bad", f"{key} of {of} {said}", fix)


# --- Data, devices, workers -------------------------------------------------------------------------------


def _data(env: Settings) -> Iterator[Finding]:
    from seigh.core.problems import data

    for name in data.names():
        facts = data.describe(name, env=env)
        if facts.missing:
            yield Finding(f"data {name}", "note", f"not in {env.data_folder}", facts.how)
        else:
            yield Finding(f"data {name}", "ok", facts.about)


def _device(env: Settings) -> Finding:
    from seigh.core.device import describe_apart

    try:
        device = describe_apart(env.device)
    except SettingsError as error:
        found, _, fix = str(error).partition("; ")
        return Finding("device", "bad", found, f"{fix[:1].upper()}{fix[1:]}")
    found = f"{device.kind} ({device.name}), {_gib(device.memory)}, torch {version('torch')}"
    return Finding("device", "ok", found)


def _workers(env: Settings) -> Finding:
    from seigh.core.lab import workers
    from seigh.core.lab.session import sessions

    with sessions(env.database)() as s:
        alive = workers.alive(s)
    if not alive:
        return Finding("workers", "bad", "none is alive", "Start one with 'seigh worker', or 'seigh up'.")
    found = ", ".join(f"{each.name} ({each.device})" for each in alive)
    if elsewhere := _with_other_artifacts(alive, env):
        return Finding(
            "workers",
            "bad",
            f"{found}; another artefact folder is seen by {', '.join(elsewhere)}",
            "Set SEIGH_ARTIFACTS to one shared folder for the app and every worker.",
        )
    return Finding("workers", "ok", found)


def _with_other_artifacts(alive: Sequence[Worker], env: Settings) -> list[str]:
    from seigh.core.lab.space import mark

    try:
        ours = mark(env.artifact_folder)
    except OSError:
        return []  # which is another finding
    return [each.name for each in alive if each.artifacts != ours]


def _worker_here(env: Settings) -> Finding:
    """Whether a worker of this machine, or container, is alive."""
    from seigh.core.lab import workers
    from seigh.core.lab.session import sessions

    with sessions(env.database)() as s:
        here = [each.name for each in workers.alive(s) if each.host == socket.gethostname()]
    if not here:
        return Finding(
            "worker", "bad", f"none on {socket.gethostname()} is alive", "See the worker's log; restart it."
        )
    return Finding("worker", "ok", ", ".join(here))


def report(findings: Iterator[Finding], say: Callable[[str], None]) -> bool:
    """Say each finding as it comes; whether none is bad."""
    marks = {"ok": "ok ", "note": "–  ", "bad": "BAD"}
    good = True
    for each in findings:
        say(f"{marks[each.verdict]} {each.check}: {each.found}")
        if each.fix:
            say(f"      {each.fix}")
        good = good and each.verdict != "bad"
    return good
