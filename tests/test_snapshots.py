"""Snapshots and checkpoints in the store, and that an erasure finds in them what it erases."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from completions import add, count
from exchanged import order, say
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from honed.server.store.database import reading, writing
from honed.server.store.erasure import add_checkpoint, erase_completion, erase_user
from honed.server.store.snapshots import (
    Part,
    StoredSnapshot,
    load_parts,
    load_snapshot,
    register_checkpoint,
    write_snapshot,
)
from honed.server.store.tables import Checkpoint, Erasure, Snapshot, SnapshotRow
from honed.server.store.users import hash_user, load_salt
from honed.training.configs import DataConfig
from honed.training.data.datasets import load_dataset

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def write(store: Engine, parts: list[Part], snapshot_id: str = "data-1") -> StoredSnapshot:
    with writing(store) as connection:
        return write_snapshot(connection, snapshot_id, "sft", {"validation": 0.1}, parts)


def read(store: Engine, snapshot_id: str = "data-1") -> tuple[StoredSnapshot | None, list[Part]]:
    with reading(store) as connection:
        return load_snapshot(connection, snapshot_id), load_parts(connection, snapshot_id)


def register(store: Engine, checkpoint_id: str, **fields: Any) -> None:
    given: dict[str, Any] = {
        "id": checkpoint_id, "created": NOW, "name": "tiny-sft", "stage": "sft", "parent_id": None,
        "snapshot_id": None, "folder": "checkpoints/tiny-sft", "settings": {"epochs": 2}, "metrics": {"loss": 0.5},
    }  # fmt: skip
    with writing(store) as connection:
        register_checkpoint(connection, **given | fields)


def test_a_snapshot_is_read_as_it_was_written(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("honed.server.store.snapshots.AT_ONCE", 2)
    ids = [add(store, f"Question {number}") for number in range(5)]
    said = say(store, ids[0], "correction", text="yes")
    parts = [Part(each, said if each == ids[0] else None, "train" if each < ids[3] else "test") for each in ids]
    written = write(store, parts)
    assert (written.what, written.settings, written.rows, written.erased) == ("sft", {"validation": 0.1}, 5, 0)
    assert read(store) == (written, parts)
    assert read(store, "data-2") == (None, [])


def test_a_snapshot_that_is_there_stays(store: Engine) -> None:
    parts = [Part(add(store), None, "train")]
    written = write(store, parts)
    assert write(store, parts) == written
    assert (count(store, Snapshot), count(store, SnapshotRow)) == (1, 1)


def test_what_was_erased_and_is_there_anew_takes_its_place_again(store: Engine) -> None:
    """As when a file is imported again: its rows have the ids that they had."""
    ids = [add(store, f"Question {number}") for number in range(3)]
    parts = [Part(each, None, "train") for each in ids]
    written = write(store, parts)
    erase_completion(store, ids[1])
    assert (read(store)[0], read(store)[1]) == (
        StoredSnapshot(id="data-1", created=written.created, what="sft", settings=written.settings, rows=3, erased=1),
        [parts[0], parts[2]],
    )
    add(store, "Question 1", id=ids[1])
    assert write(store, parts) == written
    assert read(store) == (written, parts)


def test_a_row_that_is_gone_undoes_the_snapshot(store: Engine) -> None:
    one = add(store)
    with pytest.raises(IntegrityError):
        write(store, [Part(one, None, "train"), Part("gone", None, "train")])
    assert read(store) == (None, [])


def test_a_checkpoint_is_registered_once(store: Engine) -> None:
    register(store, "ckpt-1")
    register(store, "ckpt-1", name="another", metrics={})
    with reading(store) as connection:
        row = connection.execute(select(Checkpoint)).one()
    assert (row.name, row.stage, row.created, row.folder) == ("tiny-sft", "sft", NOW, "checkpoints/tiny-sft")
    assert (row.settings, row.metrics) == ({"epochs": 2}, {"loss": 0.5})
    assert (row.parent_id, row.snapshot_id) == (None, None)


def test_a_checkpoint_of_an_unknown_snapshot_is_refused(store: Engine) -> None:
    with pytest.raises(IntegrityError):
        register(store, "ckpt-1", snapshot_id="data-nowhere")


def test_an_erased_user_leaves_the_snapshots_and_what_was_trained_on_them_is_named(store: Engine) -> None:
    """A ranking over a user's answer and another's goes whole; the checkpoints and their descendants are named, others
    are not; and no byte of the text is left in SQLite's files."""
    mark = f"secret{uuid.uuid4().hex}"
    hers = add(store, "Tell me of it", f"{mark}!", user="ann")
    other = add(store, "Tell me of it", "No.", user="ben")
    kept = add(store, "Something else", "a", "b", user="ben")
    order(store, (other, 0, 1), (hers, 0, 2))
    order(store, (kept, 0, 1), (kept, 1, 2))
    say(store, hers, "correction", text=f"It is {mark}.")
    say(store, kept, "correction", text="Better.", labeler="lea")
    config = DataConfig(validation=0)
    reward, sft = (load_dataset(config, stage, store) for stage in ("reward", "sft"))
    register(store, "ckpt-sft", snapshot_id=sft.id)
    register(store, "ckpt-ppo", stage="ppo", parent_id="ckpt-sft")
    register(store, "ckpt-reward", stage="reward", snapshot_id=reward.id)
    register(store, "ckpt-other", parent_id="ckpt-base")
    erased = erase_user(store, hash_user(load_salt(store), "ann"))
    assert erased.checkpoints == ("ckpt-ppo", "ckpt-reward", "ckpt-sft")
    for dataset, rows in ((reward, 3), (sft, 2)):
        snapshot, parts = read(store, dataset.id)
        assert snapshot is not None
        assert [part.completion_id for part in parts] == [kept]
        assert (snapshot.rows, snapshot.erased) == (rows, rows - 1)
    if store.dialect.name == "sqlite":
        database = Path(str(store.url.database))
        files = list(database.parent.glob(f"{database.name}*"))
        assert any(b"Something else" in path.read_bytes() for path in files)
        assert not any(mark.encode() in path.read_bytes() for path in files)


def test_a_checkpoint_that_an_erasure_could_not_know_is_added_to_it(store: Engine) -> None:
    erased = [add(store, "first"), add(store, "second")]
    erase_completion(store, erased[0])
    since = datetime.now(UTC)
    erase_completion(store, erased[1])
    with writing(store) as connection:
        add_checkpoint(connection, "ckpt-late", since)
        add_checkpoint(connection, "ckpt-late", since)
    with reading(store) as connection:
        named = connection.execute(select(Erasure.checkpoints).order_by(Erasure.created)).scalars().all()
    assert named == [{"ids": []}, {"ids": ["ckpt-late"]}]
