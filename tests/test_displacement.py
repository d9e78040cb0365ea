"""A policy in the place of the current one, where there is room for one: nothing is cut, nothing is refused that can
wait, and what went comes back where the other cannot be had."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually, running
from policies_server import (
    ENDLESS,
    Home,
    ask,
    engines,
    error_of,
    events,
    promote,
    states,
    streamed_ids,
    token_ids,
)

from honed.models.policy import PolicyError
from honed.server import displacement
from honed.server import engines as engines_module
from honed.server.displacement import Displacement


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """`base` is what the settings name; `one` and `two` are in the store."""
    home = Home.at(tmp_path)
    home.add("base", stage="source", is_registered=False, max_position_embeddings=4096)
    for name in ("one", "two"):
        home.add(name, max_position_embeddings=4096)
    return home


@pytest.fixture
def server(home: Home) -> Iterator[LiveServer]:
    with running(home.settings(max_policies=1)) as server:
        yield server


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def displacement_of(server: LiveServer) -> Displacement:
    found: Displacement = server.app.state.service._displacement
    return found


def is_paused(server: LiveServer) -> bool:
    return not displacement_of(server)._open.is_set()


@contextmanager
def streaming(server: LiveServer, name: str = "honed") -> Iterator[httpx.Response]:
    with server.http() as http, http.stream("POST", "/v1/completions", json=ENDLESS | {"model": name}) as stream:
        yield stream


def promotions(http: httpx.Client) -> list[str]:
    return [each["policy"] for each in http.get("/v1/policies/history").json()["data"]]


def test_the_new_one_comes_in_the_place_of_the_old(home: Home, http: httpx.Client) -> None:
    assert error_of(ask(http, "one")) == (503, "no_room_for_policy"), "there is room for one"
    promote(http, "one")
    assert states(http) == {"one": "current", "base": "unloaded", "two": "unloaded"}
    assert token_ids(ask(http, "honed")) == home.greedy("one")
    assert http.post("/v1/policies/rollback").json()["name"] == "base"
    assert token_ids(ask(http, "honed")) == home.greedy("base")


def test_what_runs_ends_on_the_old_one_and_what_is_asked_meanwhile_waits_for_the_new(
    home: Home, server: LiveServer, http: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    with streaming(server) as stream:
        promoted = pool.submit(promote, http, "one")
        eventually(lambda: is_paused(server))
        asked = [pool.submit(ask, http, name) for name in ("honed", "honed", "one")]
        listed = pool.submit(http.get, "/v1/models")
        assert not promoted.done()
        assert engines(server).current is not None, "it still answers"
        payloads = events(stream)
    promoted.result()
    assert streamed_ids(payloads) == home.greedy("base", max_tokens=2000)
    assert json.loads(payloads[-2])["choices"][0]["finish_reason"] == "length"
    assert [token_ids(each.result()) for each in asked] == [home.greedy("one")] * 3
    assert listed.result().status_code == 200
    assert not is_paused(server)


def test_under_load_nothing_is_cut_or_refused(
    home: Home, server: LiveServer, http: httpx.Client, pool: ThreadPoolExecutor
) -> None:
    ending = threading.Event()
    known = {name: home.greedy(name) for name in ("base", "one", "two")}

    def client() -> set[str]:
        """Who answered; each answer is whole, and of one policy."""
        seen = set()
        while not ending.is_set():
            response = ask(http, "honed").json()
            assert response["choices"][0]["token_ids"] == known[response["model"]]
            seen.add(response["model"])
        return seen

    clients: list[Future[set[str]]] = [pool.submit(client) for _ in range(4)]
    try:
        for name in ("one", "two", "one"):
            promote(http, name)
    finally:
        ending.set()
    assert set.union(*(each.result() for each in clients)) <= set(known)
    assert states(http) == {"one": "current", "base": "unloaded", "two": "unloaded"}


def test_an_idle_one_goes_first(home: Home) -> None:
    """Without a pause: there is room for both once `one` has gone."""
    with running(home.settings(max_policies=2)) as server, server.http() as http:
        ask(http, "one")
        with streaming(server) as stream:
            promote(http, "two")
            assert states(http) == {"two": "current", "base": "loaded", "one": "unloaded"}
            assert len(streamed_ids(events(stream))) == 2000


def test_what_cannot_be_loaded_leaves_the_old_one(home: Home, http: httpx.Client) -> None:
    (home.folder / "models" / "one" / "model.safetensors").write_bytes(b"rubbish")
    refused = http.post("/v1/policies/one/promote")
    assert error_of(refused) == (500, "policy_unloadable"), refused.text
    assert promotions(http) == []
    assert states(http)["base"] == "current"
    assert token_ids(ask(http, "honed")) == home.greedy("base")


def test_one_that_fails_when_the_old_one_has_gone_brings_it_back(
    home: Home, server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = engines_module.load_folder

    def fail_for_one(settings: Any, folder: Path, **named: Any) -> Any:
        if named["name"] == "one":
            raise PolicyError("its numbers are not finite")
        return load(settings, folder, **named)

    monkeypatch.setattr(engines_module, "load_folder", fail_for_one)
    before = engines(server).current
    refused = http.post("/v1/policies/one/promote")
    assert error_of(refused)[1] == "policy_unloadable", refused.text
    assert engines(server).current not in (None, before), "it went, and came back"
    assert token_ids(ask(http, "honed")) == home.greedy("base")
    assert (http.get("/health").status_code, promotions(http)) == (200, [])


def test_where_the_old_one_does_not_come_back_the_server_says_that_it_failed(
    server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise PolicyError("the disk is gone")

    monkeypatch.setattr(engines_module, "load_folder", fail)
    assert error_of(http.post("/v1/policies/one/promote")) == (500, "policy_unloadable")
    health = http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "failed")
    assert "base went to make room, and does not come back" in health.json()["detail"]
    assert error_of(ask(http, "honed")) == (503, "engine_dead")


def test_answers_that_take_long_are_not_cut(home: Home) -> None:
    """The promotion is given up, and nobody has to wait for another try at once."""
    with running(home.settings(max_policies=1, drain_timeout_s=0.2)) as server, server.http() as http:
        with streaming(server) as stream:
            assert error_of(http.post("/v1/policies/one/promote")) == (503, "no_room_for_policy")
            assert not is_paused(server)
            assert token_ids(ask(http, "honed")) == home.greedy("base")
            again = http.post("/v1/policies/one/promote")
            assert error_of(again) == (503, "no_room_for_policy")
            assert 1 <= int(again.headers["retry-after"]) <= displacement.AGAIN_S
            assert len(streamed_ids(events(stream))) == 2000
        displacement_of(server)._not_before_s = 0.0
        promote(http, "one")


def test_who_waits_longer_than_a_request_may_take_is_told(
    home: Home, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = threading.Event()
    load = engines_module.load_folder

    def slow(*given: Any, **named: Any) -> Any:
        going_on.wait(60)
        return load(*given, **named)

    monkeypatch.setattr(engines_module, "load_folder", slow)
    with running(home.settings(max_policies=1, request_timeout_s=0.5)) as server, server.http() as http:
        promoted = pool.submit(http.post, "/v1/policies/one/promote")
        eventually(lambda: engines(server).current is None)
        assert http.get("/health").json()["status"] == "loading"
        assert error_of(ask(http, "honed")) == (503, "model_loading")
        going_on.set()
        assert promoted.result().status_code == 200
        assert token_ids(ask(http, "honed", max_tokens=1)) == home.greedy("one", max_tokens=1)


def test_a_server_that_goes_down_keeps_nobody_waiting(home: Home, pool: ThreadPoolExecutor) -> None:
    with running(home.settings(max_policies=1)) as server, server.http() as http:
        with streaming(server) as stream:
            promoted = pool.submit(http.post, "/v1/policies/one/promote")
            eventually(lambda: is_paused(server))
            asked = pool.submit(ask, http, "honed")
            displacement_of(server).end()
            server.app.state.service._draining = True
            assert error_of(asked.result()) == (503, "shutting_down")
            assert len(streamed_ids(events(stream))) == 2000
        promoted.result()


def test_a_server_that_follows_makes_room_too(home: Home) -> None:
    settings = home.settings(max_policies=1)
    with running(settings) as first, running(settings) as second, first.http() as http, second.http() as other:
        promote(http, "one")
        eventually(lambda: states(other)["one"] == "current")
        assert token_ids(ask(other, "honed")) == home.greedy("one")
