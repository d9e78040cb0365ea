"""Erasure: completions and all that hangs on them, out of the tables and out of the database's files.

With a completion go its answers, its metadata, its sealed original, the feedback on it, its place in every snapshot,
the labeling task that was made of it, and the messages that nobody else has. What stays: which checkpoints were trained
on it (they are named, since a model cannot be made to forget), and a row that says that something was erased, when and
how much. Does not reach backups, nor copies that an export wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, delete, func, insert, or_, select, update

from honed.server.store import cleaning
from honed.server.store.cleaning import clean_files
from honed.server.store.database import writing
from honed.server.store.ids import new_id
from honed.server.store.messages import batches, prune
from honed.server.store.tables import (
    Assignment,
    Checkpoint,
    Completion,
    Erasure,
    Feedback,
    Snapshot,
    SnapshotRow,
    Target,
)
from honed.server.store.users import lock_users

MIN_TARGETS = 2  # a comparison of fewer says nothing


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows went, and the ids of the checkpoints that were trained on them, descendants included."""

    completions: int
    feedback: int
    checkpoints: tuple[str, ...]


def erase_user(engine: Engine, user_hash: str, labeler: str | None = None) -> Erased:
    """All of a user, also what a server still has in its journal; and what `labeler` said, and was given to judge."""
    with writing(engine) as connection:
        lock_users(connection, [user_hash], alone=True)
        ids = connection.execute(select(Completion.id).where(Completion.user_hash == user_hash)).scalars().all()
        given: Sequence[str] = ()
        if labeler is not None:
            given = connection.execute(select(Feedback.id).where(Feedback.labeler == labeler)).scalars().all()
            connection.execute(delete(Assignment).where(Assignment.labeler == labeler))
        erased = delete_completions(connection, ids, feedback_ids=given)
        _note(connection, erased, user_hash)
    clean_files(engine)
    return erased


def erase_completion(engine: Engine, completion_id: str) -> Erased:
    with writing(engine) as connection:
        erased = delete_completions(connection, [completion_id])
        _note(connection, erased, None)
    if engine.dialect.name == "sqlite":  # PostgreSQL's tables take long to vacuum: a writer does it within a minute
        clean_files(engine)
    return erased


def delete_completions(
    connection: Connection, completion_ids: Iterable[str], *, feedback_ids: Iterable[str] = ()
) -> Erased:
    """Deletes them with all that hangs on them, and the feedback, in the caller's transaction. `clean_files` has to be
    called when it is committed; until it succeeded, the tables say that it has to be."""
    ids = _with_derived(connection, set(completion_ids))
    given = set(feedback_ids)
    concerned = given | _about(connection, ids)
    snapshots = _leave_snapshots(connection, ids, concerned)
    checkpoints = checkpoints_trained_on(connection, snapshots)
    feedback = _delete_feedback(connection, ids, concerned, given)
    prompts: set[str] = set()
    for some in batches(ids):
        prompts.update(connection.execute(select(Completion.prompt_id).where(Completion.id.in_(some))).scalars())
        connection.execute(delete(Completion).where(Completion.id.in_(some)))
    prune(connection, prompts)
    cleaning.ask(connection)
    return Erased(len(ids), feedback, tuple(checkpoints))


def checkpoints_trained_on(connection: Connection, snapshot_ids: Iterable[str]) -> list[str]:
    """The checkpoints that were trained on any of the snapshots, and all that come from these, sorted."""
    found: set[str] = set()
    for some in batches(snapshot_ids):
        found.update(connection.execute(select(Checkpoint.id).where(Checkpoint.snapshot_id.in_(some))).scalars())
    parents = set(found)
    while parents:
        children: set[str] = set()
        for some in batches(parents):
            children.update(connection.execute(select(Checkpoint.id).where(Checkpoint.parent_id.in_(some))).scalars())
        parents = children - found
        found |= parents
    return sorted(found)


