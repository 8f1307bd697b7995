"""overlaps over all ways to break ties of equal magnitudes

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("overlap_point", sa.Column("least", sa.Double(), nullable=True))
    op.add_column("overlap_point", sa.Column("greatest", sa.Double(), nullable=True))
    op.add_column("overlap_point", sa.Column("tied", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for column in ("tied", "greatest", "least"):
        op.drop_column("overlap_point", column)
