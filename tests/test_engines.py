"""Policies beside the current one: loaded when they are asked for, held as long as somebody uses them, freed when their
place or their memory is needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from conftest import LiveServer, eventually, running
from databases import Postgres
from policies_server import ENDLESS, Home, ask, engines, error_of, events, states, streamed_ids, token_ids
from torch import Tensor

from honed.models.checkpoint import read_lineage
from honed.models.engine.engine import Engine
from honed.server import engines as engines_module
from honed.server.loading import Loaded, load_folder
from honed.server.served import ServedPolicy


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """`base` is what the settings name; `one`, `two` and `three` are in the store."""
    home = Home.at(tmp_path)
    home.add("base", stage="source", is_registered=False, max_position_embeddings=4096)
    for name in ("one", "two", "three"):
        home.add(name, max_position_embeddings=4096)
    return home


@pytest.fixture
def server(home: Home) -> Iterator[LiveServer]:
    with running(home.settings()) as server:
        yield server


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


def served(server: LiveServer, home: Home, name: str) -> ServedPolicy:
    found = engines(server)._places[home.ids[name]].served
    assert found is not None
    return found


def tensors(policy: ServedPolicy) -> list[weakref.ref[Tensor]]:
    """The weights and the cache."""
    caches = [each for pair in policy._engine.runner.cache.layers.values() for each in pair]
    assert caches
    return [weakref.ref(each) for each in (*policy.policy.model.parameters(), *caches)]


def test_a_checkpoint_answers_by_its_name(server: LiveServer, home: Home, http: httpx.Client) -> None:
    own, other = ask(http, "honed"), ask(http, "one")
    assert token_ids(own) == home.greedy("base")
    assert token_ids(other) == home.greedy("one")
    assert token_ids(own) != token_ids(other)
    assert (other.json()["model"], other.json()["system_fingerprint"]) == ("one", home.ids["one"])
    chat = {"model": "one", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    assert http.post("/v1/chat/completions", json=chat).json()["system_fingerprint"] == home.ids["one"]
    assert token_ids(ask(http, "base")) == token_ids(own)
    assert server.served.policy.name == "base"
    assert http.get("/health").json()["model"] == "base"


def test_all_are_listed(home: Home, http: httpx.Client) -> None:
    home.add("judge", stage="reward")
    home.add("bare", is_registered=False)
    away = (home.folder / "models" / "two").rename(home.folder / "elsewhere")
    lineage = read_lineage(away)
    assert lineage is not None
    home.register(lineage.model_copy(update={"id": "ckpt-1", "name": "../elsewhere"}), away)
    names = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert names == ["honed", "base", "three", "one"]
    assert http.get("/v1/models/one").json()["created"] == http.get("/v1/policies").json()["data"][2]["created"]
    for name in ("two", "judge", "bare", "../elsewhere", "../models/one"):
        assert error_of(ask(http, name)) == (404, "model_not_found")
    assert error_of(http.get("/v1/models/two")) == (404, "model_not_found")
    ask(http, "one")
    policies = http.get("/v1/policies").json()["data"]
    assert [(policy["name"], policy["state"], policy["stage"]) for policy in policies] == [
        ("base", "current", "source"), ("one", "idle", "sft"), ("three", "unloaded", "sft")
    ]  # fmt: skip
    assert {policy["leases"] for policy in policies} == {0}
    assert policies[1]["id"] == home.ids["one"]


def test_a_checkpoint_that_was_just_registered_is_found(home: Home, http: httpx.Client) -> None:
    assert error_of(ask(http, "four")) == (404, "model_not_found")
    home.add("four")
    assert token_ids(ask(http, "four")) == home.greedy("four")


def test_of_two_checkpoints_in_a_folder_the_one_that_lies_there_is_meant(home: Home, http: httpx.Client) -> None:
    (home.folder / "models" / "one").rename(home.folder / "elsewhere")
    gone = home.ids["one"]
    home.add("one")
    assert ask(http, "one").json()["system_fingerprint"] == home.ids["one"] != gone
    assert token_ids(ask(http, "one")) == home.greedy("one")


def test_the_first_requests_share_one_loading(home: Home, server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), ThreadPoolExecutor(8) as clients, server.http() as http:
        answers = list(clients.map(lambda _: token_ids(ask(http, "one")), range(8)))
    assert answers == [home.greedy("one")] * 8
    assert sum(record.message.startswith("loaded one") for record in caplog.records) == 1


class Blocked:
    """In the place of `load_folder`: waits until it is let go."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Loaded:
        self.has_begun.set()
        assert self.may_go_on.wait(60)
        return load_folder(*args, **kwargs)


