"""An analysis that several workers share: who conducts it, and who helps.

The worker that has claimed the analysis conducts it. What it needs next, a round of parts, it puts into the
database and the shared folder; then it tells workers that have nothing to do, and performs parts itself like
them until there is none left. So it never waits while there is work, and nothing depends on anybody helping:
the messages are doorbells, and a part whose worker died is performed by another one.

What of an analysis outlives its conductor is in the shared folder: its basis, and the results of the round in
hand, which whoever conducts it next finds by the name of the round, a hash of what is to be computed.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session, sessionmaker
from torch import Tensor

from seigh.core import logs
from seigh.core.allocator import give_back_memory, keep_freed_memory
from seigh.core.analysis import describe_environment
from seigh.core.curvature import CurvatureOperator
from seigh.core.device import pick_device
from seigh.core.lab import parts as rows
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.models import Analysis, State
from seigh.core.lab.parts import Claimed
from seigh.core.lab.session import DatabaseFull, sessions
from seigh.core.lab.space import mark, said_if_full
from seigh.core.lab.store import Standing, StoreError
from seigh.core.lab.watch import Watch
from seigh.core.network import Plan, load, objective, planned, reproducible
from seigh.core.settings import AnalysisSettings, Settings
from seigh.core.sharing.blocks import Block, BlockError, Blocks
from seigh.core.sharing.crew import EXCHANGED, KEPT, Part, perform
from seigh.tasks import ending
from seigh.tasks.attempt import Attempt, read, write
from seigh.tasks.celery_app import PART, app
from seigh.tasks.ending import HandedBack
from seigh.tasks.progress import Cancelled, ClaimLost, Line, WorkLog, heed
from seigh.tasks.queues import QUEUES
from seigh.tasks.readiness import reason_to_wait
from seigh.tasks.scratch import scratch, shared_root
from seigh.tasks.worker import WORKER

# A helper without a new heartbeat for this long is taken for dead; its part is performed by another one.
_LEASE = timedelta(seconds=10)
_BEAT_SECONDS = 2.0

# Seconds of products below which an analysis is not shared; and beyond which it is even if nobody is there
# yet to help, as somebody may come.
_WORTH_SHARING, _WORTH_WAITING_FOR = 20.0, 600.0

# Seconds of one worker below which the products of a block are not worth a round.
_WORTH_A_ROUND = 1.0

# Seconds between two looks at the parts that others perform, growing; and between two rings for help.
_SHORTEST_LOOK, _LONGEST_LOOK = 0.02, 0.05
_RING_SECONDS = 3.0
_BROKER_SECONDS = 30.0


class _SharedFolder(Blocks):
    """Blocks below the artefacts, whose disk may be full."""

    def write(self, name: str, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        with said_if_full():
            super().write(name, tensors, facts)


# --- Who conducts -----------------------------------------------------------------------------------------


class Conductor:
    """An attempt at an analysis that may let others take part in it, for the length of a ``with`` block.

    What it has in the shared folder is removed at the end of the block, unless the worker ends first, by
    itself or by force: then it stays for the next attempt.
    """

    def __init__(self, attempt: Attempt[Analysis]) -> None:
        self._attempt = attempt
        self._number, self._token = attempt.work.id, attempt.token
        self._artifacts = ArtifactStore(attempt.env.artifact_folder, attempt.env.artifacts_quota)
        self._queue = QUEUES[attempt.work.place]
        self._stack = ExitStack()
        self._blocks: _SharedFolder | None = None
        self._key = ""
        self._least = 2
        self._helped: Callable[[int], None] = lambda _: None
        self._by_others = 0
        self._parts = self._reused = 0
        self._everybody: set[str] = set()
        self._at_work: set[str] = set()
        self._rang = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        goes_on = isinstance(error, HandedBack | DatabaseFull)
        if goes_on or (error is not None and not isinstance(error, Exception | Cancelled)):
            self._stack.__exit__(kind, error, trace)
            return
        try:
            if self._blocks is not None and not isinstance(error, ClaimLost):
                self._attempt.write(lambda s: rows.clear(s, self._number, self._token))
        finally:
            self._stack.close()

    @property
    def before(self) -> Plan | None:
        """How an earlier attempt has computed products."""
        plan = self._attempt.work.plan
        return None if plan is None else Plan.from_json(plan)

    @property
    def about(self) -> str:
        """Return the words that follow the name of a shared analysis' stage."""
        workers = len(self._at_work)
        return f" ({workers} workers)" if workers > 1 else ""

    def hire(
        self, plan: Plan, *, seconds: float, block_seconds: float, size: int, helped: Callable[[int], None]
    ) -> Conductor | None:
        """Itself, if the analysis is to be shared; see ``seigh.core.analysis.Hire``."""
        shared = self._is_to_be_shared(plan, seconds, block_seconds, size)
        plan = replace(plan, shared=shared)
        heed(self._attempt.write(lambda s: rows.keep_plan(s, self._number, self._token, plan.to_json())))
        if not shared:
            return None
        folder = self._stack.enter_context(
            scratch(shared_root(self._attempt.env), "analysis", self._number, self._token)
        )
        for name in (KEPT, EXCHANGED):
            (folder / name).mkdir(exist_ok=True)
        self._blocks = _SharedFolder(folder)
        self._key = json.dumps(replace(plan, measured=[], seconds=None).to_json(), sort_keys=True)
        if self._attempt.env.share != "always" and plan.seconds:
            self._least = max(2, math.ceil(_WORTH_A_ROUND / plan.seconds))
        self._helped = helped
        self._attempt.log.info("shared: products of %.3g s, %.0f s in all", plan.seconds or 0, seconds)
        return self

    def _is_to_be_shared(self, plan: Plan, seconds: float, block_seconds: float, size: int) -> bool:
        share = self._attempt.env.share
        if share != "auto":
            return share == "always"
        if plan.shared is not None:
            return plan.shared
        if seconds < _WORTH_SHARING or block_seconds < _WORTH_A_ROUND:
            return False
        if seconds < _WORTH_WAITING_FOR and self._hands().all < 2:
            return False
        try:
            self._artifacts.check_room(2 * size)
        except StoreError as error:
            self._attempt.log.warning("not shared: %s", error)
            return False
        return True

    # What ``seigh.core.sharing.crew.Crew`` asks for.

    @property
    def blocks(self) -> Blocks:
        """The shared folder."""
        if self._blocks is None:
            raise RuntimeError("The analysis is not shared.")
        return self._blocks

    @property
    def least(self) -> int:
        """Vectors of which the products are worth a round."""
        return self._least

    def record(self) -> dict[str, Any]:
        """Who took part in how much."""
        return {"parts": self._parts, "reused": self._reused, "workers": sorted(self._everybody)}

    def run(self, parts: Sequence[Part], perform_here: Callable[[Part], Tensor]) -> Iterator[Tensor]:
        """A round: the parts' results in their order, whoever has performed them."""
        specs = [part.to_json() for part in parts]
        name = hashlib.sha256(json.dumps([self._key, specs], sort_keys=True).encode()).hexdigest()
        folder = self.blocks.folder.name
        heed(self._attempt.write(lambda s: rows.begin(s, self._number, self._token, name, specs, folder)))
        done = self._done(name)
        self._parts += len(parts)
        self._reused += len(done)
        self.blocks.keep(EXCHANGED, _named(specs) | {_result(each.checksum).name for each in done.values()})
        self._rang = -math.inf if len(done) < len(parts) else math.inf
        mine = self._perform_all(name, parts, perform_here, len(done))
        done = self._done(name)
        self._at_work = {each.worker for each in done.values()}
        self._everybody |= self._at_work
        others = [part for number, part in enumerate(parts) if number not in mine]
        self._by_others += sum(part.spec["columns"] for part in others if part.kind == "product")
        self._helped(self._by_others)
        for number, part in enumerate(parts):
            yield self._collect(name, number, part, done[number].checksum, perform_here)

    def _perform_all(
        self, name: str, parts: Sequence[Part], perform_here: Callable[[Part], Tensor], done: int
    ) -> set[int]:
        """Perform what nobody else does until all parts are done; the numbers of those performed here."""
        mine = set()
        look = _SHORTEST_LOOK
        watch: Watch[int] = Watch(_LEASE, timedelta(seconds=_BEAT_SECONDS))
        watched = -math.inf
        while done < len(parts):
            if time.monotonic() - watched >= _BEAT_SECONDS:
                self._release_silent(name, watch)
                watched = time.monotonic()
            self._ring(name, len(parts) - done)
            token = uuid.uuid4().hex
            claimed = self._attempt.write(partial(_claim, self._number, name, token))
            if claimed is not None:
                part = parts[claimed.number]
                with _line(self._attempt.maker, self._number, name, claimed, token, self._attempt.log):
                    result = self.blocks.put(f"{EXCHANGED}result", perform_here(part))
                if self._attempt.write(partial(_finish, self._number, name, claimed, result)):
                    mine.add(claimed.number)
                look = _SHORTEST_LOOK
            else:
                time.sleep(look)
                look = min(2 * look, _LONGEST_LOOK)
            self._attempt.lifeline.check()
            done = len(self._done(name))
        return mine

    def _release_silent(self, name: str, watch: Watch[int]) -> None:
        """Take the parts of dead helpers from them."""
        signs = self._attempt.read(lambda s: rows.signs_of_life(s, self._number, name))
        if silent := {part: signs[part] for part in watch.silent(signs)}:
            self._attempt.write(lambda s: rows.release_silent(s, self._number, name, silent))

    def _collect(
        self, name: str, number: int, part: Part, checksum: str, perform_here: Callable[[Part], Tensor]
    ) -> Tensor:
        try:
            return self.blocks.get(_result(checksum))
        except BlockError as error:
            self._attempt.log.warning("part %d is performed again: %s", number, error)
            self._attempt.write(lambda s: rows.reopen(s, self._number, name, number, checksum))
            return perform_here(part)

    def _done(self, name: str) -> dict[int, rows.Done]:
        return self._attempt.read(lambda s: rows.done(s, self._number, name))

    def _hands(self) -> rows.Hands:
        env = self._attempt.env
        device = pick_device(env.device).type
        return self._attempt.read(lambda s: rows.hands(s, device, self._queue, mark(env.artifact_folder)))

    def _ring(self, name: str, left: int) -> None:
        """Ask for help as much as there is, and as there are parts for."""
        if left < 2 or time.monotonic() - self._rang < _RING_SECONDS:
            return
        self._rang = time.monotonic()
        wanted = min(left - 1, self._hands().idle)
        if wanted < 1:
            return
        try:
            with app.connection_for_write(self._attempt.env.redis) as connection:
                producer = app.amqp.Producer(connection)
                for _ in range(wanted):
                    app.send_task(
                        PART,
                        (self._number, name),
                        queue=self._queue,
                        producer=producer,
                        ignore_result=True,
                        expires=60,
                    )
        except OperationalError as error:
            self._attempt.log.warning("nobody is asked for help: the broker does not answer: %s", error)
            self._rang += _BROKER_SECONDS


