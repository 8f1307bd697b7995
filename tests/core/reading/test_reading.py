"""Files are read in a process that may die, and nothing it does reaches the one that asks."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.hostile import examine
from seigh.core.problems import checkpoints
from seigh.core.problems.checkpoints import CheckpointError
from seigh.core.reading import parent
from seigh.core.reading.parent import Refused
from tests import hostile
from tests.conftest import ROOT, wait_until
from tests.forking import Forked


def script(program: str, *arguments: object, seconds: float = 60) -> list[str]:
    """The lines that a program prints, in a process that has imported nothing before."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=True, timeout=seconds, cwd=ROOT,
    )  # fmt: skip
    return done.stdout.splitlines()


def forked(program: str, tmp_path: Path, *arguments: object) -> list[str]:
    """The lines that a program prints, in a process that need not import PyTorch first."""
    log, errors = tmp_path / "log", tmp_path / "errors"
    given = f"import sys; sys.argv[1:] = {list(map(str, arguments))}\n"
    process = Forked(given + program, ROOT, log, errors, {"SEIGH_READING_SECONDS": "0.5"})
    try:
        assert process.wait(60) == 0, errors.read_text()
    finally:
        process.kill()
    return log.read_text().splitlines()


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        checkpoints.read(path)
    return str(refused.value)


# --- Files that were seen -----------------------------------------------------------------------------------


def test_a_pickle_that_takes_for_ever_stops_nobody_else(tmp_path: Path) -> None:
    """In any of the old format's five; in a process of its own, which would not come back otherwise."""
    (folder := tmp_path / "files").mkdir()
    for number in range(1, 5):
        (folder / f"{number}.pt").write_bytes(hostile.doubled_in_pickle(number))
    printed = forked(
        "import threading, time; from pathlib import Path; from seigh.core.problems import checkpoints\n"
        "ticks = []\n"
        "def tick():\n"
        "    while True: ticks.append(time.monotonic()); time.sleep(0.01)\n"
        "threading.Thread(target=tick, daemon=True).start()\n"
        "for file in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    before = len(ticks)\n"
        "    try: checkpoints.read(file); print('read')\n"
        "    except checkpoints.CheckpointError as error: print(len(ticks) - before > 20, error)\n",
        tmp_path,
        folder,
    )
    *endless, listed = printed
    assert len(endless) == 3
    for line in endless:
        assert line.startswith("True")
        assert "takes more than 1 s to be read, the limit for a file of its size" in line
    assert "damaged or incomplete" in listed  # the list of keys: nothing but text is looked up


def test_a_storage_without_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(hostile.fewer_keys())
    assert "damaged or incomplete" in refusal(tmp_path / "a.pt")


def test_bytes_that_a_pickle_claims_and_does_not_hold_are_not_asked_memory_for(tmp_path: Path) -> None:
    """CPython prints a SystemError of it where another object had been in that place of the memory."""
    claim = hostile.PROTO + b"\x96" + (2**62).to_bytes(8, "little") + b"abc" + hostile.STOP
    held = bytearray(os.urandom(17 * 2**20)) + b"\x96" + b"\xff" * 8
    (tmp_path / "claim.pkl").write_bytes(claim)
    (tmp_path / "held.pkl").write_bytes(pickle.dumps([held, "\x96" * 20], 5))
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import io, sys; from pathlib import Path; from seigh.core.reading.pickles import Unpickler\n"
            "from seigh.core.reading.words import Refusal\n"
            "claim, held = sorted(Path(sys.argv[1]).iterdir())\n"
            "filled = [b'\\xff' * 23 for _ in range(10_000)]; del filled\n"
            "for _ in range(100):\n"
            "    try: Unpickler(io.BytesIO(claim.read_bytes()), 'a').follow()\n"
            "    except Refusal as error: said = str(error)\n"
            "print(said)\n"
            "stream = io.BytesIO(held.read_bytes() + b'rest')\n"
            "found = Unpickler(stream, 'a').follow()\n"
            "print(len(found[0]), found[0][-9:].hex(), len(found[1]), stream.read())",
            str(tmp_path),
        ],
        capture_output=True, text=True, check=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.stderr == ""
    refused, read = done.stdout.splitlines()
    assert "damaged" in refused
    assert read == f"{len(held)} 96{'ff' * 8} 20 b'rest'"


