"""Policies that are tried out: servers that do it, what is asked of them, and what they say. A test module has the
fixtures `looks_often`, `home`, `server` and `http` where it names them as its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually, running
from policies_server import Home, ask, states

from honed.server import opinions, policies
from honed.server.store import promotions
from honed.server.store.database import open_database, writing

NEVER = 10.0**6  # seconds
USERS = [f"user {number}" for number in range(40)]


def filled(home: Home) -> Home:
    home.add("base", stage="source", is_registered=False, max_position_embeddings=4096)
    for name in ("one", "two"):
        home.add(name, max_position_embeddings=4096)
    return home


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "FOLLOW_S", 0.05)
    monkeypatch.setattr(opinions, "COUNT_S", 0.0)
    monkeypatch.setattr(opinions, "REST", 0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return filled(Home.at(tmp_path))


@pytest.fixture
def server(home: Home) -> Iterator[LiveServer]:
    with running(home.settings(canary_step_s=NEVER)) as server:
        yield server


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


def try_out(http: httpx.Client, name: str, share: int, **fields: Any) -> None:
    response = http.post(f"/v1/policies/{name}/canary", json={"share": share} | fields)
    assert response.status_code == 200, response.text
    policy = response.json()
    assert (policy["name"], policy["state"], policy["share"]) == (name, "candidate", share)


def try_out_in_store(home: Home, name: str, share: int = 10) -> None:
    """As a training does it."""
    engine = open_database(home.url)
    with writing(engine) as connection:
        promotions.try_out(connection, home.ids[name], share=share, advances=True, key_id=None)
    engine.dispose()


def give_to_all(home: Home, http: httpx.Client, name: str) -> None:
    """So that it is known who answers."""
    try_out_in_store(home, name, 100)
    eventually(lambda: states(http)[name] == "candidate" and policy(http, name)["share"] == 100)


def policy(http: httpx.Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in http.get("/v1/policies").json()["data"] if each["name"] == name)
    return found


def history(http: httpx.Client) -> list[dict[str, Any]]:
    """The newest first."""
    changes: list[dict[str, Any]] = http.get("/v1/policies/history").json()["data"]
    return changes


def is_out(http: httpx.Client) -> bool:
    return "candidate" not in states(http).values()


def answered_by(http: httpx.Client, **fields: Any) -> str:
    response = ask(http, "honed", **fields)
    assert response.status_code == 200, response.text
    return str(response.json()["model"])
