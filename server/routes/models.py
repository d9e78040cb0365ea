"""`GET /v1/models` and `GET /v1/models/{id}`: what may stand in a request's `model`."""

from __future__ import annotations

from fastapi import APIRouter, Request

from honed.server.admission import identify
from honed.server.errors import ModelNotFound
from honed.server.policies import CURRENT, Service
from honed.server.wire.errors import ErrorBody
from honed.server.wire.models import Model, ModelList

router = APIRouter(responses={"default": {"model": ErrorBody}})


@router.get("/v1/models")
async def list_models(http: Request) -> ModelList:
    """`honed`, whatever is in service, which comes first since clients take the first; then the policies by their own
    names, that one before the others."""
    identify(http)
    return ModelList(data=await _models(http.app.state.service))


@router.get("/v1/models/{model:path}")
async def retrieve_model(http: Request, model: str) -> Model:
    """One of them."""
    identify(http)
    models = await _models(http.app.state.service)
    found = next((each for each in models if each.id == model), None)
    if found is None:
        raise ModelNotFound(model, [each.id for each in models])
    return found


async def _models(service: Service) -> list[Model]:
    current, *others = await service.policies()
    created = {known.name: known.created for known in reversed(others)}  # of two of a name, that of the first
    named = {CURRENT: current.created, current.name: current.created} | dict(reversed(created.items()))
    return [Model(id=name, created=int(at.timestamp()), owned_by="honed") for name, at in named.items()]
