"""A study that nothing can stop: while it runs, workers, Redis, PostgreSQL and the app are killed at random.

The same study is run undisturbed first. At the end every analysis must be finished exactly once, with the
numbers of the undisturbed run, nothing may be left over, and no kill may cost more than the batch of products
that its worker was at.
"""

from __future__ import annotations

import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from benchmarks import report
from benchmarks.stack import Process, Stack, stack, wait_until
from core.analysis import describe_environment
from core.network import Plan
from core.problems import architectures
from core.problems.recorder import Recorder
from core.results import queries
from core.results.models import Analysis, Eigenvalue, Mask, OverlapPoint, Part, State
from core.results.session import close, sessions
from core.settings import AnalysisSettings, Settings
from tasks.submit import Upload, submit

# Eigenvalues of both runs may differ by this share of |λ₁|, overlaps by this much.
TOLERANCE = 1e-5

# The most products that a worker makes between two moments at which it can go on: those that check residuals.
BATCH = 8

_SPLITS = ("train", "test")

# What the workers say, as ``tasks.work`` and ``tasks.analysis`` do.
_ATTEMPT = re.compile(r"analysis (\d+): attempt (\d+)")
_RESUMED = re.compile(r"analysis (\d+): goes on after (\d+) products")
_FINISHED = re.compile(r"analysis (\d+): finished")


@dataclass(frozen=True)
class Study:
    """What is asked for.

    Attributes:
        analyses: How many; two for every checkpoint.
        shared: How many of them several workers share.
        samples: N.
        k: Number of eigenpairs of those that are not shared.
        shared_k: And of those that are.
    """

    analyses: int = 22
    shared: int = 4
    samples: int = 2000
    k: int = 60
    shared_k: int = 120

    def settings(self, shared: bool, split: str) -> AnalysisSettings:
        """Each product is made on its own: who makes it does not change how it is rounded."""
        return AnalysisSettings(
            architecture="tanh-mlp",
            data="random(1x16x16,classes=10)",
            split=split,  # type: ignore[arg-type]
            samples=self.samples,
            k=self.shared_k if shared else self.k,
            hvp_path="double-backward",
            hvp_columns=1,
        )