# --- Who helps --------------------------------------------------------------------------------------------


@app.task(name=PART)
def part(number: int, name: str) -> None:
    """Perform parts of a round of an analysis until there is none left."""
    with logs.about("analysis", number):
        _help(number, name, Settings())


def _help(number: int, name: str, env: Settings) -> None:
    log = WorkLog(get_task_logger(__name__), Analysis, number)
    maker = sessions(env.database)
    if reason := reason_to_wait(env.device):
        log.error("not helping: %s", reason)
        return
    try:
        helper = _helper(number, env, maker)
        while helper is not None and not ending.is_near() and helper.perform_next(name, maker, log):
            pass
    except (Cancelled, ClaimLost, HandedBack, BlockError) as error:
        log.info("no longer helping: %s", error or type(error).__name__)
    except Exception:
        forget()
        log.exception("not helping; the conductor goes on without")


@dataclass
class Helper:
    """The state that a helper process keeps of its analysis between rounds.

    Attributes:
        number: The analysis.
        plan: How its products are computed.
        operator: Computes them.
        work: The folder below which the files are.
        line: Line of the part in hand.
    """

    number: int
    plan: dict[str, Any]
    operator: CurvatureOperator | None
    work: Path
    line: Line | None = None

    def after_batch(self, _: int) -> None:
        """Between two batches: go on only while the part is wanted."""
        if self.line is not None:
            self.line.check()

    def perform_next(self, name: str, maker: sessionmaker[Session], log: WorkLog) -> bool:
        """Perform a part of a round; False if there is none to perform."""
        token = uuid.uuid4().hex
        claimed = write(maker, partial(_claim, self.number, name, token))
        if claimed is None or self.operator is None:
            return False
        blocks = _SharedFolder(self.work / claimed.folder)
        try:
            with _line(maker, self.number, name, claimed, token, log) as self.line, reproducible():
                result = perform(Part.from_json(claimed.spec), blocks, self.operator)
                stored = blocks.put(f"{EXCHANGED}result", result)
        except Exception:
            write(maker, lambda s: rows.release(s, self.number, name, claimed.number, token))
            raise
        finally:
            self.line = None
        write(maker, partial(_finish, self.number, name, claimed, stored))
        log.debug("performed part %d of round %s", claimed.number, name[:8])
        return True


