"""Which policy is in service, since when, and who said so."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from honed.server.store.tables import UtcTime

revision = "m0003"
down_revision = "m0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "promotions",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("policy_id", sa.Text(), nullable=True),
        sa.Column("replaced_id", sa.Text(), nullable=True),
        sa.Column("returns_to", sa.Integer(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["policy_id"], ["checkpoints.id"], name=op.f("fk_promotions_policy_id")),
        sa.ForeignKeyConstraint(["replaced_id"], ["checkpoints.id"], name=op.f("fk_promotions_replaced_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_promotions")),
    )
    for column in ("policy_id", "replaced_id"):
        op.create_index(op.f(f"ix_promotions_{column}"), "promotions", [column], unique=False)
