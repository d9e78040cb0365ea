"""Snapshots of training data and the checkpoints trained on them: every query on `snapshots`, `snapshot_rows` and
`checkpoints` that is not an erasure's.

Owns how they are written and read back. Does not choose what a snapshot holds (`training/data/datasets.py`), and what
leaves one is erasure's business (`erasure.py`). Invariants: a snapshot's id stands for its rows, so writing it again
changes nothing, but for rows that were erased and are in the store anew: they take their places again, or an erasure
would not find what was trained on a second time. A checkpoint is written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from honed.server.store.messages import batches
from honed.server.store.tables import Checkpoint, Completion, Feedback, Snapshot, SnapshotRow
from honed.server.store.upserts import insert_missing

AT_ONCE: Final = 2000  # rows of an INSERT


@dataclass(frozen=True, slots=True)
class Part:
    """A completion that an example of a snapshot is made of, with the feedback that says so. A ranking of several
    completions is several parts."""

    completion_id: str
    feedback_id: str | None
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """`what`: the stage that it was made for. `rows`: how many it was made with. `erased`: how many of them left."""

    id: str
    created: datetime
    what: str
    settings: Mapping[str, Any]
    rows: int
    erased: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    id: str
    created: datetime
    name: str
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord(StoredCheckpoint):
    """`parent_id`: of what it was trained from, which may not be in the store. `snapshot_id`: None where it was trained
    on a file."""

    parent_id: str | None
    snapshot_id: str | None
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """`rows`: how many a snapshot was made with. `erased`: how many of them left; the rest is counted in what follows,
    `feedback` by its kind. `users`: those that are known."""

    created: datetime
    rows: int
    erased: int
    completions: int
    feedback: Mapping[str, int]
    users: int


def write_snapshot(
    connection: Connection, snapshot_id: str, what: str, settings: Mapping[str, Any], parts: Iterable[Part]
) -> StoredSnapshot:
    """The snapshot as it is stored, in a transaction that writes. Raises IntegrityError where a completion or a
    feedback was erased meanwhile: then its rows have to be chosen anew."""
    rows = [
        {
            "snapshot_id": snapshot_id,
            "position": position,
            "completion_id": part.completion_id,
            "feedback_id": part.feedback_id,
            "split": part.split,
        }
        for position, part in enumerate(parts)
    ]
    stored = load_snapshot(connection, snapshot_id)
    if stored is not None and stored.erased == 0:
        return stored
    snapshot = {
        "id": snapshot_id,
        "created": datetime.now(UTC),
        "what": what,
        "settings": dict(settings),
        "rows": len(rows),
        "erased": 0,
    }
    insert_missing(connection, Snapshot, [snapshot])
    for some in batches(rows, AT_ONCE):
        insert_missing(connection, SnapshotRow, some)
    present = select(func.count()).where(SnapshotRow.snapshot_id == snapshot_id).scalar_subquery()
    connection.execute(update(Snapshot).where(Snapshot.id == snapshot_id).values(erased=Snapshot.rows - present))
    written = load_snapshot(connection, snapshot_id)
    assert written is not None, "it was just written"
    return written


def load_snapshot(connection: Connection, snapshot_id: str) -> StoredSnapshot | None:
    """The snapshot without its rows; None where there is none of that id."""
    columns = (Snapshot.id, Snapshot.created, Snapshot.what, Snapshot.settings, Snapshot.rows, Snapshot.erased)
    row = connection.execute(select(*columns).where(Snapshot.id == snapshot_id)).one_or_none()
    return None if row is None else StoredSnapshot(**row._asdict())


def load_parts(connection: Connection, snapshot_id: str) -> list[Part]:
    """The rows that were not erased since, in their order."""
    columns = (SnapshotRow.completion_id, SnapshotRow.feedback_id, SnapshotRow.split)
    query = select(*columns).where(SnapshotRow.snapshot_id == snapshot_id).order_by(SnapshotRow.position)
    return [Part(*row) for row in connection.execute(query)]


def register_checkpoint(
    connection: Connection,
    *,
    id: str,  # noqa: A002 (the column's name)
    created: datetime,
    name: str,
    stage: str,
    parent_id: str | None,
    snapshot_id: str | None,
    folder: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Says that a checkpoint is there and what it was trained on, so that an erasure can name it. In a transaction that
    writes; one of that id that is there already stays as it is.

    `snapshot_id`: None for what was trained on a file. Raises IntegrityError for one that is not in this store.
    """
    checkpoint = {
        "id": id,
        "created": created,
        "name": name,
        "stage": stage,
        "parent_id": parent_id,
        "snapshot_id": snapshot_id,
        "folder": folder,
        "settings": dict(settings),
        "metrics": dict(metrics),
    }
    insert_missing(connection, Checkpoint, [checkpoint])