@pytest.mark.parametrize("turned", [False, True])
def test_an_archive_with_two_directories_is_refused(turned: bool, tmp_path: Path) -> None:
    weights = hostile.mapping(hostile.strided(8, (8,), (1,)))
    both = [hostile.archive(weights, ("a/data/0", numbers)) for numbers in (bytes(32), hostile.EIGHT)]
    (tmp_path / "a.pt").write_bytes(hostile.two_directories(*(reversed(both) if turned else both)))
    assert "can be understood in two ways" in refusal(tmp_path / "a.pt")


def test_hostile_files_get_a_sentence_or_are_read_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEIGH_READING_SECONDS", "1")
    figures = examine(hostile.files(150, seed=1))  # ``python -m benchmarks.hostile`` takes thousands
    assert figures.refused + figures.accepted == 150
    assert figures.accepted >= 10
    assert (figures.crashes, figures.hangs, figures.different) == ({}, [], [])
    assert figures.growth < 300 * 2**20


def test_what_hostile_files_are_made_of_is_good_by_itself() -> None:
    assert examine(hostile.honest()).accepted == len(hostile.honest())


# --- The child ----------------------------------------------------------------------------------------------

ATTEMPTS = """
import ctypes, mmap, os, socket, subprocess, sys, threading
from seigh.core.reading import confinement
from seigh.core.reading.words import Limits
kept = open(sys.argv[1], "wb")
assert confinement.confine(Limits(memory=2**28, seconds=2, output=2**20)) == (sys.platform == "linux")
kept.write(b"still open"), kept.flush()
thread = threading.Thread(target=lambda: print("a thread"))
thread.start(), thread.join()
print(len(open(sys.argv[2], "rb").read()))
for attempt in (
    lambda: socket.socket(), lambda: socket.socketpair(), lambda: os.fork(),
    lambda: subprocess.run(["true"]), lambda: os.execv("/bin/true", ["true"]),
    lambda: open(sys.argv[1] + "x", "wb"), lambda: open(sys.argv[2], "ab"), lambda: os.unlink(sys.argv[2]),
    lambda: os.rename(sys.argv[2], sys.argv[1]), lambda: os.kill(os.getppid(), 0),
    lambda: os.mkdir(sys.argv[1] + "d"),
    lambda: os.chmod(sys.argv[2], 0o777), lambda: os.symlink(sys.argv[2], sys.argv[1] + "l"),
):
    try: print("done", attempt())
    except PermissionError: print("refused")
try: print("done", len(bytearray(2**29)))
except MemoryError: print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_a_child_reaches_no_network_no_program_no_process_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"12345")
    printed = script(ATTEMPTS, tmp_path / "kept", tmp_path / "there")
    assert printed[:2] == ["a thread", "5"]
    assert printed[2:] == ["refused"] * 14
    assert (tmp_path / "kept").read_bytes() == b"still open"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept", "there"]


def test_a_child_of_the_warm_process_is_confined() -> None:
    assert parent.state() == {"confined": sys.platform == "linux", "network": False, "memory": False}


def test_the_warm_process_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEIGH_DATABASE_URL", "postgresql://lab:secret@nowhere/lab")
    parent._process().close()
    parent.warm()
    assert b"secret" not in Path(f"/proc/{warm_process()}/environ").read_bytes()


def test_a_child_that_waits_for_ever_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").write_bytes(hostile.doubled_in_pickle(3))
    parent.warm()
    monkeypatch.setattr(parent, "_PATIENCE", 0.05)  # by the clock, long before the limit of CPU time
    assert "takes more than" in refusal(tmp_path / "a.pt")
    assert Path(f"/proc/{warm_process()}/task/{warm_process()}/children").read_text().split() == []


@pytest.mark.parametrize(("what", "limit"), [("memory_gb", "0.001"), ("seconds", "0.001")])
def test_a_lab_sets_the_limits(
    what: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "good.pt")
    bomb = hostile.called(hostile.name("builtins", "bytearray"), hostile.integer(2**25))
    endless = hostile.archive(hostile.mapping(b"N", key=hostile.DOUBLED))
    (tmp_path / "a.pt").write_bytes(
        hostile.archive(hostile.mapping(bomb)) if what == "memory_gb" else endless
    )
    monkeypatch.setenv(f"SEIGH_READING_{what.upper()}", limit)
    assert f"SEIGH_READING_{what.upper()}" in refusal(tmp_path / "a.pt")


# --- The process that asks ----------------------------------------------------------------------------------


def warm_process() -> int:
    """Process id of the warm process."""
    zygote = parent._process()._zygote
    assert zygote is not None
    return zygote._process.pid


@pytest.fixture
def good(tmp_path: Path) -> Path:
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "good.pt")
    return tmp_path / "good.pt"


def test_a_warm_process_that_was_killed_is_replaced(good: Path) -> None:
    parent.warm()
    before = warm_process()
    os.kill(before, signal.SIGKILL)
    assert checkpoints.read(good).state["w"].sum() == 499_500
    assert warm_process() != before


def test_many_threads_read_at_once(good: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(hostile.fewer_keys())

    def read(number: int) -> float:
        try:
            return float(checkpoints.read(tmp_path / "bad.pt" if number % 3 else good).state["w"].sum())
        except CheckpointError:
            return -1

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read, range(48)))
    assert found == [-1 if number % 3 else 499_500 for number in range(48)]


def test_a_forked_process_has_a_warm_process_of_its_own(good: Path, tmp_path: Path) -> None:
    """As Celery's workers are: forked from a process that may have read a file, by any of its threads."""
    printed = forked(
        "import os, threading; from pathlib import Path; from seigh.core.problems import checkpoints\n"
        "from seigh.core.reading import parent\n"
        "checkpoints.read(Path(sys.argv[1]))\n"
        "before = parent._process()._zygote._process.pid\n"
        "with parent._process()._starting:\n"
        "    child = os.fork()\n"
        "if not child:\n"
        "    print(float(checkpoints.read(Path(sys.argv[1])).state['w'].sum()), flush=True)\n"
        "    print(parent._process()._zygote._process.pid != before, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(float(checkpoints.read(Path(sys.argv[1])).state['w'].sum()))\n"
        "print(parent._process()._zygote._process.pid == before)\n",
        tmp_path,
        good,
    )
    assert printed == ["499500.0", "True", "499500.0", "True"]


