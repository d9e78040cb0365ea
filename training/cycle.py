"""The circle: from what users said to a policy in service, one job after the other.

SFT where there are new demonstrations, a reward model of the rankings, a second one that judges (of prompts that the
first never sees), PPO, and the gate; then the new policy is tried out, if the gate lets it through. Owns which step is
next and what its end means; what it is made of is in `planning/cycle_steps.py`. Runs nothing itself: steps are jobs,
which workers take, and `advance` looks at the rows alone. So whatever is killed, and whenever, the next look goes on
where the rows stand. Invariants: a step is asked for once (its key); a policy goes into service only by a report that
says so, in place of the policy that it was measured against.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine

from honed.server.store import cycles, jobs, pairs, promotions, snapshots
from honed.server.store.cycles import CycleGoingOnError, PolicyTriedOutError
from honed.server.store.database import StoreUnavailableError, reading, writing
from honed.server.store.feedback import Kind
from honed.server.store.jobs import StoredJob
from honed.server.store.promotions import PromotedMeanwhileError
from honed.training.evaluation.people import heard
from honed.training.failures import TrainingError
from honed.training.planning.cycle_steps import order_of, plan

logger = logging.getLogger(__name__)

_ENDED: Final = ("failed", "cancelled")
_MEANWHILE: Final = "Other policies are in service or tried out than when it was begun: it was measured against those."


def advance(engine: Engine) -> bool:
    """Goes on with what can go on; False where no cycle waits for anything but people, which is cheap to see. Raises
    StoreUnavailableError."""
    with reading(engine) as connection:
        going = cycles.going(connection)
    moves = [_advanced(engine, cycle_id) for cycle_id in going]
    return any(moves)


def _advanced(engine: Engine, cycle_id: str) -> bool:
    """What nobody foresaw fails the cycle, and no worker."""
    try:
        return _look_after(engine, cycle_id)
    except StoreUnavailableError:
        raise
    except TrainingError as error:
        reason = str(error)
    except Exception as error:  # a row that is not as it should be must not keep others, and jobs, from their turn
        logger.exception("%s failed", cycle_id)
        reason = f"{type(error).__name__}: {error}"
    with writing(engine) as connection:
        cycle = cycles.hold(connection, cycle_id)
        if cycle is not None:
            _end(connection, cycle, "failed", cycle.result, f"The cycle failed: {reason}", error=reason)
    return False


def _look_after(engine: Engine, cycle_id: str) -> bool:
    with reading(engine) as connection:
        cycle = jobs.load(connection, cycle_id)
    assert cycle is not None, "cycles stay"
    # Outside of a transaction that writes: it reads all data.
    planned = plan(engine, cycle) if "steps" not in cycle.result else None
    with writing(engine) as connection:
        cycle = cycles.hold(connection, cycle_id)
        if cycle is None:  # it has ended meanwhile, or another looks after it at this moment
            return cycles.waits_for_work(connection, cycle_id)
        if planned is not None and "steps" not in cycle.result:
            cycles.go_on(connection, cycle_id, {"steps": list(planned.steps)})
            jobs.add_event(connection, cycle_id, planned.note)
            cycle = replace(cycle, result={"steps": list(planned.steps)})
        return _advance(connection, cycle)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a cycle starts by itself: so many comparisons and rankings came since the last one that came to a decision
    began, and the last one of all began long enough ago. `model`: what to begin with where no policy was promoted."""

    comparisons: int
    at_most_every: timedelta
    model: str

    def start_if_due(self, engine: Engine) -> StoredJob | None:
        """The new cycle; None where none is due, one goes on, or a policy is being tried out. Several workers may ask:
        it is one cycle. Raises StoreUnavailableError."""
        with reading(engine) as connection:
            if not self._is_due(connection):
                return None
        with writing(engine) as connection, suppress(CycleGoingOnError, PolicyTriedOutError):
            return cycles.start(connection, self.model, {}, key_id=None)
        return None

    def _is_due(self, connection: Connection) -> bool:
        """What was said before a cycle that failed is still to be learned from."""
        last, learned = cycles.newest(connection), cycles.last_decided(connection)
        if last is not None and datetime.now(UTC) - last.created < self.at_most_every:
            return False
        since = None if learned is None else learned.created
        kinds: tuple[Kind, ...] = ("comparison", "ranking")
        return cycles.count_since(connection, kinds, since, at_most=self.comparisons) >= self.comparisons


def _advance(connection: Connection, cycle: StoredJob) -> bool:
    """False where it has ended, or people keep it waiting."""
    names = cycle.result["steps"]
    made = cycles.steps(connection, cycle.id, names)
    for name in names:
        job = made.get(name)
        if job is not None and job.state == "succeeded":
            continue
        if job is None and cycle.wanted is None:
            _ask_for(connection, cycle, name, made)
        elif job is None or (job.state in _ENDED and cycle.wanted is not None):
            return _cancel(connection, cycle)
        elif job.state in _ENDED:
            error = f"The step {name} ({job.id}) {_reason(job)}"
            _end(connection, cycle, "failed", cycle.result, f"The cycle failed: {error}", error=error)
            return False
        elif cycle.wanted is not None:
            jobs.ask(connection, job.id, "cancel")
        elif job.state == "paused":
            return False
        return True
    if cycle.wanted is not None:
        return _cancel(connection, cycle)
    _decide(connection, cycle, made["evaluation"].result)
    return False