def stage_of(connection: Connection, name: str) -> str | None:
    """The stage that made the newest checkpoint of that name; None where there is none."""
    query = select(Checkpoint.stage).where(Checkpoint.name == name).order_by(Checkpoint.created.desc()).limit(1)
    return connection.execute(query).scalar_one_or_none()


def name_of(connection: Connection, checkpoint_id: str) -> str | None:
    """The name of a checkpoint; None where there is none of that id."""
    return connection.execute(select(Checkpoint.name).where(Checkpoint.id == checkpoint_id)).scalar_one_or_none()


def list_checkpoints(connection: Connection, stages: Iterable[str]) -> list[StoredCheckpoint]:
    """Those that such a stage made, the newest first."""
    columns = (Checkpoint.id, Checkpoint.created, Checkpoint.name, Checkpoint.stage)
    query = select(*columns).where(Checkpoint.stage.in_(list(stages)))
    rows = connection.execute(query.order_by(Checkpoint.created.desc(), Checkpoint.id.desc()))
    return [StoredCheckpoint(**row._asdict()) for row in rows]


def checkpoint_with_id(connection: Connection, checkpoint_id: str) -> CheckpointRecord | None:
    row = connection.execute(select(*_record_columns()).where(Checkpoint.id == checkpoint_id)).one_or_none()
    return None if row is None else CheckpointRecord(**row._asdict())


def checkpoint_named(connection: Connection, name: str, *, before: datetime | None = None) -> CheckpointRecord | None:
    """The newest of that name, made before `before` where that is given."""
    query = select(*_record_columns()).where(Checkpoint.name == name)
    if before is not None:
        query = query.where(Checkpoint.created < before)
    row = connection.execute(query.order_by(Checkpoint.created.desc(), Checkpoint.id.desc()).limit(1)).one_or_none()
    return None if row is None else CheckpointRecord(**row._asdict())


def checkpoint_names(connection: Connection) -> list[str]:
    return list(connection.execute(select(Checkpoint.name).distinct().order_by(Checkpoint.name)).scalars())


def load_contents(connection: Connection, snapshot_id: str) -> Contents | None:
    """What is left of a snapshot, counted; None where there is none of that id."""
    snapshot = load_snapshot(connection, snapshot_id)
    if snapshot is None:
        return None
    rows = select(SnapshotRow.completion_id, SnapshotRow.feedback_id).where(SnapshotRow.snapshot_id == snapshot_id)
    own = rows.subquery()
    people = select(func.count(own.c.completion_id.distinct()), func.count(Completion.user_hash.distinct()))
    completions, users = connection.execute(people.join(Completion, Completion.id == own.c.completion_id)).one()
    kinds = select(Feedback.kind, func.count(own.c.feedback_id.distinct()).label("number"))
    counted = connection.execute(kinds.join(Feedback, Feedback.id == own.c.feedback_id).group_by(Feedback.kind))
    return Contents(
        created=snapshot.created,
        rows=snapshot.rows,
        erased=snapshot.erased,
        completions=completions,
        feedback=dict(sorted((row.kind, row.number) for row in counted)),
        users=users,
    )


def _record_columns() -> list[Any]:
    return [getattr(Checkpoint, field.name) for field in fields(CheckpointRecord)]
