"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from honed.server.store.tables import Json, UtcTime

revision = "m0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("user_hash", sa.Text(), nullable=True),
        sa.Column("completions", sa.Integer(), nullable=False),
        sa.Column("feedback", sa.Integer(), nullable=False),
        sa.Column("checkpoints", Json, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasures")),
    )
    op.create_index(op.f("ix_erasures_user_hash"), "erasures", ["user_hash"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("payload", Json, nullable=False),
        sa.Column("result", Json, nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("started", UtcTime(), nullable=True),
        sa.Column("heartbeat", UtcTime(), nullable=True),
        sa.Column("finished", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("key", name=op.f("uq_jobs_key")),
    )
    op.create_index(op.f("ix_jobs_state_kind_id"), "jobs", ["state", "kind", "id"], unique=False)

    op.create_table(
        "messages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["messages.id"], name=op.f("fk_messages_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
    )
    op.create_index(op.f("ix_messages_parent_id"), "messages", ["parent_id"], unique=False)

    op.create_table(
        "segments",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_segments")),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_settings")),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("settings", Json, nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("erased", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "users",
        sa.Column("user_hash", sa.Text(), nullable=False),
        sa.Column("trainable", sa.Boolean(), nullable=False),
        sa.Column("changed", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("user_hash", name=op.f("pk_users")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("snapshot_id", sa.Text(), nullable=True),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("settings", Json, nullable=False),
        sa.Column("metrics", Json, nullable=False),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_checkpoints_snapshot_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
    )
    op.create_index(op.f("ix_checkpoints_parent_id"), "checkpoints", ["parent_id"], unique=False)
    op.create_index(op.f("ix_checkpoints_snapshot_id"), "checkpoints", ["snapshot_id"], unique=False)

    op.create_table(
        "completions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("policy_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("prompt_token_ids", sa.LargeBinary(), nullable=True),
        sa.Column("params", Json, nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("cached_tokens", sa.Integer(), nullable=False),
        sa.Column("first_token_ms", sa.Integer(), nullable=True),
        sa.Column("total_ms", sa.Integer(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("user_hash", sa.Text(), nullable=True),
        sa.Column("retrievable", sa.Boolean(), nullable=False),
        sa.Column("trainable", sa.Boolean(), nullable=False),
        sa.Column("tags", Json, nullable=False),
        sa.Column("redactions", Json, nullable=False),
        sa.Column("prefix", sa.BigInteger(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("derived_from", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["derived_from"], ["completions.id"], name=op.f("fk_completions_derived_from"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["prompt_id"], ["messages.id"], name=op.f("fk_completions_prompt_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completions")),
    )
    op.create_index(
        op.f("ix_completions_counted"), "completions", ["category", "source", "trainable", "retrievable"], unique=False
    )
    op.create_index(op.f("ix_completions_created"), "completions", ["created"], unique=False)
    op.create_index(op.f("ix_completions_derived_from"), "completions", ["derived_from"], unique=False)
    op.create_index(op.f("ix_completions_key_id_id"), "completions", ["key_id", "id"], unique=False)
    op.create_index(op.f("ix_completions_model_id"), "completions", ["model", "id"], unique=False)
    op.create_index(op.f("ix_completions_policy_id_id"), "completions", ["policy_id", "id"], unique=False)
    op.create_index(op.f("ix_completions_prompt_id"), "completions", ["prompt_id"], unique=False)
    op.create_index(
        op.f("ix_completions_redacted"),
        "completions",
        ["redactions"],
        unique=False,
        sqlite_where=sa.text("redactions <> '{}'"),
        postgresql_where=sa.text("redactions <> '{}'"),
    )
    op.create_index(
        op.f("ix_completions_samplable"),
        "completions",
        ["prefix", "id"],
        unique=False,
        sqlite_where=sa.text("trainable AND source <> 'labeling'"),
        postgresql_where=sa.text("trainable AND source <> 'labeling'"),
    )
    op.create_index(op.f("ix_completions_user_hash_id"), "completions", ["user_hash", "id"], unique=False)

    op.create_table(
        "choices",
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("token_ids", sa.LargeBinary(), nullable=True),
        sa.Column("logprobs", sa.LargeBinary(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_choices_completion_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("completion_id", "index", name=op.f("pk_choices")),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("choice", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("labeler", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("policy_id", sa.Text(), nullable=False),
        sa.Column("tags", Json, nullable=False),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_feedback_completion_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    op.create_index(op.f("ix_feedback_completion_id"), "feedback", ["completion_id"], unique=False)
    op.create_index(op.f("ix_feedback_key_id_id"), "feedback", ["key_id", "id"], unique=False)
    op.create_index(op.f("ix_feedback_kind_id"), "feedback", ["kind", "id"], unique=False)
    op.create_index(op.f("ix_feedback_labeler_id"), "feedback", ["labeler", "id"], unique=False)
    op.create_index(op.f("ix_feedback_policy_id_id"), "feedback", ["policy_id", "id"], unique=False)
    op.create_index(op.f("uq_feedback_idempotency"), "feedback", ["key_id", "idempotency_key"], unique=True)

    op.create_table(
        "originals",
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_originals_completion_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("completion_id", name=op.f("pk_originals")),
    )
    op.create_table(
        "tags",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_tags_completion_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", "value", "completion_id", name=op.f("pk_tags")),
    )
    op.create_index(op.f("ix_tags_completion_id"), "tags", ["completion_id"], unique=False)

    op.create_table(
        "tasks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("prefix", sa.BigInteger(), nullable=False),
        sa.Column("user_hash", sa.Text(), nullable=True),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_tasks_completion_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("completion_id", name=op.f("uq_tasks_completion_id")),
        sa.UniqueConstraint("prefix", name=op.f("uq_tasks_prefix")),
    )
    op.create_index(op.f("ix_tasks_is_open_id"), "tasks", ["is_open", "id"], unique=False)
    op.create_index(op.f("ix_tasks_user_hash"), "tasks", ["user_hash"], unique=False)

    op.create_table(
        "assignments",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("labeler", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("leased_until", UtcTime(), nullable=False),
        sa.Column("finished", UtcTime(), nullable=True),
        sa.Column("feedback_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["feedback_id"], ["feedback.id"], name=op.f("fk_assignments_feedback_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_assignments_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "labeler", name=op.f("pk_assignments")),
    )
    op.create_index(op.f("ix_assignments_feedback_id"), "assignments", ["feedback_id"], unique=False)
    op.create_index(op.f("ix_assignments_labeler_state"), "assignments", ["labeler", "state"], unique=False)

    op.create_table(
        "snapshot_rows",
        sa.Column("snapshot_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("feedback_id", sa.Text(), nullable=True),
        sa.Column("split", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_snapshot_rows_completion_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["feedback_id"], ["feedback.id"], name=op.f("fk_snapshot_rows_feedback_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_snapshot_rows_snapshot_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "position", name=op.f("pk_snapshot_rows")),
    )
    op.create_index(op.f("ix_snapshot_rows_completion_id"), "snapshot_rows", ["completion_id"], unique=False)
    op.create_index(op.f("ix_snapshot_rows_feedback_id"), "snapshot_rows", ["feedback_id"], unique=False)

    op.create_table(
        "targets",
        sa.Column("feedback_id", sa.Text(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("choice", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completions.id"], name=op.f("fk_targets_completion_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["feedback_id"], ["feedback.id"], name=op.f("fk_targets_feedback_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("feedback_id", "completion_id", "choice", name=op.f("pk_targets")),
    )
    op.create_index(op.f("ix_targets_completion_id"), "targets", ["completion_id"], unique=False)