_kept: Helper | None = None


def forget() -> None:
    """Give up what is kept for helping, to have its memory."""
    global _kept
    _kept = None
    give_back_memory()


def _helper(number: int, env: Settings, maker: sessionmaker[Session]) -> Helper | None:
    """Open the helper of an analysis; None if it takes no help, or none from this host."""
    global _kept
    found = read(maker, partial(_shared_analysis, number))
    if found is None:
        return None
    analysis, filename, key, sha256 = found
    assert analysis.plan is not None
    if _kept is not None and (_kept.number, _kept.plan) == (number, analysis.plan):
        return _kept
    _kept = None
    plan = Plan.from_json(analysis.plan)
    if plan.device != describe_environment(pick_device(env.device))["device"]:
        return None
    keep_freed_memory()  # from one round to the next
    with reproducible():
        path = ArtifactStore(env.artifact_folder).check(key, sha256, f"The file of checkpoint '{filename}'")
        network = load(path, AnalysisSettings.model_validate(analysis.settings), filename, env)
        helper = Helper(number, analysis.plan, None, shared_root(env))
        helper.operator = planned(network, objective(network), plan, after_batch=helper.after_batch)
        for index in range(helper.operator.batches if helper.operator.keep else 1):
            helper.operator.prepare(index)
    _kept = helper
    return helper


