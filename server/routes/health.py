"""`GET /health` and `GET /metrics`: for load balancers and Prometheus, without an API key."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from honed.server.health import Status

router = APIRouter()


@router.get("/health", responses={503: {"description": "Loading, draining or dead."}})
async def read_health(http: Request) -> Response:
    """200 while requests are taken, else 503 with the reason. A store that is down does not keep it from answering."""
    health = http.app.state.service.health()
    store = dataclasses.asdict(http.app.state.recorder.health())
    body = {"status": health.status, "model": health.model, "detail": health.detail, "store": store}
    return JSONResponse(body, status_code=200 if health.status is Status.READY else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def read_metrics(http: Request) -> Response:
    """Prometheus' text format."""
    metrics = http.app.state.service.metrics
    metrics.observe_store(http.app.state.recorder.health())
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
