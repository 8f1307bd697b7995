"""trainings and comparisons, which wait and run as analyses do; values of pairs; architectures with options

Revision ID: 0003
Revises: 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATES = ("queued", "running", "finished", "failed", "cancelled")

# Settings of an analysis that 0002 did not know, with their defaults.
NEW = {"loss": "cross-entropy", "label_smoothing": 0.0, "weight_decay": 0.0}


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _give_every_id_once("analysis")
    op.create_table(
        "training",
        *_life(),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("problem", sa.String(length=300), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("analyses", sa.JSON(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("steps_done", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model.id"], name=op.f("fk_training_model_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training")),
        sa.UniqueConstraint("key", name=op.f("uq_training_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_training_model_id"), "training", ["model_id"])
    op.create_index(op.f("ix_training_state_heartbeat"), "training", ["state", "heartbeat_at"])
    op.create_table(
        "comparison",
        *_life(),
        sa.Column("analyses", sa.JSON(), nullable=False),
        sa.Column("ks", sa.JSON(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparison")),
        sa.UniqueConstraint("key", name=op.f("uq_comparison_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_comparison_state_heartbeat"), "comparison", ["state", "heartbeat_at"])
    op.create_table(
        "pair_value",
        sa.Column("first_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("second_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("k", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("measure", sa.String(length=32), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.CheckConstraint("first_id <= second_id", name=op.f("ck_pair_value_order")),
        sa.ForeignKeyConstraint(
            ["first_id"], ["analysis.id"], name=op.f("fk_pair_value_first_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["second_id"], ["analysis.id"], name=op.f("fk_pair_value_second_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("first_id", "second_id", "k", "measure", name=op.f("pk_pair_value")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_pair_value_second_id"), "pair_value", ["second_id"])
    with op.batch_alter_table("model") as table:
        table.alter_column(
            "architecture", existing_type=sa.String(length=100), type_=sa.String(length=300), nullable=False
        )


def downgrade() -> None:
    with op.batch_alter_table("model") as table:
        table.alter_column(
            "architecture", existing_type=sa.String(length=300), type_=sa.String(length=100), nullable=False
        )
    op.drop_table("pair_value")
    op.drop_table("comparison")
    op.drop_table("training")
    _drop_settings_at_their_default()


def _drop_settings_at_their_default() -> None:
    """The code of 0002 knows none of them; ``settings_key`` never had them."""
    analysis = sa.table("analysis", sa.column("id"), sa.column("settings", sa.JSON()))
    bind = op.get_bind()
    for row in bind.execute(sa.select(analysis.c.id, analysis.c.settings)).all():
        kept = {k: v for k, v in row.settings.items() if k not in NEW or v != NEW[k]}
        bind.execute(sa.update(analysis).where(analysis.c.id == row.id).values(settings=kept))


def _give_every_id_once(table: str) -> None:
    # The table is rebuilt, and would lose the check, which cannot be read back from it.
    check = sa.CheckConstraint(f"state IN {STATES}", name=op.f(f"ck_{table}_state"))
    with op.batch_alter_table(
        table, recreate="always", table_args=(check,), table_kwargs={"sqlite_autoincrement": True}
    ):
        pass


def _life() -> list[sa.Column[Any]]:
    """The columns that all kinds of work have, as ``analysis`` has had them since 0001."""
    return [
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*STATES, name="state", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("stage", sa.String(length=64), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("claim", sa.String(length=64), nullable=True),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("submitted_by", sa.String(length=100), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
    ]
