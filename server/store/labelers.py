"""What the labelers did: how far the tasks are, and their rankings as `agreement.py` compares them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, cast

from sqlalchemy import Connection, func, select

from honed.server.store.agreement import Judgement
from honed.server.store.labeling import State, is_current
from honed.server.store.leases import order_shown
from honed.server.store.tables import Assignment, Choice, Target, Task

MIN_LABELERS = 2  # of a task, for an agreement


@dataclass(frozen=True, slots=True)
class Progress:
    """`open` and `done` are tasks; the states are counted by labeler, leases while they live."""

    open: int
    done: int
    labelers: dict[str, Counter[State]]

    @property
    def total(self) -> Counter[State]:
        return sum(self.labelers.values(), Counter())


def progress(connection: Connection, *, now: datetime) -> Progress:
    tasks = dict(connection.execute(select(Task.is_open, func.count()).group_by(Task.is_open)).all())
    labelers: dict[str, Counter[State]] = {}
    states = select(Assignment.labeler, Assignment.state, func.count()).where(is_current(now))
    by_labeler = states.group_by(Assignment.labeler, Assignment.state).order_by(Assignment.labeler)
    for labeler, state, count in connection.execute(by_labeler):
        labelers.setdefault(labeler, Counter())[cast(State, state)] = count
    return Progress(tasks.get(True, 0), tasks.get(False, 0), labelers)


def judgements(connection: Connection) -> list[Judgement]:
    """The rankings of all tasks that two or more labelers have ranked."""
    ranked = (Assignment.state == "ranked", Assignment.feedback_id.is_not(None))
    compared = select(Assignment.task_id).where(*ranked).group_by(Assignment.task_id)
    compared = compared.having(func.count() >= MIN_LABELERS)
    rows = connection.execute(
        select(
            Assignment.task_id,
            Assignment.labeler,
            Target.choice,
            Target.rank,
            func.length(Choice.text).label("length"),
        )
        .join(Target, Target.feedback_id == Assignment.feedback_id)
        .join(Choice, (Choice.completion_id == Target.completion_id) & (Choice.index == Target.choice))
        .where(*ranked, Assignment.task_id.in_(compared))
        .order_by(Assignment.task_id, Assignment.labeler, Target.choice)
    )
    return [
        _judgement(task_id, labeler, list(targets))
        for (task_id, labeler), targets in groupby(rows, key=lambda row: (row.task_id, row.labeler))
    ]


def _judgement(task_id: str, labeler: str, targets: list[Any]) -> Judgement:
    """A ranking has all answers of its task, so that the order in which they were shown is that of its targets."""
    return Judgement(
        task_id=task_id,
        labeler=labeler,
        ranks={target.choice: target.rank for target in targets},
        lengths={target.choice: target.length for target in targets},
        shown=tuple(order_shown(task_id, labeler, [target.choice for target in targets])),
    )
