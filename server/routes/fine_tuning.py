"""`/v1/fine_tuning/jobs`: asks for training, and shows how it goes. A worker does it (`honed worker`).

Owns what a job's row says of a request: its payload, with the names that `training/orders.py` reads, and the way back
to OpenAI's object. Only admins make and change jobs: each takes the machine that trains for itself, and may read what
everybody asked. Invariant: what a job names is there when it is made: the model, the data, the reward model.
"""

from __future__ import annotations

import math
import secrets
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from honed.server.admission import identify, read_request
from honed.server.auth import Caller, Role
from honed.server.errors import InvalidFile, InvalidRequest, InvalidValue, NotFound
from honed.server.policies import Service
from honed.server.routes.document import body_of
from honed.server.routes.stored import metadata_filter
from honed.server.storage import Storage
from honed.server.store import files, jobs, snapshots
from honed.server.store.jobs import StoredEvent, StoredJob, Wanted
from honed.server.validation import warning_header
from honed.server.wire.errors import ErrorBody
from honed.server.wire.fine_tuning import (
    MAX_SEED,
    CreateJobRequest,
    JobCheckpointList,
    JobCheckpointObject,
    JobError,
    JobEventList,
    JobEventObject,
    JobList,
    JobObject,
    MethodObject,
    PPOMethod,
    ReinforcementMethod,
    ShownGrader,
    ShownHyperparameters,
    ShownMethod,
)

router = APIRouter(responses={"default": {"model": ErrorBody}})

PATH: Final = "/v1/fine_tuning/jobs"
ONE: Final = f"{PATH}/{{fine_tuning_job_id}}"
KIND: Final = "fine_tuning"
STORE: Final = "store:"
MAX_LISTED = 1000
Limit = Annotated[int, Query(ge=1, le=MAX_LISTED)]

_HYPERPARAMETERS: Final = ("n_epochs", "batch_size", "learning_rate_multiplier")
_DONE: Final = {"pause": "paused", "cancel": "cancelled", "resume": "resumed"}
# OpenAI's names of what runs measure; the whole validation split is measured each time.
_METRICS: Final = {"train/loss": "train_loss", "validation/loss": "full_valid_loss"}


@router.post(PATH, openapi_extra=body_of(CreateJobRequest))
async def create_fine_tuning_job(http: Request, response: Response) -> JobObject:
    """Asks for a model that is trained on a file, or on what the store holds. Admins only."""
    caller = identify(http)
    caller.require(Role.ADMIN)
    request, unknown = await read_request(http, CreateJobRequest)
    response.headers.update(warning_header(unknown))
    order = _order(request) | {"model": await base_of(http, request.model)}
    storage: Storage = http.app.state.storage
    return _object(await storage.write(_enqueue, order, caller))


@router.get(PATH)
async def list_fine_tuning_jobs(
    http: Request, after: str | None = None, limit: Limit = 20, metadata: Literal["null"] | None = None
) -> JobList:
    """The jobs that the caller's key made (an admin's: all), the newest first. `metadata[KEY]=VALUE` narrows them down,
    `metadata=null` to those without."""
    caller = identify(http)
    storage: Storage = http.app.state.storage
    wanted = None if metadata == "null" else metadata_filter(http)
    found = await storage.read(jobs.page, KIND, after=after, limit=limit + 1, key_id=caller.scope, metadata=wanted)
    return JobList(data=[_object(job) for job in found[:limit]], has_more=len(found) > limit)


@router.get(ONE)
async def retrieve_fine_tuning_job(http: Request, fine_tuning_job_id: str) -> JobObject:
    return _object(await _found(http, fine_tuning_job_id))


@router.post(f"{ONE}/cancel")
async def cancel_fine_tuning_job(http: Request, fine_tuning_job_id: str) -> JobObject:
    """At once where it does not run; else it is `running` until its worker has seen it, some seconds at most."""
    return await _ask(http, fine_tuning_job_id, "cancel")


@router.post(f"{ONE}/pause")
async def pause_fine_tuning_job(http: Request, fine_tuning_job_id: str) -> JobObject:
    """As cancel. What was trained since the last saved state is trained again."""
    return await _ask(http, fine_tuning_job_id, "pause")


@router.post(f"{ONE}/resume")
async def resume_fine_tuning_job(http: Request, fine_tuning_job_id: str) -> JobObject:
    """Puts a paused job back into the queue."""
    return await _ask(http, fine_tuning_job_id, "resume")


