"""Cycles of training: rows of the queue that no worker claims, since what they wait for are jobs of their own.

A cycle's steps are jobs whose keys are made of its id and the step's name, so that a step is there once whoever asks
for it and however often. Owns the queries; which step comes next and what it is made of is `training/cycle.py`'s.
Invariants: one cycle goes on at a time; whoever looks after it holds its row.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select, update

from honed.server.store import jobs, promotions, snapshots
from honed.server.store.feedback import Kind
from honed.server.store.jobs import StoredJob
from honed.server.store.pairs import EVALUATION
from honed.server.store.tables import Completion, Feedback, Job

KIND: Final = "cycle"
GOING: Final = ("queued", "running")  # there is something to do for it, or there will be when labelers have answered
WAITING: Final = "paused"  # for a person's word
# What is asked for where nothing is said: as in `wire/cycles.py` and in the command's options.
DEFAULTS: Final[Mapping[str, Any]] = {"approve": False, "share": 10, "demonstrations": 20, "settings": {}}
_OPEN: Final = (*GOING, WAITING)


class CycleGoingOnError(Exception):
    """Another cycle has not ended."""

    def __init__(self, cycle_id: str) -> None:
        super().__init__(f"The cycle {cycle_id} has not ended: wait for it, or cancel it.")
        self.cycle_id = cycle_id


class PolicyTriedOutError(Exception):
    """A policy is being tried out: which one the next is to be measured against is not decided."""


def start(connection: Connection, model: str, asked: Mapping[str, Any], *, key_id: str | None) -> StoredJob:
    """Asks for a cycle that begins with the policy in service, and may replace no other. `model`: which one that is
    where none was promoted. `asked`: what differs from the defaults. In a transaction that writes. Raises
    CycleGoingOnError, also where another asked at the same time, and PolicyTriedOutError."""
    last = newest(connection)
    if last is not None and last.state in _OPEN:
        raise CycleGoingOnError(last.id)
    in_service = promotions.newest(connection)
    if in_service.candidate_id is not None:
        raise PolicyTriedOutError("A policy is being tried out: wait until that is decided, or promote or roll back.")
    promoted_id = in_service.policy_id
    name = None if promoted_id is None else snapshots.name_of(connection, promoted_id)
    own = secrets.token_hex(8)
    payload = {**DEFAULTS, "seed": secrets.randbelow(2**31), **asked, "asked_as": own}
    payload |= {"model": name or model, "promoted_id": promoted_id}
    key = f"{KIND} after {'none' if last is None else last.id}"
    cycle_id = jobs.enqueue(connection, KIND, key=key, payload=payload, prefix=KIND, key_id=key_id)
    cycle = jobs.load(connection, cycle_id)
    assert cycle is not None, "it was just made"
    if cycle.payload["asked_as"] != own:
        raise CycleGoingOnError(cycle_id)
    jobs.add_event(connection, cycle_id, "The cycle is queued.")
    return cycle


def newest(connection: Connection) -> StoredJob | None:
    return next(before(connection, None), None)


def before(connection: Connection, cycle: StoredJob | None) -> Iterator[StoredJob]:
    """The cycles before this one, or all, the newest first, by the database's clock: an id has the time of the machine
    that made it, which may be ahead."""
    query = select(Job.id).where(Job.kind == KIND).order_by(Job.created.desc(), Job.id.desc())
    if cycle is not None:
        is_older = (Job.created == cycle.created) & (Job.id < cycle.id)
        query = query.where((Job.created < cycle.created) | is_older)
    for cycle_id in connection.execute(query).scalars().all():
        found = jobs.load(connection, cycle_id)
        assert found is not None, "cycles stay"
        yield found


def last_decided(connection: Connection) -> StoredJob | None:
    """The newest cycle that came to a decision, be it a person's."""
    return next((cycle for cycle in before(connection, None) if _is_decided(cycle)), None)


def _is_decided(cycle: StoredJob) -> bool:
    return cycle.state == "succeeded" or (cycle.state == "cancelled" and cycle.result.get("decision") == "refused")


def going(connection: Connection) -> list[str]:
    """The ids of cycles for which there may be something to do."""
    query = select(Job.id).where(Job.kind == KIND, Job.state.in_(GOING)).order_by(Job.id)
    return list(connection.execute(query).scalars())


