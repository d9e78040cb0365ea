"""Pairs of answers stand for no prompt, and feedback is counted by its time: that of an import is not in its id."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "m0006"
down_revision = "m0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_completions_samplable", table_name="completions")
    is_samplable = sa.text("trainable AND source <> 'labeling' AND source <> 'shadow' AND source <> 'evaluation'")
    op.create_index(
        "ix_completions_samplable",
        "completions",
        ["prefix", "id"],
        unique=False,
        sqlite_where=is_samplable,
        postgresql_where=is_samplable,
    )
    op.create_index("ix_feedback_kind_created", "feedback", ["kind", "created"], unique=False)
