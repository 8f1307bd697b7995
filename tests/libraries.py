"""Imports the libraries of workers, of the command line and of the dashboard, none of which reads our
settings: tests fork all of them from here."""

from importlib import import_module

_NAMES = (
    "alembic.command",
    "altair",
    "authlib.integrations.starlette_client",
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
    "streamlit.web.server.starlette",
    "torch.func",
    "torchvision.models",
    "typer.rich_utils",
)

for _name in _NAMES:
    import_module(_name)
