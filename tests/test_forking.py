"""A forked process is like one that was started, so that tests of workers see what a real one does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import wait_until
from tests.forking import Forked, seigh

PROGRAM = """
import json, os, sys
print(json.dumps({
    "variable": os.environ.get("SEIGH_FORKED"),
    "session": os.getsid(0) == os.getpid(),
    "folder": os.getcwd(),
    "customised": getattr(sys, "customised", None),
    "read": [name for name in sys.modules if name.startswith(("seigh.app", "seigh.tasks"))],
}), flush=True)
sys.exit(3)
"""


def test_it_has_its_environment_folder_session_log_and_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEIGH_FORKED", "here")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.customised = True")
    process = Forked(PROGRAM, tmp_path, tmp_path / "log")
    assert process.wait(60) == process.poll() == 3
    assert json.loads((tmp_path / "log").read_text()) == {
        "variable": "here",
        "session": True,
        "folder": str(tmp_path),
        "customised": True,
        "read": [],  # settings are read when these modules are imported
    }
    assert not hasattr(sys, "customised")


def test_it_does_not_run_the_main_file_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.py"
    page.write_text("raise RuntimeError")
    main = ModuleType("__main__")
    main.__file__ = str(page)  # as Streamlit's test of a page leaves it
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert Forked(PROGRAM, tmp_path, tmp_path / "log").wait(60) == 3


def test_it_is_waited_for_and_ends_by_a_signal(tmp_path: Path) -> None:
    process = Forked("import time; time.sleep(60)", tmp_path, tmp_path / "log")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    process.send_signal(signal.SIGKILL)  # it has gone, which is no error


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_it_is_killed_with_what_it_has_started(tmp_path: Path, delay: float) -> None:
    """At any time, also before it has a session."""
    program = "import os, time; os.fork(); open(os.environ['MINE'] + str(os.getpid()), 'w'); time.sleep(60)"
    process = Forked(program, tmp_path, tmp_path / "log", variables={"MINE": f"{tmp_path}/pid-"})
    time.sleep(delay)
    process.kill()
    assert process.poll() == -signal.SIGKILL
    started = [int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*")]
    wait_until(lambda: not any(map(running, started)), 10, "all have ended")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_command_has_its_arguments_output_errors_and_exit_status() -> None:
    assert seigh("--help").stdout.lstrip().startswith("Usage: seigh")
    refused = seigh("train", "no-problem")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("Error: There is no problem 'no-problem'")
