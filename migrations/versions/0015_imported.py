"""results that were computed elsewhere: the name of the file that an analysis was imported from

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("analysis", sa.Column("imported", sa.String(255), nullable=True))


def downgrade() -> None:
    op.drop_column("analysis", "imported")
