"""Uploaded files in the store: their parts, their pages, and whose they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from completions import count
from sqlalchemy import Engine

from honed.server.store import files
from honed.server.store.database import reading, writing
from honed.server.store.files import StoredFile
from honed.server.store.tables import File, FilePart

PARTS = [b"\x00\xff first", b"second", b"third"]


@pytest.fixture(autouse=True)
def _ids_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that are made in the same millisecond too."""
    numbers = itertools.count(1)
    monkeypatch.setattr(files, "new_id", lambda prefix: f"{prefix}-{next(numbers):032x}")


def add(
    store: Engine, *parts: bytes, key: str = "ann", name: str = "rows.jsonl", purpose: str = "fine-tune"
) -> StoredFile:
    with writing(store) as connection:
        return files.add(connection, name=name, purpose=purpose, key_id=key, parts=iter(parts))


def content(store: Engine, file_id: str) -> list[bytes] | None:
    with reading(store) as connection:
        parts = files.read_content(connection, file_id)
        return None if parts is None else list(parts)


def test_a_file_comes_back_part_by_part(store: Engine) -> None:
    added = add(store, *PARTS, name="Ä.jsonl")
    other = add(store, b"other")
    with reading(store) as connection:
        assert files.load(connection, added.id, scope=None) == added
        assert [files.read_part(connection, added.id, position) for position in range(4)] == [*PARTS, None]
    assert (added.name, added.purpose, added.num_bytes) == ("Ä.jsonl", "fine-tune", sum(map(len, PARTS)))
    assert content(store, added.id) == PARTS
    assert content(store, other.id) == [b"other"]


def test_a_file_may_be_empty_and_is_there_nevertheless(store: Engine) -> None:
    added = add(store)
    assert (added.num_bytes, content(store, added.id), content(store, "file-none")) == (0, [], None)


def test_a_file_whose_upload_breaks_off_leaves_nothing(store: Engine) -> None:
    def broken() -> Iterator[bytes]:
        yield b"first"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"), writing(store) as connection:
        files.add(connection, name="x", purpose="fine-tune", key_id="ann", parts=broken())
    assert (count(store, File), count(store, FilePart)) == (0, 0)


def test_a_removed_file_takes_its_parts_along(store: Engine) -> None:
    kept, gone = add(store, b"kept"), add(store, *PARTS)
    with writing(store) as connection:
        assert files.remove(connection, gone.id)
        assert not files.remove(connection, gone.id)
    assert content(store, gone.id) is None
    assert content(store, kept.id) == [b"kept"]
    assert count(store, FilePart) == 1


def test_pages_go_either_way(store: Engine) -> None:
    added = [add(store, b"x") for _ in range(5)]
    with reading(store) as connection:
        assert files.list_files(connection, scope=None, limit=2) == (added[:2:-1], True)
        assert files.list_files(connection, scope=None, after=added[3].id, limit=2) == (added[2:0:-1], True)
        assert files.list_files(connection, scope=None, after=added[1].id, limit=2) == ([added[0]], False)
        assert files.list_files(connection, scope=None, limit=3, order="asc") == (added[:3], True)
        assert files.list_files(connection, scope=None, after=added[2].id, limit=2, order="asc") == (added[3:], False)


def test_a_key_sees_its_own_and_a_purpose_narrows(store: Engine) -> None:
    mine, others = add(store, b"x"), add(store, b"x", key="ben", purpose="evals")
    with reading(store) as connection:
        assert files.list_files(connection, scope="ann", limit=9) == ([mine], False)
        assert files.list_files(connection, scope=None, limit=9, purpose="evals") == ([others], False)
        assert files.list_files(connection, scope="ann", limit=9, purpose="evals") == ([], False)
        assert files.load(connection, mine.id, scope="ann") == mine
        assert files.load(connection, others.id, scope="ann") is None
        assert files.load(connection, others.id, scope=None) == others
