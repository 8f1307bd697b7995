"""The task: one message, one piece of work, from its claim to its end. What it does is its kind's ``run``."""

from __future__ import annotations

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
from seigh.core.lab import store
from seigh.core.lab.models import WORK, Analysis, Comparison, Training, Work
from seigh.core.lab.session import DatabaseFull, sessions
from seigh.core.linalg.memory import is_out_of_memory
from seigh.core.settings import Settings, SettingsError
from seigh.tasks import analysis, comparison, training
from seigh.tasks.attempt import Attempt, write
from seigh.tasks.celery_app import TASK, app
from seigh.tasks.ending import HandedBack
from seigh.tasks.progress import Cancelled, ClaimLost, Lifeline, WorkLog
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


@app.task(name=TASK)
def run(name: str, number: int) -> None:
    """Run queued work, of the kind of this name, and write its results, or why there are none.

    Does nothing if it is not to be run: ended, deleted, or running elsewhere.
    """
    kind = WORK[name]
    with logs.about(name, number):
        _run(kind, number, Settings())


def _run(kind: type[Work], number: int, env: Settings) -> None:
    maker = sessions(env.database)
    log = WorkLog(get_task_logger(__name__), kind, number)
    if reason := reason_to_wait(env.device):
        log.error("left to others: %s", reason)
        time.sleep(_LATER)  # the sweep sends it again
        return
    token = uuid.uuid4().hex
    try:
        claimed = write(maker, lambda s: _claim(s, kind, number, token, env))
    except DatabaseFull as error:
        log.error("left for later: %s", error)
        return
    except DBAPIError:  # the database's trouble, and not the row's
        raise
    except Exception as error:  # a row that cannot be read; it would come back for ever
        log.exception("set aside")
        reason = sentence(error, kind)
        write(maker, lambda s: store.set_aside(s, kind, number, reason))
        return
    if claimed is None:
        log.info(
            "nothing to do: it has ended, was deleted, is running elsewhere, or enough of its user's run"
        )
        return
    log.info("attempt %d", claimed.attempts)
    try:
        _attempt(claimed, token, env, maker, log)
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


def _claim(s: Session, kind: type[Work], number: int, token: str, env: Settings) -> Work | None:
    claimed = store.claim(s, kind, number, token, WORKER, env.max_running_per_user)
    if claimed is not None:
        s.expunge(claimed)
    return claimed


def _attempt(claimed: Work, token: str, env: Settings, maker: sessionmaker[Session], log: WorkLog) -> None:
    """Do claimed work.

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
            message = sentence(error, kind)
            log.error("failed: %s", message, exc_info=not isinstance(error, UserError))
            write(maker, lambda s: store.fail(s, kind, number, token, message))


def sentence(error: Exception, kind: type[Work]) -> str:
    """What to tell the user about work of a kind that ended with this exception."""
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
    torch.set_num_threads(max(1, torch.get_num_threads() // _concurrency))
