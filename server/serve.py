"""`honed serve`: uvicorn around the application, with a drain before it closes.

On SIGTERM or Ctrl-C `/health` turns 503 and new requests are refused, running answers finish for up to
`drain_timeout_s`, then the server closes and the process ends with status 0. A second signal cuts the wait short: what
runs ends with an error event.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

import uvicorn
from fastapi import FastAPI

from honed.models.sources import honed_home, pull
from honed.server.app import create_app
from honed.server.auth import require_safe_binding
from honed.server.health import Status
from honed.server.loading import is_loading
from honed.server.policies import Service
from honed.server.settings import Settings

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CLOSE_S = 5  # for connections that are still open when the drain is over


class DrainingServer(uvicorn.Server):
    """Announces itself when the model is loaded, ends when that fails, and drains before it closes."""

    def __init__(self, app: FastAPI, settings: Settings, on_ready: Callable[[str, str], None]) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,  # the middleware writes one
            timeout_graceful_shutdown=CLOSE_S,
        )
        super().__init__(config)
        self._app = app
        self._drain_timeout_s = settings.drain_timeout_s
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._drains: list[asyncio.Task[None]] = []  # one a signal

    @property
    def _service(self) -> Service:
        service: Service = self._app.state.service
        return service

    @property
    def status(self) -> int:
        """The exit status: 1 when the model could not be loaded or its engine died."""
        return 1 if self._service.health().status is Status.FAILED else 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._announcing = asyncio.create_task(self._announce())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """Called by uvicorn in a signal handler. Not passed on to uvicorn, which would end with the signal's status."""
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin_drain)

    async def _announce(self) -> None:
        await self._app.state.loading
        health = self._service.health()
        if health.status is Status.READY:
            self._on_ready(_address(self), str(health.model))
        elif health.status is Status.FAILED:
            self.should_exit = True

    def _begin_drain(self) -> None:
        timeout_s = 0 if self._drains else self._drain_timeout_s
        self._drains.append(asyncio.create_task(self._drain(timeout_s)))

    async def _drain(self, timeout_s: float) -> None:
        self._app.state.shadows.cancel()
        await self._service.drain(timeout_s)
        self.should_exit = True


def serve(settings: Settings, *, on_ready: Callable[[str, str], None]) -> int:
    """Serves until a signal comes; the exit status. `on_ready` is called with the server's address and the model's name
    once it answers.

    Fetches the model first where it is not there yet. Raises ValueError where it may not or cannot listen, or the API
    keys cannot be read, and SourceError where there is no such model: all before anything slow is done.
    """
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stderr, format=LOG_FORMAT)
    logging.getLogger("sse_starlette").setLevel(logging.INFO)  # at debug it logs every chunk, and so the answers
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it reports each look at the tables
    app = create_app(settings)
    require_safe_binding(settings.host, app.state.keyring)
    server = DrainingServer(app, settings, on_ready)
    with _bound(settings.host, settings.port) as listener:
        pull(settings.model, settings.home or honed_home())
        asyncio.run(server.serve(sockets=[listener]))
    if is_loading():
        # The loading thread is in the middle of native code, which must not meet the interpreter's teardown.
        os._exit(server.status)
    return server.status


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet. A port that is taken is the commonest mistake of all, and
    should not come out after a download."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as closing:
            listener = closing.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            closing.pop_all()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"cannot listen on {host}:{port} ({reason}): choose another with --port or --host") from error
    return listener


def _address(server: uvicorn.Server) -> str:
    """The address that clients on this machine use, also where the port was left to the system."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"
