"""How Alembic reaches the database: the connection that ``seigh.core.lab.session.migrate`` hands over,
or, from the ``alembic`` command line, the one of the environment (``SEIGH_HOME``, ``SEIGH_DATABASE_URL``)."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from seigh.core.lab.models import Base, UTCDateTime
from seigh.core.lab.session import migration_connection
from seigh.core.settings import Settings


def render_item(kind: str, item: Any, _: AutogenContext) -> str | Literal[False]:
    """Write a migration in SQLAlchemy's own types: it must not change when our classes do."""
    if kind == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def run(connection: Connection) -> None:
    """Run the migrations that ``context`` was asked for on ``connection``."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_item=render_item,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    with migration_connection(Settings().database) as connection:
        run(connection)
