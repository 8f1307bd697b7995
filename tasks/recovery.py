"""Recovery of work whose worker died or whose message was lost, and removal of its leftovers.

Every worker looks after all of them, in a thread of its main process, which has nothing else to do while its
children compute. Workers may get in each other's way here: a second message finds the work taken.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import kombu
import kombu.exceptions
import sqlalchemy.exc
from celery import bootsteps
from sqlalchemy.orm import Session, sessionmaker

from seigh.core.lab import incidents, leftovers, parts, store, workers
from seigh.core.lab.artifacts import ArtifactStore
from seigh.core.lab.models import WORK, Work
from seigh.core.lab.session import close, sessions
from seigh.core.lab.watch import Watch
from seigh.core.names import PLACES, Place
from seigh.core.settings import Settings
from seigh.tasks import broker, scratch
from seigh.tasks.celery_app import app
from seigh.tasks.presence import Presence
from seigh.tasks.queues import QUEUES
from seigh.tasks.submit import send
from seigh.tasks.worker import WORKER

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 5.0

# Work without a new heartbeat for this long is given up, and another worker takes over.
SILENT_AFTER = timedelta(seconds=30)

# How often work may take its worker down.
_MOST_ATTEMPTS = 5

# A message that was sent this recently may still be on its way.
_ON_ITS_WAY = timedelta(seconds=15)

# The main process forks a child whenever one has died. A database connection that is in use at that moment
# would be shared with the child, and SQLite's locks with it; so forks wait for the sweep, which closes its
# connections.
_sweeping = threading.Lock()
os.register_at_fork(
    before=_sweeping.acquire, after_in_parent=_sweeping.release, after_in_child=_sweeping.release
)


class Recovery(bootsteps.StartStopStep):
    """The part of a Celery worker that sweeps from its start to its end."""

    requires = ("celery.worker.components:Pool",)  # which forks the children first

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._sweep_repeatedly, args=[parent], name="recovery", daemon=True
        )

    def start(self, _: Any) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self, _: Any) -> None:
        """End a worker that lets its work finish first."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            with _database(Settings()) as maker, maker.begin() as s:
                workers.leave(s, WORKER)
        except sqlalchemy.exc.DBAPIError as error:
            logger.warning("the database does not answer, so this worker is taken for dead: %s", error.orig)

    def terminate(self, parent: Any) -> None:
        """End a worker that has stopped its children: others take over at once."""
        self.stop(parent)
        with _database(Settings()) as maker, maker.begin() as s:
            parts.release_all(s, WORKER)
            numbers = {name: store.hand_back(s, kind, WORKER) for name, kind in WORK.items()}
        handed_back = ", ".join(f"{name} {each}" for name, found in numbers.items() for each in found)
        if handed_back:  # Celery puts their messages back
            logger.info("handed back: %s", handed_back)

    def _sweep_repeatedly(self, parent: Any) -> None:
        queues = sorted(parent.app.amqp.queues.consume_from)
        presence = Presence(WORKER, parent.concurrency, queues)
        sweeper = Sweeper()
        while True:
            env = Settings()
            try:
                presence.look(env)
                with _database(env) as maker, maker.begin() as s:
                    presence.report(s, env)
                sweeper.sweep()
            except kombu.exceptions.OperationalError as error:
                logger.warning("the broker does not answer: %s", error)
            except sqlalchemy.exc.DBAPIError as error:
                logger.warning("the database does not answer, or is not migrated: %s", error.orig)
            except Exception:  # whatever it is, the next sweep may succeed
                logger.exception("recovery failed; trying again in %.0f s", _SWEEP_SECONDS)
            if self._over.wait(_SWEEP_SECONDS):
                return


app.steps["worker"].add(Recovery)


class Sweeper:
    """Queues again what dead workers left behind, sends the messages that are missing, clears what is to go.

    A worker is dead when this process has watched its work for ``SILENT_AFTER`` without a new heartbeat. So
    neither a clock that is set, nor a pause of this process or of the whole machine, makes a worker dead.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # A little more than lies between two sweeps.
        step = timedelta(seconds=1.2 * _SWEEP_SECONDS)
        self._watches = {name: Watch[int](SILENT_AFTER, step, clock) for name in WORK}

    def sweep(self) -> None:
        """Do so once; to be called every few seconds."""
        env = Settings()
        with _database(env) as maker:
            for name, kind in WORK.items():
                self._requeue(name, kind, maker)
                with maker() as s:
                    for root in (env.scratch_folder, scratch.shared_root(env)):
                        scratch.sweep(root, name, partial(store.under_way, s, kind))
            _expire(env, maker)
            for place in PLACES:
                _send_forgotten(place, env, maker)
            _tell_what_was_set_aside(maker)
        for file in leftovers.sweep(env.artifact_folder):
            logger.info("removed what a killed process left: %s", file)

    def _requeue(self, name: str, kind: type[Work], maker: sessionmaker[Session]) -> None:
        with maker() as s:
            signs = store.signs_of_life(s, kind)
        silent = {number: signs[number] for number in self._watches[name].silent(signs)}
        if not silent:
            return
        with maker.begin() as s:
            requeued = store.requeue_silent(s, kind, silent, _MOST_ATTEMPTS)
        if requeued:
            logger.warning("their workers died; queued again: %s %s", name, requeued)


def _tell_what_was_set_aside(maker: sessionmaker[Session]) -> None:
    """Let the pages say that there were messages in a queue that are none (``seigh.tasks.broker``)."""
    times = len(broker.found)
    if not times:
        return
    with maker.begin() as s:
        incidents.tell(
            s,
            "messages",
            "A queue held what is no message of ours; it was set aside, and the worker's log shows it. "
            "Nothing is lost by that; see who else writes into this Redis.",
            times,
        )
    for _ in range(times):
        broker.found.popleft()


def _expire(env: Settings, maker: sessionmaker[Session]) -> None:
    """Delete the eigenvectors that the installation keeps no longer."""
    if env.retention_days is None:
        return
    with maker.begin() as s:
        files = store.expire(s, timedelta(days=env.retention_days))
    for key in files:
        logger.info("deleted after %g days: %s", env.retention_days, key)
        ArtifactStore(env.artifact_folder).delete(key)


def _send_forgotten(place: Place, env: Settings, maker: sessionmaker[Session]) -> None:
    """Send messages for what waits in a queue that has none.

    While there are messages the workers have work. When there is none, whatever waits is forgotten.
    """
    with maker() as s:
        found = {
            kind: store.waiting(s, kind, _ON_ITS_WAY, place, env.max_running_per_user)
            for kind in WORK.values()
        }
    if not any(found.values()) or _messages(QUEUES[place], env) > 0:
        return
    for kind, numbers in found.items():
        if numbers:
            logger.warning("no message stands for %s %s; sending one each", kind.__tablename__, numbers)
            send(kind, numbers, env)


def _messages(queue: str, env: Settings) -> int:
    """How many messages wait in a queue."""
    with app.connection_for_read(env.redis) as connection:
        connection.ensure_connection(max_retries=1)
        declared: Any = kombu.Queue(queue)(connection.default_channel).queue_declare()
        return int(declared.message_count)


@contextmanager
def _database(env: Settings) -> Iterator[sessionmaker[Session]]:
    """The database, with no fork meanwhile and no connection left open."""
    with _sweeping:
        try:
            yield sessions(env.database)
        finally:
            close(env.database)
