"""The job queue: work that a process other than the server's takes on, and what it says of it.

A job is a row. It is claimed by the database (`FOR UPDATE SKIP LOCKED` on PostgreSQL; on SQLite the transaction has the
lock), so two workers never take the same. Who claimed it says again and again that it lives (`beat`), and learns then
what is wanted of it; who falls silent loses it to the next. Invariants: a job with a `key` is there once, whoever asks
for it and how often; only the last claim of a job can change it; a device has one running job; times are of one clock,
the database's, so that a machine whose clock is wrong takes no job away and loses none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, CursorResult, case, cast, exists, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError

from honed.server.store.database import is_sqlite
from honed.server.store.ids import new_id
from honed.server.store.tables import Job, JobEvent
from honed.server.store.upserts import insert_missing

STALE: Final = timedelta(hours=1)
Wanted = Literal["pause", "cancel"]
State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
Level = Literal["info", "warn", "error"]


class JobLostError(Exception):
    """Another worker has the job now, since this one was not heard of for too long."""


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """`attempt`: 1 where nobody worked on it before. `deaths`: of workers that had it."""

    id: str
    kind: str
    payload: dict[str, Any]
    attempt: int
    deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    id: str
    kind: str
    state: State
    payload: dict[str, Any]
    result: dict[str, Any]
    error: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    key_id: str | None
    wanted: Wanted | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    id: str
    created: datetime
    level: Level
    kind: Literal["message", "metrics"]
    message: str
    data: dict[str, Any]


def enqueue(
    connection: Connection,
    kind: str,
    *,
    key: str | None = None,
    payload: Mapping[str, Any] = {},
    prefix: str = "job",
    key_id: str | None = None,
) -> str:
    """Asks for a job, and says its id; nothing happens where one with this key was asked for before."""
    row = {
        "id": new_id(prefix),
        "kind": kind,
        "key": key,
        "state": "queued",
        "payload": dict(payload),
        "result": {},
        "error": None,
        "created": _now(connection),
        "started": None,
        "heartbeat": None,
        "finished": None,
        "key_id": key_id,
        "attempts": 0,
        "deaths": 0,
        "device": None,
        "wanted": None,
    }
    insert_missing(connection, Job, [row])
    own = Job.id == row["id"] if key is None else Job.key == key
    return str(connection.execute(select(Job.id).where(own)).scalar_one())


def claim(
    connection: Connection, *kinds: str, device: str | None = None, stale: timedelta = STALE
) -> ClaimedJob | None:
    """The oldest job of these kinds that waits, or whose worker was not heard of for `stale`, which comes first; it is
    running from here on. None where there is none, or the device has one. In a transaction that writes."""
    now = _now(connection)
    is_stale = (Job.state == "running") & (Job.heartbeat < now - stale)
    columns = (Job.id, Job.kind, Job.payload, Job.state, Job.attempts, Job.deaths)
    waiting = select(*columns).where((Job.state == "queued") | is_stale)
    order = (case((Job.state == "running", 0), else_=1), Job.id)
    query = waiting.where(Job.kind.in_(kinds)).order_by(*order).limit(1).with_for_update(skip_locked=True)
    row = connection.execute(query).first()
    if row is None:
        return None
    attempt, deaths = row.attempts + 1, row.deaths + (row.state == "running")
    taken = {"state": "running", "started": now, "heartbeat": now, "device": device}
    taken |= {"attempts": attempt, "deaths": deaths}
    try:
        with connection.begin_nested():
            connection.execute(update(Job).where(Job.id == row.id).values(**taken))
    except IntegrityError:  # the device has a job that runs
        return None
    return ClaimedJob(row.id, row.kind, row.payload, attempt, deaths)


def beat(connection: Connection, job: ClaimedJob) -> Wanted | None:
    """Says that the job's worker lives; what is wanted of it. Raises JobLostError."""
    _change(connection, job, heartbeat=_now(connection))
    row: Any = connection.execute(select(Job.wanted).where(Job.id == job.id)).one()
    wanted: Wanted | None = row.wanted
    return wanted


def finish(
    connection: Connection, job: ClaimedJob, *, result: Mapping[str, Any] | None = None, error: str | None = None
) -> None:
    """Succeeded, with its result, or failed, with the reason. Raises JobLostError."""
    values = {"state": "failed" if error else "succeeded", "result": dict(result or {}), "error": error}
    _change(connection, job, **values, finished=_now(connection), wanted=None)


def put_down(connection: Connection, job: ClaimedJob) -> str:
    """The job's state when its worker lets go of it: paused or cancelled, as is wanted by now, else queued again. In a
    transaction that writes. Raises JobLostError."""
    state = {"pause": "paused", "cancel": "cancelled", None: "queued"}[beat(connection, job)]
    finished = _now(connection) if state == "cancelled" else None
    _change(connection, job, state=state, finished=finished, wanted=None)
    return state