@dataclass
class Numbers:
    """What a run of the study found, by checkpoint and settings.

    Attributes:
        eigenvalues: (k,) each.
        overlap: (k,) each.
    """

    eigenvalues: dict[tuple[int, str, int], np.ndarray] = field(default_factory=dict)
    overlap: dict[tuple[int, str, int], np.ndarray] = field(default_factory=dict)

    def distance(self, other: Numbers) -> tuple[float, float]:
        """The largest differences: of eigenvalues, in units of |λ₁|, and of overlaps.

        Raises:
            ValueError: They are not of the same study.
        """
        if self.eigenvalues.keys() != other.eigenvalues.keys():
            raise ValueError("The two runs are not of the same study.")
        values = [
            float(np.abs(each - other.eigenvalues[key]).max() / np.abs(each[0]))
            for key, each in self.eigenvalues.items()
        ]
        overlaps = [float(np.abs(each - other.overlap[key]).max()) for key, each in self.overlap.items()]
        return max(values), max(overlaps)


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        numbers: What it found.
        seconds: From the submission to the end of the last analysis.
        kills: How often each kind of process was killed.
        finished: How often each analysis was finished, as the workers' logs tell.
        states: How many analyses are in each state.
        attempts: Of all analyses together.
        repeated: Products that an attempt made again, for each attempt after one that was killed.
        orphans: Files, folders and rows that nothing needs.
        took_part: Workers that took part in each of the shared analyses.
    """

    numbers: Numbers
    seconds: float
    kills: Counter[str]
    finished: Counter[int]
    states: Counter[str]
    attempts: int
    repeated: list[int]
    orphans: list[str]
    took_part: list[int]

    def problems(self, study: Study, undisturbed: Numbers, batch: int) -> list[str]:
        """What is not as it must be."""
        values, overlaps = self.numbers.distance(undisturbed)
        found = {
            f"states: {dict(self.states)}": self.states != Counter({"finished": study.analyses}),
            # A worker that was killed between the two has finished without saying so.
            f"finished: {dict(self.finished)}": any(times > 1 for times in self.finished.values()),
            f"eigenvalues differ by {values:.1e} |λ₁|": values > TOLERANCE,
            f"overlaps differ by {overlaps:.1e}": overlaps > TOLERANCE,
            f"left over: {self.orphans}": bool(self.orphans),
            f"repeated products: {self.repeated}": max(self.repeated, default=0) > batch,
        }
        return [text for text, wrong in found.items() if wrong]


def run(
    study: Study,
    workers: int,
    kills: int,
    pause: tuple[float, float],
    seed: int,
    folder: Path,
    say: Callable[[str], None],
) -> Outcome:
    """Run the study, with so many kills, each after a random pause (seconds) within these bounds."""
    with stack(folder, postgres=True, dashboard=kills > 0) as running:
        for _ in range(workers):
            running.add_worker()
        for worker in running.workers:
            worker.wait()
        uploads = checkpoints(folder, study.analyses // 2)
        start = time.monotonic()
        numbers = _submit(running, study, uploads)
        chaos = _Chaos(running, random.Random(seed), say)
        for _ in range(kills):
            chaos.sleep(pause)
            if chaos.all_ended(numbers):
                break
            chaos.kill_one()
        wait_until(lambda: chaos.all_ended(numbers), 900, "all analyses have ended")
        seconds = time.monotonic() - start
        with suppress(TimeoutError):  # what is left over is removed by a sweep
            wait_until(lambda: not orphans(running), 15, "all is tidy")
        return _outcome(running, numbers, chaos, seconds)


def checkpoints(folder: Path, number: int) -> list[Upload]:
    """Files of so many networks."""
    uploads = []
    for step in range(number):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            path = Recorder(architectures.build("tanh-mlp"), folder / "checkpoints", [step])(step)
        assert path is not None
        uploads.append(Upload(path, path.name))
    return uploads


def _submit(running: Stack, study: Study, uploads: list[Upload]) -> list[int]:
    """Queue the study; those to share come last, as others help once they have nothing to do."""
    numbers: list[int] = []
    shared_uploads = study.shared // 2
    for shared, part in ((False, uploads[shared_uploads:]), (True, uploads[:shared_uploads])):
        if part:
            settings = [study.settings(shared, split) for split in _SPLITS]
            more = submit(
                part, model_name="chaos", settings=settings, user="chaos", env=running.env
            ).analysis_ids
            if shared:
                _share(running, more)
            numbers += more
    return numbers


def _share(running: Stack, numbers: list[int]) -> None:
    """As if it had been found that their products take long enough."""
    device = str(describe_environment(torch.device("cpu"))["device"])
    plan = Plan("double-backward", 1, 10**9, True, device, 0.5, [], shared=True)
    with sessions(running.env.database).begin() as s:
        for number in numbers:
            s.get_one(Analysis, number).plan = plan.to_json()


class _Chaos:
    """Kills processes, and knows what they were at."""

    def __init__(self, running: Stack, draw: random.Random, say: Callable[[str], None]) -> None:
        self._running = running
        self._draw = draw
        self._say = say
        self.kills: Counter[str] = Counter()
        # What a killed worker had last reported: analysis, attempt and products.
        self.at_work: list[tuple[int, int, int]] = []

    def sleep(self, pause: tuple[float, float]) -> None:
        time.sleep(self._draw.uniform(*pause))

    def kill_one(self) -> None:
        """SIGKILL a process and start it again."""
        kind = self._draw.choice(["worker", "worker", "redis", "postgres", "dashboard"])
        victims = [each for each in self._running.processes if each.name.startswith(kind)]
        victim = self._draw.choice(victims)
        self._say(f"kill {victim.name}")
        name = f"{socket.gethostname()}:{victim.popen.pid}" if victim.popen is not None else ""
        victim.kill()
        self.kills[kind] += 1
        if kind == "worker":
            self._remember(name)
        time.sleep(self._draw.uniform(0.0, 2.0))
        victim.start()
        if kind in ("redis", "postgres"):
            victim.wait()
        else:
            _may_be_ready(victim)

    def _remember(self, worker: str) -> None:
        with sessions(self._running.env.database)() as s:
            of_it = select(Analysis).where(Analysis.worker == worker, Analysis.state == State.running)
            self.at_work += [(each.id, each.attempts, each.hvps or 0) for each in s.scalars(of_it)]

    def all_ended(self, numbers: list[int]) -> bool:
        try:
            with sessions(self._running.env.database)() as s:
                states = s.scalars(select(Analysis.state).where(Analysis.id.in_(numbers))).all()
        except DBAPIError:
            return False
        return all(state not in (State.queued, State.running) for state in states)


def _may_be_ready(process: Process) -> None:
    """Give a process some time to be ready; it may be killed again before it is."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline and not process.ready(process):
        time.sleep(0.1)


def _outcome(running: Stack, numbers: list[int], chaos: _Chaos, seconds: float) -> Outcome:
    logs = [worker.output for worker in running.workers]
    resumed = _resumed(logs)
    found = Numbers()
    with sessions(running.env.database)() as s:
        rows = s.scalars(select(Analysis).where(Analysis.id.in_(numbers))).all()
        for row in rows:
            if row.state is State.finished:
                key = row.checkpoint.step, row.split, row.k
                found.eigenvalues[key] = queries.spectrum(s, row.id)["value"].to_numpy()
                curves = queries.overlap_curves(s, [row.id])
                found.overlap[key] = curves[curves["mask"] == Mask.magnitude]["overlap"].to_numpy()
        outcome = Outcome(
            numbers=found,
            seconds=seconds,
            kills=chaos.kills,
            finished=Counter(int(number) for log in logs for number in _FINISHED.findall(log)),
            states=Counter(str(row.state) for row in rows),
            attempts=sum(row.attempts for row in rows),
            repeated=[
                max(0, hvps - resumed.get((number, attempt + 1), 0))
                for number, attempt, hvps in chaos.at_work
            ],
            orphans=orphans(running),
            took_part=[
                len(shared["workers"]) for row in rows if (shared := (row.record or {}).get("shared"))
            ],
        )
    close(running.env.database)
    return outcome


