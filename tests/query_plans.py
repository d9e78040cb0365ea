"""How a database would run a query, for tests of its indices."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from honed.server.store.database import is_sqlite


def plan(connection: Connection, query: Any) -> str:
    """How the database would run it; PostgreSQL is told that reading a whole table is dear, since these are small."""
    sql = str(query.compile(connection, compile_kwargs={"literal_binds": True})).replace("%", "%%")
    if is_sqlite(connection):
        return "\n".join(row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}"))
    for setting in ("enable_seqscan", "enable_sort", "enable_bitmapscan"):
        connection.exec_driver_sql(f"SET {setting} = off")
    return "\n".join(connection.exec_driver_sql(f"EXPLAIN {sql}").scalars())
