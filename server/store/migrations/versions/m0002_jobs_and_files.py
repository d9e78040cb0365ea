"""Jobs that can be paused, cancelled and taken over, what happened to them, and uploaded files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from honed.server.store.tables import Json, UtcTime

revision = "m0002"
down_revision = "m0001"
branch_labels = None
depends_on = None

_RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("key_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("device", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("wanted", sa.Text(), nullable=True))
    counts = ("attempts", "deaths")
    with op.batch_alter_table("jobs") as jobs:  # SQLite adds a NOT NULL column with a default only
        for name in counts:
            jobs.add_column(sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("jobs") as jobs:
        for name in counts:
            jobs.alter_column(name, server_default=None)
    op.create_index("uq_jobs_device", "jobs", ["device"], unique=True, sqlite_where=_RUNNING, postgresql_where=_RUNNING)

    op.create_table(
        "job_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", Json, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
    )
    op.create_index("ix_job_events_job_id_id", "job_events", ["job_id", "id"], unique=False)

    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_table(
        "file_parts",
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_file_parts_file_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("file_id", "position", name=op.f("pk_file_parts")),
    )
