"""stated errors of overlaps and spectra; curvature and number of parameters of every analysis

Revision ID: 0002
Revises: 0001
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Settings = dict[str, Any]

# The settings of 0001 in the order of their canonical JSON, with their defaults; the first two have none.
OLD = {
    "architecture": ...,
    "data": ...,
    "split": "test",
    "samples": 500,
    "k": 100,
    "method": "krylov",
    "seed": 0,
    "outer": None,
    "inner": None,
    "random_masks": 10,
    "precision": "float32",
}
# Those added since, with theirs.
NEW: Settings = {
    "curvature": "hessian",
    "parameters": [],
    "test_matrix": "ssrft",
    "tolerance": None,
    "error_tests": 10,
    "hvp_path": None,
    "hvp_columns": None,
    "batch_size": None,
}


def upgrade() -> None:
    op.add_column("analysis", sa.Column("parameters", sa.Integer(), nullable=True))
    op.add_column("analysis", sa.Column("curvature", sa.String(length=16), nullable=True))
    op.add_column("analysis", sa.Column("resolved_k", sa.Integer(), nullable=True))
    op.execute(
        "UPDATE analysis SET curvature = 'hessian', parameters ="
        " (SELECT checkpoint.parameters FROM checkpoint WHERE checkpoint.id = analysis.checkpoint_id)"
    )
    # SQLite rebuilds the table for this, and would lose the check, which cannot be read back from it.
    states = "state IN ('queued', 'running', 'finished', 'failed', 'cancelled')"
    check = sa.CheckConstraint(states, name=op.f("ck_analysis_state"))
    with op.batch_alter_table("analysis", table_args=(check,)) as table:
        table.alter_column("parameters", existing_type=sa.Integer(), nullable=False)
        table.alter_column("curvature", existing_type=sa.String(length=16), nullable=False)
    op.add_column("eigenvalue", sa.Column("scree_lower", sa.Double(), nullable=True))
    op.add_column("eigenvalue", sa.Column("scree_upper", sa.Double(), nullable=True))
    op.add_column("overlap_point", sa.Column("error", sa.Double(), nullable=True))
    _change_settings(lambda settings: settings, _key_without_defaults)


def downgrade() -> None:
    _change_settings(_without_new_defaults, _key_of_all)
    op.drop_column("overlap_point", "error")
    op.drop_column("eigenvalue", "scree_upper")
    op.drop_column("eigenvalue", "scree_lower")
    op.drop_column("analysis", "resolved_k")
    op.drop_column("analysis", "curvature")
    op.drop_column("analysis", "parameters")


def _change_settings(change: Callable[[Settings], Settings], key: Callable[[Settings], str]) -> None:
    """Rewrite the settings of every analysis, and the key that equal settings share."""
    analysis = sa.table(
        "analysis", sa.column("id"), sa.column("settings", sa.JSON()), sa.column("settings_key")
    )
    bind = op.get_bind()
    for row in bind.execute(sa.select(analysis.c.id, analysis.c.settings)).all():
        settings = change(row.settings)
        statement = sa.update(analysis).where(analysis.c.id == row.id)
        bind.execute(statement.values(settings=settings, settings_key=key(settings)))


def _key_without_defaults(settings: Settings) -> str:
    return _key_of_all({name: settings[name] for name in OLD if settings[name] != OLD[name]})


def _key_of_all(settings: Settings) -> str:
    canonical = json.dumps(settings, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _without_new_defaults(settings: Settings) -> Settings:
    return {name: value for name, value in settings.items() if name not in NEW or value != NEW[name]}
