"""One method in a process of its own: ``python -m benchmarks.child METHOD TASK.json THREADS OUT.json``."""

from __future__ import annotations

import time

_START = time.perf_counter()

import importlib  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from benchmarks.methods import LATE, METHODS, PEERS, Found  # noqa: E402
from benchmarks.problems import Task, measured_residuals  # noqa: E402

_STATUS = Path("/proc/self/status")


def main(method: str, task_file: str, threads: str, out: str) -> None:
    task = Task(**json.loads(Path(task_file).read_text()))
    torch.set_num_threads(int(threads))
    for module in (*LATE, *PEERS.get(method, ())):
        importlib.import_module(module)
    imported = time.perf_counter() - _START
    modules = set(sys.modules)

    _reset_peak()
    baseline = _memory("VmRSS")
    start, start_cpu = time.perf_counter(), time.process_time()
    found = METHODS[method](task)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = _memory("VmHWM")

    figures: dict[str, Any] = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "import_seconds": imported,
        "late_imports": len(set(sys.modules) - modules),
        "peak_bytes": max(0, peak - baseline),
        "hvps": found.hvps,
        "stages": found.stages,
        "overlap": found.overlap.tolist(),
        "values": found.values.tolist(),
    }
    if "--check" in sys.argv:
        figures |= _check(task, found)
    Path(out).write_text(json.dumps(figures))


def _check(task: Task, found: Found) -> dict[str, float]:
    """Residuals by products of another code, and how far from orthonormal the vectors are."""
    vectors = found.vectors()
    residuals = measured_residuals(task, found.values, vectors) / abs(float(found.values[0]))
    deviation = vectors.double().T @ vectors.double() - torch.eye(vectors.shape[1], dtype=torch.float64)
    return {"largest_residual": float(residuals.max()), "orthogonality": float(deviation.abs().max())}


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("The peak of the imports cannot be reset here; peak memory may include it.", file=sys.stderr)


def _memory(name: str) -> int:
    """A line of /proc/self/status in bytes; elsewhere than on Linux the peak of the whole process."""
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(*[argument for argument in sys.argv[1:] if not argument.startswith("--")])