@router.get(f"{ONE}/events")
async def list_fine_tuning_events(
    http: Request, fine_tuning_job_id: str, after: str | None = None, limit: Limit = 20
) -> JobEventList:
    """What happened, the newest first."""
    job = await _found(http, fine_tuning_job_id)
    storage: Storage = http.app.state.storage
    return event_list(await storage.read(jobs.events, job.id, after=after, limit=limit + 1), limit)


@router.get(f"{ONE}/checkpoints")
async def list_fine_tuning_job_checkpoints(
    http: Request, fine_tuning_job_id: str, after: str | None = None, limit: Limit = 10
) -> JobCheckpointList:
    """What a job that succeeded has made, the newest first."""
    made = _checkpoints(await _found(http, fine_tuning_job_id))
    ids = [each.id for each in made]
    rest = made[ids.index(after) + 1 :] if after in ids else made
    data = rest[:limit]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return JobCheckpointList(data=data, first_id=first_id, last_id=last_id, has_more=len(rest) > limit)


def _order(request: CreateJobRequest) -> dict[str, Any]:
    """The job's payload, but for the model."""
    method = request.whole_method
    details = method.details
    asked = {name: getattr(details.hyperparameters, name) for name in type(details.hyperparameters).model_fields}
    return {
        "method": "ppo" if method.type == "reinforcement" else method.type,
        "training_file": request.training_file,
        "validation_file": request.validation_file,
        "hyperparameters": {name: value for name, value in asked.items() if not isinstance(value, str)},
        "settings": details.settings,
        "suffix": request.suffix,
        "seed": secrets.randbelow(MAX_SEED) if request.seed is None else request.seed,
        "metadata": request.metadata,
        "reward_model": _reward_model(details),
    }


def _reward_model(details: Any) -> str | None:
    if isinstance(details, ReinforcementMethod):
        return details.grader.model
    return details.reward_model if isinstance(details, PPOMethod) else None


async def base_of(http: Request, model: str) -> str:
    """What a worker finds the model by: a checkpoint's name, or what the server itself was started with. Raises
    ModelNotFound, and what `Service.find` raises."""
    storage: Storage = http.app.state.storage
    service: Service = http.app.state.service
    stage = await storage.read(snapshots.stage_of, model)
    if stage == "reward":
        raise InvalidValue("Invalid 'model': it is a reward model, which cannot be trained on.", param="model")
    if stage is not None:
        return model
    known = await service.find(model)
    return await storage.read(_source, known.name, service.settings.model)


def _source(connection: Connection, name: str, started_with: str) -> str:
    """What is no checkpoint of the store is what the server was started with, and a folder has no name elsewhere."""
    folder = Path(started_with).expanduser()
    is_known = snapshots.stage_of(connection, name) is not None
    return str(folder.absolute()) if folder.is_dir() and not is_known else name


def _enqueue(connection: Connection, order: dict[str, Any], caller: Caller) -> StoredJob:
    """Raises InvalidFile and InvalidValue for what is not there."""
    _require_data(connection, order["training_file"], caller)
    _require_validation_file(connection, order, caller)
    _require_reward_model(connection, order["reward_model"])
    job_id = jobs.enqueue(connection, KIND, payload=order, prefix="ftjob", key_id=caller.key_id)
    jobs.add_event(connection, job_id, "The job is queued.")
    job = jobs.load(connection, job_id)
    assert job is not None, "it was just made"
    return job


def _require_data(connection: Connection, name: str, caller: Caller) -> None:
    if name == STORE:
        return
    if name.startswith(STORE):
        if snapshots.load_snapshot(connection, name.removeprefix(STORE)) is None:
            raise InvalidFile("Invalid 'training_file': there is no such snapshot.", param="training_file")
    else:
        _require_file(connection, name, caller, param="training_file")


def _require_validation_file(connection: Connection, order: dict[str, Any], caller: Caller) -> None:
    if (name := order["validation_file"]) is None:
        return
    if order["training_file"].startswith(STORE):
        message = "Invalid 'validation_file': of what the store holds a share is held out ('validation' in 'settings')."
        raise InvalidValue(message, param="validation_file")
    _require_file(connection, name, caller, param="validation_file")


def _require_file(connection: Connection, name: str, caller: Caller, *, param: str) -> None:
    if files.load(connection, name, scope=caller.scope) is None:
        raise InvalidFile(f"Invalid '{param}': there is no such file.", param=param)


def _require_reward_model(connection: Connection, name: str | None) -> None:
    if name is not None and snapshots.stage_of(connection, name) != "reward":
        raise InvalidValue("Invalid 'method': there is no such reward model.", param="method")