def add_checkpoint(connection: Connection, checkpoint_id: str, since: datetime) -> None:
    """Notes a checkpoint with all erasures since then: they came while it was trained, and did not know of it."""
    made = select(Erasure.id, Erasure.checkpoints).where(Erasure.created >= since)
    for erasure_id, named in connection.execute(made).all():
        ids = sorted({*named["ids"], checkpoint_id})
        connection.execute(update(Erasure).where(Erasure.id == erasure_id).values(checkpoints={"ids": ids}))


def add_descendant(connection: Connection, checkpoint_id: str, ancestors: Iterable[str]) -> None:
    """Notes a checkpoint with all erasures that name one it was made from, also with those before it was begun: they
    named the descendants of their day."""
    made_from = set(ancestors)
    for erasure_id, named in connection.execute(select(Erasure.id, Erasure.checkpoints)).all():
        if made_from & set(named["ids"]):
            ids = sorted({*named["ids"], checkpoint_id})
            connection.execute(update(Erasure).where(Erasure.id == erasure_id).values(checkpoints={"ids": ids}))


def _with_derived(connection: Connection, ids: set[str]) -> set[str]:
    """Those of the completions that are there, and those that answered the same prompts again for labelers."""
    found: set[str] = set()
    for some in batches(ids):
        either = or_(Completion.id.in_(some), Completion.derived_from.in_(some))
        found.update(connection.execute(select(Completion.id).where(either)).scalars())
    return found


def _about(connection: Connection, ids: set[str]) -> set[str]:
    """The ids of all feedback that judges the completions, alone or beside others."""
    found: set[str] = set()
    for some in batches(ids):
        found.update(connection.execute(select(Feedback.id).where(Feedback.completion_id.in_(some))).scalars())
        found.update(connection.execute(select(Target.feedback_id).where(Target.completion_id.in_(some))).scalars())
    return found


def _leave_snapshots(connection: Connection, ids: set[str], feedback_ids: set[str]) -> set[str]:
    """Takes the completions, and what was said of them, out of all snapshots; the ids of those that had them."""
    counts: dict[str, int] = {}
    for column, values in ((SnapshotRow.completion_id, ids), (SnapshotRow.feedback_id, feedback_ids)):
        for some in batches(values):
            held = select(SnapshotRow.snapshot_id, func.count()).where(column.in_(some))
            for snapshot_id, count in connection.execute(held.group_by(SnapshotRow.snapshot_id)):
                counts[snapshot_id] = counts.get(snapshot_id, 0) + count
            connection.execute(delete(SnapshotRow).where(column.in_(some)))
    for snapshot_id, count in counts.items():
        left = update(Snapshot).where(Snapshot.id == snapshot_id).values(erased=Snapshot.erased + count)
        connection.execute(left)
    return set(counts)


def _delete_feedback(connection: Connection, ids: set[str], concerned: set[str], given: set[str]) -> int:
    """The feedback that names the completions, the given one, and comparisons that have nothing left to compare."""
    for some in batches(ids):
        connection.execute(delete(Target).where(Target.completion_id.in_(some)))
    left = select(func.count()).where(Target.feedback_id == Feedback.id).scalar_subquery()
    hollow = or_(Feedback.kind == "comparison", Feedback.kind == "ranking") & (left < MIN_TARGETS)
    gone: set[str] = set(given)
    for some in batches(concerned):
        rows = connection.execute(select(Feedback.id, Feedback.completion_id, hollow).where(Feedback.id.in_(some)))
        gone.update(feedback_id for feedback_id, completion_id, is_hollow in rows if is_hollow or completion_id in ids)
    count = 0
    for some in batches(gone):
        count += connection.execute(delete(Feedback).where(Feedback.id.in_(some))).rowcount
    return count


def _note(connection: Connection, erased: Erased, user_hash: str | None) -> None:
    row = insert(Erasure).values(
        id=new_id("erasure"),
        created=datetime.now(UTC),
        user_hash=user_hash,
        completions=erased.completions,
        feedback=erased.feedback,
        checkpoints={"ids": list(erased.checkpoints)},
    )
    connection.execute(row)
