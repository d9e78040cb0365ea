"""A home with checkpoints that a store knows, servers of them, and what is asked of those."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from conftest import LiveServer, running
from fakes import tiny_model, tiny_tokenizer
from pydantic import SecretStr
from sqlalchemy.engine import URL
from test_engine import generate
from transformers import PreTrainedModel

from honed.models.checkpoint import Lineage, new_checkpoint_id, save_checkpoint
from honed.server.engines import Engines
from honed.server.settings import Settings
from honed.server.store.database import database_url, open_database, writing
from honed.server.store.migrations import migrate
from honed.server.store.snapshots import register_checkpoint

CLIENT, ADMIN = "sk-client-0123456789abcdef", "sk-admin-0123456789abcdef"
PROMPT = [7, 30, 31, 200, 41, 5] * 3
GREEDY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, "return_token_ids": True}
ENDLESS = GREEDY | {"max_tokens": 2000, "ignore_eos": True, "stream": True}


@dataclass(frozen=True)
class Home:
    """`HONED_HOME`, and the store. `ids`: of the checkpoints, by name."""

    folder: Path
    url: URL
    ids: dict[str, str] = field(default_factory=dict)
    models: dict[str, PreTrainedModel] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, url: URL | None = None) -> Home:
        return cls(folder, url or database_url(None, folder))

    def add(self, name: str, *, stage: Any = "sft", is_registered: bool = True, **overrides: Any) -> Path:
        """A checkpoint that answers differently from all others."""
        tokenizer = tiny_tokenizer()
        model = tiny_model(seed=len(self.ids), vocab_size=len(tokenizer), **overrides)
        self.models[name] = model
        self.ids[name] = new_checkpoint_id()
        created = datetime(2026, 1, 1, 0, len(self.ids), tzinfo=UTC)
        lineage = Lineage(id=self.ids[name], name=name, stage=stage, source="random", created=created)
        folder = save_checkpoint(self.folder / "models" / name, model, tokenizer, lineage)
        if is_registered:
            self.register(lineage, folder)
        return folder

    def register(self, lineage: Lineage, folder: Path) -> None:
        engine = open_database(self.url)
        if self.url.drivername == "sqlite":
            migrate(engine)
        with writing(engine) as connection:
            register_checkpoint(
                connection, id=lineage.id, created=lineage.created, name=lineage.name, stage=lineage.stage,
                parent_id=None, snapshot_id=None, folder=str(folder), settings={}, metrics={},
            )  # fmt: skip
        engine.dispose()

    def settings(self, model: str = "base", **fields: Any) -> Settings:
        given: dict[str, Any] = {
            "home": self.folder, "model": str(self.folder / "models" / model), "dtype": "float32",
            "kv_cache_gib": 0.01, "logging": "off", "database_url": self.url.render_as_string(hide_password=False),
        }  # fmt: skip
        return Settings(**given | fields)

    def greedy(self, name: str, prompt: list[int] = PROMPT, max_tokens: int = 16) -> list[int]:
        """What transformers answers with that checkpoint."""
        return generate(self.models[name], prompt, max_tokens)


@contextmanager
def by_role(home: Home) -> Iterator[tuple[LiveServer, httpx.Client, httpx.Client]]:
    """A server with keys, a client's requests to it, and an admin's."""
    keys = (SecretStr(CLIENT), SecretStr(f"{ADMIN} role=admin"))
    with running(home.settings(api_keys=keys)) as server:
        client, admin = (
            httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=60)
            for key in (CLIENT, ADMIN)
        )
        with client, admin:
            yield server, client, admin


def ask(http: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    return http.post("/v1/completions", json=GREEDY | {"model": model} | fields)


def token_ids(response: httpx.Response) -> list[int]:
    assert response.status_code == 200, response.text
    ids: list[int] = response.json()["choices"][0]["token_ids"]
    return ids


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def events(response: httpx.Response) -> list[str]:
    """The payloads of a stream, when it has ended."""
    return [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]


def streamed_ids(payloads: list[str]) -> list[int]:
    *chunks, done = payloads
    assert done == "[DONE]"
    return [token for chunk in chunks for token in json.loads(chunk)["choices"][0].get("token_ids") or []]


def engines(server: LiveServer) -> Engines:
    found: Engines = server.app.state.service.engines
    return found


def states(http: httpx.Client) -> dict[str, str]:
    return {policy["name"]: policy["state"] for policy in http.get("/v1/policies").json()["data"]}


def promote(http: httpx.Client, name: str) -> dict[str, Any]:
    response = http.post(f"/v1/policies/{name}/promote")
    assert response.status_code == 200, response.text
    policy: dict[str, Any] = response.json()
    assert (policy["name"], policy["state"]) == (name, "current")
    return policy
