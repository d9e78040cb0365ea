"""Policies that are tried out beside the one in service, which answers are of a policy that the server chose, and why a
promotion was made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "m0004"
down_revision = "m0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("completions", sa.Column("assigned", sa.Boolean(), nullable=True))
    with op.batch_alter_table("promotions") as promotions:  # SQLite adds a NOT NULL column with a default only
        promotions.add_column(sa.Column("candidate_id", sa.Text(), nullable=True))
        promotions.add_column(sa.Column("share", sa.Integer(), nullable=False, server_default="0"))
        promotions.add_column(sa.Column("advances", sa.Boolean(), nullable=False, server_default=sa.false()))
        promotions.add_column(sa.Column("reason", sa.Text(), nullable=True))
        promotions.create_foreign_key(op.f("fk_promotions_candidate_id"), "checkpoints", ["candidate_id"], ["id"])
        promotions.create_index(op.f("ix_promotions_candidate_id"), ["candidate_id"], unique=False)
    with op.batch_alter_table("promotions") as promotions:
        for name in ("share", "advances"):
            promotions.alter_column(name, server_default=None)