def _resumed(logs: list[str]) -> dict[tuple[int, int], int]:
    """How many products an attempt at an analysis went on after, by analysis and attempt."""
    found: dict[tuple[int, int], int] = {}
    for log in logs:
        attempts: dict[int, int] = {}
        for line in log.splitlines():
            if began := _ATTEMPT.search(line):
                attempts[int(began[1])] = int(began[2])
            elif went_on := _RESUMED.search(line):
                number = int(went_on[1])
                found[number, attempts[number]] = int(went_on[2])
    return found


def orphans(running: Stack) -> list[str]:
    """Files and rows that nothing needs when all is done."""
    with sessions(running.env.database)() as s:
        return _orphaned_files(running.env, s) + _orphaned_rows(s)


def _orphaned_files(env: Settings, s: Session) -> list[str]:
    wanted = set(s.scalars(select(Analysis.eigenvectors)))
    vectors = {f"eigenvectors/{path.name}" for path in (env.artifact_folder / "eigenvectors").glob("*")}
    found = sorted(vectors - wanted) + sorted(f"missing {key}" for key in wanted - vectors)
    found += [str(path) for path in env.artifact_folder.rglob("*.tmp")]
    for folder in (env.scratch_folder, env.artifact_folder / "work"):
        found += [str(path) for path in folder.glob("*")]
    return found


def _orphaned_rows(s: Session) -> list[str]:
    parts = s.execute(select(func.count()).select_from(Part)).scalar_one()
    found = [f"{parts} parts"] if parts else []
    for analysis in s.scalars(select(Analysis)):
        for table, rows in ((Eigenvalue, analysis.k), (OverlapPoint, 3 * analysis.k)):
            there = s.execute(
                select(func.count()).select_from(table).where(table.analysis_id == analysis.id)
            ).scalar_one()
            if there != rows:
                found.append(f"{there} rows of {table.__tablename__} for analysis {analysis.id}")
    return found


def main(
    kills: Annotated[int, typer.Option(help="How often something is killed.")] = 50,
    workers: Annotated[int, typer.Option()] = 3,
    analyses: Annotated[int, typer.Option(help="In the study, an even number.")] = 22,
    shared: Annotated[int, typer.Option(help="Of them, shared by several workers; an even number.")] = 4,
    samples: Annotated[int, typer.Option(help="N.")] = 2000,
    least: Annotated[float, typer.Option(help="Seconds between two kills, at least.")] = 1.0,
    most: Annotated[float, typer.Option(help="And at most.")] = 9.0,
    seed: Annotated[int, typer.Option(help="Of what is killed when.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Run the study undisturbed and disturbed, and print what became of it."""
    study = Study(analyses, shared, samples)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    outcomes = []
    for number in (0, kills):
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(run(study, workers, number, (least, most), seed, Path(folder), say))
        say(f"{number} kills: {outcomes[-1].seconds:.0f} s, {dict(outcomes[-1].states)}")
    undisturbed, disturbed = outcomes
    values, overlaps = disturbed.numbers.distance(undisturbed.numbers)
    wrong = disturbed.problems(study, undisturbed.numbers, BATCH)
    report.show(
        f"{analyses} analyses, {shared} of them shared, {workers} workers",
        ["", "undisturbed", "disturbed"],
        [
            [title, str(ask(undisturbed)), str(ask(disturbed))]
            for title, ask in (
                ("seconds", lambda each: f"{each.seconds:.0f}"),
                ("kills", lambda each: each.kills.total()),
                ("killed", lambda each: ", ".join(f"{n} {name}" for name, n in each.kills.items()) or "–"),
                ("states", lambda each: ", ".join(f"{n} {name}" for name, n in each.states.items())),
                ("finished more than once", lambda each: sum(n > 1 for n in each.finished.values())),
                ("attempts", lambda each: each.attempts),
                ("kills of a worker at an analysis", lambda each: len(each.repeated)),
                ("products repeated after one, at most", lambda each: max(each.repeated, default=0)),
                ("products repeated in all", lambda each: sum(each.repeated)),
                ("orphaned files and rows", lambda each: len(each.orphans)),
                ("workers at a shared analysis", lambda each: each.took_part),
            )
        ],
        f"Eigenvalues of the two differ by at most {values:.1e} |λ₁|, overlaps by {overlaps:.1e} "
        f"(allowed: {TOLERANCE:.0e}). "
        + ("What must not be: " + "; ".join(wrong) if wrong else "All is as it must be."),
    )
    figures: dict[str, Any] = {
        name: {
            "seconds": each.seconds,
            "kills": dict(each.kills),
            "attempts": each.attempts,
            "repeated": each.repeated,
            "orphans": each.orphans,
            "states": dict(each.states),
        }
        for name, each in (("undisturbed", undisturbed), ("disturbed", disturbed))
    }
    report.write(json_file, figures | {"machine": report.machine(), "eigenvalues": values, "wrong": wrong})
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
