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
    """The checkpoint in service, by its own name and as `honed`."""
    identify(http)
    return ModelList(data=_models(http.app.state.service))


@router.get("/v1/models/{model:path}")
async def retrieve_model(http: Request, model: str) -> Model:
    """One of them."""
    identify(http)
    models = _models(http.app.state.service)
    found = next((each for each in models if each.id == model), None)
    if found is None:
        raise ModelNotFound(model, [each.id for each in models])
    return found


def _models(service: Service) -> list[Model]:
    served = service.current()
    names = dict.fromkeys([served.policy.name, CURRENT])
    return [Model(id=name, created=served.created, owned_by="honed") for name in names]