async def _found(http: Request, job_id: str) -> StoredJob:
    """Raises NotFound, also for somebody else's."""
    caller = identify(http)
    storage: Storage = http.app.state.storage
    return await storage.read(_visible, job_id, caller)


def _visible(connection: Connection, job_id: str, caller: Caller) -> StoredJob:
    job = jobs.load(connection, job_id)
    if job is None or job.kind != KIND or caller.scope not in (None, job.key_id):
        raise NotFound("There is no such fine-tuning job.", param="fine_tuning_job_id")
    return job


async def _ask(http: Request, job_id: str, wanted: Wanted | Literal["resume"]) -> JobObject:
    caller = identify(http)
    caller.require(Role.ADMIN)
    storage: Storage = http.app.state.storage
    return _object(await storage.write(_changed, job_id, wanted, caller))


def _changed(connection: Connection, job_id: str, wanted: Wanted | Literal["resume"], caller: Caller) -> StoredJob:
    """The job as it is afterwards. Raises NotFound, and InvalidRequest where its state does not allow it."""
    before = _visible(connection, job_id, caller)
    allowed = jobs.ask(connection, job_id, wanted)
    job = _visible(connection, job_id, caller)
    if not allowed:
        state = "about to be cancelled" if job.wanted == "cancel" else job.state
        raise InvalidRequest(f"The job is {state}: it cannot be {_DONE[wanted]}.", code="invalid_job_state")
    if job.state != before.state:
        jobs.add_event(connection, job_id, f"The job is {job.state}.")
    return job


def _object(job: StoredJob) -> JobObject:
    order, result = job.payload, job.result
    return JobObject(
        id=job.id,
        created_at=int(job.created.timestamp()),
        finished_at=None if job.finished is None else int(job.finished.timestamp()),
        status=job.state,
        error=None if job.error is None else JobError(code="training_failed", message=job.error),
        model=shown_name(order["model"]),
        fine_tuned_model=result.get("fine_tuned_model"),
        trained_tokens=result.get("trained_tokens"),
        training_file=order["training_file"],
        validation_file=order.get("validation_file"),
        hyperparameters=_hyperparameters(order, _HYPERPARAMETERS),
        method=_method(order),
        seed=order.get("seed") or 0,
        metadata=order.get("metadata") or None,
    )


def shown_name(model: str) -> str:
    """Where a folder is on the server's disk is nobody's business."""
    return Path(model).name if Path(model).is_absolute() else model


def _method(order: dict[str, Any]) -> MethodObject:
    method, reward_model = order["method"], order.get("reward_model")
    names = (*_HYPERPARAMETERS, "beta") if method in ("dpo", "kto") else _HYPERPARAMETERS
    shown = ShownMethod(
        grader=None if reward_model is None else ShownGrader(model=reward_model),
        hyperparameters=_hyperparameters(order, names),
        settings=order.get("settings") or None,
    )
    kind = "reinforcement" if method == "ppo" else method
    return MethodObject.model_validate({"type": kind, kind: shown})


def _hyperparameters(order: dict[str, Any], names: tuple[str, ...]) -> ShownHyperparameters:
    given = order.get("hyperparameters") or {}
    return ShownHyperparameters(**{name: given.get(name, "auto") for name in names})


def event_list(found: list[StoredEvent], limit: int) -> JobEventList:
    """A page of events; `found`: one more, where there are more."""
    return JobEventList(data=[_event(each) for each in found[:limit]], has_more=len(found) > limit)


def _event(event: StoredEvent) -> JobEventObject:
    return JobEventObject(
        id=event.id,
        created_at=int(event.created.timestamp()),
        level=event.level,
        type=event.kind,
        message=event.message,
        data=event.data,
    )


def _checkpoints(job: StoredJob) -> list[JobCheckpointObject]:
    """The id is made of the job's and the step."""
    finished = job.finished or job.created
    return [
        JobCheckpointObject(
            id=f"ftckpt-{job.id.partition('-')[2]}-{made['step']}",
            created_at=int(finished.timestamp()),
            fine_tuning_job_id=job.id,
            fine_tuned_model_checkpoint=job.result["fine_tuned_model"],
            step_number=made["step"],
            metrics={"step": made["step"], **_metrics(made["metrics"])},
        )
        for made in sorted(job.result.get("checkpoints", []), key=lambda made: made["step"], reverse=True)
    ]


def _metrics(measured: dict[str, float | None]) -> dict[str, float]:
    return {
        _METRICS.get(name, name): value
        for name, value in measured.items()
        if value is not None and math.isfinite(value)
    }
