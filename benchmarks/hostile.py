"""Hostile files by the thousand, read as an upload is: ``python -m benchmarks.hostile --files 20000``.

Prints how many were refused and accepted, whether anything crashed, hung or kept this process from answering,
how much it grew at most, and whether a second reading of what was accepted gave the same. Ends with 1 unless
all is as it should be.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.outcome import Outcome, main
from seigh.core.problems import checkpoints, data
from seigh.core.problems.checkpoints import CheckpointError
from seigh.core.problems.data import DataError, files
from seigh.core.reading import parent
from tests import hostile

MIB = 2**20
MOST_GROWTH = 300 * MIB
LONGEST_SILENCE = 1.0  # seconds


@dataclass
class Figures(Outcome):
    """What became of files, and of the process that read them.

    Attributes:
        growth: Bytes by which this process grew at most beyond a file's size.
        silence: Seconds for which a thread that only sleeps was kept from running, at most.
    """

    growth: int = 0
    silence: float = 0

    @property
    def good(self) -> bool:
        return super().good and self.growth <= MOST_GROWTH and self.silence <= LONGEST_SILENCE

    def lines(self) -> Iterator[str]:
        yield from super().lines()
        yield f"highest growth of this process beyond the file {self.growth / MIB:.0f} MiB"
        yield f"longest time in which another thread could not run {self.silence:.2f} s"


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
                figures.said(str(refusal))
                found = None
            except Exception as error:  # what this looks for
                figures.crashes[number] = f"{name}: {error!r}"
                continue
            finally:
                reading.clear()
            figures.took(number, time.monotonic() - started)
            figures.growth = max(figures.growth, _memory("VmHWM") - before - len(content))
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


if __name__ == "__main__":
    parent.warm()
    main(__doc__, 20_000, lambda files, seed: examine(hostile.files(files, seed)))
