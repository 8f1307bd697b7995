"""The exact version of this code: release, commit, and whether it was changed since.

In a checkout git says so; in an installed package, what ``setup.py`` has written down when it was built. The
hash of the source tells even versions apart that git knows nothing of.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# The folders of the package ``seigh``: in a checkout they lie at its top.
PACKAGES = ("app", "core", "migrations", "tasks")
BUILD = "build.json"  # beside this file, in an installed package

UNKNOWN = "unknown"

_ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def exact() -> dict[str, str]:
    """``seigh`` (the release), ``commit``, ``changed`` (yes or no) and ``source`` (a hash of all its files).

    Found once in a process, at its start, as the files may change while it runs. What cannot be found out is
    ``"unknown"``.
    """
    try:
        release = version("seigh-lab")
    except PackageNotFoundError:
        release = UNKNOWN
    return {"seigh": release, **(_built() or of_checkout(_ROOT)), "source": source(_ROOT)}


def in_words(details: dict[str, object]) -> str:
    """``0.1.0, 1a2b3c4d5e6f, changed``, from what ``exact`` has said; what is not known is left out."""
    parts = [str(details.get("seigh", UNKNOWN)), str(details.get("commit", UNKNOWN))[:12]]
    parts += ["changed"] if details.get("changed") == "yes" else []
    return ", ".join(part for part in parts if part != UNKNOWN)


def of_checkout(root: Path) -> dict[str, str]:
    """``commit`` and ``changed`` of a checkout; unknown without git, or if ``root`` is not this project."""
    try:
        # A virtual environment may lie in somebody else's repository.
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return {"commit": UNKNOWN, "changed": UNKNOWN}
        _git(root, "ls-files", "--error-unmatch", "core/version.py")
        changes = _git(root, "status", "--porcelain", "--", *PACKAGES, "pyproject.toml")
        return {"commit": _git(root, "rev-parse", "HEAD"), "changed": "yes" if changes else "no"}
    except (OSError, subprocess.SubprocessError):
        return {"commit": UNKNOWN, "changed": UNKNOWN}


def source(root: Path) -> str:
    """A hash of all Python files of the packages below ``root``, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(file for name in PACKAGES for file in (root / name).rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _built() -> dict[str, str] | None:
    try:
        facts = json.loads(Path(__file__).with_name(BUILD).read_text(encoding="utf-8"))
        return {name: str(facts[name]) for name in ("commit", "changed")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
