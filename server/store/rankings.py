"""What a labeler says of a task: a ranking of its answers, that all of them are bad, or nothing (a skip).

A ranking is feedback like any other (`feedback.py`), and so are the answer that the labeler wrote (a correction of the
best one) and the comment. That all are bad is kept as the state of the assignment: a ranking of answers that are all
useless would teach a reward model to tell them apart, so that only the labeler's own answer reaches the training.
Invariants: a labeler's word on a task is counted once, and stands; all that it consists of is stored at once or not at
all; a task closes with the last of its seats (`leases.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, func, select, update

from honed.server.store import feedback
from honed.server.store.feedback import Kind, NewFeedback, RankedAnswer
from honed.server.store.leases import LABELS, has_seat, order_shown
from honed.server.store.redaction import redact
from honed.server.store.tables import Assignment, Choice, Completion, Feedback, Task

Verdict = Literal["ranked", "skip", "all_bad"]
_STATES: Mapping[Verdict, str] = {"ranked": "ranked", "skip": "skipped", "all_bad": "all_bad"}


class UnknownTaskError(Exception):
    """There is no such task, or none any more."""


class NotLeasedError(Exception):
    """The labeler has never leased the task, or the lease ran out and somebody else has taken the seat."""


class AlreadyJudgedError(Exception):
    """The labeler has said something else of this task before."""


class IncompleteRankingError(Exception):
    """`labels` are the task's: a ranking has each of them once."""

    def __init__(self, labels: str) -> None:
        super().__init__(labels)
        self.labels = labels


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVerdict:
    """`ranking`: groups of labels, the best first; only with the verdict `ranked`. `key_id` is the caller's."""

    task_id: str
    labeler: str
    key_id: str
    verdict: Verdict
    ranking: Sequence[Sequence[str]] = ()
    demonstration: str | None = None
    comment: str | None = None
    idempotency_key: str | None = None

    @property
    def groups(self) -> list[list[str]]:
        """The ranking, in the one form of those that say the same."""
        return [sorted(group) for group in self.ranking]

    @property
    def fingerprint(self) -> str:
        texts = [None if text is None else redact(text).text for text in (self.demonstration, self.comment)]
        said = [self.task_id, self.labeler, self.verdict, self.groups, *texts]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """`kinds`: of the feedback that was stored for it just now, none for a repetition."""

    task_id: str
    labeler: str
    verdict: Verdict
    groups: list[list[str]]
    finished: datetime
    kinds: tuple[Kind, ...]


def record(connection: Connection, new: NewVerdict, *, now: datetime) -> StoredVerdict:
    """The verdict as it is stored; the same one again, as it was stored the first time.

    In a transaction that writes. Raises UnknownTaskError, NotLeasedError, AlreadyJudgedError, IncompleteRankingError
    and feedback's KeyReusedError.
    """
    task = _locked(connection, new.task_id)
    columns = (Assignment.state, Assignment.leased_until, Assignment.finished, Assignment.feedback_id)
    mine = (Assignment.task_id == new.task_id, Assignment.labeler == new.labeler)
    assignment = connection.execute(select(*columns).where(*mine)).first()
    if assignment is None:
        raise NotLeasedError
    if assignment.state != "leased":
        _require_same(connection, new, assignment)
        return StoredVerdict(new.task_id, new.labeler, new.verdict, new.groups, assignment.finished, ())
    if assignment.leased_until <= now and not has_seat(connection, new.task_id, new.labeler, now):
        raise NotLeasedError
    given = _feedback(new, task.completion_id, _by_label(connection, new, task.completion_id))
    stored = [feedback.add(connection, each, scope=None) for each in given]
    values = {"state": _STATES[new.verdict], "finished": now, "feedback_id": stored[0].id if stored else None}
    connection.execute(update(Assignment).where(*mine).values(**values))
    _close_when_full(connection, new.task_id, task.wanted)
    return StoredVerdict(new.task_id, new.labeler, new.verdict, new.groups, now, tuple(each.kind for each in stored))


def _locked(connection: Connection, task_id: str) -> Any:
    """The task's completion, then the task, since an erasure takes them in this order. Raises UnknownTaskError."""
    answers = select(Completion.id).join(Task).where(Task.id == task_id)
    answers = answers.with_for_update(of=Completion, read=True, key_share=True)
    row = select(Task.completion_id, Task.wanted).where(Task.id == task_id).with_for_update(key_share=True)
    if connection.execute(answers).first() is None or (task := connection.execute(row).first()) is None:
        raise UnknownTaskError
    return task


def _require_same(connection: Connection, new: NewVerdict, assignment: Any) -> None:
    """Raises AlreadyJudgedError. What left no feedback had no texts."""
    if assignment.feedback_id is None:
        is_same = assignment.state == _STATES[new.verdict] and not _texts(new) and new.verdict != "ranked"
    else:
        first = select(Feedback.fingerprint).where(Feedback.id == assignment.feedback_id)
        is_same = connection.execute(first).scalar_one_or_none() == new.fingerprint
    if not is_same:
        raise AlreadyJudgedError


def _texts(new: NewVerdict) -> list[tuple[Kind, str]]:
    written: tuple[tuple[Kind, str | None], ...] = (("correction", new.demonstration), ("comment", new.comment))
    return [(kind, text) for kind, text in written if text is not None]


def _by_label(connection: Connection, new: NewVerdict, completion_id: str) -> dict[str, int]:
    """The choice behind each label. Raises IncompleteRankingError."""
    choices = connection.execute(select(Choice.index).where(Choice.completion_id == completion_id)).scalars()
    by_label = dict(zip(LABELS, order_shown(new.task_id, new.labeler, choices), strict=False))
    ranked = [label for group in new.ranking for label in group]
    if new.verdict == "ranked" and sorted(ranked) != list(by_label):
        raise IncompleteRankingError("".join(by_label))
    return by_label


def _feedback(new: NewVerdict, completion_id: str, by_label: Mapping[str, int]) -> list[NewFeedback]:
    """The ranking, the correction, the comment: what there is of them. The first stands for the verdict."""
    targets: list[RankedAnswer] = []
    for group in new.groups:
        rank = len(targets) + 1  # after two that share rank 1 comes rank 3
        targets += [RankedAnswer(completion_id, by_label[label], rank) for label in group]
    best = min((target.choice for target in targets if target.rank == 1), default=min(by_label.values()))
    parts: list[tuple[Kind, str | None]] = [("ranking", None)] if targets else []
    parts += _texts(new)
    return [
        NewFeedback(
            completion_id=completion_id,
            choice=best,
            kind=kind,
            source="labeler",
            key_id=new.key_id,
            text=text,
            targets=targets if kind == "ranking" else (),
            labeler=new.labeler,
            idempotency_key=new.idempotency_key if place == 0 else None,
            fingerprint=new.fingerprint if place == 0 else None,
        )
        for place, (kind, text) in enumerate(parts)
    ]


def _close_when_full(connection: Connection, task_id: str, wanted: int) -> None:
    judged = select(func.count()).where(Assignment.task_id == task_id, Assignment.state.in_(("ranked", "all_bad")))
    if connection.execute(judged).scalar_one() >= wanted:
        connection.execute(update(Task).where(Task.id == task_id).values(is_open=False))
