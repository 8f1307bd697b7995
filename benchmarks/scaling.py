"""Time outside Hessian-vector products against D, at a fixed number of products.

The operator is synthetic and cheap: a decaying diagonal plus a matrix of low rank. Its products are timed
apart and taken off, so what is left is orthogonalisation, sketching, Rayleigh–Ritz and the overlap curve.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks import report
from seigh.core.overlap import largest_first, overlap_curve
from seigh.core.spectra import Eigenpairs, block_krylov, seigh

_RANK = 8


class Synthetic:
    """diag(d) + U diag(s) Uᵀ of D × D, indefinite; counts and times its products."""

    dtype = torch.float32

    def __init__(self, dimension: int, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.shape = (dimension, dimension)
        self.device = torch.device(device)
        index = torch.arange(1, dimension + 1, dtype=torch.float32)
        self._diagonal = (index.rsqrt() * (1 - 2 * (index % 2)))[:, None].to(device)
        self._factor = (torch.randn(dimension, _RANK, generator=generator) / math.sqrt(dimension)).to(device)
        self.hvps = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def __matmul__(self, block: Tensor) -> Tensor:
        start, start_cpu = self._now(), time.process_time()
        out = self._diagonal * block
        out.addmm_(self._factor, self._factor.T @ block, alpha=2.0)
        self.hvps += block.shape[1]
        self.seconds += self._now() - start
        self.cpu_seconds += time.process_time() - start_cpu
        return out

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


METHODS: dict[str, Callable[[Synthetic, int, int], Eigenpairs]] = {
    "krylov": lambda operator, k, m: block_krylov(operator, k, block=16, columns=m, products=m),
    "seigh": lambda operator, k, m: seigh(operator, m // 2, m, k=k),
}


def seconds_outside(method: str, dimension: int, k: int, m: int, device: str = "cpu") -> dict[str, Any]:
    """One run: seconds outside products, and the products."""
    operator = Synthetic(dimension, device)
    theta = torch.randn(dimension, generator=torch.Generator().manual_seed(1)).to(device)
    start, start_cpu = time.perf_counter(), time.process_time()
    pairs = METHODS[method](operator, k, m)
    overlap_curve(pairs.rows(largest_first(theta, k)))
    total, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "D": dimension,
        "outside": total - operator.seconds,
        "outside_cpu": cpu - operator.cpu_seconds,
        "total": total,
        "hvps": operator.hvps,
    }


def exponent(dimensions: list[int], seconds: list[float]) -> float:
    """The slope of log(seconds) over log(D), by least squares."""
    return float(np.polyfit(np.log(dimensions), np.log(seconds), 1)[0])


def main(
    largest: Annotated[int, typer.Option(help="Largest D; from 10⁴ in steps of ×10.")] = 10_000_000,
    m: Annotated[int, typer.Option(help="Products: the basis size of Krylov, n_I = 2·n_O of SEIGH.")] = 64,
    k: Annotated[int, typer.Option(help="Eigenpairs.")] = 24,
    only: Annotated[str, typer.Option(help="Methods, separated by commas.")] = ",".join(METHODS),
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1)] = torch.get_num_threads(),
    device: Annotated[str, typer.Option()] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Show that the time outside products grows linearly in D."""
    torch.set_num_threads(threads)
    dimensions = [10**power for power in range(4, round(math.log10(largest)) + 1)]
    figures: dict[str, Any] = {"machine": report.machine(device), "m": m, "k": k, "methods": {}}
    for method in only.split(","):
        rows = []
        for dimension in dimensions:
            runs = [seconds_outside(method, dimension, k, m, device) for _ in range(repeats)]
            rows.append(runs[0] | {key: min(run[key] for run in runs) for key in ("outside", "outside_cpu")})
            gc.collect()
        slopes = {key: exponent(dimensions, [row[key] for row in rows]) for key in ("outside", "outside_cpu")}
        figures["methods"][method] = {"rows": rows, "exponents": slopes}
        report.show(
            f"{method}: m = {m} products, k = {k}, {threads} threads, {device}",
            ["D", "seconds outside HVPs", "CPU s", "CPU ns per column and coordinate", "HVPs"],
            [
                [
                    f"{row['D']:,}",
                    f"{row['outside']:.4f}",
                    f"{row['outside_cpu']:.4f}",
                    f"{1e9 * row['outside_cpu'] / (m * row['D']):.1f}",
                    str(row["hvps"]),
                ]
                for row in rows
            ],
            caption=f"Least of {repeats}. Fitted exponent of D: {slopes['outside']:.2f}; "
            f"of the CPU seconds, which other processes disturb less: {slopes['outside_cpu']:.2f}",
        )
    report.write(json_file, figures)


if __name__ == "__main__":
    typer.run(main)
