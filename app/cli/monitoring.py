"""Metrics for Prometheus: queue, workers and artefacts, from the database and the folder.

No process counts anything, so it does not matter how many there are or that they end: every scrape asks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from seigh.core.lab.load import Load, load
from seigh.core.lab.session import sessions
from seigh.core.lab.space import used
from seigh.core.settings import Settings

logger = logging.getLogger(__name__)

Label = TypeVar("Label", bound=tuple[str, ...])


def serve(env: Settings, host: str, port: int) -> None:
    """Answer scrapes at ``http://host:port/metrics`` until the process ends."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Lab(env))
    _, thread = start_http_server(port, host, registry)
    logger.info("metrics at http://%s:%d/metrics", host, port)
    thread.join()


class Lab(Collector):
    """The metrics of the installation that ``env`` describes."""

    def __init__(self, env: Settings) -> None:
        self._env = env

    def describe(self) -> Iterable[Metric]:
        """Nothing: to register is not to ask the database."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All of them; of a database that does not answer, only that."""
        start = time.perf_counter()
        found: Load | None = None
        try:
            with sessions(self._env.database)() as s:
                found = load(s)
        except SQLAlchemyError as error:
            logger.warning("the database does not answer: %s", error)
        yield _gauge("seigh_database_up", "Whether the database answers.", float(found is not None))
        yield _gauge("seigh_scrape_seconds", "What the database's answer took.", time.perf_counter() - start)
        if found is not None:
            yield from _of_work(found)
            yield from _of_workers(found)
        yield from self._of_artifacts()

    def _of_artifacts(self) -> Iterator[Metric]:
        space = used(self._env.artifact_folder)
        yield _gauge("seigh_artifacts_bytes", "What the artefacts take.", space)
        if (quota := self._env.artifacts_quota) is not None:
            yield _gauge("seigh_artifacts_quota_bytes", "What they may take.", quota)


def _of_work(found: Load) -> Iterator[Metric]:
    kind_and_state = ["kind", "state"]
    yield _gauges("seigh_work", "Pieces of work; those queued are the queue.", kind_and_state, found.counts)
    yield _gauges(
        "seigh_work_ended_last_hour", "What ended in the last hour, and how.", kind_and_state, found.ended
    )
    yield _gauges(
        "seigh_queue_oldest_seconds",
        "How long the oldest queued work has waited.",
        ["kind"],
        {(kind,): seconds for kind, seconds in found.oldest.items()},
    )
    yield _gauge("seigh_hvps", "Hessian-vector products of all analyses so far.", found.hvps)
    yield _gauge(
        "seigh_hvps_per_second", "Products per second of all analyses that run.", found.hvps_per_second
    )


def _of_workers(found: Load) -> Iterator[Metric]:
    alive = dict.fromkeys([("cpu",), ("cuda",)], 0)
    for worker in found.workers:
        if worker.alive:
            alive[(worker.device,)] = alive.get((worker.device,), 0) + 1
    yield _gauges("seigh_workers", "Workers that are alive.", ["device"], alive)
    yield _gauges(
        "seigh_worker_silent_seconds",
        "Seconds since a worker was heard of.",
        ["worker", "device", "device_name"],
        {(each.name, each.device, each.device_name): each.silent for each in found.workers},
    )


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _gauges(name: str, help_text: str, labels: list[str], values: Mapping[Label, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for label, value in values.items():
        family.add_metric([str(each) for each in label], value)
    return family
