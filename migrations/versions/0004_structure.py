"""where an overlap lies: shares of the layers, mass by magnitude, and every Grassmannian metric

Revision ID: 0004
Revises: 0003
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _of_analysis(
        "layer_share",
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("eigenspace", sa.Double(), nullable=False),
        sa.Column("mask", sa.Double(), nullable=False),
        sa.Column("overlap", sa.Double(), nullable=True),
    )
    _of_analysis(
        "magnitude_bin",
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        *(
            sa.Column(name, sa.Double(), nullable=False)
            for name in ("largest", "smallest", "mean", "low", "median", "high")
        ),
    )
    _of_analysis(
        "subspace_metric",
        sa.Column("metric", sa.String(length=32), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("error", sa.Double(), nullable=True),
        sa.Column("random_mean", sa.Double(), nullable=False),
        sa.Column("random_std", sa.Double(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("subspace_metric")
    op.drop_table("magnitude_bin")
    op.drop_table("layer_share")


def _of_analysis(table: str, first: sa.Column[Any], *columns: sa.Column[Any]) -> None:
    """A table of rows of an analysis, at each k one for every value of the first column."""
    op.create_table(
        table,
        sa.Column("analysis_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("k", sa.Integer(), autoincrement=False, nullable=False),
        first,
        *columns,
        sa.ForeignKeyConstraint(
            ["analysis_id"], ["analysis.id"], name=op.f(f"fk_{table}_analysis_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("analysis_id", "k", first.name, name=op.f(f"pk_{table}")),
        sqlite_with_rowid=False,
    )
