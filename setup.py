"""Writes into a built package which commit it was built from; all else is in pyproject.toml.

In a checkout git says so; without one, as where an image is built, SEIGH_COMMIT and SEIGH_CHANGED do.
"""

import json
import os
import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithCommit(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # there, git is asked each time
            return
        if not (ROOT / "core" / "version.py").is_file():  # as where an image installs the dependencies alone
            return
        version = runpy.run_path(str(ROOT / "core" / "version.py"))
        facts = version["of_checkout"](ROOT)
        if given := os.environ.get("SEIGH_COMMIT"):
            facts = {"commit": given, "changed": os.environ.get("SEIGH_CHANGED") or "no"}
        folder = Path(self.build_lib) / "seigh" / "core"
        if folder.is_dir():
            (folder / version["BUILD"]).write_text(json.dumps(facts), encoding="utf-8")


setup(cmdclass={"build_py": BuildWithCommit})
