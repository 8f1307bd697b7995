"""further curves have an upper and a lower end where their error is not the same to both sides

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("curve", sa.Column("ends", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("curve") as batch:
        batch.drop_column("ends")
