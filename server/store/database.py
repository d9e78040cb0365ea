"""The database: SQLite in a file (the default), or PostgreSQL by URL. Connections and transactions.

The store's functions take a connection; whoever calls them decides where the transaction begins and ends, with
`reading` and `writing`. Everything is synchronous: the server calls it in threads, the command line and the training as
it is.
Invariants: whatever makes the database unusable reaches the caller as StoreUnavailableError; on SQLite, a transaction
that will write takes the lock when it begins, so that it waits for another writer instead of failing halfway.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

DATABASE_FILE = "honed.db"
BUSY_TIMEOUT_S = 30  # how long a writer waits for another on SQLite
CONNECT_TIMEOUT_S = 5
CONFLICTS = ("40001", "40P01")  # PostgreSQL's serialization_failure and deadlock_detected
_WRITES = "honed_writes"  # the execution option that `writing` sets


class StoreError(Exception):
    """The store cannot do what was asked; the message says what to do."""

    @property
    def public(self) -> str:
        """What may be told to everybody who asks."""
        return str(self)


class StoreUnavailableError(StoreError):
    """The database does not answer, now; it may answer later."""

    @property
    def public(self) -> str:
        return "The database does not answer; the log says why."


class StoreConflictError(StoreUnavailableError):
    """Another transaction came between: the same work, done again, goes well."""


def database_url(url: str | None, home: Path) -> URL:
    """The URL of the store: `url`, or the file under `home`. Raises StoreError for one that cannot be used."""
    if not url:
        return URL.create("sqlite", database=str(home / DATABASE_FILE))
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError("The database's URL cannot be read: write postgresql+psycopg://USER@HOST/NAME.") from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StoreError(f"There is no store on {parsed.drivername}: use sqlite:///FILE or postgresql+psycopg://...")
    if parsed.drivername == "sqlite" and not parsed.database:
        raise StoreError("A store in memory would be lost: name a file, as in sqlite:////var/lib/honed/honed.db.")
    return parsed


def open_database(url: URL) -> Engine:
    """Connects when it is used. Raises StoreError where the driver is not installed."""
    if url.drivername == "sqlite":
        return _open_sqlite(url)
    options = {"connect_timeout": CONNECT_TIMEOUT_S, "options": "-c timezone=UTC"}
    try:
        return create_engine(url, pool_pre_ping=True, connect_args=options, hide_parameters=True)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise StoreError("PostgreSQL needs a driver: pip install 'honed[postgres]'.") from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the database. Raises StoreUnavailableError."""
    with _transaction(engine) as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that is committed when the block ends, and undone when it raises. Raises StoreUnavailableError."""
    with _transaction(engine, **{_WRITES: True}) as connection:
        yield connection


@contextmanager
def _transaction(engine: Engine, **options: Any) -> Iterator[Connection]:
    try:
        with engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in CONFLICTS:
            raise StoreConflictError(f"Another transaction came between: {_first_line(error)}") from error
        if is_unavailable(error):
            raise StoreUnavailableError(f"The store cannot be reached: {_first_line(error)}") from error
        raise


def is_unavailable(error: DBAPIError) -> bool:
    """Whether it is the database that failed, and not what was asked of it."""
    if type(error) is DatabaseError:  # and none of its kinds: the file is damaged, or none of SQLite's
        return True
    return isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _open_sqlite(url: URL) -> Engine:
    assert url.database is not None
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)  # what users wrote is for the server's user only; SQLite gives its other files the same mode
    # A reader may come from any of the server's threads; the pool gives it to one at a time.
    options = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    engine = create_engine(url, connect_args=options, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # this module says BEGIN itself, see `_begin`
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # erased text is overwritten, not only unlinked
        connection.execute("PRAGMA cache_size = -65536")  # KiB

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