def _shared_analysis(number: int, s: Session) -> tuple[Analysis, str, str, str] | None:
    analysis = s.get(Analysis, number)
    if analysis is None or analysis.state is not State.running or not (analysis.plan or {}).get("shared"):
        return None
    checkpoint = analysis.checkpoint
    found = analysis, checkpoint.filename, checkpoint.key, checkpoint.sha256
    s.expunge(analysis)
    return found


# --- What both share --------------------------------------------------------------------------------------


def _line(
    maker: sessionmaker[Session], number: int, name: str, claimed: Claimed, token: str, log: WorkLog
) -> Line:
    def beat(s: Session) -> Standing:
        return rows.beat(s, number, name, claimed.number, token)

    return Line(maker, beat, log, _BEAT_SECONDS)


def _claim(number: int, name: str, token: str, s: Session) -> Claimed | None:
    return rows.claim(s, number, name, token, WORKER)


def _finish(number: int, name: str, claimed: Claimed, result: Block, s: Session) -> bool:
    return rows.finish(s, number, name, claimed.number, result.checksum, WORKER)


def _result(checksum: str) -> Block:
    return Block(f"{EXCHANGED}result-{checksum[:32]}", checksum)


def _named(specs: Sequence[dict[str, Any]]) -> set[str]:
    """Files that the parts read, of those that are exchanged."""
    return {spec[name][0] for spec in specs for name in ("rows", "coefficients") if name in spec}
