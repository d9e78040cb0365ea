"""`/v1/feedback`: what somebody thought of an answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from honed.server.admission import identify
from honed.server.arrivals import arrived
from honed.server.auth import Caller, Role
from honed.server.errors import InvalidRequest, InvalidValue, NotFound
from honed.server.routes.document import body_of
from honed.server.routes.stored import Order
from honed.server.storage import Storage
from honed.server.store import feedback
from honed.server.store.feedback import (
    KeyReusedError,
    NewFeedback,
    OtherPromptError,
    RankedAnswer,
    StoredFeedback,
    UnknownAnswerError,
)
from honed.server.validation import parse_tagged, warning_header
from honed.server.wire.errors import ErrorBody
from honed.server.wire.feedback import (
    REQUESTS,
    AnswerOf,
    AnswerRef,
    ComparisonRequest,
    ComparisonValue,
    FeedbackAnswer,
    FeedbackList,
    FeedbackObject,
    FeedbackRequest,
    Kind,
    RankingRequest,
    RatingRequest,
    ThumbRequest,
)

router = APIRouter(responses={"default": {"model": ErrorBody}})

MAX_LISTED = 1000


@router.post("/v1/feedback", openapi_extra=body_of(*REQUESTS.values()))
async def create_feedback(http: Request, response: Response) -> FeedbackObject:
    """Takes a judgement. Sent again with the same idempotency key it is counted once."""
    caller = identify(http)
    request, unknown = parse_tagged(REQUESTS, "kind", await http.body(), strict=http.app.state.settings.strict)
    response.headers.update(warning_header(unknown))
    new = _new(request, caller)
    await arrived(http, [new.completion_id, *(target.completion_id for target in new.targets)])
    storage: Storage = http.app.state.storage
    try:
        stored = await storage.write(feedback.add, new, scope=caller.scope)
    except UnknownAnswerError as error:
        raise NotFound("There is no such answer.", param=error.param) from None
    except OtherPromptError:
        raise InvalidValue("Invalid 'value': the answers are to different prompts.", param="value") from None
    except KeyReusedError:
        message = "The idempotency key was used for other feedback: take a new one."
        raise InvalidRequest(message, param="idempotency_key", code="idempotency_key_reused") from None
    http.app.state.service.metrics.feedback.labels(stored.kind).inc()
    return _object(stored)


@router.get("/v1/feedback")
async def list_feedback(
    http: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 20,
    order: Order = "desc",
    completion_id: str | None = None,
    kind: Kind | None = None,
    labeler: str | None = None,
    policy: str | None = None,
) -> FeedbackList:
    """The feedback that the caller's key gave (an admin's: all); `policy` is a checkpoint's id."""
    caller = identify(http)
    storage: Storage = http.app.state.storage
    page, has_more = await storage.read(
        feedback.list_feedback,
        scope=caller.scope,
        after=after,
        limit=limit,
        order=order,
        completion_id=completion_id,
        kind=kind,
        labeler=labeler,
        policy_id=policy,
    )
    data = [_object(stored) for stored in page]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return FeedbackList(data=data, first_id=first_id, last_id=last_id, has_more=has_more)


def _new(request: FeedbackRequest, caller: Caller) -> NewFeedback:
    if caller.role is Role.LABELER and request.labeler not in (None, caller.key_id):
        raise InvalidValue("Invalid 'labeler': a labeler's key speaks for itself only.", param="labeler")
    is_labelers = request.labeler is not None or caller.role is Role.LABELER
    return NewFeedback(
        completion_id=request.completion_id,
        choice=request.choice,
        kind=request.kind,
        source=request.source or ("labeler" if is_labelers else "user"),
        key_id=caller.key_id,
        labeler=request.labeler or (caller.key_id if caller.role is Role.LABELER else None),
        idempotency_key=request.idempotency_key,
        tags=request.metadata,
        **_value(request),
    )


def _value(request: FeedbackRequest) -> dict[str, Any]:
    if isinstance(request, ThumbRequest):
        return {"number": int(request.value == "up")}
    if isinstance(request, RatingRequest):
        return {"number": request.value}
    if isinstance(request, ComparisonRequest):
        chosen, rejected = request.value.chosen, request.value.rejected
        return {"targets": _ranked(request, [[chosen, rejected]] if request.value.tie else [[chosen], [rejected]])}
    if isinstance(request, RankingRequest):
        return {"targets": _ranked(request, request.value)}
    return {"text": request.value}


def _ranked(request: FeedbackRequest, groups: list[list[AnswerRef]]) -> list[RankedAnswer]:
    """Ranks as in a competition: after two that share rank 1 comes rank 3. Raises InvalidValue where an answer stands
    in two places."""
    ranked: list[RankedAnswer] = []
    for group in groups:
        rank = len(ranked) + 1
        ranked += [RankedAnswer(*_named(request, reference), rank) for reference in group]
    if len({(answer.completion_id, answer.choice) for answer in ranked}) < len(ranked):
        raise InvalidValue("Invalid 'value': an answer stands in it twice.", param="value")
    return ranked


def _named(request: FeedbackRequest, reference: AnswerRef) -> tuple[str, int]:
    if isinstance(reference, AnswerOf):
        return reference.completion_id, reference.choice
    return request.completion_id, reference


def _object(stored: StoredFeedback) -> FeedbackObject:
    return FeedbackObject(
        id=stored.id,
        created=int(stored.created.timestamp()),
        completion_id=stored.completion_id,
        choice=stored.choice,
        kind=stored.kind,
        value=_shown(stored),
        labeler=stored.labeler,
        source=stored.source,
        policy=stored.policy_id,
        metadata=stored.tags,
    )


def _shown(stored: StoredFeedback) -> str | int | ComparisonValue | list[list[FeedbackAnswer]]:
    if stored.kind == "thumb":
        return "up" if stored.number else "down"
    if stored.kind == "rating":
        return stored.number or 0
    if stored.kind not in ("comparison", "ranking"):
        return stored.text or ""
    groups: dict[int, list[FeedbackAnswer]] = {}
    for target in stored.targets:
        answer = FeedbackAnswer(completion_id=target.completion_id, choice=target.choice)
        groups.setdefault(target.rank, []).append(answer)
    if stored.kind == "ranking":
        return list(groups.values())
    chosen, rejected = (answer for group in groups.values() for answer in group)
    return ComparisonValue(chosen=chosen, rejected=rejected, tie=len(groups) == 1)
