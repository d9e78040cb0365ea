"""`GET /health` and `GET /metrics`: for load balancers and Prometheus, without an API key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from honed.server.policies import Status

router = APIRouter()


@router.get("/health", responses={503: {"description": "Loading, draining or dead."}})
async def read_health(http: Request) -> Response:
    """200 while requests are taken, else 503 with the reason."""
    health = http.app.state.service.health()
    body = {"status": health.status, "model": health.model, "detail": health.detail}
    return JSONResponse(body, status_code=200 if health.status is Status.READY else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def read_metrics(http: Request) -> Response:
    """Prometheus' text format."""
    return Response(http.app.state.service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
