"""Servers whose engine answers with given texts, and what labelers and admins send them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from completions import add
from conftest import LiveServer, running
from fakes import FakeEngine, fake_load, tiny_tokenizer
from sqlalchemy import Engine, select

from honed.models.engine.engine import Token
from honed.models.engine.sampler import Sample
from honed.models.engine.sequence import Sequence
from honed.server import policies
from honed.server.settings import Settings
from honed.server.store.database import reading
from honed.server.store.tables import Completion

INVALID = "invalid_request_error"


class ScriptedEngine(FakeEngine):
    """Answers each sequence with the next of some texts, and never where that is None. `asked`: the sequences; `peak`:
    how many ran at once."""

    def __init__(self, texts: Iterator[str | None]) -> None:
        super().__init__([2])
        self.asked: list[Sequence] = []
        self.peak = 0
        self._texts = texts
        self._answers: dict[Sequence, list[Sample]] = {}

    def add(self, sequence: Sequence) -> None:
        text = next(self._texts)
        if text is not None:
            ids = [*tiny_tokenizer().encode(text, add_special_tokens=False), 2]
            self._answers[sequence] = [Sample(token_id, -0.5, (), is_finite=True) for token_id in ids]
        self.asked.append(sequence)
        super().add(sequence)
        self.peak = max(self.peak, self.stats().running)

    def step(self) -> list[Token]:
        answering = [sequence for sequence in self._running if sequence in self._answers]
        if not answering:
            time.sleep(0.001)  # the engine's thread asks again at once
        return [self._next(sequence) for sequence in answering]

    def _next(self, sequence: Sequence) -> Token:
        self._answer = self._answers[sequence]
        return super()._next(sequence)


def numbered() -> Iterator[str]:
    return (f"Answer {number}." for number in range(10_000))


@contextmanager
def scripted(
    texts: Iterator[str | None] | None = None, settings: Settings | None = None
) -> Iterator[tuple[LiveServer, ScriptedEngine]]:
    """A server that answers with the texts, and its engine."""
    engine = ScriptedEngine(numbered() if texts is None else texts)
    stand_in: Any = engine
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # until it has loaded: other servers are to load something else
            patch.setattr(policies, "load", lambda given: replace(fake_load(given), engine=stand_in))
            server = stack.enter_context(running(settings or Settings()))
        yield server, engine


def database(server: LiveServer) -> Engine:
    store: Engine = server.app.state.storage.engine
    return store


def fill(server: LiveServer, prompts: int) -> list[str]:
    """Stores so many prompts; the ids of their completions."""
    return [add(database(server), f"Question {number}", user=f"user-{number}") for number in range(prompts)]


def order(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Asks for tasks, one unless the fields say more."""
    response = http.post("/v1/labeling/tasks", json={"count": 1} | fields)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


def lease(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/labeling/leases", json=fields)
    assert response.status_code == 200, response.text
    task: dict[str, Any] = response.json()
    return task


def ranked(task: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A ranking in the order in which the answers are shown."""
    return {"verdict": "ranked", "ranking": [[answer["label"]] for answer in task["answers"]]} | fields


def seen(response: httpx.Response) -> tuple[int, str, str | None, str | None]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["code"], error["param"]


def as_key(server: LiveServer, key: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60, headers={"authorization": f"Bearer {key}"})


def rows(server: LiveServer, table: Any) -> Items[Any]:
    with reading(database(server)) as connection:
        return connection.execute(select(table)).all()


def labeled(server: LiveServer) -> Items[Any]:
    """The completions that tasks are made of."""
    return [row for row in rows(server, Completion) if row.source == "labeling"]
