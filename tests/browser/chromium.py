"""The Chromium of the browser test; ``python -m tests.browser.chromium`` sees to it that there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Path of a Chromium: ``SEIGH_TEST_CHROMIUM``, else one of the system, else Playwright's own."""
    if chosen := os.environ.get("SEIGH_TEST_CHROMIUM"):
        return chosen
    for name in NAMES:
        if path := shutil.which(name):
            return path
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def main() -> None:
    """Install the system's package where we may, else Playwright's build, unless there is a Chromium."""
    if find():
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        commands = [["apt-get", "update"], ["apt-get", "install", "--yes", "chromium"]]
    else:
        commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    for command in commands:
        subprocess.run(command, check=False)
    if not find():
        sys.exit("The browser test needs Chromium; install it, or set SEIGH_TEST_CHROMIUM to its path.")


if __name__ == "__main__":
    main()
