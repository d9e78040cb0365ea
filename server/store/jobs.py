"""The job queue: work that a process other than the server's takes on.

A job is a row. It is claimed by the database (`FOR UPDATE SKIP LOCKED` on PostgreSQL; on SQLite the transaction has the
lock), so two workers never take the same. Invariant: a job with a `key` is there once, whoever asks for it and how
often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from honed.server.store.ids import new_id
from honed.server.store.tables import Job
from honed.server.store.upserts import insert_missing

STALE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    id: str
    kind: str
    payload: dict[str, Any]


def enqueue(connection: Connection, kind: str, *, key: str | None = None, payload: Mapping[str, Any] = {}) -> None:
    """Asks for a job; nothing happens where one with this key was asked for before."""
    row = {
        "id": new_id("job"),
        "kind": kind,
        "key": key,
        "state": "queued",
        "payload": dict(payload),
        "result": {},
        "error": None,
        "created": datetime.now(UTC),
        "started": None,
        "heartbeat": None,
        "finished": None,
    }
    insert_missing(connection, Job, [row])


def claim(connection: Connection, kind: str) -> ClaimedJob | None:
    """The oldest job of that kind that waits, or whose worker was not heard of for STALE; it is running from here on.
    In a transaction that writes."""
    now = datetime.now(UTC)
    is_stale = (Job.state == "running") & (Job.heartbeat < now - STALE)
    waiting = select(Job.id, Job.kind, Job.payload).where((Job.state == "queued") | is_stale, Job.kind == kind)
    row = connection.execute(waiting.order_by(Job.id).limit(1).with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    connection.execute(update(Job).where(Job.id == row.id).values(state="running", started=now, heartbeat=now))
    return ClaimedJob(row.id, row.kind, row.payload)


def finish(
    connection: Connection, job: ClaimedJob, *, result: Mapping[str, Any] | None = None, error: str | None = None
) -> None:
    """Succeeded, with its result, or failed, with the reason."""
    values = {"state": "failed" if error else "succeeded", "result": dict(result or {}), "error": error}
    connection.execute(update(Job).where(Job.id == job.id).values(**values, finished=datetime.now(UTC)))
