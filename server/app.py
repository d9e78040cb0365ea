"""The application: routes, error handlers, and the life of what they share. Everything hangs on `app.state`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from honed.server.auth import load_keyring
from honed.server.errors import install_error_handlers
from honed.server.metrics import Metrics
from honed.server.middleware import EdgeMiddleware
from honed.server.policies import Service
from honed.server.recording import Recorder
from honed.server.routes import (
    chat,
    completions,
    cycles,
    feedback,
    files,
    fine_tuning,
    health,
    labeling,
    models,
    policies,
    stored,
)
from honed.server.routes.document import add_components
from honed.server.settings import Settings
from honed.server.shadows import Shadows
from honed.server.storage import Storage


def create_app(settings: Settings) -> FastAPI:
    """A server of the model that `settings` name; it loads in the background once the application has started.

    Raises ValueError where the API keys cannot be read, and StoreError where the store cannot be used.
    """
    app = FastAPI(title="honed", version=version("honed"), lifespan=_lifespan, redirect_slashes=False)
    app.state.settings = settings
    app.state.keyring = load_keyring([key.get_secret_value() for key in settings.api_keys], settings.api_keys_file)
    metrics = Metrics()
    app.state.storage = Storage(settings)
    app.state.service = Service(settings, metrics, app.state.storage)
    app.state.recorder = Recorder(settings, app.state.storage, metrics.count_stored)
    app.state.shadows = Shadows(app.state.service, app.state.recorder)
    for family in (chat, completions, stored, feedback, labeling, files, fine_tuning, cycles, models, policies, health):
        app.include_router(family.router)
    add_components(app)
    _make_routes(app)
    install_error_handlers(app)
    app.add_middleware(
        EdgeMiddleware,
        max_body_bytes=settings.max_body_bytes,
        max_body_bytes_of={files.PATH: settings.max_file_bytes},
        count_error=metrics.count_error,
    )
    return app


def _make_routes(app: FastAPI) -> None:
    """FastAPI makes the routes of a router when it is first asked for one: here, and not in somebody's first request,
    where a second application in the same process would build the same models at the same time."""
    for route in app.router.routes:
        route.matches({"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []})


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    recorder: Recorder = app.state.recorder
    settings: Settings = app.state.settings
    if app.state.keyring.keeps(settings.logging) or settings.retention_days or recorder.has_leftovers:
        recorder.start()
    loading = asyncio.create_task(service.load())
    app.state.loading = loading
    yield
    loading.cancel()
    app.state.shadows.cancel()
    await service.close()
    await recorder.close()
    app.state.storage.close()
