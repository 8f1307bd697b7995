"""tags of analyses and models, a note on a model, and models that are put away

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model", sa.Column("note", sa.Text(), nullable=False, server_default=""))
    op.add_column("model", sa.Column("archived", sa.Boolean(), nullable=False, server_default=sa.false()))
    for table in ("analysis", "model"):
        op.create_table(
            f"{table}_tag",
            sa.Column(f"{table}_id", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("name", sa.String(length=60), nullable=False),
            sa.ForeignKeyConstraint(
                [f"{table}_id"],
                [f"{table}.id"],
                name=op.f(f"fk_{table}_tag_{table}_id_{table}"),
                ondelete="CASCADE",
            ),
            sa.PrimaryKeyConstraint(f"{table}_id", "name", name=op.f(f"pk_{table}_tag")),
        )
        op.create_index(op.f(f"ix_{table}_tag_name"), f"{table}_tag", ["name"])


def downgrade() -> None:
    for table in ("model", "analysis"):
        op.drop_table(f"{table}_tag")
    op.drop_column("model", "archived")
    op.drop_column("model", "note")
