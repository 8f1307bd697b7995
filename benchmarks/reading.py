"""Honest files read as an upload is, beside PyTorch's and safetensors' own loaders, in one run.

``python -m benchmarks.reading --gib 1 --tensors 30000``: seconds (the least of the repeats), CPU seconds of
all processes, and by how much this process and the children grew. Each reader runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from seigh.core.problems import checkpoints
from seigh.core.reading import parent

_STATUS = Path("/proc/self/status")


def _ours(file: Path) -> object:
    return checkpoints.read(file).state


def _theirs(file: Path) -> object:
    """With what they lack and ours does, that the numbers are looked at."""
    found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    return {name: bool(tensor.isfinite().all()) for name, tensor in found.items()}


def _theirs_alone(file: Path) -> object:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


_READERS: dict[str, Callable[[Path], object]] = {
    "ours": _ours, "theirs": _theirs_alone, "theirs, numbers looked at": _theirs,
}  # fmt: skip


def measure(reader: str, file: Path, repeats: int) -> dict[str, float]:
    """Read a file some times in this process."""
    parent.warm()
    read = _READERS[reader]
    read(file)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    seconds = []
    cpu = _cpu()
    for _ in range(repeats):
        started = time.perf_counter()
        read(file)
        seconds.append(time.perf_counter() - started)
    cpu = _cpu() - cpu
    grown = _memory("VmHWM") - before
    parent._process().close()  # so that its children's time and memory are known
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu += (children.ru_utime + children.ru_stime) * repeats / (repeats + 1) if reader == "ours" else 0
    return {
        "seconds": min(seconds),
        "cpu_seconds": cpu / repeats,
        "grown_mib": grown / 2**20,
        "children_mib": children.ru_maxrss / 2**10,
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) * 1024 if found else 0


def _files(folder: Path, gib: float, tensors: int) -> dict[str, Path]:
    large = {f"layer{number}.weight": torch.randn(int(gib * 2**24)) for number in range(16)}
    small = {f"layers.{number}.weight": torch.randn(8) for number in range(tensors)}
    found = {}
    for name, state in ((f"{gib:g} GiB", large), (f"{tensors:,} tensors", small)):
        for suffix, save in ((".pt", torch.save), (".safetensors", save_file)):
            file = folder / f"{len(found)}{suffix}"
            save(state, file)
            found[f"{name} {suffix}"] = file
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--gib", type=float, default=1)
    options.add_argument("--tensors", type=int, default=30_000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--json", type=Path)
    options.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], Path(given.one[1]), given.repeats)))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="seigh-reading-") as folder:
        files = _files(Path(folder), given.gib, given.tensors)
        print(f"{'':38}{'s':>8}{'CPU s':>8}{'grown MiB':>11}{'child MiB':>11}{'ratio':>7}")
        for name, file in files.items():
            for reader in ("theirs", "theirs, numbers looked at", "ours"):
                found = _apart(reader, file, given.repeats)
                figures[f"{name}, {reader}"] = found
                ratio = found["seconds"] / figures[f"{name}, theirs"]["seconds"]
                print(
                    f"{name + ', ' + reader:38.38}{found['seconds']:8.2f}{found['cpu_seconds']:8.2f}"
                    f"{found['grown_mib']:11.0f}{found['children_mib']:11.0f}{ratio:7.2f}",
                    flush=True,
                )
    if given.json:
        given.json.write_text(json.dumps(figures | {"load": os.getloadavg()}))


def _apart(reader: str, file: Path, repeats: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.reading",
        "--one",
        reader,
        str(file),
        "--repeats",
        str(repeats),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
