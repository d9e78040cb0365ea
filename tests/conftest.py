"""Fixtures that many tests need: a checkpoint folder of a tiny model, a running server of it, and stores."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from databases import KINDS, Postgres
from fakes import fake_load, save_tiny_policy
from fastapi import FastAPI
from openai import OpenAI
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from honed.server import arrivals, policies
from honed.server.app import create_app
from honed.server.health import Status
from honed.server.served import ServedPolicy
from honed.server.settings import Settings
from honed.server.store.database import database_url, open_database
from honed.server.store.migrations import migrate

torch.set_num_threads(1)  # tiny models gain nothing from more, and threads that wait for each other spin


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until something holds that another thread or process brings about."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to hold"
        time.sleep(0.01)


@dataclass(frozen=True)
class LiveServer:
    """The real application under a real uvicorn on loopback. `url` has no `/v1`."""

    url: str
    model: str
    app: FastAPI

    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    @property
    def served(self) -> ServedPolicy:
        served: ServedPolicy = self.app.state.service.current()
        return served

    def gauge(self, name: str) -> float:
        """The value of a metric with one label set, such as `vllm:num_requests_running`."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def long_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with room for answers that take a while."""
    return save_tiny_policy(tmp_path_factory.mktemp("checkpoints") / "long", max_position_embeddings=8192)


@pytest.fixture(scope="session")
def live_server(tiny_checkpoint: Path) -> Iterator[LiveServer]:
    # float32, so that an answer does not depend on what else is in the batch.
    with running(Settings(model=str(tiny_checkpoint), dtype="float32", kv_cache_gib=0.02)) as server:
        yield server


@pytest.fixture(scope="session")
def openai_client(live_server: LiveServer) -> Iterator[OpenAI]:
    with live_server.openai() as client:
        yield client


@pytest.fixture(scope="session")
def http_client(live_server: LiveServer) -> Iterator[httpx.Client]:
    with live_server.http() as client:
        yield client


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.cleanup()


@pytest.fixture(params=KINDS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """A store without rows, on either database."""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        return server.new_store()
    url = database_url(None, tmp_path)
    migrate(open_database(url))
    return url


@pytest.fixture
def store(store_url: URL) -> Iterator[Engine]:
    """The same, opened."""
    engine = open_database(store_url)
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def patient() -> Iterator[None]:
    """Servers in this process wait for their writer, which has the lowest priority, also where the machine has much
    else to do; not as long as a client waits for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrivals, "PATIENCE_S", 50.0)
        patch.setattr(arrivals, "LIST_PATIENCE_S", 50.0)
        yield


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that are started answer at once, always the same."""
    monkeypatch.setattr(policies, "load", fake_load)


class running:  # noqa: N801 (used as a function is: `with running(settings) as server`)
    """Starts a server of its own, waits until it is ready, and stops it. It writes to a folder of its own, and
    remembers nothing, unless the settings say so."""

    def __init__(self, settings: Settings) -> None:
        self._home = tempfile.TemporaryDirectory()
        own = {"home": Path(self._home.name), "logging": "off"}
        wanted = {name: value for name, value in own.items() if name not in settings.model_fields_set}
        self._settings = settings.model_copy(update=wanted)

    def __enter__(self) -> LiveServer:
        app = create_app(self._settings)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        ready = threading.Event()
        while not ready.wait(0.05) and app.state.service.health().status is Status.LOADING:
            assert self._thread.is_alive(), "the server ended before it was ready"
        health = app.state.service.health()
        assert health.status is Status.READY, health.detail
        host, port = self._socket.getsockname()
        return LiveServer(f"http://{host}:{port}", str(health.model), app)

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        self._home.cleanup()
