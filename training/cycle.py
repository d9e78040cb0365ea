"""The circle: from what users said to a policy in service, one job after the other.

SFT where there are new demonstrations, a reward model of the rankings, a second one that judges (of prompts that the
first never sees), PPO, and the gate; then the new policy is tried out, if the gate lets it through. Owns what each step
is made of and what its end means. Runs nothing itself: steps are jobs, which workers take, and `advance` looks at the
rows alone. So whatever is killed, and whenever, the next look goes on where the rows stand. Invariants: a step is asked
for once (its key); a policy goes into service only by a report that says so, in place of the policy that it was
measured against.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine

from honed.server.store import cycles, jobs, promotions, snapshots
from honed.server.store.cycles import CycleGoingOnError, PolicyTriedOutError
from honed.server.store.database import reading, writing
from honed.server.store.jobs import StoredJob
from honed.training.failures import TrainingError
from honed.training.orders import EVALUATION, KIND, STORE, evaluation_config, run_config

logger = logging.getLogger(__name__)

STEPS: Final = ("sft", "reward", "judge", "ppo", "evaluation")
_METHODS: Final = {"sft": "supervised", "reward": "reward", "judge": "reward", "ppo": "ppo"}
_ENDED: Final = ("failed", "cancelled")
# By hashes of the prompts' users, so that each stays in its part from cycle to cycle: those to measure on, and those
# that the judge learns from.
DATA: Final[Mapping[str, Any]] = {"validation": 0.2, "test": 0.2}


def advance(engine: Engine) -> bool:
    """Goes on with what can go on; False where no cycle is going on, which is cheap to see. Raises
    StoreUnavailableError."""
    with reading(engine) as connection:
        waiting = cycles.going(connection)
    for cycle_id in waiting:
        try:
            with writing(engine) as connection:
                cycle = cycles.hold(connection, cycle_id)
                if cycle is not None:
                    _advance(connection, cycle)
        except TrainingError as error:
            _fail(engine, cycle_id, str(error))
        except (LookupError, TypeError, ValueError) as error:  # a row that is not as it should be stops no other
            logger.exception("%s failed", cycle_id)
            _fail(engine, cycle_id, f"{type(error).__name__}: {error}")
    return bool(waiting)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a cycle starts by itself: so many comparisons and rankings came since the last one began, and it began long
    enough ago. `model`: what to begin with where no policy was promoted."""

    comparisons: int
    at_most_every: timedelta
    model: str

    def start_if_due(self, engine: Engine) -> StoredJob | None:
        """The new cycle; None where none is due, one goes on, or a policy is being tried out. Several workers may ask:
        it is one cycle. Raises StoreUnavailableError."""
        with writing(engine) as connection:
            last = cycles.newest(connection)
            since = None if last is None else last.created
            if since is not None and datetime.now(UTC) - since < self.at_most_every:
                return None
            if cycles.count_since(connection, ("comparison", "ranking"), since) < self.comparisons:
                return None
            with suppress(CycleGoingOnError, PolicyTriedOutError):
                return start(connection, self.model, {})
            return None


def start(connection: Connection, model: str, asked: Mapping[str, Any]) -> StoredJob:
    """A cycle that begins with the policy in service, or with `model` where none was promoted. `asked`: what differs
    from the defaults. In a transaction that writes. Raises CycleGoingOnError and PolicyTriedOutError."""
    promoted_id = promotions.newest(connection).policy_id
    name = None if promoted_id is None else snapshots.name_of(connection, promoted_id)
    return cycles.start(connection, {"seed": secrets.randbelow(2**31), **asked, "model": name or model}, key_id=None)


def _advance(connection: Connection, cycle: StoredJob) -> None:
    names = cycle.result.get("steps") or _plan(connection, cycle)
    made = cycles.steps(connection, cycle.id, names)
    for name in names:
        job = made.get(name)
        if job is not None and job.state == "succeeded":
            continue
        if job is None and cycle.wanted is None:
            _ask_for(connection, cycle, name, names, made)
        elif job is None or (job.state in _ENDED and cycle.wanted is not None):
            _end(connection, cycle, "cancelled", {"steps": names}, "The cycle is cancelled.")
        elif job.state in _ENDED:
            error = f"The step {name} ({job.id}) {_reason(job)}"
            _end(connection, cycle, "failed", {"steps": names}, f"The cycle failed: {error}", error=error)
        elif cycle.wanted is not None:
            jobs.ask(connection, job.id, "cancel")
        return
    if cycle.wanted is not None:
        _end(connection, cycle, "cancelled", {"steps": names}, "The cycle is cancelled.")
    else:
        _decide(connection, cycle, names, made["evaluation"].result)


def _fail(engine: Engine, cycle_id: str, error: str) -> None:
    with writing(engine) as connection:
        cycle = cycles.hold(connection, cycle_id)
        if cycle is not None:
            _end(connection, cycle, "failed", cycle.result, f"The cycle failed: {error}", error=error)


def _reason(job: StoredJob) -> str:
    return f"failed: {job.error}" if job.state == "failed" else "was cancelled."


def _plan(connection: Connection, cycle: StoredJob) -> list[str]:
    """The cycle's steps: SFT is one where enough was demonstrated since it last was. Raises TrainingError for settings
    that one of them would be refused for, hours later."""
    wanted = int(cycle.payload.get("demonstrations", 20))
    new = cycles.count_since(connection, ("correction",), _last_sft(connection, cycle))
    names = [name for name in STEPS if name != "sft" or new >= wanted]
    _check(cycle, names)
    cycles.go_on(connection, cycle.id, {"steps": names})
    jobs.add_event(connection, cycle.id, f"New demonstrations: {new}. The steps are {', '.join(names)}.")
    return names


