"""Heartbeats and facts that a worker's main process writes to the database."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence

import torch
from sqlalchemy.orm import Session

from seigh.core.device import Device, describe_apart
from seigh.core.lab import workers
from seigh.core.lab.space import mark
from seigh.core.settings import Settings, SettingsError

logger = logging.getLogger(__name__)


class Presence:
    """A worker's row in the table of workers, from its first report until it leaves."""

    def __init__(self, name: str, concurrency: int, queues: Sequence[str]) -> None:
        self.name = name
        self._concurrency = concurrency
        self._queues = list(queues)
        self._device: Device | None = None

    def look(self, env: Settings) -> None:
        """Find out once what the device is, which may take seconds."""
        if self._device is None:
            try:
                self._device = describe_apart(env.device)
            except SettingsError as error:
                logger.error("%s", error)

    def report(self, s: Session, env: Settings) -> None:
        """Record that the worker is alive; nothing before its device is known."""
        if self._device is None:
            return
        facts = workers.Facts(
            name=self.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device.kind,
            device_name=self._device.name,
            memory=self._device.memory,
            torch=torch.__version__,
            threads=max(1, torch.get_num_threads() // self._concurrency),
            concurrency=self._concurrency,
            queues=self._queues,
            artifacts=_mark(env),
        )
        workers.report(s, facts)

    def leave(self, s: Session) -> None:
        """Record that the worker has ended."""
        workers.leave(s, self.name)


def _mark(env: Settings) -> str | None:
    try:
        return mark(env.artifact_folder)
    except OSError as error:
        logger.warning("the artefact folder %s cannot be used: %s", env.artifact_folder, error)
        return None