def _cancel(connection: Connection, cycle: StoredJob) -> bool:
    _end(connection, cycle, "cancelled", cycle.result, "The cycle is cancelled.")
    return False


def _reason(job: StoredJob) -> str:
    return f"failed: {job.error}" if job.state == "failed" else "was cancelled."


def _ask_for(connection: Connection, cycle: StoredJob, name: str, made: Mapping[str, StoredJob]) -> None:
    kind, payload = order_of(cycle, name, made)
    key = cycles.step_key(cycle.id, name)
    job_id = jobs.enqueue(connection, kind, key=key, payload=payload, prefix="ftjob", key_id=cycle.key_id)
    jobs.add_event(connection, job_id, "The job is queued.")
    jobs.add_event(connection, cycle.id, f"The step {name} is {job_id}.")
    logger.info("%s: %s is %s", cycle.id, name, job_id)


def _decide(connection: Connection, cycle: StoredJob, made: Mapping[str, Any]) -> None:
    """What the gate's report, and what people say to it, means for the policies in service. `made`: by the last step;
    what was decided since stays."""
    report = heard(connection, cycle.result.get("evaluation") or made)
    result = {**cycle.result, "candidate": report["candidate"]["name"], "evaluation": report}
    result |= {"reasons": report["reasons"]}
    newest = promotions.newest(connection)
    measured = None if newest.policy_id is None else report["incumbent"]["id"]
    if report["promote"] is False:
        decision = "refused"
    elif (newest.policy_id, newest.candidate_id, measured) != (cycle.payload["promoted_id"], None, newest.policy_id):
        decision, result["reasons"] = "refused", [_MEANWHILE]
    elif report["promote"] is None:
        _wait_for_people(connection, cycle, report)
        return
    elif cycle.payload["approve"] and not cycle.result.get("approved"):
        _take_back(connection, cycle)
        cycles.wait(connection, cycle.id, result | {"decision": "proposed"})
        jobs.add_event(connection, cycle.id, f"{result['candidate']} waits for approval.")
        return
    else:
        try:
            decision = _put_into_service(connection, cycle, report, newest.number)
        except PromotedMeanwhileError:
            decision, result["reasons"] = "refused", [_MEANWHILE]
    _end(connection, cycle, "succeeded", result | {"decision": decision})


def _wait_for_people(connection: Connection, cycle: StoredJob, report: dict[str, Any]) -> None:
    """Keeps the report as it is now, for who looks at the cycle meanwhile."""
    before = cycle.result.get("evaluation")
    if before is None:
        message = f"{report['candidate']['name']} waits for labelers: {report['people']['waiting']} pairs of answers."
        jobs.add_event(connection, cycle.id, message)
        logger.info("%s: %s", cycle.id, message)
    if before != report:
        told = {"candidate": report["candidate"]["name"], "evaluation": report}
        cycles.go_on(connection, cycle.id, {**cycle.result, **told})


def _put_into_service(connection: Connection, cycle: StoredJob, report: Mapping[str, Any], expected: int) -> str:
    """Raises PromotedMeanwhileError where promotion `expected` is not the newest."""
    candidate_id, share = report["candidate"]["id"], cycle.payload["share"]
    how: dict[str, Any] = {"key_id": cycle.key_id, "reason": "; ".join(report["reasons"]), "expected": expected}
    if share == 100:
        promotions.promote(connection, candidate_id, **how)
        return "promoted"
    promotions.try_out(connection, candidate_id, share=share, advances=True, **how)
    return "canary"


def _take_back(connection: Connection, cycle: StoredJob) -> None:
    """Labelers are not to be asked about its candidate any more, be there a report of it or not."""
    made = cycles.steps(connection, cycle.id, ["ppo"]).get("ppo")
    name = None if made is None else made.result.get("fine_tuned_model")
    candidate = None if name is None else snapshots.checkpoint_named(connection, name)
    if candidate is not None:
        pairs.withdraw(connection, candidate.id)


def _end(
    connection: Connection,
    cycle: StoredJob,
    state: jobs.State,
    result: Mapping[str, Any],
    message: str | None = None,
    *,
    error: str | None = None,
) -> None:
    said = message or f"{result['candidate']}: {result['decision']}. {'; '.join(result['reasons'])}"
    _take_back(connection, cycle)
    cycles.end(connection, cycle.id, state, result=result, error=error)
    jobs.add_event(connection, cycle.id, said, level="error" if error else "info")
    logger.info("%s: %s", cycle.id, said)
