"""Feedback read back: the words that count, with the completions that they are about.

Of an author's words the newest counts. An author is the key that sent it, and the labeler whom it names, if any. Of
corrections and of thumbs the newest on an answer counts; of comparisons and rankings, which both put answers in an
order, the newest on the same set of answers: one on more answers or on fewer is another word. Answers that were erased
or may not be trained on are taken out of an order, and what is left of it stands.

Invariants: words come in the order of their ids; memory holds one batch of them; every query goes along an index.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, select

from honed.server.store.exchange.asked import AnswerKey, Asked, Written, load_asked, load_written
from honed.server.store.feedback import Kind
from honed.server.store.messages import among, batches
from honed.server.store.tables import Feedback, Target

AT_ONCE: Final = 2000
ORDERS: Final[tuple[Kind, ...]] = ("comparison", "ranking")

Author: TypeAlias = tuple[str, str]
Ranks: TypeAlias = dict[AnswerKey, int]

MIN_ANSWERS: Final = 2  # of an order
_COLUMNS: Final = (
    Feedback.id,
    Feedback.kind,
    Feedback.completion_id,
    Feedback.choice,
    Feedback.labeler,
    Feedback.key_id,
    Feedback.number,
    Feedback.text,
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A correction, or a thumb on an answer."""

    feedback_id: str
    labeler: str | None
    asked: Asked
    answer: Written | None  # a demonstration has none
    number: int | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Ordered:
    """A comparison or a ranking: two answers or more with their ranks, the best of which is 1. `demonstration`: the
    author's newest correction of the completion that the feedback names, where it was asked for, and
    `demonstration_id` that correction's id. `policies`: what answered, by completion."""

    feedback_id: str
    labeler: str | None
    asked: Asked
    answers: list[tuple[Written, int]]
    policies: Mapping[str, str]
    demonstration: str | None
    demonstration_id: str | None


def judged(connection: Connection, kind: Kind) -> Iterator[Judged]:
    """The corrections or the thumbs that count."""
    for some in batches(_walk(connection, kind), AT_ONCE):
        ids = {row.completion_id for row in some}
        newest = {(row.completion_id, row.choice, _author(row)): row.id for row in _on(connection, kind, ids)}
        counting = set(newest.values())
        yield from _judged(connection, [row for row in some if row.id in counting])


def judged_by(connection: Connection, feedback_ids: Iterable[str]) -> Iterator[Judged]:
    """These corrections or thumbs, whatever was said since, in the order of the ids given. Left out are those that are
    gone, and those on what may not be trained on."""
    for some in batches(feedback_ids, AT_ONCE):
        found = {row.id: row for row in _by_id(connection, some)}
        yield from _judged(connection, [found[each] for each in some if each in found])


def ordered(connection: Connection, kinds: Sequence[Kind] = ORDERS, *, demonstrated: bool = False) -> Iterator[Ordered]:
    """The comparisons, the rankings or both that count, on request with demonstrations; a word of one kind takes the
    place of an older one of the other."""
    feedback = heapq.merge(*(_walk(connection, kind) for kind in kinds), key=lambda row: row.id)
    for some in batches(feedback, AT_ONCE):
        ranks = _load_ranks(connection, [row.id for row in some])
        counting = _newest_orders(connection, some, ranks)
        named = {row.completion_id for row in some}
        corrections = _newest_corrections(connection, named) if demonstrated else {}
        yield from _ordered(connection, [row for row in some if row.id in counting], ranks, corrections)


def ordered_by(connection: Connection, feedback_ids: Iterable[str], among_ids: Collection[str]) -> Iterator[Ordered]:
    """These comparisons and rankings, whatever was said since, in the order of the ids given; their demonstrations are
    those that are given as well. Only answers of the completions `among_ids` count. Left out are those that are gone,
    and those that have fewer than two answers left that may be trained on."""
    given = list(feedback_ids)
    rows = {row.id: row for row in _by_id(connection, given)}
    corrections = {(row.completion_id, _author(row)): row for row in rows.values() if row.kind == "correction"}
    for some in batches((each for each in given if each in rows and rows[each].kind in ORDERS), AT_ONCE):
        ranks = {
            feedback_id: {answer: rank for answer, rank in each.items() if answer[0] in among_ids}
            for feedback_id, each in _load_ranks(connection, some).items()
        }
        yield from _ordered(connection, [rows[each] for each in some], ranks, corrections)


def _judged(connection: Connection, rows: Sequence[Any]) -> Iterator[Judged]:
    ids = {row.completion_id for row in rows}
    asked, written = load_asked(connection, ids), load_written(connection, ids)
    for row in rows:
        if row.completion_id in asked:
            answer = written.get((row.completion_id, row.choice))
            yield Judged(row.id, row.labeler, asked[row.completion_id], answer, row.number, row.text)


