"""A long queue: while workers drain it, what the app asks of the database stays quick and memory flat."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks import report
from benchmarks.chaos import checkpoints
from benchmarks.stack import Stack, stack
from seigh.core.lab import queries
from seigh.core.lab.load import load
from seigh.core.lab.models import Analysis, State
from seigh.core.lab.session import sessions
from seigh.core.settings import AnalysisSettings
from seigh.tasks.submit import submit

_CHECKPOINTS = 10
_LOOK_SECONDS = 2.0

# What pages ask for again and again.
_QUESTIONS: dict[str, Callable[[Session], Any]] = {
    "runs": queries.runs,
    "work": load,
    "workers": queries.workers,
}


def watch(running: Stack, analyses: int) -> list[dict[str, Any]]:
    """Look at everything until the queue is empty: a row of figures for each look."""
    looks: list[dict[str, Any]] = []
    start = time.monotonic()
    while not looks or looks[-1]["finished"] < analyses:
        look: dict[str, Any] = {"seconds": time.monotonic() - start}
        with sessions(running.env.database)() as s:
            for name, ask in _QUESTIONS.items():
                before = time.perf_counter()
                ask(s)
                look[name] = time.perf_counter() - before
            states = dict(s.execute(select(Analysis.state, func.count()).group_by(Analysis.state)).all())
        if states.get(State.failed):
            raise RuntimeError("an analysis failed")
        look["finished"] = states.get(State.finished, 0)
        look["resident"] = {each.name: each.resident() for each in running.processes}
        looks.append(look)
        print(f"{look['seconds']:.0f} s: {look['finished']} finished", file=sys.stderr, flush=True)
        time.sleep(_LOOK_SECONDS)
    return looks


def main(
    analyses: Annotated[int, typer.Option(help="How many, a multiple of ten.")] = 1000,
    workers: Annotated[int, typer.Option()] = 2,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Queue them all at once, and watch."""
    with tempfile.TemporaryDirectory() as name, stack(Path(name), dashboard=True) as running:
        settings = [
            AnalysisSettings(architecture="tanh-mlp", data="digits", samples=20, k=2, seed=seed)
            for seed in range(analyses // _CHECKPOINTS)
        ]
        start = time.monotonic()
        submit(
            checkpoints(Path(name), _CHECKPOINTS),
            model_name="queue",
            settings=settings,
            user="bench",
            env=running.env,
        )
        submitted = time.monotonic() - start
        for _ in range(workers):
            running.add_worker()
        looks = watch(running, analyses)
    figures = {
        name: {
            "median": float(np.median([look[name] for look in looks])),
            "worst": max(look[name] for look in looks),
        }
        for name in _QUESTIONS
    }
    drained = looks[-1]["seconds"]
    report.show(
        f"{analyses} analyses, {workers} workers: submitted in {submitted:.1f} s, drained in {drained:.0f} s",
        ["the app asks for", "median ms", "worst ms"],
        [
            [name, *(f"{1000 * each[key]:.0f}" for key in ("median", "worst"))]
            for name, each in figures.items()
        ],
    )
    quarters = [looks[round(share * (len(looks) - 1))] for share in (0.1, 0.4, 0.7, 1.0)]
    report.show(
        "Resident memory, MiB",
        ["", *(f"after {each['finished']}" for each in quarters)],
        [
            [name, *(f"{each['resident'][name] / 2**20:.0f}" for each in quarters)]
            for name in looks[-1]["resident"]
        ],
    )
    report.write(
        json_file, {"machine": report.machine(), "submitted": submitted, "looks": looks, "questions": figures}
    )


if __name__ == "__main__":
    typer.run(main)
