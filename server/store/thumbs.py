"""Thumbs by policy: how many point up and how many down, each person's newest on an answer.

An author is the key that sent it and the labeler whom it names, if any, as in `exchange/judgements.py`. Where policies
are compared, labelers do not count apart: the author is the key, for the end user of the answer, and only answers of
policies that the server chose count, so that nobody has more words by making up names or by asking for one of the two.
Writes nothing. Invariant: what is read is feedback, along an index, and completions one by one; never all completions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute

from honed.server.store.tables import Completion, Feedback

NEWEST: Final = 1


@dataclass(frozen=True, slots=True)
class Thumbs:
    up: int = 0
    down: int = 0

    @property
    def total(self) -> int:
        return self.up + self.down


def count(connection: Connection) -> dict[str, Thumbs]:
    """All of them, by policy."""
    return _counted(connection.execute(count_query()))


def count_since(connection: Connection, policy_ids: Collection[str], since: datetime) -> dict[str, Thumbs]:
    """Those on what these policies answered since then where the server chose them, of each key its newest."""
    return _counted(connection.execute(count_since_query(policy_ids, since)))


def count_query() -> Select[Any]:
    words = _words(Feedback.key_id, Feedback.labeler).subquery()
    groups = (words.c.policy_id, words.c.number)
    return select(*groups, func.count()).where(words.c.age == NEWEST).group_by(*groups)


def count_since_query(policy_ids: Collection[str], since: datetime) -> Select[Any]:
    first_id = f"fb-{int(since.timestamp() * 1000):012x}"  # ids begin with their time (`ids.py`)
    # What is said of an answer comes after it; and the newest word of all is the newest of these.
    conditions = (Feedback.policy_id.in_(policy_ids), Feedback.id >= first_id)
    words = _words(Feedback.key_id, conditions=conditions).subquery()  # an answer has one end user
    groups = (words.c.policy_id, words.c.number)
    return (
        select(*groups, func.count())
        .join(Completion, Completion.id == words.c.completion_id)
        .where(words.c.age == NEWEST, Completion.created >= since, Completion.assigned.is_(True))
        .group_by(*groups)
    )


def _words(*author: InstrumentedAttribute[Any], conditions: Sequence[ColumnElement[bool]] = ()) -> Select[Any]:
    """Thumbs, numbered from each author's newest on an answer. In one pass: a look at each other's words would go along
    whatever index the database takes for the best, and may be a look at all of them."""
    same = (Feedback.completion_id, Feedback.choice)
    age = func.row_number().over(partition_by=(*same, *author), order_by=Feedback.id.desc()).label("age")
    columns = (Feedback.policy_id, Feedback.completion_id, Feedback.number, age)
    return select(*columns).where(Feedback.kind == "thumb", *conditions)


def _counted(rows: Iterable[Any]) -> dict[str, Thumbs]:
    found: dict[str, dict[int, int]] = {}
    for policy_id, number, many in rows:
        found.setdefault(policy_id, {})[number] = many
    return {policy_id: _thumbs(numbers) for policy_id, numbers in found.items()}


def _thumbs(numbers: Mapping[int, int]) -> Thumbs:
    return Thumbs(up=numbers.get(1, 0), down=numbers.get(0, 0))
