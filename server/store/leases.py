"""Who works on which labeling task: leases, and the order in which a labeler sees the answers.

A task has `wanted` seats. A seat is taken by who has judged it (ranked, or found all answers bad), and by who has it on
lease; a lease that runs out leaves its seat, and a labeler who skips does too. Invariants: no task has more labelers
than seats, however many servers lease at once; a labeler who has judged or skipped a task does not get it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, ScalarSelect, Select, exists, func, select, update

from honed.server.store.completions import load_choices
from honed.server.store.labeling import is_current
from honed.server.store.messages import Conversation, load_prompts
from honed.server.store.tables import Assignment, Completion, Task
from honed.server.store.upserts import insert_missing

LEASE_S = 30 * 60
LABELS: Final = "ABCDEFGHI"  # of answers, as many as a task can have


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Lease:
    """All that a labeler sees: nothing of it tells which answer is which."""

    task_id: str
    messages: Conversation
    answers: list[ShownAnswer]
    leased_until: datetime


# The user may have denied it since the task was made.
_MAY_TRAIN = exists().where(Completion.id == Task.completion_id, Completion.trainable)


def lease(connection: Connection, labeler: str, *, now: datetime) -> Lease | None:
    """The task that the labeler has on lease, else the oldest open one with a free seat, now leased. None where there
    is none. In a transaction that writes."""
    held = (
        select(Task.id, Assignment.leased_until)
        .join(Assignment)
        .where(Assignment.labeler == labeler, Assignment.state == "leased", Assignment.leased_until > now, _MAY_TRAIN)
        .order_by(Task.id)
        .limit(1)
    )
    row = connection.execute(held.with_for_update(of=Task, key_share=True)).first()
    if row is not None:
        return _shown(connection, row.id, labeler, row.leased_until)
    task_id = _next(connection, labeler, now)
    if task_id is None:
        return None
    leased_until = now + timedelta(seconds=LEASE_S)
    fresh = {
        "task_id": task_id,
        "labeler": labeler,
        "state": "leased",
        "leased_until": leased_until,
        "finished": None,
        "feedback_id": None,
    }
    insert_missing(connection, Assignment, [fresh])
    mine = update(Assignment).where(Assignment.task_id == task_id, Assignment.labeler == labeler)
    connection.execute(mine.values(leased_until=leased_until))  # of one that had run out
    return _shown(connection, task_id, labeler, leased_until)


def has_seat(connection: Connection, task_id: str, labeler: str, now: datetime) -> bool:
    """Whether the labeler may judge the task, whose row the caller has locked."""
    seats = select(Task.wanted > _taken(labeler, now)).where(Task.id == task_id)
    return bool(connection.execute(seats).scalar_one())


def order_shown(task_id: str, labeler: str, choices: Iterable[int]) -> list[int]:
    """The choices as this labeler sees them in this task: by lot, and the same lot for ever."""

    def lot(choice: int) -> bytes:
        return blake2b(f"{task_id}/{choice}/{labeler}".encode(), digest_size=16).digest()

    return sorted(choices, key=lot)


def next_query(labeler: str, now: datetime, *, after: str) -> Select[str]:
    """The oldest open task, of those behind `after`, that the labeler may have."""
    judged = exists().where(Assignment.task_id == Task.id, Assignment.labeler == labeler, Assignment.state != "leased")
    free = (Task.is_open, Task.id > after, _MAY_TRAIN, ~judged, Task.wanted > _taken(labeler, now))
    return select(Task.id).where(*free).order_by(Task.id).limit(1)


def _next(connection: Connection, labeler: str, now: datetime) -> str | None:
    """Locks the task. On PostgreSQL those that somebody else has locked are passed over at first, so that no labeler
    waits for another; when no other is left, they are waited for."""
    for is_patient in (False, True):
        task_id: str | None = ""
        while task_id is not None:
            query = next_query(labeler, now, after=task_id)
            locking = query.with_for_update(of=Task, key_share=True, skip_locked=not is_patient)
            task_id = connection.execute(locking).scalar_one_or_none()
            # Counted again, under the lock: the query saw the seats as they were when it began.
            if task_id is not None and has_seat(connection, task_id, labeler, now):
                return task_id
    return None


def _taken(labeler: str, now: datetime) -> ScalarSelect[int]:
    """Seats of a task that others have, or that were judged."""
    theirs: ColumnElement[bool] = Assignment.labeler != labeler
    takes_seat = (Assignment.state != "skipped", is_current(now), theirs | (Assignment.state != "leased"))
    counted = select(func.count()).select_from(Assignment).where(Assignment.task_id == Task.id, *takes_seat)
    return counted.correlate(Task).scalar_subquery()


def _shown(connection: Connection, task_id: str, labeler: str, leased_until: datetime) -> Lease:
    """The task is locked, so that no erasure takes parts of it away meanwhile."""
    task: Any = connection.execute(
        select(Task.completion_id, Completion.prompt_id).join(Completion).where(Task.id == task_id)
    ).one()
    texts = {choice.index: choice.text for choice in load_choices(connection, [task.completion_id])[task.completion_id]}
    answers = [
        ShownAnswer(LABELS[place], texts[choice]) for place, choice in enumerate(order_shown(task_id, labeler, texts))
    ]
    messages = load_prompts(connection, [task.prompt_id])[task.prompt_id]
    return Lease(task_id, messages, answers, leased_until)