def test_nothing_outlives_the_process_that_asked(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(hostile.doubled_in_pickle(3))
    program = (
        "from pathlib import Path; from seigh.core.problems import checkpoints\n"
        "from seigh.core.reading import parent\n"
        "parent.warm(); print(parent._process()._zygote._process.pid, flush=True)\n"
        f"checkpoints.read(Path({str(tmp_path / 'a.pt')!r}))\n"
    )
    log = tmp_path / "log"
    asking = Forked(program, ROOT, log)
    try:
        wait_until(lambda: log.read_text().endswith("\n"), 60, "the warm process is there")
        warm = int(log.read_text())
        children = Path(f"/proc/{warm}/task/{warm}/children")
        wait_until(lambda: bool(children.read_text().split()), 20, "the child reads")
        child = int(children.read_text())
    finally:
        asking.send_signal(signal.SIGKILL)  # alone, without those that it has started
    for process in (warm, child):
        wait_until(lambda process=process: not is_alive(process), 5, "it ends")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


GOOD = {"types": [["float32", 1]], "shapes": ["2x2"], "names": ["w"], "which": [0]}


@pytest.mark.parametrize(
    "changes",
    [
        {"types": [["float64", 1]]}, {"types": [["float32", 2]]}, {"types": [["object", 1]]}, {"types": None},
        {"types": []}, {"shapes": ["2x3"]}, {"shapes": ["-2x-2"]}, {"shapes": ["a"]}, {"shapes": [4]},
        {"which": [1]}, {"which": ["0"]}, {"which": []}, {"names": []}, {"names": 3},
        {"shapes": ["2x2", "0"]},
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_the_numbers_is_not_believed(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    with (tmp_path / "numbers").open("w+b") as numbers:
        numbers.write(bytes(16))
        numbers.flush()
        assert parent._tensors(GOOD, numbers)["w"].shape == (2, 2)
        with pytest.raises(Refused, match="no usable answer"):
            parent._tensors(GOOD | changes, numbers)


def test_what_is_read_is_ours_to_change(good: Path) -> None:
    first, second = checkpoints.read(good).state["w"], checkpoints.read(good).state["w"]
    first.zero_()
    assert second.sum() == 499_500
