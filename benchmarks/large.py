"""A large network within a memory budget: in memory, and with a basis that exceeds the budget in a file.

Each run is a whole analysis in a process of its own. What it does beside its Hessian-vector products is
shown as a share of the time, and the eigenvalues of the runs are compared.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import problems, report
from seigh.core.analysis import analyse
from seigh.core.settings import Settings


def run(task: problems.Task, gib: float, tolerance: float, scratch: Path | None) -> dict[str, Any]:
    """One analysis within ``gib`` GiB for the basis: its figures, as JSON."""
    settings = task.settings(tolerance=tolerance)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    environment = Settings(device=task.device, memory_gb=gib)
    result = analyse(Path(task.checkpoint), settings, environment=environment, scratch=scratch)
    seconds = sum(stage.seconds for stage in result.stages)
    # Finding the fastest path is time spent in products.
    products = result.record["hvp"]["seconds"] + result.stages[1].seconds
    return {
        "budget_gib": gib,
        "file": scratch is not None,
        "seconds": seconds,
        "outside": 1 - products / seconds,
        "hvps": result.hvps,
        "resolved_k": result.resolved_k,
        "peak_gib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20,
        "residual": float(result.residuals.max() / abs(result.eigenvalues[0])),
        "eigenvalues": result.eigenvalues.tolist(),
        "stages": {stage.name: stage.seconds for stage in result.stages},
        "hvp": {name: result.record["hvp"][name] for name in ("path", "columns", "batch_size", "seconds")},
        "basis": result.record["basis"],
    }


def main(
    problem: Annotated[str, typer.Option(help="3c3d | all-cnn-c | resnet18-shape")] = "resnet18-shape",
    k: Annotated[int | None, typer.Option(help="Number of eigenpairs.")] = None,
    samples: Annotated[int | None, typer.Option(help="N.")] = None,
    gib: Annotated[float, typer.Option(help="Budget of the basis in memory.")] = 6.0,
    small: Annotated[float, typer.Option(help="Of a run that exceeds it, in a file; 0 for none.")] = 1.0,
    tolerance: Annotated[float, typer.Option(help="Of the residuals, times |λ₁|.")] = 1e-3,
    device: Annotated[str, typer.Option()] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Run them and print them."""
    task = problems.make(problem, None, k=k, samples=samples, device=device)
    runs = []
    for budget, in_file in [(gib, False), *([(small, True)] if small else [])]:
        with tempfile.TemporaryDirectory(dir=problems.CACHE) as folder:
            arguments = [task.to_json(), str(budget), str(tolerance), folder if in_file else ""]
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.large", "--child", *arguments]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        shown = {name: value for name, value in runs[-1].items() if name != "eigenvalues"}
        print(json.dumps(shown), file=sys.stderr, flush=True)
    values = [np.array(each["eigenvalues"]) for each in runs]
    off = float(np.abs(values[0] - values[-1]).max() / np.abs(values[0][0]))
    compared = f"Eigenvalues of the two differ by at most {off:.1e} |λ₁|. " if small else ""
    report.show(
        f"{problem}: N = {task.samples}, k = {task.k}",
        [
            "basis",
            "seconds",
            "outside products",
            "HVPs",
            "columns",
            "restarts",
            "peak GiB",
            "residual",
            "resolved k",
        ],
        [
            [
                f"{each['budget_gib']:g} GiB, {each['basis']['kept_in']}",
                f"{each['seconds']:.1f}",
                f"{each['outside']:.1%}",
                str(each["hvps"]),
                str(each["basis"]["columns"]),
                str(each["basis"]["restarts"]),
                f"{each['peak_gib']:.2f}",
                f"{each['residual']:.1e}",
                str(each["resolved_k"]),
            ]
            for each in runs
        ],
        f"{compared}outside products: share of the time; residual: largest ‖Hv − λv‖/|λ₁|.",
    )
    figures = {"machine": report.machine(device), "task": json.loads(task.to_json()), "runs": runs}
    report.write(json_file, figures | ({"eigenvalues_differ": off} if small else {}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        task_json, budget_text, tolerance_text, folder_text = sys.argv[2:]
        print(
            json.dumps(
                run(
                    problems.Task(**json.loads(task_json)),
                    float(budget_text),
                    float(tolerance_text),
                    Path(folder_text) if folder_text else None,
                )
            )
        )
    else:
        typer.run(main)