def _check(cycle: StoredJob, names: Iterable[str]) -> None:
    made = dict.fromkeys(names, replace(cycle, result={"fine_tuned_model": "made"}))
    for name in made:
        try:
            if name == "evaluation":
                evaluation_config(cycle.id, _evaluation(cycle, made), {}, device="cpu")
            else:
                run_config(cycle.id, _order(cycle, name, made), data="store", device="cpu", resume=False)
        except TrainingError as error:
            raise TrainingError(f"The step {name} cannot be asked for: {error}") from None


def _last_sft(connection: Connection, cycle: StoredJob) -> datetime | None:
    """When demonstrations were last learned from."""
    before: str | None = cycle.id
    while found := jobs.page(connection, cycles.KIND, after=before, limit=100):
        for each in found:
            step = cycles.steps(connection, each.id, ["sft"]).get("sft")
            if step is not None and step.state == "succeeded":
                return step.created
        before = found[-1].id
    return None


def _ask_for(
    connection: Connection, cycle: StoredJob, name: str, names: list[str], made: Mapping[str, StoredJob]
) -> None:
    kind, payload = (
        (EVALUATION, _evaluation(cycle, made)) if name == "evaluation" else (KIND, _order(cycle, name, made))
    )
    key = cycles.step_key(cycle.id, name)
    job_id = jobs.enqueue(connection, kind, key=key, payload=payload, prefix="ftjob", key_id=cycle.key_id)
    jobs.add_event(connection, job_id, "The job is queued.")
    jobs.add_event(connection, cycle.id, f"The step {name} is {job_id}.")
    cycles.go_on(connection, cycle.id, {"steps": names})
    logger.info("%s: %s is %s", cycle.id, name, job_id)


def _order(cycle: StoredJob, name: str, made: Mapping[str, StoredJob]) -> dict[str, Any]:
    """A training step's order (`orders.py`). SFT starts from the policy in service, all others from what it made."""
    stage = "reward" if name == "judge" else name
    settings = {**_common(cycle), **_settings(cycle, stage)}
    return {
        "method": _METHODS[name],
        "model": cycle.payload["model"] if name == "sft" else _start(cycle, made),
        "training_file": STORE,
        "validation_file": None,
        "hyperparameters": {},
        "settings": settings | ({"judge": True} if name == "judge" else {}),
        "suffix": name,
        "seed": cycle.payload.get("seed", 0),
        "metadata": {"cycle": cycle.id},
        "reward_model": _model_of(made["reward"]) if name == "ppo" else None,
    }


def _evaluation(cycle: StoredJob, made: Mapping[str, StoredJob]) -> dict[str, Any]:
    return {
        "candidate": _model_of(made["ppo"]),
        "incumbent": cycle.payload["model"],
        "judge_model": _model_of(made["judge"]),
        "settings": {**_common(cycle), **_settings(cycle, "evaluation")},
        "seed": cycle.payload.get("seed", 0),
    }


def _start(cycle: StoredJob, made: Mapping[str, StoredJob]) -> str:
    return _model_of(made["sft"]) if "sft" in made else str(cycle.payload["model"])


def _model_of(job: StoredJob) -> str:
    return str(job.result["fine_tuned_model"])


def _common(cycle: StoredJob) -> dict[str, Any]:
    return {**DATA, **_settings(cycle, "all")}


def _settings(cycle: StoredJob, stage: str) -> dict[str, Any]:
    return dict((cycle.payload.get("settings") or {}).get(stage) or {})


def _decide(connection: Connection, cycle: StoredJob, names: list[str], report: Mapping[str, Any]) -> None:
    """What the gate's report means for the policies in service."""
    result = {**cycle.result, "steps": names, "candidate": report["candidate"]["name"], "evaluation": dict(report)}
    if not report["promote"]:
        _end(connection, cycle, "succeeded", result | {"decision": "refused", "reasons": report["reasons"]})
        return
    newest = promotions.newest(connection)
    if newest.policy_id != cycle.payload["promoted_id"] or newest.candidate_id is not None:
        reason = "Another policy was put into service while this one was made: it was measured against the old one."
        _end(connection, cycle, "succeeded", result | {"decision": "refused", "reasons": [reason]})
        return
    result |= {"reasons": report["reasons"]}
    if cycle.payload.get("approve") and not cycle.result.get("approved"):
        cycles.wait(connection, cycle.id, result | {"decision": "proposed"})
        jobs.add_event(connection, cycle.id, f"{result['candidate']} waits for approval.")
        return
    _end(connection, cycle, "succeeded", result | {"decision": _put_into_service(connection, cycle, report)})


def _put_into_service(connection: Connection, cycle: StoredJob, report: Mapping[str, Any]) -> str:
    candidate_id, share = report["candidate"]["id"], int(cycle.payload.get("share", 10))
    if share == 100:
        promotions.promote(connection, candidate_id, key_id=cycle.key_id)
        return "promoted"
    promotions.try_out(connection, candidate_id, share=share, advances=True, key_id=cycle.key_id)
    return "canary"


def _end(
    connection: Connection,
    cycle: StoredJob,
    state: jobs.State,
    result: Mapping[str, Any],
    message: str | None = None,
    *,
    error: str | None = None,
) -> None:
    said = message or f"{result['candidate']}: {result['decision']}. {' '.join(result['reasons'])}"
    cycles.end(connection, cycle.id, state, result=result, error=error)
    jobs.add_event(connection, cycle.id, said, level="error" if error else "info")
    logger.info("%s: %s", cycle.id, said)
