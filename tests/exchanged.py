"""Records into a store and out of it again, and judgements as a server stores them, for tests of the exchange."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import completions
import pytest
from sqlalchemy import Engine, update

from honed.server.store import feedback
from honed.server.store.database import writing
from honed.server.store.exchange import exporting, judgements
from honed.server.store.exchange.exporting import Exported, export
from honed.server.store.exchange.files import read_rows
from honed.server.store.exchange.importing import Imported, import_files
from honed.server.store.exchange.writing import What
from honed.server.store.feedback import NewFeedback, RankedAnswer
from honed.server.store.tables import Completion

Row = dict[str, Any]


def make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few rows are several batches."""
    monkeypatch.setattr(judgements, "AT_ONCE", 2)
    monkeypatch.setattr(exporting, "AT_ONCE", 2)


def make_ids_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is made in the same millisecond too."""
    numbers = itertools.count(0x0199 << 32)

    def next_id(prefix: str, **_: object) -> str:
        return f"{prefix}-{next(numbers):012x}{'0' * 20}"

    monkeypatch.setattr(feedback, "new_id", next_id)
    monkeypatch.setattr(completions, "new_id", next_id)


def put_in(store: Engine, folder: Path, rows: Iterable[Row], **options: bool) -> Imported:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return import_files(store, [path], **options)


def exported(store: Engine, folder: Path, what: What, *, text: bool = False) -> tuple[list[Row], Exported]:
    path = folder / "out.jsonl"
    done = export(store, what, path, text=text)
    rows = [row for _, row in read_rows(path) if isinstance(row, dict)]
    assert done.rows == len(rows)
    return rows, done


def taken_out(store: Engine, folder: Path, what: What, *, text: bool = False) -> list[Row]:
    return exported(store, folder, what, text=text)[0]


def answers(rows: Iterable[Row]) -> list[str]:
    """What demonstrations and completions answer."""
    return [(row.get("completion") or row["messages"])[-1]["content"] for row in rows]


def chosen(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]


def say(store: Engine, completion_id: str, kind: feedback.Kind, choice: int = 0, **fields: Any) -> str:
    given: dict[str, Any] = {"source": "user", "key_id": "key-1"} | fields
    new = NewFeedback(completion_id=completion_id, choice=choice, kind=kind, **given)
    with writing(store) as connection:
        return feedback.add(connection, new, scope=None).id


def order(store: Engine, *ranked: tuple[str, int, int], kind: feedback.Kind = "ranking", **fields: Any) -> str:
    """`ranked`: completion, choice, rank; the first is the one that the feedback names."""
    targets = [RankedAnswer(*each) for each in ranked]
    return say(store, ranked[0][0], kind, ranked[0][1], targets=targets, **fields)


def untrain(store: Engine, completion_id: str) -> None:
    with writing(store) as connection:
        connection.execute(update(Completion).where(Completion.id == completion_id).values(trainable=False))
