"""data files have names and the split that was declared of them; one that is of none is called "no split"

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_OF_FILES = "data LIKE 'sha256:%'"


def upgrade() -> None:
    op.create_table(
        "data_file",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("split", sa.String(16), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("uploaded_by", sa.String(100), nullable=False),
        sa.Column("uploaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_data_file")),
        sa.UniqueConstraint("name", name=op.f("uq_data_file_name")),
    )
    # "test" was what stood there when nobody had said anything.
    op.execute(f"UPDATE analysis SET split = 'no split' WHERE split = 'test' AND {_OF_FILES}")


def downgrade() -> None:
    op.execute(f"UPDATE analysis SET split = 'test' WHERE split = 'no split' AND {_OF_FILES}")
    op.drop_table("data_file")
