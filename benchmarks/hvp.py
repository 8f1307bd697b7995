"""Milliseconds per Hessian-vector product on every path, beside curvlinops' matvec.

``python -m benchmarks.hvp --problem digits-mlp --problem 3c3d``
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report
from benchmarks.problems import CACHE, PROBLEMS, Loaded, Task, load, make
from seigh.core.curvature import CurvatureOperator
from seigh.core.names import PATHS
from seigh.core.problems.architectures import parameter_count


def least_seconds(action: Callable[[], object], device: str, repeats: int) -> tuple[float, float]:
    """The least of ``repeats`` runs, after one that is not timed, and the least CPU seconds."""
    seconds = []
    for number in range(repeats + 1):
        start, start_cpu = time.perf_counter(), time.process_time()
        action()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if number:
            seconds.append((time.perf_counter() - start, time.process_time() - start_cpu))
    return min(s for s, _ in seconds), min(cpu for _, cpu in seconds)


def flops(action: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def timed(
    prepare: Callable[[], Any], vectors: Tensor, device: str, repeats: int, count_flops: bool
) -> dict[str, Any]:
    """Figures of one way to multiply: per product, and the seconds before the first one."""
    start = time.perf_counter()
    try:
        operator = prepare()
        operator @ vectors
        first = time.perf_counter() - start
        seconds, cpu = (
            s / vectors.shape[1] for s in least_seconds(lambda: operator @ vectors, device, repeats)
        )
        counted = flops(lambda: operator @ vectors) / vectors.shape[1] if count_flops else None
    except RuntimeError as error:  # out of memory: one of the figures
        return {"failed": str(error).splitlines()[0]}
    figures = {"ms": 1e3 * seconds, "cpu_ms": 1e3 * cpu, "first_seconds": first}
    return figures | ({"flops": counted, "flops_per_second": counted / seconds} if counted else {})


def measure(
    task: Task, columns: list[int], batch_sizes: list[int | None], repeats: int, count_flops: bool
) -> list[dict[str, Any]]:
    """All paths, numbers of columns and batches of data, after curvlinops' matvec."""
    loaded = load(task)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(loaded.theta), max(columns), generator=generator).to(task.device)

    def time_it(prepare: Callable[[], Any], number: int) -> dict[str, Any]:
        gc.collect()
        return timed(prepare, vectors[:, :number], task.device, repeats, count_flops)

    rows = [{"path": "curvlinops matvec", "columns": 1, "batch_size": None} | time_it(loaded.curvlinops, 1)]
    for path in PATHS:
        for number in columns:
            for size in batch_sizes:
                found = time_it(lambda p=path, n=number, s=size: _operator(loaded, p, n, s), number)
                rows.append({"path": path, "columns": number, "batch_size": size} | found)
    return rows


def _operator(loaded: Loaded, path: str, columns: int, batch_size: int | None) -> CurvatureOperator:
    return CurvatureOperator(
        loaded.model,
        loaded.loss,
        loaded.x,
        loaded.y,
        path=path,
        columns=columns,
        batch_size=batch_size,
        keep=True,
    )


def main(
    problem: Annotated[list[str] | None, typer.Option(help=" | ".join(PROBLEMS))] = None,
    samples: Annotated[int | None, typer.Option(help="N; the problem's own when not given.")] = None,
    columns: Annotated[str, typer.Option(help="Vectors at once, separated by commas.")] = "1,8,32",
    batch_sizes: Annotated[str, typer.Option(help="Samples per kept batch of data; 0 for all N.")] = "0",
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1)] = torch.get_num_threads(),
    device: Annotated[str, typer.Option()] = "cpu",
    peak: Annotated[float | None, typer.Option(help="The device's peak in TFLOP/s, fp32.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Time Hessian-vector products."""
    torch.set_num_threads(threads)
    if device.startswith("cuda"):  # fp32 throughout, as the analyses compute
        torch.backends.cudnn.allow_tf32 = False
    numbers = [int(number) for number in columns.split(",")]
    sizes = [int(size) or None for size in batch_sizes.split(",")]
    figures: dict[str, Any] = {"machine": report.machine(device), "peak_tflops": peak, "problems": {}}
    for name in problem or ["digits-mlp"]:
        task = make(name, None, CACHE, samples, device=device)
        rows = measure(task, numbers, sizes, repeats, peak is not None)
        dimension = parameter_count(task.architecture)
        figures["problems"][name] = {"D": dimension, "N": task.samples, "products": rows}
        report.show(
            f"{name}: D = {dimension:,}, N = {task.samples}, {threads} threads, {device}",
            ["path", "vectors at once", "batch", "ms per HVP", "× faster", "CPU ms", "first s"]
            + (["TFLOP/s", "of peak"] if peak else []),
            [_row(row, rows[0], peak) for row in rows],
            caption=f"ms: least of {repeats}; first s: preparation and first products.",
        )
    report.write(json_file, figures)


def _row(row: dict[str, Any], reference: dict[str, Any], peak: float | None) -> list[str]:
    cells = [row["path"], str(row["columns"]), str(row["batch_size"] or "all")]
    if "failed" in row:
        return [*cells, row["failed"][:40]]
    ratio = f"{reference['ms'] / row['ms']:.1f}" if "ms" in reference else "–"
    cells += [f"{row['ms']:.2f}", ratio, f"{row['cpu_ms']:.2f}", f"{row['first_seconds']:.1f}"]
    if peak and "flops_per_second" in row:
        achieved = row["flops_per_second"] / 1e12
        cells += [f"{achieved:.2f}", f"{achieved / peak:.0%}"]
    return cells


if __name__ == "__main__":
    typer.run(main)
