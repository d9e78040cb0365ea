"""`/v1/policies`: what can be put into service, what is, and changing that."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from honed.server.admission import identify, read_request
from honed.server.auth import Role
from honed.server.errors import InvalidRequest
from honed.server.policies import Service
from honed.server.registry import KnownPolicy
from honed.server.store.promotions import NothingBeforeError, PromotedMeanwhileError
from honed.server.validation import warning_header
from honed.server.wire.errors import ErrorBody
from honed.server.wire.policies import ChangeRequest, PolicyList, PolicyObject

router = APIRouter(responses={"default": {"model": ErrorBody}})


@router.get("/v1/policies")
async def list_policies(http: Request) -> PolicyList:
    """All that can be asked for by name, the one in service first."""
    identify(http)
    service: Service = http.app.state.service
    return PolicyList(data=[_object(service, known) for known in await service.policies()])


@router.post("/v1/policies/rollback")
async def roll_back(http: Request, response: Response) -> PolicyObject:
    """Puts the policy back into service that was before. Again, and it is the one before that."""
    caller = identify(http)
    caller.require(Role.ADMIN)
    await _no_parameters(http, response)
    service: Service = http.app.state.service
    try:
        return _object(service, await service.roll_back(key_id=caller.key_id))
    except NothingBeforeError:
        message = "No other policy was in service before: there is nothing to go back to."
        raise InvalidRequest(message, code="nothing_before") from None
    except PromotedMeanwhileError:
        message = "Another promotion came between: look at /v1/policies before you ask again."
        raise InvalidRequest(message, code="promoted_meanwhile") from None


@router.post("/v1/policies/{name:path}/promote")
async def promote_policy(http: Request, response: Response, name: str) -> PolicyObject:
    """Loads the policy, then puts it into service: new requests for `honed` get it, running ones end on the old."""
    caller = identify(http)
    caller.require(Role.ADMIN)
    await _no_parameters(http, response)
    service: Service = http.app.state.service
    return _object(service, await service.promote(name, key_id=caller.key_id))


async def _no_parameters(http: Request, response: Response) -> None:
    if await http.body():
        _, unknown = await read_request(http, ChangeRequest)
        response.headers.update(warning_header(unknown))


def _object(service: Service, known: KnownPolicy) -> PolicyObject:
    state, leases = service.engines.state(known)
    return PolicyObject.model_validate(
        {
            "id": known.id,
            "name": known.name,
            "stage": known.stage,
            "state": state,
            "leases": leases,
            "created": int(known.created.timestamp()),
        }
    )
