"""The tables of the store, and what their columns mean. No queries, no defaults that need a database.

Invariants: times are UTC and aware; ids of completions, feedback and jobs begin with the time of their making
(`ids.py`), so that their order is that of time; text that training may read is redacted before it gets here; what
belongs to a completion goes with it (`ON DELETE CASCADE`), so that an erasure cannot forget a table.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcTime(TypeDecorator[datetime]):
    """An aware time. SQLite has no type for it: there it is the UTC time without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "times are aware"
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 (SQLAlchemy's signature)
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Not what stands for a prompt that another completion has: labelers' demonstrations, and pairs of answers (`pairs.py`).
SAMPLABLE = text("trainable AND source <> 'labeling' AND source <> 'shadow' AND source <> 'evaluation'")
Json = JSON().with_variant(postgresql.JSONB(), "postgresql")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's way to be told)
        datetime: UtcTime,
        dict[str, Any]: Json,
        dict[str, int]: Json,
        dict[str, str]: Json,
        bytes: LargeBinary,
        str: Text,
    }


def _of_completion(**options: Any) -> Mapped[str]:
    """A column that names a completion, and whose row goes with it."""
    return mapped_column(ForeignKey("completions.id", ondelete="CASCADE"), **options)


class Message(Base):
    """One message of a conversation, stored once however often clients send it back. `id` is the address of its
    content and of all that came before it (`messages.py`): the messages are a forest, and a prompt is one of its nodes.
    A plain text prompt is one message of the role `text`."""

    __tablename__ = "messages"

    id: Mapped[str] = mapped_column(primary_key=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("messages.id"), index=True)
    role: Mapped[str]
    name: Mapped[str | None]
    content: Mapped[str]


class Completion(Base):
    """A prompt, how it was answered and by which policy, and what may be done with it."""

    __tablename__ = "completions"

    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint: Mapped[str]  # chat, text
    source: Mapped[str]  # server, labeling, shadow, evaluation, import
    created: Mapped[datetime] = mapped_column(index=True)
    model: Mapped[str]
    policy_id: Mapped[str]
    request_id: Mapped[str | None]
    prompt_id: Mapped[str] = mapped_column(ForeignKey("messages.id"), index=True)
    prompt_token_ids: Mapped[bytes | None]  # int32; only where the client sent token ids, and nothing was redacted
    params: Mapped[dict[str, Any]]  # sampling parameters, with OpenAI's names
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    first_token_ms: Mapped[int | None]
    total_ms: Mapped[int | None]
    key_id: Mapped[str]
    user_hash: Mapped[str | None]
    assigned: Mapped[bool | None]  # the server chose the policy: `honed` was asked for; null: not written down
    retrievable: Mapped[bool]  # through OpenAI's stored completions
    trainable: Mapped[bool]
    tags: Mapped[dict[str, str]]  # OpenAI's `metadata`; `tags` has a row for each, to be looked up by
    redactions: Mapped[dict[str, int]]  # kind -> how many were found in prompt and answers
    prefix: Mapped[int] = mapped_column(BigInteger)  # `prefixes.py`: prompts with a long common prefix share it
    category: Mapped[str]  # `categories`
    derived_from: Mapped[str | None] = _of_completion(index=True)  # whose prompt was answered again

    __table_args__ = (
        Index("ix_completions_key_id_id", "key_id", "id"),
        Index("ix_completions_model_id", "model", "id"),
        Index("ix_completions_user_hash_id", "user_hash", "id"),
        Index("ix_completions_policy_id_id", "policy_id", "id"),
        Index("ix_completions_counted", "category", "source", "trainable", "retrievable"),
        Index(
            "ix_completions_redacted",
            "redactions",
            sqlite_where=text("redactions <> '{}'"),
            postgresql_where=text("redactions <> '{}'"),
        ),
        Index(
            "ix_completions_samplable",
            "prefix",
            "id",
            sqlite_where=SAMPLABLE,
            postgresql_where=SAMPLABLE,
        ),
    )


