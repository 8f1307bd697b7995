"""A study that nothing can stop, whatever happens to the installation while it runs.

At random, workers, Redis, PostgreSQL and the app are killed and started again, or stopped for a minute;
clocks are set by two hours (in what the database has of them); the disk of the artefacts is full for some
seconds (where this user may mount one); and malformed messages come into the queue.

The same study is run undisturbed first. At the end every analysis must be finished exactly once, with the
numbers of the undisturbed run, or have failed with a sentence; nothing may be left over; and where nothing
was stopped, no kill may cost more than the batch of products that its worker was at.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import redis
import torch
import typer
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from benchmarks import report
from benchmarks.stack import Process, Stack, stack, wait_until
from seigh.core.analysis import describe_environment
from seigh.core.lab import queries
from seigh.core.lab.models import Analysis, Eigenvalue, Mask, OverlapPoint, Part, State, Worker
from seigh.core.lab.session import close, sessions
from seigh.core.lab.store import StoreError
from seigh.core.network import Plan
from seigh.core.problems import architectures
from seigh.core.problems.recorder import Recorder
from seigh.core.settings import AnalysisSettings, Settings
from seigh.tasks.queues import QUEUES
from seigh.tasks.submit import Upload, submit

# Eigenvalues of both runs may differ by this share of |λ₁|, overlaps by this much.
TOLERANCE = 1e-5

# The most products that a worker makes between two moments at which it can go on: those that check residuals.
BATCH = 8

_SPLITS = ("train", "test")

_POISON = ("[]", "not JSON", "{}", '{"properties": {"delivery_tag": []}, "headers": {"task": "x"}}')

# What the workers say, as ``seigh.tasks.work`` and ``seigh.tasks.analysis`` do.
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
            ValueError: There are some that the other run has not.
        """
        if not self.eigenvalues.keys() <= other.eigenvalues.keys():
            raise ValueError("The two runs are not of the same study.")
        values = [
            float(np.abs(each - other.eigenvalues[key]).max() / np.abs(each[0]))
            for key, each in self.eigenvalues.items()
        ]
        overlaps = [float(np.abs(each - other.overlap[key]).max()) for key, each in self.overlap.items()]
        return max(values, default=0.0), max(overlaps, default=0.0)


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        numbers: What it found.
        seconds: From the submission to the end of the last analysis.
        disturbances: How often what has happened.
        finished: How often each analysis was finished, as the workers' logs tell.
        states: How many analyses are in each state.
        failures: What those that failed say.
        attempts: Of all analyses together.
        repeated: Products that an attempt made again, for each attempt after one that was killed.
        orphans: Files, folders and rows that nothing needs.
        took_part: Workers that took part in each of the shared analyses.
    """

    numbers: Numbers
    seconds: float
    disturbances: Counter[str]
    finished: Counter[int]
    states: Counter[str]
    failures: list[str]
    attempts: int
    repeated: list[int]
    orphans: list[str]
    took_part: list[int]

    def problems(self, study: Study, undisturbed: Numbers, batch: int) -> list[str]:
        """What is not as it must be."""
        values, overlaps = self.numbers.distance(undisturbed)
        ended = self.states["finished"] + self.states["failed"]
        stopped = any(name.startswith("stop") for name in self.disturbances)
        found = {
            f"states: {dict(self.states)}": ended != study.analyses or self.states.total() != ended,
            f"failures: {self.failures}": any(
                not each.endswith(".") or each.startswith("Unexpected error") for each in self.failures
            ),
            "nothing is finished": self.states["finished"] == 0,
            # A worker that was killed between the two has finished without saying so.
            f"finished: {dict(self.finished)}": any(times > 1 for times in self.finished.values()),
            f"eigenvalues differ by {values:.1e} |λ₁|": values > TOLERANCE,
            f"overlaps differ by {overlaps:.1e}": overlaps > TOLERANCE,
            f"left over: {self.orphans}": bool(self.orphans),
            f"repeated products: {self.repeated}": not stopped and max(self.repeated, default=0) > batch,
        }
        return [text for text, wrong in found.items() if wrong]


def run(
    study: Study,
    workers: int,
    seconds: float,
    pause: tuple[float, float],
    seed: int,
    folder: Path,
    say: Callable[[str], None],
    stopped: float = 60.0,
    most: int | None = None,
    setup: str = "",
) -> Outcome:
    """Run the study, and disturb it for a while.

    Args:
        study: What is asked for; it is submitted little by little in that time.
        workers: How many.
        seconds: For which something happens again and again, unless ``most`` says how often; 0 for never.
        pause: Seconds between two disturbances, at least and at most.
        seed: Of what happens when.
        folder: Where everything is put.
        say: Is told each disturbance.
        stopped: Seconds for which a process is stopped.
        most: How many disturbances there are, however long they take; as many as fit when not given.
        setup: What the workers execute first.
    """
    with (
        stack(folder, postgres=True, dashboard=seconds > 0) as running,
        _small_disk(running.env.artifact_folder, wanted=seconds > 0) as disk,
    ):
        for _ in range(workers):
            running.add_worker(setup=setup)
        for worker in running.workers:
            worker.wait()
        start = time.monotonic()
        submissions = _Submissions(running, study, checkpoints(folder, study.analyses // 2), seconds)
        chaos = _Chaos(running, random.Random(seed), say, stopped, disk)
        while time.monotonic() - start < seconds if most is None else chaos.disturbances.total() < most:
            submissions.submit_due(say)
            chaos.sleep(pause)
            if most is None and submissions.are_complete and chaos.all_ended(submissions.numbers):
                break
            chaos.disturb()
        chaos.calm_down()
        wait_until(lambda: submissions.submit_due(say, everything=True), 120, "all is submitted", every=1.0)
        numbers = submissions.numbers
        wait_until(lambda: chaos.all_ended(numbers), 1800, "all analyses have ended", every=0.5)
        took = time.monotonic() - start
        with suppress(TimeoutError):  # what is left over is removed by a sweep
            wait_until(lambda: not orphans(running), 15, "all is tidy")
        return _outcome(running, numbers, chaos, took)


@contextmanager
def _small_disk(folder: Path, *, wanted: bool) -> Iterator[Path | None]:
    """A disk of its own for the artefacts, so that it can be filled; None where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)]
    if not wanted or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


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


