"""One analysis by one worker, and shared by several: real workers with one thread each, on a real queue.

Every run follows the plan of the first: the same path, so that the times differ by the sharing alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import problems, report
from benchmarks.stack import Stack, stack, wait_until
from seigh.core.lab import queries
from seigh.core.lab.models import Analysis, State
from seigh.core.lab.session import sessions
from seigh.tasks.submit import Upload, submit

_LONGEST = 3600.0


def run(
    task: problems.Task, workers: int, plan: dict[str, Any] | None, postgres: bool, folder: Path
) -> dict[str, Any]:
    """The analysis by so many workers: its figures, as JSON."""
    with stack(folder, postgres=postgres) as running:
        number = _submitted(running, task, plan)
        share = {"SEIGH_SHARE": "never" if workers == 1 else "auto"}
        # The others first: the one that conducts is to find them there.
        started = [running.add_worker(**share) for _ in range(workers)]
        for worker in started:
            worker.wait()
        # The cores are for the workers: this is to look at them rarely.
        wait_until(lambda: _has_ended(running, number), _LONGEST, "the analysis has ended", every=0.5)
        with sessions(running.env.database)() as s:
            found = s.get_one(Analysis, number)
            if found.state is not State.finished or found.finished_at is None or found.started_at is None:
                raise RuntimeError(f"The analysis {found.state}: {found.message}")
            assert found.record is not None
            return {
                "workers": workers,
                "seconds": (found.finished_at - found.started_at).total_seconds(),
                "stages": {stage.stage: stage.seconds for stage in found.stages},
                "hvps": found.hvps,
                "shared": found.record["shared"],
                "hvp": {name: found.record["hvp"][name] for name in ("path", "columns", "batch_size")},
                "plan": found.plan,
                "eigenvalues": queries.spectrum(s, number)["value"].tolist(),
            }


def _submitted(running: Stack, task: problems.Task, plan: dict[str, Any] | None) -> int:
    (number,) = submit(
        [Upload(Path(task.checkpoint), Path(task.checkpoint).name)],
        model_name=task.problem,
        settings=[task.settings()],
        user="bench",
        env=running.env,
    ).analysis_ids
    if plan is not None:
        with sessions(running.env.database).begin() as s:
            s.get_one(Analysis, number).plan = plan | {"shared": None}
    return number


def _has_ended(running: Stack, number: int) -> bool:
    with sessions(running.env.database)() as s:
        return s.get_one(Analysis, number).state in (State.finished, State.failed, State.cancelled)


def main(
    problem: Annotated[str, typer.Option(help="3c3d | all-cnn-c | resnet18-shape")] = "3c3d",
    k: Annotated[int | None, typer.Option(help="Number of eigenpairs.")] = 60,
    samples: Annotated[int | None, typer.Option(help="N.")] = 500,
    workers: Annotated[int, typer.Option(help="How many share it.")] = 2,
    postgres: Annotated[bool, typer.Option(help="PostgreSQL instead of SQLite.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Run both and print them."""
    task = problems.make(problem, None, k=k, samples=samples)
    runs: list[dict[str, Any]] = []
    for number in (1, workers):
        plan = runs[0]["plan"] if runs else None
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run(task, number, plan, postgres, Path(folder)))
    one, many = (np.array(each["eigenvalues"]) for each in runs)
    off = float((np.abs(one - many) / np.abs(one)).max())
    speed = runs[0]["seconds"] / runs[1]["seconds"]
    report.show(
        f"{problem}: N = {task.samples}, k = {task.k}, one thread a worker",
        ["workers", "seconds", "eigenpairs", "HVPs", "parts", "took part"],
        [
            [
                str(each["workers"]),
                f"{each['seconds']:.1f}",
                f"{each['stages']['eigenpairs']:.1f}",
                str(each["hvps"]),
                str(each["shared"]["parts"] if each["shared"] else 0),
                str(len(each["shared"]["workers"]) if each["shared"] else 1),
            ]
            for each in runs
        ],
        f"{speed:.2f}× as fast; eigenvalues differ by at most {off:.1e} of each.",
    )
    report.write(
        json_file,
        {"machine": report.machine(), "runs": runs, "speed": speed, "eigenvalues_differ": off},
    )


if __name__ == "__main__":
    typer.run(main)
