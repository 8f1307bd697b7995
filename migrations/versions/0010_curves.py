"""further curves of an analysis, one row each

A curve is packed: its numbers are one string of bytes, eight for each, of which one is read at one k by
``substr``. The other layout, one row a point as in ``overlap_point``, was measured beside it
(``python -m benchmarks.curves``: six curves of 1,500 points an analysis; 2 cores, beside other work).

==========  =============  ========  ===============  =============  =======================
database    layout         analyses  ms to write one  GiB of 10,000  ms to read one k of all
==========  =============  ========  ===============  =============  =======================
SQLite      a row a point     1,000             39.7           4.32                    872
SQLite      packed           10,000              2.0           2.06                    194
PostgreSQL  a row a point     1,000            311.8           8.37                     11
PostgreSQL  packed           10,000              4.5           2.17                     51
==========  =============  ========  ===============  =============  =======================

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "curve",
        sa.Column("analysis_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("points", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["analysis_id"],
            ["analysis.id"],
            name=op.f("fk_curve_analysis_id_analysis"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("analysis_id", "name", name=op.f("pk_curve")),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Compressed, a string would have to be unpacked to read some bytes of it.
        op.execute("ALTER TABLE curve ALTER COLUMN points SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("curve")
