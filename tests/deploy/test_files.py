"""What the files of an installation say, before anything is started."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib
from typing import Any

import pytest

from tests.deploy.compose import ROOT, VENV, MissingVariable, image_environment, load, read_env

SECRETS = {"POSTGRES_PASSWORD": "pg-word", "REDIS_PASSWORD": "redis-word"}
OURS = ("migrate", "app", "worker", "worker-gpu", "metrics")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load(SECRETS)


def test_the_compose_file_keeps_to_the_specification() -> None:
    command = [VENV / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_dockerfile_pleases_its_linter() -> None:
    run = subprocess.run(
        [VENV / "hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "")


def test_nothing_starts_without_passwords_of_ones_own() -> None:
    example = read_env((ROOT / ".env.example").read_text())
    assert example == {"POSTGRES_PASSWORD": "", "REDIS_PASSWORD": ""}
    for missing in SECRETS:
        with pytest.raises(MissingVariable, match=f"set {missing} in .env"):
            load(SECRETS | {missing: ""})


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    said = set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used == said


def test_only_this_machine_reaches_the_app_and_nobody_the_servers(compose: dict[str, Any]) -> None:
    published = {name: each["ports"] for name, each in compose["services"].items() if "ports" in each}
    assert published == {"app": ["127.0.0.1:8501:8501"], "metrics": ["127.0.0.1:9464:9464"]}
    assert compose["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "redis", "migrate", "worker", "worker-gpu"):
        assert compose["services"][name]["networks"] == ["inside"]


def test_every_service_is_hardened_and_starts_again(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
        assert ("healthcheck" in service) == (name != "migrate")
        assert "/tmp" in service["tmpfs"]
        assert re.fullmatch(r"\d+g", service["mem_limit"])
        assert 0 < service["pids_limit"] <= 512
        if name not in OURS:
            assert service["user"] == name


def test_services_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("app", "worker", "worker-gpu"):
        needs = {other: each["condition"] for other, each in services[name]["depends_on"].items()}
        assert needs == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "redis": "service_healthy",
        }


def test_the_gpu_is_reserved_for_its_profile_alone(compose: dict[str, Any]) -> None:
    with_profile = {name for name, each in compose["services"].items() if "profiles" in each}
    assert with_profile == {"worker-gpu"}
    worker = compose["services"]["worker-gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    assert worker["image"] != compose["services"]["worker"]["image"]
    assert "/cu" in worker["build"]["args"]["TORCH_INDEX"]
    assert worker["build"]["context"] == "."


def test_volumes_are_named_and_their_places_exist_in_the_image(compose: dict[str, Any]) -> None:
    made = (ROOT / "Dockerfile").read_text()
    for name in OURS:
        for volume in compose["services"][name].get("volumes", []):
            source, target, *_ = volume.split(":")
            assert source in compose["volumes"]
            assert target in made  # by root there, and given to the user who writes into it
    assert load(SECRETS | {"SEIGH_DATA_FOLDER": "/srv/data"})["services"]["app"]["volumes"][-1] == (
        "/srv/data:/var/lib/seigh/data:ro"
    )


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    text = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert {"app", "tasks", "core", "migrations", "constraints.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    assert "*" in ignored  # anything else, a .env above all, stays outside
    assert not any(fnmatch.fnmatch(".env", line[1:]) for line in ignored if line.startswith("!"))


def test_the_image_runs_the_project_as_somebody_without_rights() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (entrypoint,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', text, re.MULTILINE)
    assert entrypoint in scripts
    assert "--constraint constraints.txt" in text
    assert image_environment()["SEIGH_HOME"] == "/var/lib/seigh"


def test_the_image_is_built_with_hashes_of_all_but_pytorch() -> None:
    pins = set(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"^(?=\w)", lock, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    locked = set()
    for entry in entries:
        name, pin = re.match(r"([\w.-]+)==([^\s;\\]+)", entry).groups()
        assert (name, pin) in pins
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
        locked.add(name)
    assert not [name for name in locked if re.match(r"(torch|torchvision|triton)$|nvidia-|cuda-", name)]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w.-]+", each)[0] for each in wanted}
    assert names - locked == {"torch", "torchvision"}
    assert "--require-hashes --no-deps --requirement requirements.lock" in (ROOT / "Dockerfile").read_text()


def test_images_can_be_given_by_digest() -> None:
    digest = "@sha256:" + "0" * 64
    given = {f"SEIGH_{name}_IMAGE": f"{name.lower()}{digest}" for name in ("PYTHON", "POSTGRES", "REDIS")}
    services = load(SECRETS | given)["services"]
    assert services["postgres"]["image"] == f"postgres{digest}"
    assert services["redis"]["image"] == f"redis{digest}"
    for name in OURS:
        assert services[name]["build"]["args"]["PYTHON_IMAGE"] == f"python{digest}"
