"""checksums of eigenvectors, and incidents

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("analysis", sa.Column("eigenvectors_sha256", sa.String(64), nullable=True))
    op.create_table(
        "incident",
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_incident")),
    )


def downgrade() -> None:
    op.drop_table("incident")
    op.drop_column("analysis", "eigenvectors_sha256")