def test_the_current_policy_answers_while_another_is_loaded(
    home: Home, server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = Blocked()
    monkeypatch.setattr(engines_module, "load_folder", blocked)
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(ask, http, "one")
        assert blocked.has_begun.wait(60)
        assert token_ids(ask(http, "honed")) == token_ids(ask(http, "base")) == home.greedy("base")
        policy = next(each for each in http.get("/v1/policies").json()["data"] if each["name"] == "one")
        assert (policy["state"], policy["leases"]) == ("loading", 1)
        blocked.may_go_on.set()
        assert token_ids(waiting.result()) == home.greedy("one")


def test_who_waits_too_long_is_told_to_come_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = Blocked()
    monkeypatch.setattr(engines_module, "load_folder", blocked)
    with running(home.settings(request_timeout_s=0.5)) as server, server.http() as http:
        assert error_of(ask(http, "one")) == (503, "model_loading")
        blocked.may_go_on.set()
        eventually(lambda: states(http)["one"] == "idle")


def test_the_one_used_longest_ago_goes_first(home: Home) -> None:
    with running(home.settings(max_policies=3)) as server, server.http() as http:
        for name in ("one", "two", "one"):
            ask(http, name)
        ask(http, "three")
        assert states(http) == {"base": "current", "one": "idle", "two": "unloaded", "three": "idle"}
        ask(http, "honed")
        ask(http, "two")
        assert states(http) == {"base": "current", "one": "unloaded", "two": "idle", "three": "idle"}


def test_what_is_freed_gives_everything_back(home: Home, server: LiveServer, http: httpx.Client) -> None:
    ask(http, "one")
    victim = served(server, home, "one")
    thread, tokenizing, held = victim._thread._thread, victim.tokenizing, tensors(victim)
    ask(http, "two")
    assert states(http)["one"] == "unloaded"
    assert not thread.is_alive()
    assert [ref for ref in held if ref() is not None] == [], "whoever still knows the policy"
    eventually(lambda: not any(each.is_alive() for each in tokenizing._threads))
    measured = [line for line in http.get("/metrics").text.splitlines() if 'model_name="one"' in line]
    assert not [line for line in measured if line.startswith(("vllm:num_requests", "vllm:kv_cache"))]
    assert [line for line in measured if line.startswith("vllm:generation_tokens_total")], "what was counted stays"
    assert token_ids(ask(http, "one")) == home.greedy("one")
    assert 'vllm:num_requests_running{model_name="one"}' in http.get("/metrics").text


def test_a_policy_that_answers_is_not_taken_away(home: Home, server: LiveServer, http: httpx.Client) -> None:
    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "one"}) as stream:
        held = tensors(served(server, home, "one"))
        assert states(http)["one"] == "loaded"
        refused = ask(http, "two")
        assert error_of(refused) == (503, "no_room_for_policy")
        assert int(refused.headers["retry-after"]) >= 1
        payloads = events(stream)
    assert len(streamed_ids(payloads)) == 2000
    assert json.loads(payloads[-2])["choices"][0]["finish_reason"] == "length"
    eventually(lambda: states(http)["one"] == "idle")
    assert token_ids(ask(http, "two")) == home.greedy("two")
    assert not any(ref() is not None for ref in held)


