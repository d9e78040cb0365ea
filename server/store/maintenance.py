"""The store's own jobs: files that have to be cleaned, and retention, once a day; by whichever writer comes first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, delete, select

from honed.server.store import jobs
from honed.server.store.cleaning import clean_files
from honed.server.store.database import writing
from honed.server.store.erasure import delete_completions
from honed.server.store.tables import Completion, Segment

RETENTION = "retention"
AT_ONCE = 1000  # completions a transaction, so that nobody waits long for the lock
SEGMENTS_KEPT = timedelta(days=90)  # positions of segments that went without their writer


def run_due(engine: Engine, *, retention_days: int) -> None:
    """Cleans files that have to be; asks for today's retention and runs it, unless another server has. Raises
    StoreUnavailableError."""
    clean_files(engine)
    with writing(engine) as connection:
        connection.execute(delete(Segment).where(Segment.updated < datetime.now(UTC) - SEGMENTS_KEPT))
    if not retention_days:
        return
    with writing(engine) as connection:
        today = datetime.now(UTC).date()
        jobs.enqueue(connection, RETENTION, key=f"{RETENTION}:{today}", payload={"days": retention_days})
        job = jobs.claim(connection, RETENTION)
    if job is None:
        return
    count = expire(engine, datetime.now(UTC) - timedelta(days=job.payload["days"]))
    with writing(engine) as connection:
        jobs.finish(connection, job, result={"completions": count})


def expire(engine: Engine, before: datetime) -> int:
    """Erases what is older than `before`; how many completions that were."""
    count = 0
    while True:
        with writing(engine) as connection:
            ids = _older(connection, before)
            count += delete_completions(connection, ids).completions
        if not ids:
            break
    if count:
        clean_files(engine)
    return count


def _older(connection: Connection, before: datetime) -> list[str]:
    old = select(Completion.id).where(Completion.created < before)
    return list(connection.execute(old.order_by(Completion.created).limit(AT_ONCE)).scalars())
