"""The task: one message, one piece of work, from its claim to its end. What it does is its kind's ``run``."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from celery import signals
from celery.utils.log import get_task_logger
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from seigh.core import logs, version
from seigh.core.errors import UserError
from seigh.core.lab import store, turns
from seigh.core.lab.models import WORK, Analysis, Comparison, Training, Work
from seigh.core.lab.session import DatabaseFull, sessions
from seigh.core.linalg.memory import is_out_of_memory
from seigh.core.names import Place
from seigh.core.settings import Settings, SettingsError
from seigh.tasks import analysis, comparison, training
from seigh.tasks.attempt import Attempt, read, write
from seigh.tasks.celery_app import TASK, app
from seigh.tasks.ending import HandedBack
from seigh.tasks.progress import Cancelled, ClaimLost, Lifeline, WorkLog
from seigh.tasks.queues import QUEUES
from seigh.tasks.readiness import reason_to_wait
from seigh.tasks.scratch import root, scratch
from seigh.tasks.submit import send
from seigh.tasks.worker import WORKER

_RUN: Mapping[type[Work], Callable[[Attempt[Any]], None]] = MappingProxyType(
    {Analysis: analysis.run, Training: training.run, Comparison: comparison.run}
)

# How long a worker whose device can take no work leaves it to others before it looks again.
_LATER = 5.0  # seconds

_concurrency = 1
_is_child = False  # whether this process is one of a worker's children


@app.task(name=TASK, bind=True)
def run(self: Any, name: str, number: int) -> None:
    """Run queued work and write its results, or why there are none.

    A message from a queue says that there is work for its workers; which of it is to be run is looked up
    only now (``seigh.core.lab.turns``). There are as many messages as there is work, and each is good for one
    piece of it, though perhaps for another one than was new when it was sent. Called without a queue, the
    work of this name and number is run. Does nothing if that is not to be run: ended, deleted, or running
    elsewhere.
    """
    env = Settings()
    place = _place_of(self.request)
    found: tuple[type[Work], int] | None = WORK[name], number
    if place is not None:
        try:
            found = _next(place, env)
        except DBAPIError:
            raise
        except Exception:  # a row that cannot be read; whoever claims it sets it aside
            get_task_logger(__name__).exception("the order of the queue is not known")
            place = None
    while found is not None:
        kind, number = found
        with logs.about(kind.__tablename__, number):
            if _run(kind, number, env):
                return
        found = None if place is None else _next(place, env)  # another worker was faster
    with logs.about(name, number):
        WorkLog(get_task_logger(__name__), WORK[name], number).info(
            "nothing to do: it has ended, was deleted, is running elsewhere, or enough of its user's run"
        )


def _place_of(request: Any) -> Place | None:
    """For which place the queue is that a message came from; None if it came from none."""
    queue = (request.delivery_info or {}).get("routing_key")
    return next((place for place, name in QUEUES.items() if name == queue), None)


def _next(place: Place, env: Settings) -> tuple[type[Work], int] | None:
    """The queued work for a place whose turn it is."""

    def first(s: Session) -> tuple[type[Work], int] | None:
        waiting = turns.queue(s, place, env.max_running_per_user)
        return (WORK[waiting[0].kind], waiting[0].number) if waiting else None

    return read(sessions(env.database), first)


def _run(kind: type[Work], number: int, env: Settings) -> bool:
    """Run this work; False if it is not to be run, or no more."""
    maker = sessions(env.database)
    log = WorkLog(get_task_logger(__name__), kind, number)
    if reason := reason_to_wait(env.device):
        log.error("left to others: %s", reason)
        time.sleep(_LATER)  # the sweep sends it again
        return True
    token = uuid.uuid4().hex
    try:
        claimed = write(maker, lambda s: _claim(s, kind, number, token, env))
    except DatabaseFull as error:
        log.error("left for later: %s", error)
        return True
    except DBAPIError:  # the database's trouble, and not the row's
        raise
    except Exception as error:  # a row that cannot be read; it would come back for ever
        log.exception("set aside")
        reason = sentence(error, kind)
        write(maker, lambda s: store.set_aside(s, kind, number, reason))
        return True
    if claimed is None:
        return False
    log.info("attempt %d", claimed.attempts)
    try:
        if _attempt(claimed, token, env, maker, log):
            _leave(log)
    except SettingsError as error:  # there is no folder for it
        message = sentence(error, kind)
        log.error("failed: %s", message)
        write(maker, lambda s: store.fail(s, kind, number, token, message))
    except DatabaseFull as error:
        # The claim cannot be given back either. Without a heartbeat, the sweep will do so when there is room.
        log.error("left for later: %s", error)
    except HandedBack:
        # Only now: whoever goes on with it needs its folder.
        if write(maker, lambda s: store.give_back(s, kind, number, token)):
            log.info("handed back: the worker ends")
            send(kind, [number], env)
    return True


def _claim(s: Session, kind: type[Work], number: int, token: str, env: Settings) -> Work | None:
    claimed = store.claim(s, kind, number, token, WORKER, env.max_running_per_user)
    if claimed is not None:
        s.expunge(claimed)
    return claimed


def _leave(log: WorkLog) -> None:
    """End this process, if it is a worker's child: the worker starts another one.

    An interruption comes between any two steps, so it may have left a library's own state half changed, with
    which the next work would compute. The message comes again, and finds that the work has ended.
    """
    if not _is_child:
        return
    log.info("its process ends, and a new one takes its place")
    logging.shutdown()
    os._exit(0)


def _attempt(claimed: Work, token: str, env: Settings, maker: sessionmaker[Session], log: WorkLog) -> bool:
    """Do claimed work.

    Returns:
        Whether it was interrupted between two steps of Python.

    Raises:
        HandedBack: The worker is to end before the work has.
        DatabaseFull: Nothing can be written down; what there is for a next attempt to go on from stays.
    """
    kind, number = type(claimed), claimed.id
    with (
        Lifeline(maker, kind, number, token, log) as lifeline,
        scratch(root(env, kind), kind.__tablename__, number, token) as folder,
    ):
        try:
            with lifeline.interruptible():
                _RUN[kind](Attempt(claimed, token, env, maker, folder, lifeline, log))
            log.info("finished")
        except (HandedBack, DatabaseFull):
            raise
        except Cancelled:
            write(maker, lambda s: store.cancelled(s, kind, number, token))
            log.info("cancelled")
        except ClaimLost:
            log.warning("given up: it belongs to another attempt, or was deleted")
        except Exception as error:
            if lifeline.is_cancelled:  # what the interruption has become on its way here
                write(maker, lambda s: store.cancelled(s, kind, number, token))
                log.info("cancelled")
                return lifeline.was_interrupted
            message = sentence(error, kind)
            log.error("failed: %s", message, exc_info=not isinstance(error, UserError))
            write(maker, lambda s: store.fail(s, kind, number, token, message))
        return lifeline.was_interrupted


def sentence(error: Exception, kind: type[Work]) -> str:
    """Return the sentence for the user about work of a kind that ended with this exception."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return f"The {kind.__tablename__} needs more memory than there is; {kind.relief}."
    first_line = str(error).strip().partition("\n")[0][:300]
    what = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return f"Unexpected error ({what}); the worker's log has the details."


@signals.celeryd_after_setup.connect  # in the main process, which knows how many children it will fork
def _remember_concurrency(instance: Any, **_: Any) -> None:
    global _concurrency
    _concurrency = instance.concurrency
    version.exact()  # before anybody changes the files


@signals.worker_process_init.connect  # in each child
def _share_cores(**_: Any) -> None:
    global _is_child
    _is_child = True
    torch.set_num_threads(max(1, torch.get_num_threads() // _concurrency))
