"""Hostile files by the thousand, read as an upload is: ``python -m benchmarks.hostile --files 20000``.

Prints how many were refused and accepted, whether anything crashed, hung or kept this process from answering,
how much it grew at most, and whether a second reading of what was accepted gave the same. Ends with 1 unless
all is as it should be.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from seigh.core.problems import checkpoints, data
from seigh.core.problems.checkpoints import CheckpointError
from seigh.core.problems.data import DataError, files
from seigh.core.reading import parent
from tests import hostile

MIB = 2**20
HANG = 10.0  # seconds
MOST_GROWTH = 300 * MIB
LONGEST_SILENCE = 1.0  # seconds


@dataclass
class Figures:
    """What became of files.

    Attributes:
        refused: Files that got a sentence.
        accepted: Files that were read.
        crashes: What was raised instead of a sentence, by file number.
        hangs: Files that took more than ``HANG`` seconds.
        different: Accepted files that gave something else the second time.
        slowest: Seconds of the slowest.
        growth: Bytes by which this process grew at most beyond a file's size.
        silence: Seconds for which a thread that only sleeps was kept from running, at most.
        sentences: The sentences without their names and numbers, and how often each was said.
    """

    refused: int = 0
    accepted: int = 0
    crashes: dict[int, str] = field(default_factory=dict)
    hangs: list[int] = field(default_factory=list)
    different: list[int] = field(default_factory=list)
    slowest: float = 0
    growth: int = 0
    silence: float = 0
    sentences: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        quiet = not (self.crashes or self.hangs or self.different)
        return quiet and self.growth <= MOST_GROWTH and self.silence <= LONGEST_SILENCE


def examine(made: Iterable[tuple[str, bytes]]) -> Figures:
    """Read files, and again those that are accepted."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="seigh-hostile-") as folder, _ticking(figures) as reading:
        for number, (name, content) in enumerate(made):
            path = Path(folder) / name
            path.write_bytes(content)
            _reset_peak()
            before, started = _memory("VmRSS"), time.monotonic()
            reading.set()
            try:
                found = _read(path)
            except (CheckpointError, DataError) as refusal:
                figures.refused += 1
                figures.sentences[_kind(str(refusal))] += 1
                found = None
            except Exception as error:  # what this looks for
                figures.crashes[number] = f"{name}: {error!r}"
                continue
            finally:
                reading.clear()
            seconds = time.monotonic() - started
            figures.slowest = max(figures.slowest, seconds)
            figures.growth = max(figures.growth, _memory("VmHWM") - before - len(content))
            if seconds > HANG:
                figures.hangs.append(number)
            if found is not None:
                figures.accepted += 1
                files.forget()
                if _digest(*_read(path)) != _digest(*found):
                    figures.different.append(number)
            path.unlink()
    return figures


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """All that is read from a file: what it tells, and its tensors."""
    if path.name.startswith("x."):
        dataset = data.load(str(path), "test")
        return "", {"x": dataset.x, "y": dataset.y}
    found = checkpoints.read(path)
    return repr((found.step, found.epoch, found.metrics, found.notes, found.prefix)), found.state


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(facts.encode("utf-8", "surrogatepass"))
    seen: dict[int, bytes] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            flat = tensor.reshape(-1).numpy()
            each = hashlib.sha256()
            for start in range(0, len(flat), 2**22):
                each.update(flat[start : start + 2**22].tobytes())
            seen[id(tensor)] = each.digest()
        about = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        digest.update(about.encode("utf-8", "surrogatepass") + seen[id(tensor)])
    return digest.hexdigest()


def _kind(sentence: str) -> str:
    return re.sub(r"\d[\d,.]*", "N", re.sub(r"'[^']*'", "…", sentence))[:100]


@contextmanager
def _ticking(figures: Figures) -> Iterator[threading.Event]:
    """Measure for how long a thread that only sleeps for moments cannot run, while the event is set."""
    ended, reading = threading.Event(), threading.Event()

    def tick() -> None:
        while reading.wait() and not ended.is_set():
            before = time.monotonic()
            time.sleep(0.01)
            if reading.is_set():  # else something else was between: files are made here, too
                figures.silence = max(figures.silence, time.monotonic() - before - 0.01)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield reading
    finally:
        ended.set()
        reading.set()
        thread.join()


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--sentences", action="store_true", help="Print what was said, too.")
    given = options.parse_args()
    parent.warm()
    started = time.monotonic()
    figures = examine(hostile.files(given.files, given.seed))
    print(
        f"{given.files} files, seed {given.seed}, {time.monotonic() - started:.0f} s, {os.cpu_count()} cores"
    )
    print(f"refused {figures.refused}, accepted {figures.accepted}")
    print(f"crashes {len(figures.crashes)} {list(figures.crashes.items())[:5] or ''}")
    print(f"hangs over {HANG:.0f} s {len(figures.hangs)}; slowest {figures.slowest:.1f} s")
    print(f"different when read again {len(figures.different)} {figures.different[:5] or ''}")
    print(f"highest growth of this process beyond the file {figures.growth / MIB:.0f} MiB")
    print(f"longest time in which another thread could not run {figures.silence:.2f} s")
    if given.sentences:
        for sentence, count in figures.sentences.most_common():
            print(f"{count:6} {sentence}")
    sys.exit(not figures.good)


if __name__ == "__main__":
    main()
