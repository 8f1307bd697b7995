"""how urgent queued work is, how long it is expected to take, and when it last came further

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KINDS = ("analysis", "training", "comparison")


def upgrade() -> None:
    for table in _KINDS:
        op.add_column(table, sa.Column("priority", sa.String(8), nullable=False, server_default="normal"))
        op.add_column(table, sa.Column("expected_seconds", sa.Double(), nullable=True))
        op.add_column(table, sa.Column("expected_spread", sa.Double(), nullable=True))
        op.add_column(table, sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for table in _KINDS:
        op.drop_column(table, "progress_at")
        op.drop_column(table, "expected_spread")
        op.drop_column(table, "expected_seconds")
        op.drop_column(table, "priority")
