"""Eigenpairs and overlap curve at one checkpoint: our methods beside every existing code.

``python -m benchmarks.spectra``; README.md says what is measured and how.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks import report
from benchmarks.methods import METHODS, OURS, PEERS
from benchmarks.problems import CACHE, PROBLEMS, Task, Truth, make, truth
from seigh.core.problems.architectures import parameter_count

ROOT = Path(__file__).parents[1]

_COLUMNS = [
    "method",
    "seconds",
    "slowest",
    "CPU s",
    "× ours",
    "HVPs",
    "peak MiB",
    "overlap error",
    "at k",
    "residual",
    "|VᵀV−I|",
]


def run(method: str, task: Task, threads: int, *, check: bool) -> dict[str, Any]:
    """One run of a method in a fresh process of this process group."""
    with tempfile.TemporaryDirectory() as folder:
        task_file, out = Path(folder, "task.json"), Path(folder, "out.json")
        task_file.write_text(task.to_json())
        python = [sys.executable, "-W", "ignore::FutureWarning", "-m", "benchmarks.child"]
        command = [*python, method, str(task_file), str(threads), str(out)]
        count = str(threads)
        environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        subprocess.run(command + (["--check"] if check else []), cwd=ROOT, env=environment, check=True)
        figures: dict[str, Any] = json.loads(out.read_text())
        return figures


def measure(method: str, task: Task, exact: Truth | None, *, repeats: int, threads: int) -> dict[str, Any]:
    """A method's figures: time is the least of the repeats, everything else that of the last one."""
    runs = [run(method, task, threads, check=number == repeats - 1) for number in range(repeats)]
    seconds = [figures["seconds"] for figures in runs]
    figures = runs[-1] | {
        "seconds": min(seconds),
        "cpu_seconds": min(figures["cpu_seconds"] for figures in runs),
        "slowest": max(seconds),
        "peak_bytes": max(figures["peak_bytes"] for figures in runs),
    }
    fastest = runs[int(np.argmin(seconds))]
    figures["stages"], figures["late_imports"] = fastest["stages"], runs[0]["late_imports"]
    if exact is not None:
        errors = exact.errors(np.array(figures["overlap"]))
        figures |= {
            "overlap_error_worst": float(errors.max()),
            "overlap_error_worst_k": int(errors.argmax()) + 1,
            "overlap_error_at_k": float(errors[-1]),
        }
    return figures


def available(method: str) -> bool:
    """Whether the packages a method needs are installed."""
    return all(importlib.util.find_spec(module.split(".")[0]) for module in PEERS.get(method, ()))


def main(
    problem: Annotated[str, typer.Option(help=" | ".join(PROBLEMS))] = "digits-mlp",
    checkpoint: Annotated[Path | None, typer.Option(help="Instead of the problem's own.")] = None,
    k: Annotated[int | None, typer.Option(help="Number of eigenpairs.")] = None,
    samples: Annotated[int | None, typer.Option(help="N.")] = None,
    outer: Annotated[int | None, typer.Option(help="n_O of the sketched methods; k when not given.")] = None,
    inner: Annotated[int | None, typer.Option(help="n_I of the sketched methods.")] = None,
    only: Annotated[str | None, typer.Option(help="Methods, separated by commas.")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1)] = torch.get_num_threads(),
    device: Annotated[str, typer.Option()] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Compare methods on one checkpoint, each in its own process, one after the other."""
    if problem not in PROBLEMS:
        raise typer.BadParameter(f"choose one of {', '.join(PROBLEMS)}", param_hint="--problem")
    if k is not None:
        outer = outer or k
        inner = inner or 2 * outer
    task = make(problem, checkpoint, CACHE, k=k, samples=samples, outer=outer, inner=inner, device=device)
    small = problem == "digits-mlp"
    methods = only.split(",") if only else [m for m in METHODS if small or m in OURS[:1]]
    if unknown := sorted(set(methods) - set(METHODS)):
        raise typer.BadParameter(
            f"no {', '.join(unknown)}; choose of {', '.join(METHODS)}", param_hint="--only"
        )
    missing = [method for method in methods if not available(method)]
    if missing and only:
        raise typer.BadParameter(f"{', '.join(missing)} needs pip install -e '.[bench]'", param_hint="--only")

    exact = truth(task)
    figures = {
        method: measure(method, task, exact, repeats=repeats, threads=threads)
        for method in methods
        if method not in missing
    }
    dimension = parameter_count(task.architecture)
    reference = figures["ours-krylov"]["seconds"] if "ours-krylov" in figures else None
    report.show(
        f"{problem}: D = {dimension:,}, N = {task.samples}, k = {task.k}, n_O = {task.outer}, "
        f"n_I = {task.inner}, {threads} threads",
        _COLUMNS,
        [_row(name, found, reference) for name, found in figures.items()],
        caption=_caption(problem, repeats, missing),
    )
    report.write(
        json_file,
        {
            "task": json.loads(task.to_json()),
            "D": dimension,
            "N": task.samples,
            "repeats": repeats,
            "machine": report.machine(device) | {"threads": threads},
            "methods": figures,
        },
    )


def _row(name: str, found: dict[str, Any], reference: float | None) -> list[str]:
    exact = "overlap_error_worst" in found
    return [
        name,
        f"{found['seconds']:.2f}",
        f"{found['slowest']:.2f}",
        f"{found['cpu_seconds']:.2f}",
        f"{found['seconds'] / reference:.1f}" if reference else "–",
        f"{found['hvps']:,}",
        f"{found['peak_bytes'] / 2**20:,.0f}",
        f"{found['overlap_error_worst']:.2%} (k={found['overlap_error_worst_k']})" if exact else "–",
        f"{found['overlap_error_at_k']:.2%}" if exact else "–",
        f"{found['largest_residual']:.1e}",
        f"{found['orthogonality']:.0e}",
    ]


def _caption(problem: str, repeats: int, missing: list[str]) -> str:
    lines = [
        f"seconds: fastest of {repeats}, from the checkpoint file to the overlap curve, after the imports; "
        "CPU s: least, of all threads;",
        "overlap error: worst relative one over k′ ≤ k, and the one at k; "
        "residual: largest ‖Hv − λv‖/|λ₁| by curvlinops' products.",
    ]
    if problem != "digits-mlp":
        lines.append("Images are synthetic (noise around one random image per class).")
    if missing:
        lines.append(f"Left out, as not installed (pip install -e '.[bench]'): {', '.join(missing)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
