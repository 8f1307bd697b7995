"""The task: one message, one piece of work, from its claim to its end. What it does is its kind's ``run``."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from celery import signals
from celery.utils.log import get_task_logger

from core import logs
from core.curvature.memory import is_out_of_memory
from core.problems.checkpoints import CheckpointError
from core.problems.data import DataError
from core.results import store
from core.results.models import WORK, Analysis, Comparison, Training, Work
from core.results.session import sessions
from core.results.store import StoreError
from core.settings import Settings, SettingsError
from core.spectra import SpectrumError
from tasks import analysis, comparison, training
from tasks.attempt import Attempt, write
from tasks.celery_app import TASK, app
from tasks.progress import STALE_AFTER, Cancelled, ClaimLost, Lifeline, WorkLog
from tasks.readiness import reason_to_wait
from tasks.scratch import root, scratch

_RUN: Mapping[type[Work], Callable[[Attempt[Any]], None]] = MappingProxyType(
    {Analysis: analysis.run, Training: training.run, Comparison: comparison.run}
)

# Their message is a sentence for the user. Anything else is a bug, or trouble of the machine's.
_USER_ERRORS = (CheckpointError, DataError, SettingsError, SpectrumError, StoreError)

# This worker, by its main process. Its children have the name too: they are forked after this line has run.
WORKER = f"{socket.gethostname()}:{os.getpid()}"

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
    name = kind.__tablename__
    maker = sessions(env.database)
    log = WorkLog(get_task_logger(__name__), kind, number)
    if reason := reason_to_wait(env.device):
        log.error("left to others: %s", reason)
        time.sleep(_LATER)  # the sweep sends it again
        return
    token = uuid.uuid4().hex
    with maker.begin() as s:
        claimed = store.claim(s, kind, number, token, WORKER, STALE_AFTER, env.max_running_per_user)
        if claimed is None:
            log.info(
                "nothing to do: it has ended, was deleted, is running elsewhere, or enough of its user's run"
            )
            return
        log.info("attempt %d", claimed.attempts)
        s.expunge(claimed)

    with (
        Lifeline(maker, kind, number, token, log) as lifeline,
        scratch(root(env, kind), name, number, token) as folder,
    ):
        try:
            _RUN[kind](Attempt(claimed, token, env, maker, folder, lifeline, log))
            log.info("finished")
        except Cancelled:
            write(maker, lambda s: store.cancelled(s, kind, number, token))
            log.info("cancelled")
        except ClaimLost:
            log.warning("given up: it belongs to another attempt, or was deleted")
        except Exception as error:
            message = sentence(error, kind)
            log.error("failed: %s", message, exc_info=not isinstance(error, _USER_ERRORS))
            write(maker, lambda s: store.fail(s, kind, number, token, message))


def sentence(error: Exception, kind: type[Work]) -> str:
    """What to tell the user about work of a kind that ended with this exception."""
    if isinstance(error, _USER_ERRORS):
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


@signals.worker_process_init.connect  # in each child
def _share_cores(**_: Any) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // _concurrency))
