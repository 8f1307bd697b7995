"""Imports what workers, the command line and the dashboard import, and what reads none of our settings: tests
fork all of them from here."""

from __future__ import annotations

import gc
from importlib import import_module

from streamlit.components.v2 import manifest_scanner

_NAMES = (
    "alembic.command",
    "altair",
    "authlib.integrations.starlette_client",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "kombu.transport.redis",
    "pandas",
    "psycopg",
    "pydantic_settings",
    "safetensors.torch",
    "scipy.linalg",
    "scipy.optimize",
    "seigh.core.analysis",
    "seigh.core.lab.queries",
    "seigh.core.lab.session",
    "seigh.core.problems.architectures",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "streamlit.web.server.starlette",
    "torch.func",
    "torchvision.models",
    "typer.rich_utils",
    "uvicorn",
)

for _name in _NAMES:
    import_module(_name)

# Every dashboard looks through all installed packages for components; they are the same for all of them.
_FOUND = manifest_scanner.scan_component_manifests()
manifest_scanner.scan_component_manifests = lambda: _FOUND

# What is here stays for good: no child looks through it for garbage.
gc.collect()
gc.freeze()