def test_a_client_that_goes_away_gives_its_lease_back(home: Home, server: LiveServer, http: httpx.Client) -> None:
    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "one"}):
        assert served(server, home, "one").num_leases == 1
    eventually(lambda: served(server, home, "one").is_idle)
    with contextlib.suppress(httpx.ReadTimeout):
        http.post("/v1/completions", json=ENDLESS | {"model": "one", "stream": False}, timeout=0.2)
    eventually(lambda: served(server, home, "one").is_idle)
    refused = ask(http, "one", max_tokens=4, stop_token_ids=[10**6])
    assert refused.status_code == 400
    assert served(server, home, "one").is_idle


def remaining(server: LiveServer, whole: float, each: float) -> Callable[[], SimpleNamespace]:
    """In the place of psutil's: `whole` bytes, less `each` for every policy that is loaded."""
    return lambda: SimpleNamespace(available=int(whole - each * len(engines(server)._all_served())))


def test_an_idle_one_goes_where_two_do_not_fit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = 0.01 * 2**30
    with running(home.settings(max_policies=3)) as server, server.http() as http:
        ask(http, "one")
        # With two loaded and their caches promised, half of the rest is no quarter of a cache; with one, it is a whole.
        monkeypatch.setattr(psutil, "virtual_memory", remaining(server, 5.2 * cache, 0.9 * cache))
        assert token_ids(ask(http, "two")) == home.greedy("two")
        assert states(http) == {"base": "current", "one": "unloaded", "two": "idle", "three": "unloaded"}
        assert served(server, home, "two").cache_bytes == server.served.cache_bytes == int(cache)


def test_where_nothing_can_go_it_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(home.settings()) as server, server.http() as http:
        before = server.served._engine.cache.capacity
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12 * 2**20))
        refused = ask(http, "one")
        assert error_of(refused) == (503, "no_room_for_policy")
        assert refused.headers["retry-after"]
        assert token_ids(ask(http, "honed")) == home.greedy("base")
        assert server.served._engine.cache.capacity == before
        monkeypatch.undo()
        assert token_ids(ask(http, "one")) == home.greedy("one"), "nobody remembers that there was no room"


def test_a_server_of_one_policy_loads_no_other(home: Home) -> None:
    with running(home.settings(max_policies=1)) as server, server.http() as http:
        assert error_of(ask(http, "one")) == (503, "no_room_for_policy")
        assert token_ids(ask(http, "base")) == home.greedy("base")


def test_a_checkpoint_that_cannot_be_loaded(home: Home, server: LiveServer, http: httpx.Client) -> None:
    ask(http, "two")
    weights = home.folder / "models" / "one" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        refused = ask(http, "one")
        assert error_of(refused) == (500, "policy_unloadable")
        assert refused.headers["x-should-retry"] == "false"
        message = refused.json()["error"]["message"]
        assert "'one' cannot be loaded" in message
        assert "damaged" in message
        assert str(home.folder) not in message
        assert "/" not in message
    assert states(http) == {"base": "current", "one": "unloaded", "two": "idle", "three": "unloaded"}, (
        "none went for it"
    )
    assert error_of(http.post("/v1/policies/one/promote")) == (500, "policy_unloadable")
    assert token_ids(ask(http, "honed")) == home.greedy("base")
    assert http.get("/health").status_code == 200