def hold(connection: Connection, cycle_id: str) -> StoredJob | None:
    """The cycle, which nobody else looks after until the transaction ends; None where somebody does, or there is
    nothing to do. In a transaction that writes."""
    query = select(Job.id).where(Job.id == cycle_id, Job.state.in_(GOING)).with_for_update(skip_locked=True)
    is_held = connection.execute(query).first() is not None
    return jobs.load(connection, cycle_id) if is_held else None


def steps(connection: Connection, cycle_id: str, names: Iterable[str]) -> dict[str, StoredJob]:
    """The jobs of the steps that were asked for, in the order of `names`."""
    keys = {name: step_key(cycle_id, name) for name in names}
    found = jobs.keyed(connection, keys.values())
    return {name: found[key] for name, key in keys.items() if key in found}


def step_key(cycle_id: str, name: str) -> str:
    return f"{cycle_id}/{name}"


def go_on(connection: Connection, cycle_id: str, result: Mapping[str, Any]) -> None:
    """Notes how far a held cycle has come."""
    values = {"state": "running", "result": dict(result), "started": func.coalesce(Job.started, datetime.now(UTC))}
    connection.execute(update(Job).where(Job.id == cycle_id).values(**values))


def wait(connection: Connection, cycle_id: str, result: Mapping[str, Any]) -> None:
    """A held cycle waits for a person's word (`approve` or `cancel`)."""
    connection.execute(update(Job).where(Job.id == cycle_id).values(state=WAITING, result=dict(result)))


def end(
    connection: Connection,
    cycle_id: str,
    state: jobs.State,
    *,
    result: Mapping[str, Any],
    error: str | None = None,
) -> None:
    """A held cycle has come to its end."""
    values = {"state": state, "result": dict(result), "error": error, "finished": datetime.now(UTC), "wanted": None}
    connection.execute(update(Job).where(Job.id == cycle_id).values(**values))


def asks_people(cycle: StoredJob) -> bool:
    """Whether it waits for what labelers say of its candidate."""
    report = cycle.result.get("evaluation")
    return cycle.state in GOING and report is not None and report["promote"] is None


def waits_for_work(connection: Connection, cycle_id: str) -> bool:
    """Whether it goes on, and not by what labelers say alone."""
    cycle = jobs.load(connection, cycle_id)
    return cycle is not None and cycle.state in GOING and not asks_people(cycle)


def cancel(connection: Connection, cycle_id: str) -> bool:
    """Ends a cycle with the step that it is at, or refuses what it proposes; False, and nothing happens, where it has
    ended. In a transaction that writes."""
    connection.execute(select(Job.id).where(Job.id == cycle_id).with_for_update())  # it stays as it is from here on
    cycle = jobs.load(connection, cycle_id)
    if cycle is None or not jobs.ask(connection, cycle_id, "cancel"):
        return False
    if cycle.state == WAITING:
        result = {**cycle.result, "decision": "refused", "reasons": ["A person refused it."]}
        end(connection, cycle_id, "cancelled", result=result)
        jobs.add_event(connection, cycle_id, f"{cycle.result['candidate']}: refused. A person refused it.")
    for step in steps(connection, cycle_id, cycle.result.get("steps") or []).values():
        jobs.ask(connection, step.id, "cancel")  # those that have ended stay as they are
    return True


def approve(connection: Connection, cycle_id: str) -> bool:
    """A person's word that what the cycle proposes shall go into service; False, and nothing happens, where it
    proposes nothing. In a transaction that writes."""
    query = select(Job.state, Job.result).where(Job.id == cycle_id, Job.kind == KIND).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None or row.state != WAITING:
        return False
    go_on(connection, cycle_id, {**row.result, "approved": True})
    return True


def count_since(
    connection: Connection, kinds: Iterable[Kind], since: datetime | None, *, at_most: int | None = None
) -> int:
    """Feedback of these kinds that came after `since` (None: ever), but for what the gate asked for; no more than
    `at_most` are looked at."""
    found = count_query(kinds, since, at_most).subquery()
    return int(connection.execute(select(func.count()).select_from(found)).scalar_one())


def count_query(kinds: Iterable[Kind], since: datetime | None, at_most: int | None) -> Select[str]:
    query = select(Feedback.id).join(Completion, Completion.id == Feedback.completion_id)
    query = query.where(Feedback.kind.in_(list(kinds)), Completion.source != EVALUATION).limit(at_most)
    return query if since is None else query.where(Feedback.created >= since)
