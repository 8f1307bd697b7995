"""Imports the libraries of a worker, none of which reads our settings: tests fork workers from here."""

from importlib import import_module

_NAMES = (
    "alembic.command",
    "celery.apps.worker",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "kombu.transport.redis",
    "pandas",
    "psycopg",
    "pydantic_settings",
    "safetensors.torch",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "torch.func",
)

for _name in _NAMES:
    import_module(_name)