def _ordered(
    connection: Connection,
    rows: Sequence[Any],
    ranks: Mapping[str, Ranks],
    corrections: Mapping[tuple[str, Author], Any],
) -> Iterator[Ordered]:
    ranked = {completion_id for row in rows for completion_id, _ in ranks[row.id]}
    asked = load_asked(connection, ranked | {row.completion_id for row in rows})
    written = load_written(connection, ranked & asked.keys())
    for row in rows:
        left = [(written[answer], rank) for answer, rank in ranks[row.id].items() if answer in written]
        if row.completion_id not in asked or len(left) < MIN_ANSWERS:
            continue
        correction = corrections.get((row.completion_id, _author(row)))
        yield Ordered(
            feedback_id=row.id,
            labeler=row.labeler,
            asked=asked[row.completion_id],
            answers=_from_one(left),
            policies={answer.completion_id: asked[answer.completion_id].policy_id for answer, _ in left},
            demonstration=None if correction is None else correction.text,
            demonstration_id=None if correction is None else correction.id,
        )


def _walk(connection: Connection, kind: Kind) -> Iterator[Any]:
    """All feedback of a kind, whatever it is worth."""
    after = ""
    while True:
        query = select(*_COLUMNS).where(Feedback.kind == kind, Feedback.id > after).order_by(Feedback.id)
        rows = connection.execute(query.limit(AT_ONCE)).all()
        yield from rows
        if len(rows) < AT_ONCE:
            return
        after = rows[-1].id


def _on(connection: Connection, kind: Kind, completion_ids: Collection[str]) -> Iterator[Any]:
    """All feedback of a kind on the completions; that on each of them in the order of ids."""
    for some in batches(completion_ids):
        query = select(*_COLUMNS).where(among(connection, Feedback.completion_id, some), Feedback.kind == kind)
        yield from connection.execute(query.order_by(Feedback.completion_id, Feedback.id)).all()


def _newest_corrections(connection: Connection, completion_ids: Collection[str]) -> dict[tuple[str, Author], Any]:
    """By completion and author."""
    return {(row.completion_id, _author(row)): row for row in _on(connection, "correction", completion_ids)}


def _newest_orders(connection: Connection, rows: Sequence[Any], ranks: Mapping[str, Ranks]) -> set[str]:
    """The ids of those that their authors did not say anew, and of others. Who orders the same answers again may name
    another of them, so that rivals are found by what they order."""
    rivals = _ordering(connection, {min(each)[0] for each in ranks.values() if each}) - ranks.keys()
    all_rows = [*rows, *_by_id(connection, rivals)]
    all_ranks = {**ranks, **_load_ranks(connection, rivals)}
    all_rows.sort(key=lambda row: row.id)
    newest = {(frozenset(all_ranks[row.id]), _author(row)): row.id for row in all_rows}
    return set(newest.values())


def _ordering(connection: Connection, completion_ids: Iterable[str]) -> set[str]:
    """The ids of all feedback that orders answers of the completions."""
    found: set[str] = set()
    for some in batches(completion_ids):
        query = select(Target.feedback_id).where(among(connection, Target.completion_id, some))
        found.update(connection.execute(query.distinct()).scalars())
    return found


def _by_id(connection: Connection, feedback_ids: Iterable[str]) -> Iterator[Any]:
    for some in batches(feedback_ids):
        yield from connection.execute(select(*_COLUMNS).where(among(connection, Feedback.id, some)))


def _load_ranks(connection: Connection, feedback_ids: Collection[str]) -> dict[str, Ranks]:
    """What each puts in an order: the ranks of answers, which come in the order of their ids."""
    found: dict[str, Ranks] = {feedback_id: {} for feedback_id in feedback_ids}
    columns = (Target.feedback_id, Target.completion_id, Target.choice, Target.rank)
    for some in batches(feedback_ids):
        query = select(*columns).where(among(connection, Target.feedback_id, some))
        query = query.order_by(Target.feedback_id, Target.completion_id, Target.choice)
        for feedback_id, completion_id, choice, rank in connection.execute(query).all():
            found[feedback_id][completion_id, choice] = rank
    return found


def _from_one(answers: Sequence[tuple[Written, int]]) -> list[tuple[Written, int]]:
    """With the best rank 1: the best answers may have been taken out."""
    best = min(rank for _, rank in answers)
    return [(answer, rank - best + 1) for answer, rank in answers]


def _author(row: Any) -> Author:
    return row.key_id, row.labeler or ""