class _Submissions:
    """Queues the study little by little; what is to be shared comes last, when others have time to help.

    Args:
        running: Where.
        study: What.
        uploads: Its checkpoints, those to share first.
        seconds: In which all of it is submitted; 0 for at once.
    """

    def __init__(self, running: Stack, study: Study, uploads: list[Upload], seconds: float) -> None:
        self._running, self._study = running, study
        shared = study.shared // 2
        self._left = [(each, False) for each in uploads[shared:]] + [
            (each, True) for each in uploads[:shared]
        ]
        self._every = 0.8 * seconds / max(1, len(self._left))
        self._due = time.monotonic()
        self.numbers: list[int] = []

    @property
    def are_complete(self) -> bool:
        return not self._left

    def submit_due(self, say: Callable[[str], None], *, everything: bool = False) -> bool:
        """Submit what is due, as far as the installation takes it now; whether all is submitted."""
        while self._left and (everything or time.monotonic() >= self._due):
            upload, shared = self._left[0]
            settings = [self._study.settings(shared, split) for split in _SPLITS]
            try:
                more = submit(
                    [upload], model_name="chaos", settings=settings, user="chaos", env=self._running.env
                ).analysis_ids
                if shared:
                    _share(self._running, more)
            except (DBAPIError, StoreError, OSError) as error:
                say(f"not submitted yet: {type(error).__name__}")
                return False
            self.numbers += more
            self._left.pop(0)
            self._due += self._every
        return not self._left


def _share(running: Stack, numbers: list[int]) -> None:
    """As if it had been found that their products take long enough."""
    device = str(describe_environment(torch.device("cpu"))["device"])
    plan = Plan("double-backward", 1, 10**9, True, device, 0.5, [], shared=True)
    with sessions(running.env.database).begin() as s:
        for number in numbers:
            s.get_one(Analysis, number).plan = plan.to_json()


