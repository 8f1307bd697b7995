"""A worker's process: ``python -m seigh.tasks.serve``, with the options of Celery's ``worker``."""

from __future__ import annotations

import sys

# Celery would import these itself, but with the current folder before all others.
from seigh.tasks import parts, recovery, work
from seigh.tasks.celery_app import app

__all__ = ["parts", "recovery", "work"]

if __name__ == "__main__":
    app.worker_main(["--quiet", "worker", *sys.argv[1:]])
