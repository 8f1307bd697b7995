"""The Celery application: configuration only.

The database is the truth about all work, and a message merely says "look at analysis 7". So it does no
harm if a message is lost, delivered twice or delivered late: see ``seigh.core.lab.store.claim`` and
``seigh.tasks.recovery``.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, signals

from seigh.core import logs, private
from seigh.core.settings import Settings
from seigh.tasks import broker
from seigh.tasks.queues import QUEUES

broker.install()
app = Celery(
    "seigh",
    broker=Settings().redis,
    include=["seigh.tasks.work", "seigh.tasks.parts", "seigh.tasks.recovery"],
)

# The task, called with the name of a kind of work and the number of one of it.
TASK = "seigh.run"

# That of those who help with an analysis, called with its number and the name of a round.
PART = "seigh.part"

app.conf.update(
    task_default_queue=QUEUES["any"],
    # Nothing but JSON is ever read from the broker: a pickle could run code.
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_ignore_result=True,
    # A worker takes one piece of work at a time and uses all cores for it; `--concurrency` shares them.
    worker_concurrency=1,
    worker_prefetch_multiplier=1,
    # The message outlives a worker that dies, unless the broker dies too.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # Unacknowledged messages are delivered again after this. Long, as work may take hours; a dead
    # worker is noticed by its heartbeat in the database, long before.
    broker_transport_options={
        "visibility_timeout": 24 * 3600,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    },
    broker_connection_retry_on_startup=True,
    # A submitter does not wait long for a broker that is away; the work is in the database by then.
    task_publish_retry_policy={"max_retries": 1, "interval_start": 0.2, "interval_step": 0.2},
    worker_send_task_events=False,
)


@signals.setup_logging.connect  # instead of Celery's own
def _configure_logs(loglevel: int, **_: Any) -> None:
    env = Settings()
    private.begin(env)
    logs.configure(env.log, loglevel)
