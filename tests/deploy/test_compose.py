"""An installation as docker-compose.yml starts it, and an analysis through it."""

from __future__ import annotations

import itertools
import json
import re
import secrets
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from seigh.core.lab.session import engine
from seigh.core.problems import architectures
from tests.deploy.compose import Stack, stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

PASSWORDS = {"POSTGRES_PASSWORD": secrets.token_hex(24), "REDIS_PASSWORD": secrets.token_hex(24)}


@pytest.fixture(scope="module")
def lab() -> Iterator[Stack]:
    """All services, up and healthy."""
    with stack(PASSWORDS) as running:
        running.start()
        yield running


def rows(lab: Stack, statement: str, password: str = PASSWORDS["POSTGRES_PASSWORD"]) -> list[Any]:
    bind = engine(f"postgresql://seigh:{password}@127.0.0.1:{lab.ports['postgres']}/seigh")
    try:
        with bind.connect() as connection:
            return list(connection.execute(text(statement)))
    finally:
        bind.dispose()


def scraped(lab: Stack) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{lab.ports['metrics']}/metrics", timeout=30) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def analysed(lab: Stack) -> list[dict[str, Any]]:
    """What an analysis that was submitted in the app's container wrote into the database."""
    torch.manual_seed(0)
    checkpoint = lab.folder / "step_000100.safetensors"
    save_file(architectures.build("tanh-mlp").state_dict(), checkpoint)
    options = ["--architecture", "tanh-mlp", "--data", "digits", "--samples", "50", "--k", "5"]
    submit = lab.services["app"].run(
        "seigh", "submit", str(checkpoint), "--model", "first", *options, "--wait"
    )
    assert submit.returncode == 0, submit.stdout + submit.stderr
    return [
        dict(row._mapping)
        for row in rows(lab, "SELECT id, state, k, hvps, worker, eigenvectors FROM analysis ORDER BY id")
    ]


def test_an_analysis_goes_through_all_services(lab: Stack, analysed: list[dict[str, Any]]) -> None:
    (analysis,) = analysed
    assert (analysis["state"], analysis["k"]) == ("finished", 5)
    assert analysis["hvps"] > 5
    values = rows(lab, "SELECT value, residual FROM eigenvalue ORDER BY position")
    assert len(values) == 5
    assert all(abs(a[0]) >= abs(b[0]) for a, b in itertools.pairwise(values))
    assert all(0 <= residual < 1e-3 * abs(values[0][0]) for _, residual in values)
    overlaps = rows(lab, "SELECT overlap FROM overlap_point WHERE mask = 'magnitude'")
    assert len(overlaps) == 5
    assert all(0 <= overlap <= 1 for (overlap,) in overlaps)
    stored = lab.folder / "volumes" / "artifacts"
    assert (stored / analysis["eigenvectors"]).is_file()
    assert len(list((stored / "checkpoints").iterdir())) == 1


def test_the_worker_is_in_the_database_and_did_the_work(lab: Stack, analysed: list[dict[str, Any]]) -> None:
    ((name, device, queues),) = rows(lab, "SELECT name, device, queues FROM worker")
    assert (device, sorted(queues)) == ("cpu", ["seigh", "seigh.cpu"])
    assert analysed[0]["worker"] == name


def test_prometheus_hears_of_it(lab: Stack, analysed: list[dict[str, Any]]) -> None:
    found = scraped(lab)
    for line in (
        'seigh_work{kind="analysis",state="finished"} 1.0',
        'seigh_work{kind="analysis",state="queued"} 0.0',
        'seigh_workers{device="cpu"} 1.0',
        "seigh_database_up 1.0",
    ):
        assert line in found.splitlines()
    (hvps,) = re.findall(r"^seigh_hvps (\S+)$", found, re.MULTILINE)
    assert float(hvps) == analysed[0]["hvps"]


def test_every_line_that_we_log_is_a_json_object_and_tells_its_work(
    lab: Stack, analysed: list[dict[str, Any]]
) -> None:
    for name in ("migrate", "app", "worker", "metrics"):
        lines = [json.loads(line) for line in lab.services[name].output.splitlines()]
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        if name == "worker":
            about = [line["message"] for line in lines if line.get("id") == analysed[0]["id"]]
            assert any("attempt 1" in message for message in about)
            assert any("finished" in message for message in about)
            assert all(line["kind"] == "analysis" for line in lines if "id" in line)


def test_the_doctor_finds_it_in_order(lab: Stack, analysed: list[dict[str, Any]]) -> None:
    said = lab.services["worker"].run("seigh", "doctor", "--json")
    findings = {each["check"]: each for each in json.loads(said.stdout)}
    assert [each for each in findings.values() if each["verdict"] == "bad"] == []
    assert said.returncode == 0
    assert {"database", "migrations", "redis", "artefacts", "scratch", "device", "workers"} <= findings.keys()
    assert all(password not in said.stdout for password in PASSWORDS.values())


def test_no_password_is_seen_and_none_but_the_right_one_works(lab: Stack) -> None:
    seen = "\n".join(lab.processes())
    assert "redis-server" in seen
    assert "seigh.tasks.serve" in seen
    assert all(password not in seen for password in PASSWORDS.values())
    assert all(
        password not in service.output for service in lab.services.values() for password in PASSWORDS.values()
    )
    with pytest.raises(OperationalError, match="password authentication failed"):
        rows(lab, "SELECT 1", password="wrong")
    redis = lab.services["redis"]
    assert "NOAUTH" in redis.run("env", "-u", "REDISCLI_AUTH", "redis-cli", "ping").stdout
    assert redis.run("redis-cli", "ping").stdout == "PONG\n"


def test_nothing_is_written_outside_the_volumes(lab: Stack, analysed: list[dict[str, Any]]) -> None:
    """The root of the containers is read-only."""
    written = [path for path in (lab.folder / "homes").rglob("*") if path.is_file()]
    assert written == []


def test_a_service_that_lost_another_is_unhealthy_until_that_is_back(lab: Stack) -> None:
    redis, worker, app = (lab.services[name] for name in ("redis", "worker", "app"))
    assert worker.healthy()
    redis.kill()
    assert not worker.healthy()
    assert app.healthy()  # results can be looked at all the same
    redis.start()
    redis.wait_until("service_healthy", 30)
    worker.wait_until("service_healthy", 60)


def test_services_end_when_they_are_told_to(lab: Stack) -> None:
    """The last test: the services are gone after it."""
    for name in ("metrics", "worker", "app", "redis", "postgres"):
        assert lab.services[name].stop() != -9, lab.services[name].output
