"""Policies that are tried out in the shadow, and labeling tasks that compare two policies, of which a prompt may have
several."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "m0005"
down_revision = "m0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("promotions") as promotions:  # SQLite adds a NOT NULL column with a default only
        promotions.add_column(sa.Column("is_shadow", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("promotions") as promotions:
        promotions.alter_column("is_shadow", server_default=None)
    with op.batch_alter_table("tasks") as tasks:
        tasks.alter_column("prefix", existing_type=sa.BigInteger(), nullable=True)
