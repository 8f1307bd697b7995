"""Which code it was: in a checkout, beside one, and in a built package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from seigh.core import version
from seigh.core.version import PACKAGES, UNKNOWN, exact, in_words, of_checkout, source

ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout of the same form as ours."""
    folder = tmp_path / "checkout"
    for name in PACKAGES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
        (folder / "seigh").mkdir(exist_ok=True)
        (folder / "seigh" / name).symlink_to(Path("..", name))
    (folder / "seigh" / "__init__.py").touch()
    shutil.copy(ROOT / "core" / "version.py", folder / "core")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert of_checkout(checkout) == {"commit": commit, "changed": "no"}
    before = source(checkout)
    (checkout / "README.md").write_text("not code")
    assert of_checkout(checkout)["changed"] == "no"
    assert source(checkout) == before
    (checkout / "tasks" / "__init__.py").write_text("new = 1\n")
    assert of_checkout(checkout) == {"commit": commit, "changed": "yes"}
    assert source(checkout) != before


def test_somebody_elses_repository_is_not_ours(checkout: Path) -> None:
    installed = checkout / ".venv" / "site-packages"
    shutil.copytree(checkout / "core", installed / "core")
    assert of_checkout(installed) == {"commit": UNKNOWN, "changed": UNKNOWN}
    git(checkout, "rm", "--quiet", "--cached", "core/version.py")
    assert of_checkout(checkout) == {"commit": UNKNOWN, "changed": UNKNOWN}


def test_this_code_tells_itself_and_says_it_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    details = exact()
    assert details.keys() == {"seigh", "commit", "changed", "source"}
    assert details["source"] == source(ROOT)
    assert (
        in_words({"seigh": "0.1.0", "commit": "1a" * 20, "changed": "yes"}) == "0.1.0, 1a1a1a1a1a1a, changed"
    )
    assert in_words({"seigh": "0.1.0"}) == "0.1.0"
    assert in_words({}) == ""
    monkeypatch.setenv("PATH", "/nowhere")  # without git
    assert version.of_checkout(ROOT) == {"commit": UNKNOWN, "changed": UNKNOWN}


@pytest.mark.parametrize("given", [None, "f" * 40])
def test_a_built_package_has_it_written_down(checkout: Path, tmp_path: Path, given: str | None) -> None:
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("SEIGH_", "PYTHON"))
    }
    variables |= {} if given is None else {"SEIGH_COMMIT": given}
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=checkout,
        env=variables,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        facts = json.loads(archive.read("seigh/core/build.json"))
    assert facts == {"commit": given or git(checkout, "rev-parse", "HEAD"), "changed": "no"}
