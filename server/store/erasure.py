"""Erasure: completions and all that hangs on them, out of the tables and out of the database's files.

With a completion go its answers, its metadata, its sealed original, the feedback on it, its place in every snapshot,
the labeling task that was made of it, and the messages that nobody else has. What stays: which checkpoints were trained
on it (they are named, since a model cannot be made to forget), and a row that says that something was erased, when and
how much. Does not reach backups, nor copies that an export wrote.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, delete, func, insert, or_, select, update

from honed.server.store.database import StoreUnavailableError, writing
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

MIN_TARGETS = 2  # a comparison of fewer says nothing
CHECKPOINT_TRIES_S = 10.0


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows went, and the ids of the checkpoints that were trained on them, descendants included."""

    completions: int
    feedback: int
    checkpoints: tuple[str, ...]


def erase_user(engine: Engine, user_hash: str, labeler: str | None = None) -> Erased:
    """All of a user, also what a server still has in its journal; and the feedback that `labeler` gave."""
    with writing(engine) as connection:
        ids = connection.execute(select(Completion.id).where(Completion.user_hash == user_hash)).scalars().all()
        given = 0
        if labeler is not None:
            given = connection.execute(delete(Feedback).where(Feedback.labeler == labeler)).rowcount
            connection.execute(delete(Assignment).where(Assignment.labeler == labeler))
        erased = delete_completions(connection, ids)
        erased = Erased(erased.completions, erased.feedback + given, erased.checkpoints)
        _note(connection, erased, user_hash)
    clean_files(engine)
    return erased


def erase_completion(engine: Engine, completion_id: str) -> Erased:
    with writing(engine) as connection:
        erased = delete_completions(connection, [completion_id])
        _note(connection, erased, None)
    clean_files(engine)
    return erased


def delete_completions(connection: Connection, completion_ids: Iterable[str]) -> Erased:
    """Deletes them with all that hangs on them, in the caller's transaction; the files still have to be cleaned."""
    ids = _with_derived(connection, set(completion_ids))
    snapshots = _leave_snapshots(connection, ids)
    checkpoints = checkpoints_trained_on(connection, snapshots)
    feedback = _delete_feedback(connection, ids)
    prompts: set[str] = set()
    for some in batches(ids):
        prompts.update(connection.execute(select(Completion.prompt_id).where(Completion.id.in_(some))).scalars())
        connection.execute(delete(Completion).where(Completion.id.in_(some)))
    prune(connection, prompts)
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


def clean_files(engine: Engine) -> None:
    """Takes what was deleted out of the database's files as well.

    SQLite overwrites deleted rows (`secure_delete`), but its write-ahead log still has the pages as they were: it is
    emptied. PostgreSQL keeps dead rows until they are vacuumed. Raises StoreUnavailableError.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM messages, completions, choices, tags, originals, feedback, targets")
        return
    deadline_s = time.monotonic() + CHECKPOINT_TRIES_S
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one():
            if time.monotonic() > deadline_s:
                raise StoreUnavailableError(
                    "It is erased, but the database's log could not be emptied, since somebody reads from it: "
                    "erase it again when the reader has ended."
                )
            time.sleep(0.05)  # a reader holds the log


def _with_derived(connection: Connection, ids: set[str]) -> set[str]:
    """Those of the completions that are there, and those that answered the same prompts again for labelers."""
    found: set[str] = set()
    for some in batches(ids):
        either = or_(Completion.id.in_(some), Completion.derived_from.in_(some))
        found.update(connection.execute(select(Completion.id).where(either)).scalars())
    return found


def _leave_snapshots(connection: Connection, ids: set[str]) -> set[str]:
    """Takes the completions out of all snapshots; the ids of those that had them."""
    counts: dict[str, int] = {}
    for some in batches(ids):
        held = select(SnapshotRow.snapshot_id, func.count()).where(SnapshotRow.completion_id.in_(some))
        for snapshot_id, count in connection.execute(held.group_by(SnapshotRow.snapshot_id)):
            counts[snapshot_id] = counts.get(snapshot_id, 0) + count
        connection.execute(delete(SnapshotRow).where(SnapshotRow.completion_id.in_(some)))
    for snapshot_id, count in counts.items():
        left = update(Snapshot).where(Snapshot.id == snapshot_id).values(erased=Snapshot.erased + count)
        connection.execute(left)
    return set(counts)


def _delete_feedback(connection: Connection, ids: set[str]) -> int:
    """Feedback on the completions, and comparisons that have nothing left to compare."""
    concerned: set[str] = set()
    count = 0
    for some in batches(ids):
        judged = select(Target.feedback_id).where(Target.completion_id.in_(some))
        concerned.update(connection.execute(judged).scalars())
        connection.execute(delete(Target).where(Target.completion_id.in_(some)))
        count += connection.execute(delete(Feedback).where(Feedback.completion_id.in_(some))).rowcount
    for some in batches(concerned):
        left = select(func.count()).where(Target.feedback_id == Feedback.id).scalar_subquery()
        hollow = or_(Feedback.kind == "comparison", Feedback.kind == "ranking") & (left < MIN_TARGETS)
        count += connection.execute(delete(Feedback).where(Feedback.id.in_(some), hollow)).rowcount
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
