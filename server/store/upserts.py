"""Inserts that meet rows which are there already: the one thing that SQLite and PostgreSQL both have, each in a module
of its own in SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from honed.server.store.database import is_sqlite
from honed.server.store.tables import Base

Row = Mapping[str, Any]


def insert_missing(connection: Connection, table: type[Base], rows: Sequence[Row]) -> None:
    """Inserts the rows whose key is not there; the others stay as they are."""
    if rows:
        insert = sqlite.insert(table) if is_sqlite(connection) else postgresql.insert(table)
        connection.execute(insert.on_conflict_do_nothing(), [dict(row) for row in rows])


def insert_or_replace(connection: Connection, table: type[Base], rows: Sequence[Row], *, key: str) -> None:
    """Inserts the rows, each in the place of the one with the same `key`."""
    if rows:
        insert = sqlite.insert(table) if is_sqlite(connection) else postgresql.insert(table)
        changed = {name: insert.excluded[name] for name in rows[0] if name != key}
        upsert = insert.on_conflict_do_update(index_elements=[key], set_=changed)
        connection.execute(upsert, [dict(row) for row in rows])
