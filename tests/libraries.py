"""Imports the libraries of workers and of the command line, none of which reads our settings: tests fork both
from here."""

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
    "torchvision.models",
    "typer.rich_utils",
)

for _name in _NAMES:
    import_module(_name)
