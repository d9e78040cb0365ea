"""`/v1/cycles`: asks for a turn of the circle, from what users said to a policy in service, and shows how it goes.

A worker carries it out (`honed worker`), step by step. Admins only: a cycle reads what everybody asked, says it in its
reports and logs, and changes what everybody is answered by.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from honed.server.admission import identify, read_request
from honed.server.auth import Role
from honed.server.errors import InvalidRequest, NotFound
from honed.server.policies import CURRENT
from honed.server.routes.document import body_of
from honed.server.routes.fine_tuning import Limit, base_of, event_list, shown_name
from honed.server.storage import Storage
from honed.server.store import cycles, jobs
from honed.server.store.cycles import CycleGoingOnError, PolicyTriedOutError
from honed.server.store.jobs import StoredJob
from honed.server.validation import warning_header
from honed.server.wire.cycles import CreateCycleRequest, CycleList, CycleObject, CycleStatus, CycleStep
from honed.server.wire.errors import ErrorBody
from honed.server.wire.fine_tuning import MAX_SEED, JobEventList

router = APIRouter(responses={"default": {"model": ErrorBody}})

PATH: Final = "/v1/cycles"
ONE: Final = f"{PATH}/{{cycle_id}}"


@router.post(PATH, openapi_extra=body_of(CreateCycleRequest))
async def create_cycle(http: Request, response: Response) -> CycleObject:
    """Asks for a cycle. Admins only; one at a time."""
    caller = identify(http)
    caller.require(Role.ADMIN)
    request, unknown = await read_request(http, CreateCycleRequest)
    response.headers.update(warning_header(unknown))
    seed = secrets.randbelow(MAX_SEED) if request.seed is None else request.seed
    asked = {
        "approve": request.approve,
        "share": request.share,
        "demonstrations": request.demonstrations,
        "settings": {name: getattr(request.settings, name) for name in type(request.settings).model_fields},
        "seed": seed,
    }
    storage: Storage = http.app.state.storage
    return await storage.write(_start, await base_of(http, CURRENT), asked, caller.key_id)


@router.get(PATH)
async def list_cycles(http: Request, after: str | None = None, limit: Limit = 20) -> CycleList:
    """The newest first."""
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    return await storage.read(_page, after, limit)


@router.get(ONE)
async def retrieve_cycle(http: Request, cycle_id: str) -> CycleObject:
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    return await storage.read(_found, cycle_id)


@router.get(f"{ONE}/events")
async def list_cycle_events(http: Request, cycle_id: str, after: str | None = None, limit: Limit = 20) -> JobEventList:
    """What happened, the newest first."""
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    await storage.read(_stored, cycle_id)
    return event_list(await storage.read(jobs.events, cycle_id, after=after, limit=limit + 1), limit)


@router.post(f"{ONE}/cancel")
async def cancel_cycle(http: Request, cycle_id: str) -> CycleObject:
    """Ends it with the step that it is at, or refuses what it proposes."""
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    return await storage.write(_cancel, cycle_id)


@router.post(f"{ONE}/approve")
async def approve_cycle(http: Request, cycle_id: str) -> CycleObject:
    """A person's word that what the cycle proposes shall go into service; a worker does it then."""
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    return await storage.write(_approve, cycle_id)


def _start(connection: Connection, model: str, asked: dict[str, Any], key_id: str | None) -> CycleObject:
    try:
        return _object(connection, cycles.start(connection, model, asked, key_id=key_id))
    except CycleGoingOnError as error:
        raise InvalidRequest(str(error), code="cycle_going_on") from None
    except PolicyTriedOutError as error:
        raise InvalidRequest(str(error), code="policy_tried_out") from None


def _page(connection: Connection, after: str | None, limit: int) -> CycleList:
    found = jobs.page(connection, cycles.KIND, after=after, limit=limit + 1)
    return CycleList(data=[_object(connection, each) for each in found[:limit]], has_more=len(found) > limit)


def _found(connection: Connection, cycle_id: str) -> CycleObject:
    return _object(connection, _stored(connection, cycle_id))


def _stored(connection: Connection, cycle_id: str) -> StoredJob:
    """Raises NotFound."""
    cycle = jobs.load(connection, cycle_id)
    if cycle is None or cycle.kind != cycles.KIND:
        raise NotFound("There is no such cycle.", param="cycle_id")
    return cycle


def _cancel(connection: Connection, cycle_id: str) -> CycleObject:
    before = _stored(connection, cycle_id)
    if not cycles.cancel(connection, cycle_id):
        raise InvalidRequest(f"The cycle is {before.state}: it cannot be cancelled.", code="invalid_cycle_state")
    return _found(connection, cycle_id)


def _approve(connection: Connection, cycle_id: str) -> CycleObject:
    before = _stored(connection, cycle_id)
    if not cycles.approve(connection, cycle_id):
        raise InvalidRequest(f"The cycle is {before.state}: it proposes nothing.", code="invalid_cycle_state")
    return _found(connection, cycle_id)


def _object(connection: Connection, cycle: StoredJob) -> CycleObject:
    names: list[Any] = cycle.result.get("steps") or []
    made = cycles.steps(connection, cycle.id, names)
    return CycleObject(
        id=cycle.id,
        created_at=int(cycle.created.timestamp()),
        finished_at=None if cycle.finished is None else int(cycle.finished.timestamp()),
        status=_status(cycle),
        model=shown_name(cycle.payload["model"]),
        approve=cycle.payload["approve"],
        share=cycle.payload["share"],
        seed=cycle.payload["seed"],
        steps=[_step(name, made.get(name)) for name in names],
        candidate=cycle.result.get("candidate"),
        decision=cycle.result.get("decision"),
        reasons=cycle.result.get("reasons") or [],
        evaluation=cycle.result.get("evaluation"),
        error=cycle.error,
    )


def _status(cycle: StoredJob) -> CycleStatus:
    if cycle.state == "paused":
        return "proposed"
    return "awaiting_labelers" if cycles.asks_people(cycle) else cycle.state


def _step(name: Any, job: StoredJob | None) -> CycleStep:
    return CycleStep(name=name, job_id=job.id if job else None, status=job.state if job else "waiting")
