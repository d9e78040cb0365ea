"""Tables -> files of training data: what `honed export` writes of each kind.

Owns which rows a kind has. What a row looks like is in `writing.py`, which feedback counts in `judgements.py`, which
prompts there are in `sampling.py`. Chats and text prompts are never in one file: TRL does not train on both. Nor are
rows with an id beside rows without: `datasets` takes the keys of a file from its beginning.

Invariants: only what may be trained on is written; a file shows one state of the store; rows are streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from sqlalchemy import Connection, Engine, exists, or_, select

from honed.server.store.completions import StoredChoice, load_choices
from honed.server.store.database import is_sqlite, reading
from honed.server.store.exchange.asked import Asked, as_prompt, load_asked, load_external_ids
from honed.server.store.exchange.files import write_rows
from honed.server.store.exchange.importing import ID_TAG, SOURCE
from honed.server.store.exchange.judgements import ORDERS, Judged, Ordered, judged, ordered
from honed.server.store.exchange.records import (
    Answer,
    Demonstration,
    Message,
    Prompt,
    Ranking,
    RecordError,
    Thumb,
    is_text,
)
from honed.server.store.exchange.writing import (
    Row,
    What,
    completion_row,
    demonstration_row,
    pair_rows,
    prompt_row,
    ranking_row,
    thumb_row,
)
from honed.server.store.feedback import Kind
from honed.server.store.labeling import SOURCE as LABELING
from honed.server.store.messages import batches
from honed.server.store.pairs import SOURCES as PAIRS
from honed.server.store.sampling import prompts
from honed.server.store.tables import Completion, Feedback, Tag

AT_ONCE: Final = 500

# A prompt, and how to make rows of it: that may raise RecordError.
Draft: TypeAlias = tuple[tuple[Message, ...], Callable[[], Iterable[Row]]]


@dataclass(slots=True)
class Exported:
    """How many rows were written, and how much was not: what has a prompt of the other form (a text where chats were
    asked for), and what no row can say, with the reason for the first."""

    rows: int = 0
    other_form: int = 0
    inexpressible: int = 0
    reason: str = ""


def export(engine: Engine, what: What, output: Path, *, text: bool = False) -> Exported:
    """Writes chats, or with `text` what has text prompts, in the form that the name of `output` ends with.

    Raises FileError and StoreUnavailableError: then there is no file, or the one that was there.
    """
    done = Exported()
    with reading(engine) as connection:
        hold_still(connection)
        done.rows = write_rows(output, _rows(connection, what, done, text=text))
    return done


def hold_still(connection: Connection) -> None:
    """To be called first in a transaction that reads much. PostgreSQL shows each query what is there then, unless it is
    told otherwise. And it takes a few hundred ids for a reason to read a table whole, or, before a first ANALYZE, to
    sort all that a walk has before it: for each batch."""
    if is_sqlite(connection):
        return
    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    for way in ("seqscan", "bitmapscan", "sort"):
        connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")


def _rows(connection: Connection, what: What, done: Exported, *, text: bool) -> Iterator[Row]:
    with_ids = _have_ids(connection, what, text=text)
    for prompt, draft in _DRAFTS[what](connection):
        if is_text(prompt) != text:
            done.other_form += 1
            continue
        try:
            rows = list(draft())
        except RecordError as error:
            done.inexpressible += 1
            done.reason = done.reason or str(error)
            continue
        for row in rows:
            yield row if with_ids else {key: value for key, value in row.items() if key != "id"}


def _have_ids(connection: Connection, what: What, *, text: bool) -> bool:
    """Whether all that may be written was imported with an id."""
    if what == "completions":
        return False
    tagged = exists().where(Tag.completion_id == Completion.id, Tag.key == ID_TAG)
    without = select(Completion.id).where(
        Completion.trainable,
        Completion.endpoint == ("text" if text else "chat"),
        or_(Completion.source != SOURCE, ~tagged),
    )
    if what == "prompts":
        without = without.where(Completion.source.not_in((LABELING, *PAIRS)))
    else:
        without = without.join(Feedback, Feedback.completion_id == Completion.id).where(Feedback.kind.in_(_KINDS[what]))
    return connection.execute(without.limit(1)).first() is None


def _demonstrations(connection: Connection) -> Iterator[Draft]:
    return ((word.asked.prompt, partial(_demonstration, word)) for word in judged(connection, "correction"))


def _thumbs(connection: Connection) -> Iterator[Draft]:
    return ((word.asked.prompt, partial(_thumb, word)) for word in judged(connection, "thumb"))


def _pairs(connection: Connection) -> Iterator[Draft]:
    return ((order.asked.prompt, partial(_pair, order)) for order in ordered(connection))


def _rankings(connection: Connection) -> Iterator[Draft]:
    orders = ordered(connection, _KINDS["rankings"], demonstrated=True)
    return ((order.asked.prompt, partial(_ranking, order)) for order in orders)


def _prompts(connection: Connection) -> Iterator[Draft]:
    for some in batches(prompts(connection), AT_ONCE):
        external_ids = load_external_ids(connection, [each.completion_id for each in some])
        for each in some:
            prompt = as_prompt(each.messages)
            yield prompt, partial(_prompt, prompt, external_ids.get(each.completion_id))


def _completions(connection: Connection) -> Iterator[Draft]:
    """The answers that the server gave and finished."""
    after = ""
    while True:
        query = select(Completion.id).where(Completion.id > after, Completion.source == "server", Completion.trainable)
        ids = connection.execute(query.order_by(Completion.id).limit(AT_ONCE)).scalars().all()
        asked, choices = load_asked(connection, ids), load_choices(connection, ids)
        for completion_id in ids:
            for choice in choices.get(completion_id, []):
                if choice.finish_reason is not None:
                    yield asked[completion_id].prompt, partial(_completion, asked[completion_id], choice)
        if len(ids) < AT_ONCE:
            return
        after = ids[-1]


def _demonstration(word: Judged) -> list[Row]:
    assert word.text is not None, "a correction has a text"
    return [demonstration_row(Demonstration(word.asked.prompt, word.text, word.asked.external_id))]


def _thumb(word: Judged) -> list[Row]:
    assert word.answer is not None, "a thumb is on an answer"
    return [thumb_row(Thumb(word.asked.prompt, word.answer.text, bool(word.number), word.asked.external_id))]


def _pair(order: Ordered) -> Iterator[Row]:
    return pair_rows(_as_ranking(order))


def _ranking(order: Ordered) -> list[Row]:
    return [ranking_row(_as_ranking(order))]


def _as_ranking(order: Ordered) -> Ranking:
    answers = tuple(Answer(answer.text, rank, answer.source) for answer, rank in order.answers)
    return Ranking(order.asked.prompt, answers, order.demonstration, order.asked.external_id)


def _prompt(prompt: tuple[Message, ...], external_id: str | None) -> list[Row]:
    return [prompt_row(Prompt(prompt, external_id))]


def _completion(asked: Asked, choice: StoredChoice) -> list[Row]:
    return [completion_row(Demonstration(asked.prompt, choice.text))]


_DRAFTS: Final[Mapping[What, Callable[[Connection], Iterator[Draft]]]] = {
    "demonstrations": _demonstrations,
    "pairs": _pairs,
    "rankings": _rankings,
    "thumbs": _thumbs,
    "prompts": _prompts,
    "completions": _completions,
}

# A comparison is one of two answers: it has no more to say than its pair.
_KINDS: Final[Mapping[What, tuple[Kind, ...]]] = {
    "demonstrations": ("correction",),
    "pairs": ORDERS,
    "rankings": ("ranking",),
    "thumbs": ("thumb",),
}