class Choice(Base):
    """One answer. `finish_reason` is null where the client went away, or the server failed, before its end."""

    __tablename__ = "choices"

    completion_id: Mapped[str] = _of_completion(primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    finish_reason: Mapped[str | None]
    token_ids: Mapped[bytes | None]  # int32; null where the text was redacted, since they would spell it out
    logprobs: Mapped[bytes | None]  # float32, one a token: of the distribution that it was drawn from
    source: Mapped[str | None]  # who wrote it, where the policy did not (imports, and the rivals of `pairs.py`)


class Tag(Base):
    """A pair of OpenAI's `metadata`, for its filters: an index walk in the order of ids."""

    __tablename__ = "tags"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str] = mapped_column(primary_key=True)
    completion_id: Mapped[str] = _of_completion(primary_key=True, index=True)


class Original(Base):
    """What was redacted, sealed with the operator's key (`originals.py`)."""

    __tablename__ = "originals"

    completion_id: Mapped[str] = _of_completion(primary_key=True)
    sealed: Mapped[bytes]


class Feedback(Base):
    """A judgement. What it judges is in `targets`; `completion_id` and `choice` are what the client named."""

    __tablename__ = "feedback"

    id: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    completion_id: Mapped[str] = _of_completion(index=True)
    choice: Mapped[int]
    kind: Mapped[str]
    number: Mapped[int | None]  # thumb: 1 or 0; rating: 1 to 7
    text: Mapped[str | None]  # correction and comment, redacted
    source: Mapped[str]  # labeler, user, automatic
    labeler: Mapped[str | None]
    key_id: Mapped[str]
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str | None]  # of the request, to tell a retry from another request under the same key
    policy_id: Mapped[str]
    tags: Mapped[dict[str, str]]

    __table_args__ = (
        Index("uq_feedback_idempotency", "key_id", "idempotency_key", unique=True),
        Index("ix_feedback_kind_id", "kind", "id"),
        Index("ix_feedback_kind_created", "kind", "created"),
        Index("ix_feedback_labeler_id", "labeler", "id"),
        Index("ix_feedback_policy_id_id", "policy_id", "id"),
        Index("ix_feedback_key_id_id", "key_id", "id"),
    )


class Target(Base):
    """An answer that a comparison or a ranking judged: 1 is the best rank, ties share one."""

    __tablename__ = "targets"

    feedback_id: Mapped[str] = mapped_column(ForeignKey("feedback.id", ondelete="CASCADE"), primary_key=True)
    completion_id: Mapped[str] = _of_completion(primary_key=True, index=True)
    choice: Mapped[int] = mapped_column(primary_key=True)
    rank: Mapped[int]


class Task(Base):
    """A prompt with K answers to be ranked by `wanted` labelers. `completion_id` has the answers; `prefix` and
    `user_hash` are the prompt's, for the rules of sampling: null where it was not sampled (`pairs.py`)."""

    __tablename__ = "tasks"

    id: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    completion_id: Mapped[str] = _of_completion(unique=True)
    prefix: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    user_hash: Mapped[str | None] = mapped_column(index=True)
    wanted: Mapped[int]
    is_open: Mapped[bool]

    __table_args__ = (Index("ix_tasks_is_open_id", "is_open", "id"),)


class Assignment(Base):
    """A labeler's part in a task: leased until a time, then ranked, skipped or found all bad."""

    __tablename__ = "assignments"

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    labeler: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]  # leased, ranked, skipped, all_bad
    leased_until: Mapped[datetime]
    finished: Mapped[datetime | None]
    feedback_id: Mapped[str | None] = mapped_column(ForeignKey("feedback.id", ondelete="SET NULL"), index=True)

    __table_args__ = (Index("ix_assignments_labeler_state", "labeler", "state"),)


class Snapshot(Base):
    """An immutable selection of rows for a training: `id` is the hash of its contents. `erased` counts the rows that
    an erasure took out afterwards."""

    __tablename__ = "snapshots"

    id: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    what: Mapped[str]
    settings: Mapped[dict[str, Any]]
    rows: Mapped[int]
    erased: Mapped[int]


class SnapshotRow(Base):
    __tablename__ = "snapshot_rows"

    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    completion_id: Mapped[str] = _of_completion(index=True)
    feedback_id: Mapped[str | None] = mapped_column(ForeignKey("feedback.id", ondelete="CASCADE"), index=True)
    split: Mapped[str]


