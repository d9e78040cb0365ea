"""A policy in the place of the current one, where there is room for one: nothing is cut, nothing is refused that can
wait, and what went comes back where the other cannot be had."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from candidates import filled
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
from test_trying_out import promote_in_store

from honed.models.policy import PolicyError
from honed.server import displacement, policies
from honed.server import engines as engines_module
from honed.server.displacement import Displacement
from honed.server.errors import StoreUnavailable
from honed.server.registry import KnownPolicy
from honed.server.store import promotions as promotions_module


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """`base` is what the settings name; `one` and `two` are in the store."""
    return filled(Home.at(tmp_path))


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
    return displacement_of(server).is_going_on


def holds(server: LiveServer, count: int) -> bool:
    """Whether so many requests wait."""
    return displacement_of(server)._waiting == count


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is loaded from here on, in this order."""
    names: list[str] = []
    load = engines_module.load_folder

    def noted(*given: Any, **named: Any) -> Any:
        names.append(named["name"])
        return load(*given, **named)

    monkeypatch.setattr(engines_module, "load_folder", noted)
    return names


@contextmanager
def streaming(server: LiveServer, name: str = "honed") -> Iterator[httpx.Response]:
    with server.http() as http, http.stream("POST", "/v1/completions", json=ENDLESS | {"model": name}) as stream:
        yield stream


def states_inside(server: LiveServer) -> dict[str, str]:
    """Of what is loaded, without a request."""
    return {known.name: engines(server).state(known)[0] for known in engines(server).known}


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
        eventually(lambda: holds(server, 4))
        assert http.get("/health").json()["status"] == "loading"
        assert states_inside(server) == {"base": "current"}
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
    assert len(set.union(*(each.result() for each in clients))) > 1, "it happened under load"
    assert states(http) == {"one": "current", "base": "unloaded", "two": "unloaded"}


def test_two_promotions_at_once(
    home: Home, server: LiveServer, http: httpx.Client, pool: ThreadPoolExecutor, loads: list[str]
) -> None:
    """Of one policy: it is loaded once. Of two: one after the other."""
    with streaming(server) as stream:
        same = [pool.submit(promote, http, "one") for _ in range(2)]
        eventually(lambda: is_paused(server))
        events(stream)
    assert [each.result()["name"] for each in same] == ["one", "one"]
    assert loads == ["one"]
    others = [pool.submit(http.post, f"/v1/policies/{name}/promote") for name in ("two", "base")]
    assert [each.result().status_code for each in others] == [200, 200]
    current = next(name for name, state in states(http).items() if state == "current")
    assert current == promotions(http)[0]
    assert token_ids(ask(http, "honed")) == home.greedy(current)


def test_one_that_nobody_uses_goes_first(home: Home) -> None:
    with running(home.settings(max_policies=2)) as server, server.http() as http:
        ask(http, "one")
        with streaming(server) as stream:
            promote(http, "two")  # or it would wait for the stream
            assert states(http) == {"two": "current", "base": "loaded", "one": "unloaded"}
            assert len(streamed_ids(events(stream))) == 2000


