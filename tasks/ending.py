"""Whether this worker is to end: its main process says so, and its children hand their work back.

They do so after the batch that they are at, so that a worker told to end (SIGTERM) has ended soon, however
long its work would have taken, and another worker goes on with it. Told again, it does not wait for that.
"""

from __future__ import annotations

import mmap
import os
import signal
from typing import Any

from celery import signals

# Shared with the children, which are forked later.
_flag = mmap.mmap(-1, 1)


class HandedBack(Exception):
    """The worker ends, and leaves its work to others."""


def is_near() -> bool:
    """Whether the worker was told to end."""
    return _flag[0] != 0


@signals.worker_shutting_down.connect  # in the main process
def _announce(sig: str, **_: Any) -> None:
    if is_near() and sig == "SIGTERM":
        os.kill(os.getpid(), signal.SIGQUIT)  # which ends the children, too
    _flag[0] = 1
