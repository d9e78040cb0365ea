"""`/v1/labeling`: tasks are made by admins, leased and judged by labelers, and counted for both."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from honed.server.admission import identify, read_request
from honed.server.arrivals import caught_up
from honed.server.auth import Caller, Role
from honed.server.disconnection import unless_disconnected
from honed.server.errors import InvalidRequest, InvalidValue, NotFound
from honed.server.labeling import TaskMaker
from honed.server.routes.document import body_of
from honed.server.storage import Storage
from honed.server.store import labelers, labeling, leases, rankings
from honed.server.store.agreement import Agreement, agreement
from honed.server.store.feedback import KeyReusedError
from honed.server.store.labeling import StoredTask, WholeTask
from honed.server.store.leases import Lease
from honed.server.store.rankings import (
    AlreadyJudgedError,
    IncompleteRankingError,
    NewVerdict,
    NotLeasedError,
    StoredVerdict,
    UnknownTaskError,
)
from honed.server.validation import warning_header
from honed.server.wire.errors import ErrorBody
from honed.server.wire.labeling import (
    AgreementObject,
    CreatedTaskList,
    LabelerProgress,
    LeaseRequest,
    ProgressObject,
    ShownAnswer,
    ShownTask,
    TaskAssignment,
    TaskChoice,
    TaskList,
    TaskMessage,
    TaskObject,
    TasksRequest,
    VerdictObject,
    VerdictRequest,
    WholeTaskObject,
)

router = APIRouter(responses={"default": {"model": ErrorBody}})

MAX_LISTED = 1000


@router.post("/v1/labeling/tasks", openapi_extra=body_of(TasksRequest))
async def create_tasks(http: Request, response: Response) -> CreatedTaskList:
    """Samples prompts and has the policy in service answer each of them several times. Takes as long as that takes;
    when the client goes, what is made by then stays."""
    identify(http).require(Role.ADMIN)
    request, unknown = await read_request(http, TasksRequest)
    response.headers.update(warning_header(unknown))
    await caught_up(http)
    maker = TaskMaker(http, request)
    await unless_disconnected(http, maker.make())
    listed = _list(maker.tasks, has_more=False)
    return CreatedTaskList(**dict(listed), passed_over=maker.passed_over, stopped=maker.stopped)


@router.get("/v1/labeling/tasks")
async def list_tasks(
    http: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 20,
    is_open: Annotated[bool | None, Query(alias="open")] = None,
) -> TaskList:
    """All tasks, the oldest first."""
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    page, has_more = await storage.read(
        labeling.list_tasks, now=datetime.now(UTC), after=after, limit=limit, is_open=is_open
    )
    return _list(page, has_more=has_more)


@router.get("/v1/labeling/tasks/{task_id}")
async def retrieve_task(http: Request, task_id: str) -> WholeTaskObject:
    """A task with its prompt, its answers and who has it or had it."""
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    whole = await storage.read(labeling.get_task, task_id, now=datetime.now(UTC))
    if whole is None:
        raise _no_task()
    return _whole(whole)


@router.post(
    "/v1/labeling/leases",
    response_model=ShownTask,
    responses={204: {"description": "There is no task for this labeler now."}},
    openapi_extra=body_of(LeaseRequest),
)
async def create_lease(http: Request, response: Response) -> ShownTask | Response:
    """The labeler's next task, for half an hour; the same one again until it is judged, or the time is up."""
    caller = identify(http)
    caller.require(Role.LABELER)
    request, unknown = await read_request(http, LeaseRequest)
    labeler = _labeler(caller, request.labeler)
    storage: Storage = http.app.state.storage
    lease = await storage.write(leases.lease, labeler, now=datetime.now(UTC))
    if lease is None:
        return Response(status_code=204, headers=warning_header(unknown))
    response.headers.update(warning_header(unknown))
    return _shown(lease)


@router.post("/v1/labeling/tasks/{task_id}/rankings", openapi_extra=body_of(VerdictRequest))
async def create_ranking(http: Request, response: Response, task_id: str) -> VerdictObject:
    """What the labeler says of a leased task. Said twice, it is counted once."""
    caller = identify(http)
    caller.require(Role.LABELER)
    request, unknown = await read_request(http, VerdictRequest)
    response.headers.update(warning_header(unknown))
    new = NewVerdict(
        task_id=task_id,
        labeler=_labeler(caller, request.labeler),
        key_id=caller.key_id,
        verdict=request.verdict,
        ranking=request.ranking or (),
        demonstration=request.demonstration,
        comment=request.comment,
        idempotency_key=request.idempotency_key,
    )
    stored = await _recorded(http.app.state.storage, new)
    for kind in stored.kinds:
        http.app.state.service.metrics.feedback.labels(kind).inc()
    return _verdict(stored)


