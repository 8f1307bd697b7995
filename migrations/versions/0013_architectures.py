"""longer names of architectures: a transformer's is its configuration

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _resize(300, 2000)


def downgrade() -> None:
    _resize(2000, 300)


def _resize(before: int, after: int) -> None:
    with op.batch_alter_table("model") as table:
        table.alter_column(
            "architecture",
            existing_type=sa.String(before),
            type_=sa.String(after),
            existing_nullable=False,
        )
