"""Pairs: two policies' answers to one prompt, for labelers to compare, and how often which one won.

A pair is a completion of the one policy that also has the other's answer, whose `source` then says which policy wrote
it: so labelers lease and rank it as they do any task, blind and each in an order by lot, and a training reads their
rankings as it reads all others. Pairs are what a candidate answers in the shadow (`server/shadows.py`), and what the
gate asks people (`training/evaluation/people.py`). Invariants: a pair goes with the completion that it repeats, and
none is stored without it; answers that read the same make no task; of what is answered in the shadow, a policy has one
task for prompts with a long common prefix, and at most MAX_OPEN that wait for labelers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from statistics import fmean
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, case, delete, exists, func, or_, select
from sqlalchemy.orm import aliased

from honed.server.store.completions import load_choices
from honed.server.store.ids import new_id
from honed.server.store.logged import LoggedCompletion
from honed.server.store.messages import batches, prune
from honed.server.store.tables import Assignment, Choice, Completion, Target, Task
from honed.server.store.upserts import insert_missing

SHADOW: Final = "shadow"  # the source of what a candidate answers unseen
EVALUATION: Final = "evaluation"  # and of what it answers to be measured
SOURCES: Final = (SHADOW, EVALUATION)
OWN, RIVAL = 0, 1  # choices of a pair
MAX_OPEN: Final = 100  # tasks of a policy
LABELERS: Final = 1  # of a task, so that prompts are judged rather than judgements repeated


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Labelers' rankings of a policy's answers beside a rival's."""

    wins: int = 0
    ties: int = 0
    losses: int = 0

    @property
    def total(self) -> int:
        return self.wins + self.ties + self.losses


@dataclass(frozen=True, slots=True)
class Compared:
    """What labelers said of the pairs of an evaluation. `shares`: of each prompt that was judged, what the policy won,
    ties a half; that both answers are bad is a tie. `waiting`: prompts whose pair somebody may still judge, and nobody
    has judged or, with nobody else at it, skipped."""

    shares: tuple[float, ...]
    waiting: int


def repeated(connection: Connection, completions: Sequence[LoggedCompletion]) -> set[str]:
    """The ids of the completions that pairs among these repeat and that are stored, locked against erasure. In a
    transaction that writes."""
    wanted = {each.derived_from for each in completions if each.source in SOURCES and each.derived_from is not None}
    found: set[str] = set()
    for some in batches(wanted):
        there = select(Completion.id).where(Completion.id.in_(some)).order_by(Completion.id)
        found.update(connection.execute(there.with_for_update(read=True, key_share=True)).scalars())
    return found


def offer(connection: Connection, completion_ids: Sequence[str]) -> None:
    """Makes tasks of those of the completions that are pairs and may be trained on. In a transaction that writes."""
    for some in batches(completion_ids):
        columns = (Completion.id, Completion.source, Completion.policy_id, Completion.prefix)
        query = select(*columns).where(Completion.id.in_(some), Completion.source.in_(SOURCES), Completion.trainable)
        pairs = connection.execute(query.order_by(Completion.id)).all()
        choices = load_choices(connection, [pair.id for pair in pairs])
        for pair in pairs:
            texts = {choice.text.strip() for choice in choices[pair.id]}
            if len(texts) > 1 and (pair.source == EVALUATION or _has_room(connection, pair)):
                insert_missing(connection, Task, [_task(pair.id)])


def count(connection: Connection) -> dict[tuple[str, str], Verdicts]:
    """By policy and rival: of what was answered in the shadow."""
    own, rival = aliased(Target), aliased(Target)
    answer = {"wins": own.rank < rival.rank, "ties": own.rank == rival.rank, "losses": own.rank > rival.rank}
    counts = [func.sum(case((is_so, 1), else_=0)).label(name) for name, is_so in answer.items()]
    columns = (Completion.policy_id, Choice.source.label("rival_id"), *counts)
    query = (
        select(*columns)
        .select_from(Task)
        .join(Completion, Completion.id == Task.completion_id)
        .join(Choice, and_(Choice.completion_id == Completion.id, Choice.index == RIVAL))
        .join(Assignment, and_(Assignment.task_id == Task.id, Assignment.state == "ranked"))
        .join(own, and_(own.feedback_id == Assignment.feedback_id, own.choice == OWN))
        .join(rival, and_(rival.feedback_id == Assignment.feedback_id, rival.choice == RIVAL))
        .where(Task.prefix.is_(None), Completion.source == SHADOW)
        .group_by(Completion.policy_id, Choice.source)
    )
    found = connection.execute(query)
    return {(row.policy_id, row.rival_id): Verdicts(row.wins, row.ties, row.losses) for row in found}