@router.get("/v1/labeling/progress")
async def retrieve_progress(http: Request) -> ProgressObject:
    """How far the tasks are, and what each labeler did."""
    identify(http).require(Role.LABELER)
    storage: Storage = http.app.state.storage
    progress = await storage.read(labelers.progress, now=datetime.now(UTC))
    return ProgressObject(
        open=progress.open,
        done=progress.done,
        **_counts(progress.total),
        labelers=[LabelerProgress(labeler=name, **_counts(count)) for name, count in progress.labelers.items()],
    )


@router.get("/v1/labeling/agreement")
async def retrieve_agreement(http: Request) -> AgreementObject:
    """How much the labelers agree, over the tasks that two or more of them have ranked."""
    identify(http).require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    judgements = await storage.read(labelers.judgements)
    result: Agreement = await storage.run(agreement, judgements)
    return AgreementObject.model_validate(asdict(result))


async def _recorded(storage: Storage, new: NewVerdict) -> StoredVerdict:
    try:
        return await storage.write(rankings.record, new, now=datetime.now(UTC))
    except UnknownTaskError:
        raise _no_task() from None
    except NotLeasedError:
        message = "The task is not leased to this labeler, or no longer: ask for a new lease."
        raise NotFound(message, param="task_id", code="lease_not_found") from None
    except AlreadyJudgedError:
        message = "This labeler has already said something else of the task, and the first word stands."
        raise InvalidRequest(message, param="task_id", code="already_judged") from None
    except IncompleteRankingError as error:
        labels = ", ".join(error.labels)
        message = f"Invalid 'ranking': expected each of {labels} exactly once."
        raise InvalidValue(message, param="ranking") from None
    except KeyReusedError:
        message = "The idempotency key was used for something else: take a new one."
        raise InvalidRequest(message, param="idempotency_key", code="idempotency_key_reused") from None


def _no_task() -> NotFound:
    return NotFound("There is no such task.", param="task_id")


def _labeler(caller: Caller, name: str | None) -> str:
    """A labeler's key is the labeler; others may label in somebody's name. Raises InvalidValue."""
    if name is None or name == caller.key_id:
        return caller.key_id
    if caller.role is Role.LABELER:
        raise InvalidValue("Invalid 'labeler': a labeler's key labels for itself only.", param="labeler")
    return name


def _list(tasks: list[StoredTask], *, has_more: bool) -> TaskList:
    data = [TaskObject(**_task(task)) for task in tasks]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return TaskList(data=data, first_id=first_id, last_id=last_id, has_more=has_more)


def _task(task: StoredTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "created": _seconds(task.created),
        "completion_id": task.completion_id,
        "policy": task.policy_id,
        "model": task.model,
        "labelers": task.wanted,
        "open": task.is_open,
        **_counts(task.counts),
    }


def _counts(counts: Any) -> dict[str, Any]:
    return {state: counts[state] for state in ("leased", "ranked", "skipped", "all_bad")}


def _whole(whole: WholeTask) -> WholeTaskObject:
    assignments = [
        TaskAssignment(
            labeler=assignment.labeler,
            state=assignment.state,
            leased_until=_seconds(assignment.leased_until),
            finished=None if assignment.finished is None else _seconds(assignment.finished),
            feedback_id=assignment.feedback_id,
            ranking=assignment.ranking,
        )
        for assignment in whole.assignments
    ]
    return WholeTaskObject(
        **_task(whole.task),
        derived_from=whole.derived_from,
        messages=[TaskMessage(**message) for message in whole.messages],
        choices=[
            TaskChoice(index=choice.index, text=choice.text, finish_reason=choice.finish_reason)
            for choice in whole.choices
        ],
        assignments=assignments,
    )


def _shown(lease: Lease) -> ShownTask:
    return ShownTask(
        id=lease.task_id,
        messages=[TaskMessage(**message) for message in lease.messages],
        answers=[ShownAnswer.model_validate(asdict(answer)) for answer in lease.answers],
        leased_until=_seconds(lease.leased_until),
    )


def _verdict(stored: StoredVerdict) -> VerdictObject:
    return VerdictObject.model_validate(
        {
            "id": stored.task_id,
            "labeler": stored.labeler,
            "verdict": stored.verdict,
            "ranking": stored.groups or None,
            "finished": _seconds(stored.finished),
        }
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
