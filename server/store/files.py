"""Uploaded files: every query on `files` and `file_parts`.

`scope` is the key whose files may be seen, None for all. Nothing here tells a file that is not there from one that is
somebody else's, and nothing knows what a file means (`exchange/reading.py`). Invariant: `num_bytes` is what the parts
of a file add up to, and they are in the order of their positions, without a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, CursorResult, Select, delete, insert, select, update

from honed.server.store.ids import new_id
from honed.server.store.tables import File, FilePart

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    id: str
    created: datetime
    name: str
    purpose: str
    num_bytes: int


def add(connection: Connection, *, name: str, purpose: str, key_id: str, parts: Iterable[bytes]) -> StoredFile:
    """Each of the parts, about 1 MiB, becomes a row. In a transaction that writes."""
    row: dict[str, Any] = {
        "id": new_id("file"),
        "created": datetime.now(UTC),
        "name": name,
        "purpose": purpose,
        "num_bytes": 0,
    }
    connection.execute(insert(File).values(**row, key_id=key_id))
    for position, content in enumerate(parts):
        connection.execute(insert(FilePart).values(file_id=row["id"], position=position, content=content))
        row["num_bytes"] += len(content)
    connection.execute(update(File).where(File.id == row["id"]).values(num_bytes=row["num_bytes"]))
    return StoredFile(**row)


def list_files(
    connection: Connection,
    *,
    scope: str | None,
    after: str | None = None,
    limit: int,
    order: Order = "desc",
    purpose: str | None = None,
) -> tuple[list[StoredFile], bool]:
    """A page of the files, and whether more follow."""
    query = _visible(scope)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    if after is not None:
        query = query.where(File.id > after if order == "asc" else File.id < after)
    rows = connection.execute(query.order_by(File.id.asc() if order == "asc" else File.id.desc()).limit(limit + 1))
    found = [StoredFile(**row._asdict()) for row in rows]
    return found[:limit], len(found) > limit


def load(connection: Connection, file_id: str, *, scope: str | None) -> StoredFile | None:
    row = connection.execute(_visible(scope).where(File.id == file_id)).one_or_none()
    return None if row is None else StoredFile(**row._asdict())


def read_content(connection: Connection, file_id: str) -> Iterator[bytes] | None:
    """The content, read part by part while the connection is open; None where there is no such file."""
    if load(connection, file_id, scope=None) is None:
        return None
    return _parts(connection, file_id)


def read_part(connection: Connection, file_id: str, position: int) -> bytes | None:
    """None behind the last, and where the file is gone: for whoever reads slowly and is not to hold a transaction."""
    query = select(FilePart.content).where(FilePart.file_id == file_id, FilePart.position == position)
    return connection.execute(query).scalar_one_or_none()


def remove(connection: Connection, file_id: str) -> bool:
    """False where it was gone before. In a transaction that writes."""
    removed: CursorResult[Any] = connection.execute(delete(File).where(File.id == file_id))
    return removed.rowcount > 0


def _parts(connection: Connection, file_id: str) -> Iterator[bytes]:
    position = 0
    while (content := read_part(connection, file_id, position)) is not None:
        yield content
        position += 1


def _visible(scope: str | None) -> Select[Any]:
    query = select(*(getattr(File, name) for name in StoredFile.__slots__))
    return query if scope is None else query.where(File.key_id == scope)