class _Chaos:
    """Disturbs the installation, and knows what killed processes were at."""

    def __init__(
        self,
        running: Stack,
        draw: random.Random,
        say: Callable[[str], None],
        stopped: float,
        disk: Path | None,
    ) -> None:
        self._running = running
        self._draw = draw
        self._say = say
        self._stopped = stopped
        self._disk = disk
        self._timers: list[threading.Timer] = []
        self.disturbances: Counter[str] = Counter()
        # What a killed worker had last reported: analysis, attempt and products.
        self.at_work: list[tuple[int, int, int]] = []
        # Each of them comes once in every round of all.
        self._round: list[Callable[[], None]] = []

    def sleep(self, pause: tuple[float, float]) -> None:
        time.sleep(self._draw.uniform(*pause))

    def disturb(self) -> None:
        """Do something to the installation."""
        if not self._round:
            self._round = [self._stop, self._set_clock, self._poison, *[self._kill] * 4]
            if self._disk is not None:
                self._round.append(self._fill_disk)
            self._draw.shuffle(self._round)
        try:
            self._round.pop()()
        except DBAPIError as error:  # PostgreSQL is just coming up again
            self._say(f"the database does not answer: {type(error).__name__}")

    def calm_down(self) -> None:
        """Let everything go on that is stopped."""
        for timer in self._timers:
            timer.cancel()
            timer.function()

    def _count(self, what: str) -> None:
        self._say(what)
        self.disturbances[what.rstrip("-0123456789")] += 1

    def _kill(self) -> None:
        """SIGKILL a process and start it again."""
        kind = self._draw.choice(["worker", "worker", "redis", "postgres", "dashboard"])
        victims = [each for each in self._running.processes if each.name.startswith(kind)]
        victim = self._draw.choice(victims)
        name = f"{socket.gethostname()}:{victim.popen.pid}" if victim.popen is not None else ""
        victim.kill()
        self._count(f"kill {victim.name}")
        if kind == "worker":
            self._remember(name)
        time.sleep(self._draw.uniform(0.0, 2.0))
        victim.start()
        if kind in ("redis", "postgres"):
            victim.wait()
        else:
            _may_be_ready(victim)

    def _stop(self) -> None:
        """SIGSTOP a process with its children for a while."""
        victims = [each for each in self._running.processes if not each.name.startswith("postgres")]
        victim = self._draw.choice(victims)
        assert victim.popen is not None
        pid = victim.popen.pid

        def go_on() -> None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGCONT)

        os.killpg(pid, signal.SIGSTOP)
        self._count(f"stop {victim.name}")
        timer = threading.Timer(self._stopped, go_on)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _set_clock(self) -> None:
        """What is under way was queued, and last heard of, two hours earlier, or later, than it was."""
        step = timedelta(hours=self._draw.choice([-2, 2]))
        with sessions(self._running.env.database).begin() as s:
            for work in s.scalars(select(Analysis).where(Analysis.state.in_((State.queued, State.running)))):
                work.submitted_at += step
                if work.heartbeat_at is not None:
                    work.heartbeat_at += step
            for worker in s.scalars(select(Worker)):
                worker.heartbeat_at += step
        self._count("clock")

    def _poison(self) -> None:
        """Messages that are none."""
        with redis.Redis.from_url(self._running.env.redis) as client, suppress(redis.RedisError):
            client.lpush(QUEUES["any"], *_POISON)
            self._count("malformed messages")

    def _fill_disk(self) -> None:
        """Leave no byte on the disk of the artefacts for some seconds."""
        assert self._disk is not None
        ballast = self._disk / "ballast"
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(2**20)):
                    pass
            self._count("disk full")
            time.sleep(self._draw.uniform(1.0, 4.0))
        finally:
            ballast.unlink(missing_ok=True)

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
            disturbances=chaos.disturbances,
            finished=Counter(int(number) for log in logs for number in _FINISHED.findall(log)),
            states=Counter(str(row.state) for row in rows),
            failures=[row.message or "" for row in rows if row.state is State.failed],
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
    finished = select(Analysis.eigenvectors).where(
        Analysis.state == State.finished, Analysis.eigenvectors.is_not(None)
    )
    wanted = set(s.scalars(finished))
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
        found_any = analysis.state is State.finished
        for table, rows in ((Eigenvalue, analysis.k), (OverlapPoint, 3 * analysis.k)):
            there = s.execute(
                select(func.count()).select_from(table).where(table.analysis_id == analysis.id)
            ).scalar_one()
            if there != (rows if found_any else 0):
                found.append(f"{there} rows of {table.__tablename__} for analysis {analysis.id}")
    return found


def main(
    minutes: Annotated[float, typer.Option(help="For which the study is disturbed.")] = 5,
    workers: Annotated[int, typer.Option()] = 3,
    analyses: Annotated[int, typer.Option(help="In the study, an even number.")] = 22,
    shared: Annotated[int, typer.Option(help="Of them, shared by several workers; an even number.")] = 4,
    samples: Annotated[int, typer.Option(help="N.")] = 2000,
    least: Annotated[float, typer.Option(help="Seconds between two disturbances, at least.")] = 1.0,
    most: Annotated[float, typer.Option(help="And at most.")] = 9.0,
    stopped: Annotated[float, typer.Option(help="Seconds for which a process is stopped.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of what happens when.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Run the study undisturbed and disturbed, and print what became of it."""
    study = Study(analyses, shared, samples)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    outcomes = []
    for seconds in (0.0, 60 * minutes):
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(run(study, workers, seconds, (least, most), seed, Path(folder), say, stopped))
        say(f"{outcomes[-1].seconds:.0f} s, {dict(outcomes[-1].states)}")
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
                ("disturbances", lambda each: each.disturbances.total()),
                *[
                    (name, lambda each, name=name: each.disturbances[name])
                    for name in sorted(disturbed.disturbances)
                ],
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
            "disturbances": dict(each.disturbances),
            "failures": each.failures,
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