def evaluated(connection: Connection, policy_id: str, rival_id: str) -> set[str]:
    """The completions whose prompts the gate has asked labelers about, of this policy beside that rival."""
    query = select(Completion.derived_from).where(*_evaluates(policy_id, rival_id))
    return {each for each in connection.execute(query).scalars() if each is not None}


def compared(
    connection: Connection, policy_id: str, rival_id: str, prompts: Collection[str], *, now: datetime
) -> Compared:
    """What labelers said until now of the pairs that repeat these completions and may be shown to them."""
    own, rival = aliased(Target), aliased(Target)
    ranks = (own.rank.label("own_rank"), rival.rank.label("rival_rank"))
    is_current = or_(Assignment.state != "leased", Assignment.leased_until > now)
    query = (
        select(Completion.derived_from, Task.is_open, Assignment.state, *ranks)
        .select_from(Task)
        .join(Completion, Completion.id == Task.completion_id)
        .outerjoin(Assignment, and_(Assignment.task_id == Task.id, is_current))
        .outerjoin(own, and_(own.feedback_id == Assignment.feedback_id, own.choice == OWN))
        .outerjoin(rival, and_(rival.feedback_id == Assignment.feedback_id, rival.choice == RIVAL))
        .where(*_evaluates(policy_id, rival_id), Completion.trainable)
        .order_by(Completion.derived_from)
    )
    shares: list[float] = []
    waiting = 0
    for prompt, found in groupby(connection.execute(query), key=lambda row: row.derived_from):
        rows = list(found)
        if prompt not in prompts:
            continue
        won = [share for row in rows if (share := _won(row)) is not None]
        states = {row.state for row in rows}
        is_settled = bool(won) or ("skipped" in states and "leased" not in states)
        waiting += rows[0].is_open and not is_settled
        shares += [fmean(won)] if won else []
    return Compared(tuple(shares), waiting)


def withdraw(connection: Connection, policy_id: str) -> None:
    """Takes back what the gate asked about this policy and nobody has judged. In a transaction that writes."""
    own = (Completion.source == EVALUATION, Completion.policy_id == policy_id)
    query = select(Completion.id, Completion.prompt_id).where(*own).order_by(Completion.id)
    asked = connection.execute(query.with_for_update()).all()  # a ranking that comes now waits, and finds no task
    judged = select(Task.completion_id).join(Assignment, Assignment.task_id == Task.id)
    judged = judged.where(Assignment.state.in_(("ranked", "all_bad")))
    for some in batches(asked):
        told = set(connection.execute(judged.where(Task.completion_id.in_([row.id for row in some]))).scalars())
        unsaid = [row for row in some if row.id not in told]
        connection.execute(delete(Completion).where(Completion.id.in_([row.id for row in unsaid])))
        prune(connection, [row.prompt_id for row in unsaid])


def _won(row: Any) -> float | None:
    """None where nothing was said, or what was said is gone."""
    if row.state == "all_bad":
        return 0.5
    if row.state != "ranked" or row.own_rank is None or row.rival_rank is None:
        return None
    return 0.5 if row.own_rank == row.rival_rank else float(row.own_rank < row.rival_rank)


def _evaluates(policy_id: str, rival_id: str) -> tuple[ColumnElement[bool], ...]:
    rival = exists().where(Choice.completion_id == Completion.id, Choice.index == RIVAL, Choice.source == rival_id)
    return (Completion.source == EVALUATION, Completion.policy_id == policy_id, rival)


def _has_room(connection: Connection, pair: Any) -> bool:
    """Whether the policy may have another task, and has none of that prompt."""
    tasks = select(func.count()).select_from(Task).join(Completion, Completion.id == Task.completion_id)
    own = tasks.where(Task.prefix.is_(None), Completion.source == SHADOW, Completion.policy_id == pair.policy_id)
    same = own.where(Completion.prefix == pair.prefix)
    is_new = not connection.execute(same).scalar_one()
    return is_new and connection.execute(own.where(Task.is_open)).scalar_one() < MAX_OPEN


def _task(completion_id: str) -> Mapping[str, Any]:
    return {
        "id": new_id("task"),
        "created": datetime.now(UTC),
        "completion_id": completion_id,
        "prefix": None,
        "user_hash": None,
        "wanted": LABELERS,
        "is_open": True,
    }