class Checkpoint(Base):
    """A model that was trained, and on what. Outlives its data: `snapshot_id` stays when rows are erased."""

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    name: Mapped[str]
    stage: Mapped[str]
    parent_id: Mapped[str | None] = mapped_column(index=True)
    snapshot_id: Mapped[str | None] = mapped_column(ForeignKey("snapshots.id"), index=True)
    folder: Mapped[str]
    settings: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]


class Promotion(Base):
    """That a policy went into service, or that one is tried out beside it. The newest says which ones are, on all
    servers of the store; without any, it is what each server's settings name. So it is too where `policy_id` is null.
    Numbered from 1 without a gap."""

    __tablename__ = "promotions"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created: Mapped[datetime]
    policy_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    replaced_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    returns_to: Mapped[int | None]  # the promotion whose policy a rollback brings back; 0: as it was before the first
    candidate_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    share: Mapped[int]  # per cent of the users who get the candidate
    advances: Mapped[bool]  # whether the share grows by itself
    is_shadow: Mapped[bool]  # the candidate answers too, and nobody sees it
    key_id: Mapped[str | None]  # of the API key that asked for it; null where a server or a training did
    reason: Mapped[str | None]  # why a server did it by itself


class Job(Base):
    """Work for a process other than the server's. `key` is unique: a job that is asked for twice is there once.
    No device has two running jobs: the database refuses the second."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    key: Mapped[str | None] = mapped_column(unique=True)
    state: Mapped[str]  # queued, running, paused, succeeded, failed, cancelled
    payload: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any]]
    error: Mapped[str | None]
    created: Mapped[datetime]
    started: Mapped[datetime | None]
    heartbeat: Mapped[datetime | None]
    finished: Mapped[datetime | None]
    key_id: Mapped[str | None]  # of the API key that asked for it; null where no request did
    attempts: Mapped[int]  # how often it was claimed; the last claim is the one that counts
    deaths: Mapped[int]  # how often its worker fell silent, so that another took it over
    device: Mapped[str | None]  # that the last claim holds
    wanted: Mapped[str | None]  # what its worker shall do next: pause, cancel

    __table_args__ = (
        Index("ix_jobs_state_kind_id", "state", "kind", "id"),
        Index(
            "uq_jobs_device",
            "device",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )


class JobEvent(Base):
    """What happened to a job, for people: a line, and the numbers of a step where it is one."""

    __tablename__ = "job_events"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created: Mapped[datetime]
    level: Mapped[str]  # info, warn, error
    kind: Mapped[str]  # message, metrics
    message: Mapped[str]
    data: Mapped[dict[str, Any]]

    __table_args__ = (Index("ix_job_events_job_id_id", "job_id", "id"),)


class File(Base):
    """A file that a client uploaded to train on. Its content is in `file_parts`, so that lists do not read it."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    name: Mapped[str]
    purpose: Mapped[str]
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    key_id: Mapped[str]


class FilePart(Base):
    """A piece of a file, so that no row and no statement grows with the file."""

    __tablename__ = "file_parts"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes]


class User(Base):
    """An end user's word on training; without a row nothing was said."""

    __tablename__ = "users"

    user_hash: Mapped[str] = mapped_column(primary_key=True)
    trainable: Mapped[bool]
    changed: Mapped[datetime]


class Erasure(Base):
    """That something was erased, and what must be done because of it; never what it was. What a server still had in
    its journal of a user erased here is dropped when it arrives."""

    __tablename__ = "erasures"

    id: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    user_hash: Mapped[str | None] = mapped_column(index=True)
    completions: Mapped[int]
    feedback: Mapped[int]
    checkpoints: Mapped[dict[str, Any]]  # {"ids": [...]}: trained on what was erased


class Segment(Base):
    """How far a file of a server's journal was read into the tables, in bytes: written with the rows, in the same
    transaction, so that each record is there once."""

    __tablename__ = "segments"

    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    updated: Mapped[datetime]


class Setting(Base):
    """What all servers of a store must agree on: the salt of user hashes."""

    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
