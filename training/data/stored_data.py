"""The store as candidates for training: the words that count (`exchange/judgements.py`) and the prompts that may be
asked again (`sampling.py`), now or as a snapshot has them.

Owns what of a judgement becomes a record, and which rows of the store it is made of. Does not choose among them.
Invariants: only what may be trained on is offered; a candidate names every completion and every feedback that its text
comes from, so that an erasure finds it in the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

from sqlalchemy import Connection

from honed.server.store.exchange.asked import Asked, Written, load_asked
from honed.server.store.exchange.importing import SOURCE as IMPORTED
from honed.server.store.exchange.judgements import Judged, Ordered, judged, judged_by, ordered, ordered_by
from honed.server.store.exchange.records import Answer, Demonstration, Prompt, Ranking, Record, RecordError, Thumb
from honed.server.store.messages import batches
from honed.server.store.sampling import owners, prompts
from honed.server.store.snapshots import Part
from honed.training.configs import Stage
from honed.training.data.offers import PERSON, UNKNOWN, Candidate, Offer, PartKey, fault

INEXPRESSIBLE: Final = "cannot be said as a record"  # what an old server stored, such as a conversation without an end
AT_ONCE: Final = 500

Draft: TypeAlias = Callable[[], Candidate]


def offer_store(connection: Connection, stage: Stage, max_per_user: int) -> Offer:
    """All that the store has for the stage. `max_per_user`: of prompts to answer again, which are chosen here."""
    offer = _offer(_DRAFTS[stage](connection, max_per_user))
    whose = owners(connection, {candidate.prefix for candidate in offer.candidates})
    offer.candidates = [replace(each, owner=whose.get(each.prefix, each.user)) for each in offer.candidates]
    return offer


def offer_parts(connection: Connection, stage: Stage, parts: Sequence[Part]) -> Offer:
    """What a snapshot's rows are made of, in their order, but for what may not be trained on any more."""
    completion_ids = dict.fromkeys(part.completion_id for part in parts)
    feedback_ids = dict.fromkeys(part.feedback_id for part in parts if part.feedback_id is not None)
    if stage == "ppo":
        return _offer(_prompts_of(connection, completion_ids))
    if stage == "sft":
        return _offer(partial(_demonstration, word) for word in judged_by(connection, feedback_ids))
    if stage == "kto":
        return _offer(partial(_thumb, word) for word in judged_by(connection, feedback_ids))
    return _offer(partial(_ranking, order) for order in ordered_by(connection, feedback_ids, completion_ids.keys()))


def _offer(drafts: Iterable[Draft]) -> Offer:
    offer = Offer()
    for draft in drafts:
        try:
            candidate = draft()
        except RecordError:
            offer.left_out[INEXPRESSIBLE] += 1
            continue
        if (reason := fault(candidate.record)) is not None:
            offer.left_out[reason] += 1
        else:
            offer.candidates.append(candidate)
    return offer


def _demonstrations(connection: Connection, _: int) -> Iterator[Draft]:
    return (partial(_demonstration, word) for word in judged(connection, "correction"))


def _thumbs(connection: Connection, _: int) -> Iterator[Draft]:
    return (partial(_thumb, word) for word in judged(connection, "thumb"))


def _rankings(connection: Connection, _: int) -> Iterator[Draft]:
    return (partial(_ranking, order) for order in ordered(connection, demonstrated=True))


def _prompts(connection: Connection, max_per_user: int) -> Iterator[Draft]:
    return _prompts_of(connection, (each.completion_id for each in prompts(connection, max_per_user)))


def _prompts_of(connection: Connection, completion_ids: Iterable[str]) -> Iterator[Draft]:
    for some in batches(completion_ids, AT_ONCE):
        asked = load_asked(connection, some)
        yield from (partial(_prompt, asked[each]) for each in some if each in asked)


_DRAFTS: Final[Mapping[Stage, Callable[[Connection, int], Iterator[Draft]]]] = {
    "sft": _demonstrations,
    "reward": _rankings,
    "dpo": _rankings,
    "kto": _thumbs,
    "ppo": _prompts,
}


def _demonstration(word: Judged) -> Candidate:
    assert word.text is not None, "a correction has a text"
    record = Demonstration(word.asked.prompt, word.text, word.asked.external_id)
    return _candidate(record, word.asked, word.labeler, (PERSON,), [(word.asked.completion_id, word.feedback_id)])


def _thumb(word: Judged) -> Candidate:
    assert word.answer is not None, "a thumb is on an answer"
    record = Thumb(word.asked.prompt, word.answer.text, bool(word.number), word.asked.external_id)
    writer = _writer(word.answer, word.asked.policy_id) or UNKNOWN
    return _candidate(record, word.asked, word.labeler, (writer,), [(word.asked.completion_id, word.feedback_id)])


def _ranking(order: Ordered) -> Candidate:
    answers = tuple(
        Answer(answer.text, rank, _writer(answer, order.policies[answer.completion_id]))
        for answer, rank in order.answers
    )
    record = Ranking(order.asked.prompt, answers, order.demonstration, order.asked.external_id)
    named = order.asked.completion_id
    others = sorted({answer.completion_id for answer, _ in order.answers} - {named})
    parts: list[PartKey] = [(each, order.feedback_id) for each in (named, *others)]
    if order.demonstration_id is not None:
        parts.append((named, order.demonstration_id))
    return _candidate(record, order.asked, order.labeler, tuple(each.source or UNKNOWN for each in answers), parts)


def _prompt(asked: Asked) -> Candidate:
    return _candidate(Prompt(asked.prompt, asked.external_id), asked, None, (), [(asked.completion_id, None)])


def _candidate(
    record: Record,
    asked: Asked,
    labeler: str | None,
    writers: tuple[str, ...],
    parts: Sequence[PartKey],
) -> Candidate:
    return Candidate(
        record=record,
        prefix=asked.prefix,
        category=asked.category,
        user=asked.user_hash,
        owner=asked.user_hash,
        labeler=labeler,
        writers=writers,
        parts=tuple(parts),
    )


def _writer(answer: Written, policy_id: str) -> str | None:
    """Who wrote an answer: whom the import names, or the policy."""
    return answer.source or (None if policy_id == IMPORTED else policy_id)
