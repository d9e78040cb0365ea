"""Labeling tasks: made of a sampled prompt and its answers, listed, looked at.

Who works on them is in `leases.py`, what they say in `rankings.py`, and what to make them of in `sampling.py`.
Invariants: a prefix has one task, whichever server makes it (a unique index says so); a task goes with the completion
that its prompt was sampled from (foreign keys say so); nothing is made of what its user took back meanwhile. Two
servers that make tasks of one user's prompts at the same moment may exceed MAX_PER_USER by what they then have in hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, Connection, func, or_, select

from honed.server.store import sampling
from honed.server.store.completions import StoredChoice, load_choices
from honed.server.store.ids import new_id
from honed.server.store.ingest import Ingest
from honed.server.store.logged import LoggedCompletion
from honed.server.store.messages import Conversation, batches, load_prompts
from honed.server.store.sampling import SampledPrompt
from honed.server.store.tables import Assignment, Completion, Target, Task
from honed.server.store.upserts import insert_missing

SOURCE = "labeling"  # of the completions that tasks are made of

State = Literal["leased", "ranked", "skipped", "all_bad"]
Obstacle = Literal["taken", "withdrawn", "user_limit"]


class PassedOverError(Exception):
    """No task can be made of the prompt: another server was faster (`taken`), it was erased or its user denied
    training (`withdrawn`), or its user has enough tasks."""

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(obstacle)
        self.obstacle = obstacle


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """`counts`: how many labelers are in which state; of leases, those that live."""

    id: str
    created: datetime
    completion_id: str
    policy_id: str
    model: str
    wanted: int
    is_open: bool
    counts: Counter[State]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAssignment:
    """`ranking`: groups of choices, the best first; None unless the state is `ranked`."""

    labeler: str
    state: State
    leased_until: datetime
    finished: datetime | None
    feedback_id: str | None
    ranking: list[list[int]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeTask:
    task: StoredTask
    derived_from: str
    messages: Conversation
    choices: list[StoredChoice]
    assignments: list[StoredAssignment]


def create(
    connection: Connection, ingest: Ingest, sampled: SampledPrompt, answers: LoggedCompletion, *, wanted: int
) -> StoredTask:
    """Stores the answers and the task. Raises PassedOverError: then the transaction has to be undone."""
    source = select(Completion.id).where(Completion.id == sampled.completion_id, Completion.trainable)
    # Locked against erasure, but not against anything else.
    if connection.execute(source.with_for_update(read=True, key_share=True)).first() is None:
        raise PassedOverError("withdrawn")
    if not sampling.has_room(connection, sampled.user_hash):
        raise PassedOverError("user_limit")
    if not ingest.insert(connection, [answers]).completions:
        raise PassedOverError("withdrawn")
    row = {
        "id": new_id("task"),
        "created": datetime.now(UTC),
        "completion_id": answers.id,
        "prefix": sampled.prefix,
        "user_hash": sampled.user_hash,
        "wanted": wanted,
        "is_open": True,
    }
    insert_missing(connection, Task, [row])
    stored = connection.execute(select(*_COLUMNS).join(Completion).where(Task.id == row["id"])).all()
    if not stored:
        raise PassedOverError("taken")
    return _stored(stored, {})[0]


def list_tasks(
    connection: Connection, *, now: datetime, after: str | None = None, limit: int = 20, is_open: bool | None = None
) -> tuple[list[StoredTask], bool]:
    """A page, the oldest first, and whether more follow."""
    query = select(*_COLUMNS).join(Completion)
    if is_open is not None:
        query = query.where(Task.is_open == is_open)
    if after is not None:
        query = query.where(Task.id > after)
    rows = connection.execute(query.order_by(Task.id).limit(limit + 1)).all()
    page = rows[:limit]
    return _stored(page, _counts(connection, [row.id for row in page], now)), len(rows) > limit


def get_task(connection: Connection, task_id: str, *, now: datetime) -> WholeTask | None:
    columns = (*_COLUMNS, Completion.prompt_id, Completion.derived_from)
    row = connection.execute(select(*columns).join(Completion).where(Task.id == task_id)).first()
    if row is None:
        return None
    prompts, choices = load_prompts(connection, [row.prompt_id]), load_choices(connection, [row.completion_id])
    if not prompts or not choices:  # erased meanwhile: PostgreSQL shows each query what is there then
        return None
    return WholeTask(
        task=_stored([row], _counts(connection, [task_id], now))[0],
        derived_from=row.derived_from,
        messages=prompts[row.prompt_id],
        choices=choices[row.completion_id],
        assignments=_assignments(connection, task_id),
    )


def is_current(now: datetime) -> ColumnElement[bool]:
    """Of an assignment: it is no lease that has run out."""
    return or_(Assignment.state != "leased", Assignment.leased_until > now)


_COLUMNS = (
    Task.id,
    Task.created,
    Task.completion_id,
    Task.wanted,
    Task.is_open,
    Completion.policy_id,
    Completion.model,
)


def _stored(rows: Sequence[Any], counts: dict[str, Counter[State]]) -> list[StoredTask]:
    return [
        StoredTask(
            id=row.id,
            created=row.created,
            completion_id=row.completion_id,
            policy_id=row.policy_id,
            model=row.model,
            wanted=row.wanted,
            is_open=row.is_open,
            counts=counts.get(row.id, Counter()),
        )
        for row in rows
    ]


def _counts(connection: Connection, task_ids: Sequence[str], now: datetime) -> dict[str, Counter[State]]:
    found: dict[str, Counter[State]] = {}
    for some in batches(task_ids):
        states = select(Assignment.task_id, Assignment.state, func.count())
        states = states.where(Assignment.task_id.in_(some), is_current(now))
        for task_id, state, count in connection.execute(states.group_by(Assignment.task_id, Assignment.state)):
            found.setdefault(task_id, Counter())[cast(State, state)] = count
    return found


def _assignments(connection: Connection, task_id: str) -> list[StoredAssignment]:
    columns = (Assignment.labeler, Assignment.state, Assignment.leased_until, Assignment.finished)
    query = select(*columns, Assignment.feedback_id).where(Assignment.task_id == task_id)
    rows = connection.execute(query.order_by(Assignment.labeler)).all()
    rankings = _rankings(connection, [row.feedback_id for row in rows if row.state == "ranked" and row.feedback_id])
    return [
        StoredAssignment(
            labeler=row.labeler,
            state=cast(State, row.state),
            leased_until=row.leased_until,
            finished=row.finished,
            feedback_id=row.feedback_id,
            ranking=rankings.get(row.feedback_id or ""),
        )
        for row in rows
    ]


def _rankings(connection: Connection, feedback_ids: Sequence[str]) -> dict[str, list[list[int]]]:
    query = select(Target.feedback_id, Target.rank, Target.choice).where(Target.feedback_id.in_(feedback_ids))
    targets = connection.execute(query.order_by(Target.feedback_id, Target.rank, Target.choice))
    found: dict[str, list[list[int]]] = {}
    for (feedback_id, _), tied in groupby(targets, key=lambda target: (target.feedback_id, target.rank)):
        found.setdefault(feedback_id, []).append([target.choice for target in tied])
    return found
