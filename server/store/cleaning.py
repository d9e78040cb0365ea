"""What was deleted, out of the database's files as well.

SQLite overwrites deleted rows (`secure_delete`), but its write-ahead log still has the pages as they were: it has to be
emptied. PostgreSQL keeps dead rows until they are vacuumed. Neither can be done while somebody reads from a state of
the database before the deletion. So the deletion leaves a mark in its own transaction, and whoever comes by tries: who
deleted, and the writers' upkeep until it succeeded. Invariant: without a mark, nothing deleted is left in the files.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, delete, select, text
from sqlalchemy.exc import DBAPIError

from honed.server.store.database import BUSY_TIMEOUT_S, StoreUnavailableError, is_sqlite, reading, writing
from honed.server.store.tables import Setting
from honed.server.store.upserts import insert_or_replace

_MARK = "to_clean"
PATIENCE_MS = 500  # with SQLite's readers: as long, nobody can write
TABLES = "messages, completions, choices, tags, originals, feedback, targets, tasks, assignments, snapshot_rows"


def ask(connection: Connection) -> None:
    """Says, in the transaction that deletes, that the files have to be cleaned after it."""
    if is_sqlite(connection):
        value = datetime.now(UTC).isoformat()
    else:
        value = str(connection.execute(text("SELECT pg_current_xact_id()::xid::text")).scalar_one())
    insert_or_replace(connection, Setting, [{"name": _MARK, "value": value}], key="name")


def clean_files(engine: Engine) -> bool:
    """Cleans them if that was asked for. False where a reader was in the way: it has to be tried again. Raises
    StoreUnavailableError."""
    mark = select(Setting.value).where(Setting.name == _MARK)
    with reading(engine) as connection:
        value = connection.execute(mark).scalar_one_or_none()
    if value is None:
        return True
    try:
        is_clean = _clean_sqlite(engine) if engine.dialect.name == "sqlite" else _clean_postgresql(engine, value)
    except DBAPIError as error:
        raise StoreUnavailableError(f"The files could not be cleaned: {type(error.orig).__name__}") from error
    if is_clean:
        with writing(engine) as connection:  # unless something was deleted meanwhile
            connection.execute(delete(Setting).where(Setting.name == _MARK, Setting.value == value))
    return is_clean


def _clean_sqlite(engine: Engine) -> bool:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {PATIENCE_MS}")
        try:
            return not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")


def _clean_postgresql(engine: Engine, deleted_in: str) -> bool:
    """`deleted_in` is the transaction: rows that an older one can still see are not vacuumed."""
    seen = text(
        "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_xmin IS NOT NULL "
        "AND age(backend_xmin) >= age(CAST(:deleted_in AS xid)))"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        is_seen = connection.execute(seen, {"deleted_in": deleted_in}).scalar_one()
        connection.exec_driver_sql(f"VACUUM {TABLES}")
        return not is_seen