def test_a_fault_in_loading_that_nobody_foresaw(
    home: Home, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in /a/secret/place")

    with monkeypatch.context() as patch:
        patch.setattr(engines_module, "load_folder", explode)
        refused = ask(http, "one")
    assert error_of(refused) == (500, "policy_unloadable")
    assert "secret" not in refused.text
    assert "secret" in caplog.text
    assert error_of(ask(http, "one")) == (500, "policy_unloadable"), "it is not tried again at once"
    monkeypatch.setattr(engines_module, "UNLOADABLE_S", 0.0)
    assert token_ids(ask(http, "two")) == home.greedy("two")


def die(_: Engine) -> None:
    raise ZeroDivisionError


def test_another_policys_engine_dies_and_is_loaded_anew(
    home: Home,
    server: LiveServer,
    http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ask(http, "one")
    dying = served(server, home, "one")
    held = tensors(dying)
    monkeypatch.setattr(dying._engine, "step", lambda: die(dying._engine))
    assert error_of(ask(http, "one")) == (500, "internal_error")
    assert "the engine died" in caplog.text
    assert not dying.is_alive
    assert states(http)["one"] == "unloaded"
    assert http.get("/health").json()["status"] == "ready"
    assert token_ids(ask(http, "honed")) == home.greedy("base")
    assert token_ids(ask(http, "one")) == home.greedy("one")
    assert served(server, home, "one") is not dying
    assert not any(ref() is not None for ref in held)


def test_the_death_of_the_current_engine_is_the_servers(
    home: Home,
    server: LiveServer,
    http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ask(http, "one")
    monkeypatch.setattr(server.served._engine, "step", lambda: die(server.served._engine))
    assert error_of(ask(http, "honed")) == (500, "internal_error")
    assert http.get("/health").json()["status"] == "failed"
    for model in ("honed", "one", "two"):
        assert error_of(ask(http, model)) == (503, "engine_dead")
    assert error_of(http.post("/v1/policies/one/promote")) == (503, "engine_dead")


def test_a_drain_waits_for_all_and_loads_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(home.settings(max_policies=3)) as server, server.http() as http, ThreadPoolExecutor(3) as clients:
        loop = server.served._loop

        def stream(model: str) -> list[int]:
            with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": model}) as response:
                return streamed_ids(events(response))

        streams = [clients.submit(stream, model) for model in ("honed", "one")]
        eventually(lambda: sum(each.num_live for each in engines(server)._all_served()) == 2)
        blocked = Blocked()
        monkeypatch.setattr(engines_module, "load_folder", blocked)
        waiting = clients.submit(ask, http, "two")
        assert blocked.has_begun.wait(60)
        drain = asyncio.run_coroutine_threadsafe(server.app.state.service.drain(60), loop)
        assert error_of(waiting.result()) == (503, "shutting_down")
        assert error_of(ask(http, "one")) == (503, "shutting_down")
        assert [len(each.result()) for each in streams] == [2000, 2000]
        drain.result(60)
        assert not any(each.is_alive for each in engines(server)._all_served())
        blocked.may_go_on.set()
        eventually(lambda: not any(thread.name == "loading" for thread in threading.enumerate()))
        time.sleep(0.1)  # for the loop to hear of it; whoever is slower finds nothing wrong
        assert len(engines(server)._all_served()) == 2, "what came too late is not served"


def test_a_store_that_is_away_stops_nothing_that_is_loaded(postgres: Postgres, tmp_path: Path) -> None:
    home = Home.at(tmp_path, postgres.new_store())
    home.add("base", stage="source", is_registered=False)
    home.add("one")
    home.add("two")
    with running(home.settings()) as server, server.http() as http:
        ask(http, "one")
        postgres.stop()
        try:
            for name in ("base", "one"):
                assert token_ids(ask(http, name)) == home.greedy(name)
            assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["honed", "base", "one", "two"]
            assert error_of(ask(http, "three")) == (503, "store_unavailable"), "it may be there"
            assert error_of(http.post("/v1/policies/one/promote")) == (503, "store_unavailable")
            assert token_ids(ask(http, "two")) == home.greedy("two"), "its checkpoint was known"
            assert http.get("/health").status_code == 200
        finally:
            postgres.start()
        eventually(lambda: error_of(ask(http, "three")) == (404, "model_not_found"))
