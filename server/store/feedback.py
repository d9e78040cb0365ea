"""Feedback: what somebody thought of answers. Append-only, each word counted once.

Invariants: feedback is about completions that are there and that its author may see; a comparison or a ranking is over
answers to the same prompt; the same idempotency key of the same API key is the same feedback, whichever server it
reaches (a unique index says so, not a look before).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, tuple_

from honed.server.store.ids import new_id
from honed.server.store.messages import batches
from honed.server.store.redaction import redact
from honed.server.store.tables import Choice, Completion, Feedback, Target
from honed.server.store.upserts import insert_missing

Kind = Literal["thumb", "rating", "comparison", "ranking", "correction", "comment"]
Source = Literal["labeler", "user", "automatic"]


class UnknownAnswerError(Exception):
    """No such completion or choice, or none that the author may see. `param` names it in the request."""

    def __init__(self, param: str) -> None:
        super().__init__(param)
        self.param = param


class OtherPromptError(Exception):
    """Answers to different prompts cannot be compared."""


class KeyReusedError(Exception):
    """The idempotency key was used for other feedback."""


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """1 is the best rank; ties share one."""

    completion_id: str
    choice: int
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFeedback:
    """`number`: 1 or 0 for a thumb, 1 to 7 for a rating. `text`: of a correction or a comment, redacted here.
    `targets`: of a comparison or a ranking. `fingerprint` tells a retry from another request; unset, it is made of what
    is stored."""

    completion_id: str
    choice: int
    kind: Kind
    source: Source
    key_id: str
    number: int | None = None
    text: str | None = None
    targets: Sequence[RankedAnswer] = ()
    labeler: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFeedback:
    id: str
    created: datetime
    completion_id: str
    choice: int
    kind: Kind
    source: Source
    number: int | None
    text: str | None
    targets: tuple[RankedAnswer, ...]
    labeler: str | None
    policy_id: str
    tags: dict[str, str]


def add(connection: Connection, new: NewFeedback, *, scope: str | None) -> StoredFeedback:
    """The feedback as it is stored; for a retry, as it was stored the first time.

    In a transaction that writes. `scope`: the key whose completions the author may see, None for all. Raises
    UnknownAnswerError, OtherPromptError and KeyReusedError.
    """
    new = _cleaned(_resolved(connection, new))
    policy_id = _require_answers(connection, new, scope)
    feedback_id = new_id("fb")
    row = {
        "id": feedback_id,
        "created": datetime.now(UTC),
        "completion_id": new.completion_id,
        "choice": new.choice,
        "kind": new.kind,
        "number": new.number,
        "text": new.text,
        "source": new.source,
        "labeler": new.labeler,
        "key_id": new.key_id,
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "policy_id": policy_id,
        "tags": dict(new.tags),
    }
    insert_missing(connection, Feedback, [row])
    if new.idempotency_key is not None:
        feedback_id = _require_same(connection, new)
    if feedback_id == row["id"] and new.targets:
        connection.execute(insert(Target), [_target_row(feedback_id, target) for target in new.targets])
    return get(connection, feedback_id)


def get(connection: Connection, feedback_id: str) -> StoredFeedback:
    row = connection.execute(select(*_COLUMNS).where(Feedback.id == feedback_id)).one()
    return _stored(connection, [row])[0]


def list_feedback(
    connection: Connection,
    *,
    scope: str | None,
    after: str | None = None,
    limit: int = 20,
    order: Literal["asc", "desc"] = "desc",
    completion_id: str | None = None,
    kind: str | None = None,
    labeler: str | None = None,
    policy_id: str | None = None,
) -> tuple[list[StoredFeedback], bool]:
    """A page, and whether more follow. `scope`: the key that gave it, None for all."""
    wanted = (
        (Feedback.key_id, scope),
        (Feedback.kind, kind),
        (Feedback.labeler, labeler),
        (Feedback.policy_id, policy_id),
    )
    query = select(*_COLUMNS).where(*(column == value for column, value in wanted if value is not None))
    if completion_id is not None:
        parts = Feedback.completion_id.between(f"{completion_id}.", f"{completion_id}/")  # see `_resolved`
        query = query.where((Feedback.completion_id == completion_id) | parts)
    if after is not None:
        query = query.where(Feedback.id > after if order == "asc" else Feedback.id < after)
    by_id = Feedback.id.asc() if order == "asc" else Feedback.id.desc()
    rows = connection.execute(query.order_by(by_id).limit(limit + 1)).all()
    return _stored(connection, rows[:limit]), len(rows) > limit


_COLUMNS = (
    Feedback.id,
    Feedback.created,
    Feedback.completion_id,
    Feedback.choice,
    Feedback.kind,
    Feedback.source,
    Feedback.number,
    Feedback.text,
    Feedback.labeler,
    Feedback.policy_id,
    Feedback.tags,
)


def _cleaned(new: NewFeedback) -> NewFeedback:
    """Redacted; and with a fingerprint of that, since one of the original would let it be guessed."""
    new = replace(new, text=None if new.text is None else redact(new.text.replace("\0", "\ufffd")).text)
    if new.fingerprint is not None or new.idempotency_key is None:
        return new
    ranked = [(target.completion_id, target.choice, target.rank) for target in new.targets]
    said = [
        new.completion_id,
        new.choice,
        new.kind,
        new.number,
        new.text,
        ranked,
        new.source,
        new.labeler,
        dict(new.tags),
    ]
    return replace(new, fingerprint=hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32])


def _resolved(connection: Connection, new: NewFeedback) -> NewFeedback:
    """With the completions that have the answers: those of a request with many prompts are spread over several
    (`remembering.numbered`), and its client knows one id."""
    targets = [
        replace(target, completion_id=_having(connection, target.completion_id, target.choice))
        for target in new.targets
    ]
    return replace(new, completion_id=_having(connection, new.completion_id, new.choice), targets=targets)


def _having(connection: Connection, completion_id: str, choice: int) -> str:
    if not completion_id.startswith("cmpl-"):
        return completion_id
    parts = select(Choice.completion_id).where(
        Choice.completion_id >= f"{completion_id}.", Choice.completion_id < f"{completion_id}/", Choice.index == choice
    )
    return connection.execute(parts).scalars().first() or completion_id


def _require_answers(connection: Connection, new: NewFeedback, scope: str | None) -> str:
    """Raises unless all that is judged is there; the policy of the completion that the feedback names."""
    judged = {(new.completion_id, new.choice)} | {(target.completion_id, target.choice) for target in new.targets}
    found: dict[tuple[str, int], Any] = {}
    for some in batches(judged):
        query = (
            select(Completion.id, Choice.index.label("choice"), Completion.prompt_id, Completion.policy_id)
            .join(Choice, Choice.completion_id == Completion.id)
            .where(tuple_(Completion.id, Choice.index).in_(some))
            .with_for_update(of=Completion, read=True, key_share=True)  # no erasure comes between
        )
        if scope is not None:
            query = query.where(Completion.key_id == scope)
        found.update(((row.id, row.choice), row) for row in connection.execute(query))
    if (new.completion_id, new.choice) not in found:
        is_there = any(completion_id == new.completion_id for completion_id, _ in found)
        raise UnknownAnswerError("choice" if is_there else "completion_id")
    if judged - found.keys():
        raise UnknownAnswerError("value")
    if len({row.prompt_id for row in found.values()}) > 1:
        raise OtherPromptError
    policy_id: str = found[new.completion_id, new.choice].policy_id
    return policy_id


def _require_same(connection: Connection, new: NewFeedback) -> str:
    """The id of the feedback that has this idempotency key: the new one's, or that of the request it repeats."""
    query = select(Feedback.id, Feedback.fingerprint).where(
        Feedback.key_id == new.key_id, Feedback.idempotency_key == new.idempotency_key
    )
    row = connection.execute(query).one()
    if row.fingerprint != new.fingerprint:
        raise KeyReusedError
    feedback_id: str = row.id
    return feedback_id


def _target_row(feedback_id: str, target: RankedAnswer) -> dict[str, Any]:
    return {
        "feedback_id": feedback_id,
        "completion_id": target.completion_id,
        "choice": target.choice,
        "rank": target.rank,
    }


def _stored(connection: Connection, rows: Sequence[Any]) -> list[StoredFeedback]:
    targets = _load_targets(connection, [row.id for row in rows])
    return [StoredFeedback(**row._mapping, targets=tuple(targets.get(row.id, ()))) for row in rows]  # noqa: SLF001 (SQLAlchemy's documented name)


def _load_targets(connection: Connection, feedback_ids: Sequence[str]) -> dict[str, list[RankedAnswer]]:
    found: dict[str, list[RankedAnswer]] = {}
    for some in batches(feedback_ids):
        columns = (Target.feedback_id, Target.completion_id, Target.choice, Target.rank)
        query = select(*columns).where(Target.feedback_id.in_(some))
        for row in connection.execute(query.order_by(Target.rank, Target.completion_id, Target.choice)):
            answer = RankedAnswer(row.completion_id, row.choice, row.rank)
            found.setdefault(row.feedback_id, []).append(answer)
    return found