def ask(connection: Connection, job_id: str, wanted: Wanted | Literal["resume"]) -> bool:
    """Pauses, cancels or resumes a job: at once where nobody works on it, else its worker is told. False, and nothing
    happens, where its state allows no such thing; nothing takes back a cancel. In a transaction that writes."""
    row = connection.execute(select(Job.state, Job.wanted).where(Job.id == job_id).with_for_update()).one()
    change: dict[str, Any]
    allowed: tuple[str, ...]
    if row.wanted == "cancel":
        return wanted == "cancel"
    if wanted == "resume":
        # One that its worker has not put down yet goes on as if nobody had asked.
        change = {"state": "queued"} if row.state == "paused" else {"wanted": None}
        allowed = ("paused", "running")
    elif row.state == "running":
        change, allowed = {"wanted": wanted}, ("running",)
    elif wanted == "pause":
        change, allowed = {"state": "paused"}, ("queued",)
    else:
        change, allowed = {"state": "cancelled", "finished": _now(connection)}, ("queued", "paused")
    if row.state not in allowed:
        return False
    connection.execute(update(Job).where(Job.id == job_id).values(**change))
    return True


def load(connection: Connection, job_id: str) -> StoredJob | None:
    row = connection.execute(select(*_columns()).where(Job.id == job_id)).one_or_none()
    return None if row is None else StoredJob(**row._asdict())


def ended(connection: Connection, ids: Iterable[str]) -> list[str]:
    """Those of the jobs that succeeded, failed or were cancelled."""
    query = select(Job.id).where(Job.id.in_(list(ids)), Job.state.in_(("succeeded", "failed", "cancelled")))
    return list(connection.execute(query).scalars())


def keyed(connection: Connection, keys: Iterable[str]) -> dict[str, StoredJob]:
    """The jobs with these keys, by key."""
    rows = connection.execute(select(Job.key, *_columns()).where(Job.key.in_(list(keys))))
    found = [row._asdict() for row in rows]
    return {each.pop("key"): StoredJob(**each) for each in found}


def page(
    connection: Connection,
    kind: str,
    *,
    after: str | None = None,
    limit: int,
    key_id: str | None = None,
    metadata: Mapping[str, str] | None = {},
) -> list[StoredJob]:
    """The newest first, from the one behind `after` on; `key_id`: only those of one API key. `metadata`: only those
    whose payload has all of it, or, for None, has none."""
    query = select(*_columns()).where(Job.kind == kind)
    if after is not None:
        query = query.where(Job.id < after)
    if key_id is not None:
        query = query.where(Job.key_id == key_id)
    if metadata is None:
        query = query.where(func.coalesce(Job.payload["metadata"].as_string(), "{}") == "{}")
    for key, value in (metadata or {}).items():
        query = query.where(_has_metadata(connection, key, value))
    rows = connection.execute(query.order_by(Job.id.desc()).limit(limit))
    return [StoredJob(**row._asdict()) for row in rows]


def add_event(
    connection: Connection, job_id: str, message: str, *, level: Level = "info", data: Mapping[str, Any] | None = None
) -> None:
    """`data`: a step's numbers."""
    row = {
        "id": new_id("ftevent"),
        "job_id": job_id,
        "created": _now(connection),
        "level": level,
        "kind": "message" if data is None else "metrics",
        "message": message,
        "data": dict(data or {}),
    }
    insert_missing(connection, JobEvent, [row])


def events(connection: Connection, job_id: str, *, after: str | None = None, limit: int) -> list[StoredEvent]:
    """The newest first, from the one behind `after` on. Ids are of milliseconds, in which a job may say two things."""
    names = ("id", "created", "level", "kind", "message", "data")
    query = select(*(getattr(JobEvent, name) for name in names)).where(JobEvent.job_id == job_id)
    if after is not None:
        last = select(JobEvent.created, JobEvent.id).where(JobEvent.job_id == job_id, JobEvent.id == after)
        query = query.where(tuple_(JobEvent.created, JobEvent.id) < last.scalar_subquery())
    rows = connection.execute(query.order_by(JobEvent.created.desc(), JobEvent.id.desc()).limit(limit))
    return [StoredEvent(**row._asdict()) for row in rows]


def _has_metadata(connection: Connection, key: str, value: str) -> ColumnElement[bool]:
    """Whatever characters the key has: SQLite's JSON paths know no escapes."""
    if not is_sqlite(connection):
        return cast(Job.payload["metadata"], JSONB).contains({key: value})
    pairs = func.json_each(Job.payload, "$.metadata").table_valued("key", "atom")
    return exists().where(pairs.c.key == key, pairs.c.atom == value)


def _now(connection: Connection) -> datetime:
    """By the database's clock: the machines of servers and workers have each its own. On SQLite there is one machine,
    and its clock as Python reads it has microseconds, which SQLite's lacks."""
    if is_sqlite(connection):
        return datetime.now(UTC)
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now


def _columns() -> list[Any]:
    return [getattr(Job, name) for name in StoredJob.__slots__]


def _change(connection: Connection, job: ClaimedJob, **values: Any) -> None:
    """Where the job is still this claim's."""
    own = (Job.id == job.id, Job.attempts == job.attempt, Job.state == "running")
    changed: CursorResult[Any] = connection.execute(update(Job).where(*own).values(**values))
    if changed.rowcount == 0:
        raise JobLostError(f"{job.id} is another worker's now, or was put down.")
