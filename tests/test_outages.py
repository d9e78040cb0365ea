"""The store goes away and comes back, the server is killed: nothing that was answered is lost, nothing is there twice.

The server is a process of its own with an engine that answers at once, under load from this one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import eventually
from databases import Postgres
from sqlalchemy import Engine, select
from sqlalchemy.engine import URL

from honed.server.store import journal
from honed.server.store.database import open_database, reading
from honed.server.store.tables import Choice, Completion

SERVE = """
import sys
from fakes import fake_load
from honed.server import policies
from honed.server.serve import serve
from honed.server.settings import Settings
policies.load = fake_load
sys.exit(serve(Settings(port=0, model=sys.argv[1]), on_ready=lambda url, _: print(url, flush=True)))
"""
GUARANTEE_S = 1.0  # what docs/operating.md promises of a server that is killed


class Server:
    """A process. `kill` takes its writer along, as the death of a container does."""

    def __init__(self, url: URL, home: Path, model: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HONED_")}
        environment |= {
            "HONED_DATABASE_URL": url.render_as_string(hide_password=False),
            "HONED_HOME": str(home),
            "HONED_LOGGING": "all",
            "PYTHONPATH": str(Path(__file__).parent),
            "OMP_NUM_THREADS": "1",
        }
        self._errors = (home / "errors").open("a")
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVE, str(model)],
            stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        assert self.popen.stdout is not None
        self.url = self.popen.stdout.readline().strip()
        assert self.url.startswith("http"), (home / "errors").read_text()

    def store(self) -> dict[str, object]:
        store: dict[str, object] = httpx.get(f"{self.url}/health").json()["store"]
        return store

    def kill(self) -> None:
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.close()

    def stop(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.close()

    def close(self) -> int:
        self.popen.communicate()
        self._errors.close()
        return self.popen.returncode


class Load:
    """Clients that ask without a pause. `answered`: completion id -> when its last byte was here."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.answered: dict[str, float] = {}
        self.failed: list[object] = []
        self._url = url
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(clients)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        eventually(lambda: len(self.answered) >= count or not any(thread.is_alive() for thread in self._threads))

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            turn = 0
            while not self._ending.is_set():
                turn += 1
                messages = [{"role": "user", "content": f"Question {turn} of client {client}"}]
                body = {"model": "honed", "messages": messages, "stream": turn % 2 == 0}
                try:
                    response = http.post("/v1/chat/completions", json=body)
                except httpx.HTTPError as error:
                    self.failed.append(error)
                    return
                if response.status_code != 200:
                    self.failed.append(response.text)
                    return
                self.answered[re.search(r'"id":"(chatcmpl-\w+)"', response.text)[1]] = time.monotonic()  # type: ignore[index]


def stored_ids(engine: Engine) -> set[str]:
    with reading(engine) as connection:
        ids = connection.execute(select(Completion.id)).scalars().all()
        assert len(ids) == len(connection.execute(select(Choice.completion_id)).all()), "one answer each"
    assert len(ids) == len(set(ids))
    return set(ids)


@contextmanager
def opened(url: URL) -> Iterator[Engine]:
    engine = open_database(url)
    yield engine
    engine.dispose()


def test_a_database_that_goes_away_and_comes_back(postgres: Postgres, tmp_path: Path, tiny_checkpoint: Path) -> None:
    url = postgres.new_store()
    server = Server(url, tmp_path, tiny_checkpoint)
    load = Load(server.url)
    try:
        load.wait_for(50)
        postgres.stop()
        load.wait_for(len(load.answered) + 50)
        eventually(lambda: server.store()["state"] == "down")
        load.wait_for(len(load.answered) + 50)
        assert httpx.get(f"{server.url}/health").status_code == 200, "it answers all the same"
        assert "honed_store_up 0.0" in httpx.get(f"{server.url}/metrics").text
        refused = httpx.get(f"{server.url}/v1/chat/completions")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    finally:
        postgres.start()
    load.wait_for(len(load.answered) + 50)
    load.end()
    assert load.failed == []
    with opened(url) as engine:
        eventually(lambda: server.store()["state"] == "up" and server.store()["pending"] == 0)
        assert stored_ids(engine) == load.answered.keys()
    assert server.store()["dropped"] == 0
    assert server.stop() == 0


@pytest.mark.parametrize("times", [3])
def test_a_server_that_is_killed_keeps_what_it_promised(
    store_url: URL, tmp_path: Path, tiny_checkpoint: Path, times: int
) -> None:
    promised: set[str] = set()
    everything: set[str] = set()
    for _ in range(times):
        server = Server(store_url, tmp_path, tiny_checkpoint)
        load = Load(server.url)
        load.wait_for(100)
        time.sleep(1.2 * GUARANTEE_S)  # so that there is something that is older
        killed_s = time.monotonic()
        server.kill()
        load.end()
        promised |= {name for name, at_s in load.answered.items() if at_s < killed_s - GUARANTEE_S}
        everything |= load.answered.keys()
    server = Server(store_url, tmp_path, tiny_checkpoint)  # takes over what the dead ones left
    with opened(store_url) as engine:
        eventually(lambda: not promised - stored_ids(engine))
        assert server.stop() == 0
        assert journal.segments(tmp_path / "journal") == []
        stored = stored_ids(engine)
    assert promised
    assert promised <= stored
    lost = everything - stored
    print(json.dumps({"answered": len(everything), "stored": len(stored), "lost": len(lost)}))


def test_a_drain_leaves_nothing_behind(store_url: URL, tmp_path: Path, tiny_checkpoint: Path) -> None:
    server = Server(store_url, tmp_path, tiny_checkpoint)
    load = Load(server.url)
    load.wait_for(100)
    load.end()
    assert server.stop() == 0
    with opened(store_url) as engine:
        assert stored_ids(engine) == load.answered.keys()
    assert journal.segments(tmp_path / "journal") == []


def test_a_store_that_is_away_when_the_server_starts(postgres: Postgres, tmp_path: Path, tiny_checkpoint: Path) -> None:
    url = postgres.new_store()
    postgres.stop()
    try:
        server = Server(url, tmp_path, tiny_checkpoint)
        body = {"model": "honed", "messages": [{"role": "user", "content": "Hi"}]}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()
        eventually(lambda: server.store()["state"] == "down")
        assert server.stop() == 0
    finally:
        postgres.start()
    assert len(journal.segments(tmp_path / "journal")) == 1, "it waits for the next server"
    server = Server(url, tmp_path, tiny_checkpoint)
    with opened(url) as engine:
        eventually(lambda: stored_ids(engine) == {answer["id"]})
    assert server.stop() == 0