def test_one_that_will_soon_be_unused_is_waited_for(
    home: Home, pool: ThreadPoolExecutor, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody else has to wait meanwhile."""
    monkeypatch.setattr(displacement, "POLITE_S", 60.0)  # "soon" is a matter of the machine
    with running(home.settings(max_policies=2)) as server, server.http() as http:
        with streaming(server, "one") as stream:
            promoted = pool.submit(promote, http, "two")
            assert token_ids(ask(http, "honed")) == home.greedy("base")
            assert not is_paused(server)
            events(stream)
        promoted.result()
        assert states(http) == {"two": "current", "base": "idle", "one": "unloaded"}
        assert loads == ["one", "two"]


def test_beside_a_candidate(home: Home) -> None:
    """It keeps its place as long as it is tried out, which a promotion ends."""
    with running(home.settings(max_policies=2)) as server, server.http() as http:
        assert http.post("/v1/policies/one/canary", json={"share": 1}).status_code == 200
        promote(http, "two")
        assert states(http) == {"two": "current", "one": "idle", "base": "unloaded"}
        assert token_ids(ask(http, "honed")) == home.greedy("two")


def test_what_cannot_be_loaded_leaves_the_old_one(home: Home, server: LiveServer, http: httpx.Client) -> None:
    """Where that shows before anything goes."""
    before = engines(server).current
    (home.folder / "models" / "one" / "model.safetensors").write_bytes(b"rubbish")
    refused = http.post("/v1/policies/one/promote")
    assert error_of(refused) == (500, "policy_unloadable"), refused.text
    assert promotions(http) == []
    assert engines(server).current is before
    assert token_ids(ask(http, "honed")) == home.greedy("base")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, loads: list[str]) -> set[str]:
    """Names of policies that fail once their weights are read."""
    names: set[str] = set()
    load = engines_module.load_folder

    def fail(*given: Any, **named: Any) -> Any:
        loaded = load(*given, **named)
        if named["name"] in names:
            raise PolicyError("its numbers are not finite")
        return loaded

    monkeypatch.setattr(engines_module, "load_folder", fail)
    return names


def test_one_that_fails_when_the_old_one_has_gone_brings_it_back(
    home: Home, server: LiveServer, http: httpx.Client, broken: set[str], loads: list[str]
) -> None:
    broken.add("one")
    assert error_of(http.post("/v1/policies/one/promote")) == (500, "policy_unloadable")
    assert loads == ["one", "base"]
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
    assert health.json()["detail"] == "base went to make room, and does not come back: the disk is gone"
    assert error_of(ask(http, "honed")) == (503, "engine_dead")


def test_one_that_was_loaded_and_is_not_made_current_goes_again(
    home: Home, server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(promotions_module, "promote", refuse)
    assert error_of(http.post("/v1/policies/one/promote")) == (503, "store_unavailable")
    assert loads == ["one", "base"]
    assert states(http)["base"] == "current"
    assert token_ids(ask(http, "honed")) == home.greedy("base")


def test_answers_that_take_long_are_not_cut(home: Home) -> None:
    with running(home.settings(max_policies=1, drain_timeout_s=0.2)) as server, server.http() as http:
        with streaming(server) as stream:
            assert error_of(http.post("/v1/policies/one/promote")) == (503, "no_room_for_policy")
            assert not is_paused(server)
            assert token_ids(ask(http, "honed")) == home.greedy("base")
            assert len(streamed_ids(events(stream))) == 2000
        promote(http, "one")


def test_a_server_that_follows_leaves_alone_what_failed(
    home: Home, monkeypatch: pytest.MonkeyPatch, broken: set[str], loads: list[str]
) -> None:
    """Or its users would wait again and again."""
    monkeypatch.setattr(policies, "FOLLOW_S", 0.01)
    monkeypatch.setattr(engines_module, "UNLOADABLE_S", 0.0)
    with running(home.settings(max_policies=1)) as server, server.http() as http:
        tries: list[str] = []
        leased = displacement_of(server).leased

        def noted(known: KnownPolicy, **named: Any) -> Any:
            tries.append(known.name)
            return leased(known, **named)

        monkeypatch.setattr(displacement_of(server), "leased", noted)
        broken.add("one")
        promote_in_store(home, "one")
        eventually(lambda: len(tries) > 5)
        assert loads == ["one", "base"]
        assert "no room" in http.get("/health").json()["detail"]
        broken.clear()
        promote(http, "one")  # by hand it is tried at once
        assert token_ids(ask(http, "honed")) == home.greedy("one")


def test_no_more_wait_than_may(home: Home, pool: ThreadPoolExecutor) -> None:
    with running(home.settings(max_policies=1, max_queue=2)) as server, server.http() as http:
        with streaming(server) as stream:
            promoted = pool.submit(promote, http, "one")
            eventually(lambda: is_paused(server))
            asked = [pool.submit(ask, http, "honed") for _ in range(2)]
            eventually(lambda: holds(server, 2))
            assert error_of(ask(http, "honed")) == (503, "overloaded")
            events(stream)
        promoted.result()
        assert [token_ids(each.result()) for each in asked] == [home.greedy("one")] * 2


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
        assert engines(server).known[0].name == "one"


def test_a_server_that_goes_down_keeps_nobody_waiting(home: Home, pool: ThreadPoolExecutor) -> None:
    with running(home.settings(max_policies=1)) as server, server.http() as http:
        with streaming(server) as stream:
            promoted = pool.submit(http.post, "/v1/policies/one/promote")
            eventually(lambda: is_paused(server))
            asked = pool.submit(ask, http, "honed")
            eventually(lambda: holds(server, 1))
            service = server.app.state.service
            drained = asyncio.run_coroutine_threadsafe(service.drain(60), service._following.get_loop())
            assert error_of(asked.result()) == (503, "shutting_down")
            assert http.get("/health").json()["status"] == "draining"
            assert len(streamed_ids(events(stream))) == 2000
        assert error_of(promoted.result()) == (503, "shutting_down")
        drained.result()


def test_a_server_that_follows_makes_room_too(home: Home) -> None:
    settings = home.settings(max_policies=1)
    with running(settings) as first, running(settings) as second, first.http() as http, second.http() as other:
        promote(http, "one")
        eventually(lambda: states(other)["one"] == "current")
        assert token_ids(ask(other, "honed")) == home.greedy("one")
