"""`/v1/policies`: what can be put into service, what is, what users think of it, and changing that."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from honed.server.admission import identify, read_request
from honed.server.auth import Role
from honed.server.errors import InvalidRequest, StoreUnavailable
from honed.server.policies import Service
from honed.server.registry import KnownPolicy
from honed.server.routes.document import body_of
from honed.server.storage import Storage
from honed.server.store import promotions
from honed.server.store.pairs import Verdicts
from honed.server.store.promotions import (
    Change,
    InServiceError,
    NothingBeforeError,
    PromotedMeanwhileError,
    StoredPromotion,
)
from honed.server.store.statistics import proportion
from honed.server.validation import warning_header
from honed.server.wire.errors import ErrorBody
from honed.server.wire.policies import (
    CanaryRequest,
    ChangeRequest,
    PolicyList,
    PolicyObject,
    PromotionList,
    PromotionObject,
    ShadowCounts,
    ShadowRequest,
    ThumbCounts,
)

router = APIRouter(responses={"default": {"model": ErrorBody}})

MAX_LISTED = 1000
MAX_NUMBER = 2**31 - 1


@router.get("/v1/policies")
async def list_policies(http: Request) -> PolicyList:
    """All that can be asked for by name, the one in service first."""
    identify(http)
    service: Service = http.app.state.service
    known = await service.policies()
    await _count(service)
    return PolicyList(data=[_object(service, each) for each in known])


@router.get("/v1/policies/history")
async def list_promotions(
    http: Request,
    after: Annotated[int | None, Query(ge=1, le=MAX_NUMBER)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 20,
) -> PromotionList:
    """What was in service and tried out, the newest change first. `after`: the number that a page ended with."""
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    page, has_more = await storage.read(promotions.history, below=after, limit=limit)
    service: Service = http.app.state.service
    return PromotionList(data=[_promotion(service, change) for change in page], has_more=has_more)


@router.post("/v1/policies/rollback")
async def roll_back(http: Request, response: Response) -> PolicyObject:
    """Takes the candidate out. Where there is none, puts the policy back into service that was before; again, and it is
    the one before that."""
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


@router.post("/v1/policies/{name:path}/canary", openapi_extra=body_of(CanaryRequest))
async def try_policy_out(http: Request, response: Response, name: str) -> PolicyObject:
    """Loads the policy, then gives it a share of the users: their requests for `honed` get it. Where it turns out to be
    worse, the server takes it out again."""
    caller = identify(http)
    caller.require(Role.ADMIN)
    request, unknown = await read_request(http, CanaryRequest)
    response.headers.update(warning_header(unknown))
    return await _try_out(http, name, share=request.share, advances=request.advance, key_id=caller.key_id)


@router.post("/v1/policies/{name:path}/shadow", openapi_extra=body_of(ShadowRequest))
async def shadow_policy(http: Request, response: Response, name: str) -> PolicyObject:
    """Loads the policy, and has it answer a share of the users' requests for `honed` beside the policy in service. They
    do not see it; labelers compare the two."""
    caller = identify(http)
    caller.require(Role.ADMIN)
    request, unknown = await read_request(http, ShadowRequest)
    response.headers.update(warning_header(unknown))
    return await _try_out(http, name, share=request.share, is_shadow=True, key_id=caller.key_id)


async def _try_out(http: Request, name: str, **how: Any) -> PolicyObject:
    service: Service = http.app.state.service
    try:
        return _object(service, await service.try_out(name, **how))
    except InServiceError:
        message = "The policy is in service: there is nothing to compare it with."
        raise InvalidRequest(message, code="already_in_service") from None


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
            "share": service.share_of(known),
            "leases": leases,
            "created": int(known.created.timestamp()),
            "feedback": _feedback(service, known),
            "shadow": _shadow(service, known),
        }
    )


async def _count(service: Service) -> None:
    with suppress(StoreUnavailable):  # then what was counted last is shown
        await service.opinions.refresh()


def _feedback(service: Service, known: KnownPolicy) -> ThumbCounts:
    thumbs = service.thumbs_of(known)
    rate = proportion(thumbs.up, thumbs.total)
    shown = (None, None, None) if rate is None else (rate.share, rate.low, rate.high)
    return ThumbCounts(up=thumbs.up, down=thumbs.down, rate=shown[0], low=shown[1], high=shown[2])


def _shadow(service: Service, known: KnownPolicy) -> ShadowCounts:
    current = service.engines.current
    counted = service.opinions.verdicts.get((known.id, current.policy.id if current else ""), Verdicts())
    rate = proportion(counted.wins + counted.ties / 2, counted.total)
    return ShadowCounts(
        share=_unseen_share(service.followed, known),
        wins=counted.wins,
        ties=counted.ties,
        losses=counted.losses,
        rate=rate.share if rate else None,
        low=rate.low if rate else None,
        high=rate.high if rate else None,
    )


def _unseen_share(promotion: StoredPromotion | None, known: KnownPolicy) -> int:
    if promotion is None or promotion.candidate_id != known.id:
        return 0
    return promotion.share - promotion.seen_share


def _promotion(service: Service, change: Change) -> PromotionObject:
    own = service.registry.own
    return PromotionObject(
        number=change.number,
        created=int(change.created.timestamp()),
        policy=change.policy or (own.name if own else service.settings.model),
        candidate=change.candidate,
        share=change.share,
        is_shadow=change.is_shadow,
        reason=change.reason,
    )
