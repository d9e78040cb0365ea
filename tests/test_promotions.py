"""Which policy is in service: promotions and rollbacks under load, through restarts and crashes, on many servers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import LiveServer, eventually, running
from policies_server import (
    ADMIN,
    ENDLESS,
    GREEDY,
    PROMPT,
    Home,
    ask,
    by_role,
    engines,
    error_of,
    events,
    promote,
    states,
    streamed_ids,
    token_ids,
)
from sqlalchemy import select
from sqlalchemy.engine import URL

from honed.server import policies
from honed.server.store import promotions
from honed.server.store.database import open_database, reading
from honed.server.store.tables import Promotion


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path)
    home.add("base", stage="source", is_registered=False)
    home.add("one")
    home.add("two", stage="ppo")
    return home


@pytest.fixture
def server(home: Home) -> Iterator[LiveServer]:
    with running(home.settings()) as server:
        yield server


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


def roll_back(http: httpx.Client) -> str:
    response = http.post("/v1/policies/rollback")
    assert response.status_code == 200, response.text
    assert response.json()["state"] == "current"
    return str(response.json()["name"])


def test_a_promotion_and_the_way_back(home: Home, server: LiveServer, http: httpx.Client) -> None:
    assert token_ids(ask(http, "honed")) == home.greedy("base")
    policy = promote(http, "one")
    assert (policy["id"], policy["stage"], policy["leases"]) == (home.ids["one"], "sft", 0)
    answer = ask(http, "honed")
    assert token_ids(answer) == home.greedy("one")
    assert (answer.json()["model"], answer.json()["system_fingerprint"]) == ("one", home.ids["one"])
    assert http.get("/health").json()["model"] == "one"
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["honed", "one", "base", "two"]
    assert states(http) == {"one": "current", "base": "idle", "two": "unloaded"}
    before = engines(server)._places[server.served.policy.id]
    assert roll_back(http) == "base"
    assert token_ids(ask(http, "honed")) == home.greedy("base")
    assert states(http)["one"] == "idle", "it is kept, so that going back takes no time"
    promote(http, "one")
    assert engines(server)._places[home.ids["one"]] is before
    promote(http, "two")
    assert states(http) == {"two": "current", "one": "idle", "base": "unloaded"}
    assert token_ids(ask(http, "base")) == home.greedy("base"), "its name means what it meant"
    assert [roll_back(http), roll_back(http)] == ["one", "base"]
    refused = http.post("/v1/policies/rollback")
    assert error_of(refused) == (400, "nothing_before")


def test_promoting_what_is_in_service_changes_nothing(home: Home, http: httpx.Client) -> None:
    promote(http, "base")
    promote(http, "one")
    promote(http, "one")
    assert roll_back(http) == "base"
    assert error_of(http.post("/v1/policies/rollback")) == (400, "nothing_before")


def test_what_is_refused(http: httpx.Client) -> None:
    refused = http.post("/v1/policies/nobody/promote")
    assert error_of(refused) == (404, "model_not_found")
    assert refused.json()["error"]["param"] == "model"
    assert states(http)["base"] == "current"
    assert error_of(http.put("/v1/policies")) == (405, "method_not_allowed")
    warned = http.post("/v1/policies/one/promote", json={"at": "noon"})
    assert warned.headers["x-honed-warning"] == "ignored unknown parameters: at"
    assert error_of(http.post("/v1/policies/rollback", content=b"{")) == (400, "invalid_json")


def test_only_admins_change_what_is_in_service(home: Home) -> None:
    with by_role(home) as (server, client, admin):
        assert states(client) == {"base": "current", "two": "unloaded", "one": "unloaded"}
        for path in ("/v1/policies/one/promote", "/v1/policies/rollback"):
            assert error_of(client.post(path)) == (403, "insufficient_permissions")
            assert error_of(httpx.post(server.url + path)) == (401, "invalid_api_key")
        promote(admin, "one")
        assert server.served.policy.name == "one"
        with reading(server.app.state.storage.engine) as connection:
            (key_id,) = connection.execute(select(Promotion.key_id)).scalars()
        assert key_id == server.app.state.keyring.verify(f"Bearer {ADMIN}").key_id


class Clients:
    """Streams of the policy in service without a pause, each checked against the one that stamped it."""

    def __init__(self, server: LiveServer, home: Home, count: int = 4) -> None:
        self.answered: dict[str, int] = dict.fromkeys(home.ids.values(), 0)
        self.faults: list[object] = []
        self._url = server.url
        prompts = [[20 + number, *PROMPT] for number in range(count)]
        self._expected = [{home.ids[name]: home.greedy(name, prompt, 40) for name in home.ids} for prompt in prompts]
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=each) for each in enumerate(prompts)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int, prompt: list[int]) -> None:
        asked = GREEDY | {"model": "honed", "prompt": prompt, "max_tokens": 40, "stream": True}
        with httpx.Client(base_url=self._url, timeout=60) as http:
            while not self._ending.is_set():
                with http.stream("POST", "/v1/completions", json=asked) as response:
                    if response.status_code != 200:
                        self.faults.append(response.read())
                        return
                    payloads = events(response)
                stamps = {json.loads(payload)["system_fingerprint"] for payload in payloads if payload != "[DONE]"}
                if payloads[-1] != "[DONE]" or len(stamps) != 1:
                    self.faults.append(payloads)
                    return
                (stamp,) = stamps
                self.answered[stamp] += 1
                if streamed_ids(payloads) != self._expected[client][stamp]:
                    self.faults.append((stamp, streamed_ids(payloads), self._expected[client]))


def serving_threads() -> int:
    names = ("engine", "loading", "tokenizer")
    return sum(thread.name.startswith(names) for thread in threading.enumerate())


def test_promotions_under_load_cut_nothing(home: Home, server: LiveServer, http: httpx.Client) -> None:
    promote(http, "one")
    for name in ("one", "base"):
        ask(http, name)  # starts the threads of their tokenizers
    assert roll_back(http) == "base"
    before = serving_threads()
    clients = Clients(server, home)
    try:
        for _ in range(5):
            for change in (lambda: promote(http, "one"), lambda: roll_back(http)):
                change()
                count = sum(clients.answered.values())
                eventually(lambda count=count: sum(clients.answered.values()) > count + 8 or bool(clients.faults))
        eventually(lambda: http.post("/v1/policies/two/promote").status_code == 200)
        count = clients.answered[home.ids["two"]]
        eventually(lambda: clients.answered[home.ids["two"]] > count + 8 or bool(clients.faults))
    finally:
        clients.end()
    assert clients.faults == []
    assert min(clients.answered.values()) > 0, "each was in service"
    assert len(engines(server)._all_served()) == 2
    eventually(lambda: serving_threads() <= before)


def test_whatever_is_asked_at_once_the_right_policy_answers(home: Home) -> None:
    """More policies than there is room for, streams that are dropped, promotions and rollbacks in between."""
    home.add("three")
    expected = {home.ids[name]: home.greedy(name) for name in home.ids}
    faults: list[object] = []
    answered: set[str] = set()

    def client(seed: int) -> None:
        chance = random.Random(seed)
        with server.http() as http:
            for turn in range(25):
                model = chance.choice(["honed", *home.ids])
                if turn % 10 == seed:
                    http.post(f"/v1/policies/{chance.choice([*home.ids])}/promote")
                elif turn % 10 == seed + 5:
                    http.post("/v1/policies/rollback")
                elif turn % 4 == 0:
                    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": model}) as stream:
                        next(stream.iter_lines())
                else:
                    answer = ask(http, model)
                    if answer.status_code != 200:
                        faults.extend([answer.text] if error_of(answer) != (503, "no_room_for_policy") else [])
                        continue
                    stamp, name = answer.json()["system_fingerprint"], answer.json()["model"]
                    answered.add(stamp)
                    if token_ids(answer) != expected[stamp] or model not in ("honed", name):
                        faults.append((model, answer.json()))

    with running(home.settings(max_policies=3)) as server:
        with ThreadPoolExecutor(5) as clients:
            list(clients.map(client, range(5)))
        assert faults == []
        assert len(answered) > 1
        with server.http() as http:
            eventually(lambda: all(policy["leases"] == 0 for policy in http.get("/v1/policies").json()["data"]))
            assert sorted(states(http).values()).count("current") == 1
            assert token_ids(ask(http, "honed")) == expected[server.served.policy.id]
        assert len(engines(server)._all_served()) <= 3


def test_running_answers_end_on_the_old_policy(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    home.add("base", stage="source", is_registered=False, max_position_embeddings=4096)
    home.add("one", max_position_embeddings=4096)
    with running(home.settings()) as server, server.http() as http:
        with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "honed"}) as stream:
            old = server.served
            promote(http, "one")
            assert states(http) == {"one": "current", "base": "loaded"}
            assert token_ids(ask(http, "honed")) == home.greedy("one")
            assert old.num_live == 1, "the answer outlives the promotion"
            payloads = events(stream)
        assert {json.loads(each)["model"] for each in payloads[:-1]} == {"base"}
        assert len(streamed_ids(payloads)) == 2000


def test_a_checkpoint_that_cannot_be_loaded_is_not_promoted(home: Home, server: LiveServer, http: httpx.Client) -> None:
    weights = home.folder / "models" / "one" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert error_of(http.post("/v1/policies/one/promote")) == (500, "policy_unloadable")
    assert states(http) == {"base": "current", "two": "unloaded", "one": "unloaded"}
    with reading(server.app.state.storage.engine) as connection:
        assert promotions.newest(connection).number == 0


def test_a_rollback_that_was_overtaken_is_refused(home: Home, http: httpx.Client) -> None:
    """As when a client whose rollback took long sends it again: it must not go back twice."""
    for name in ("one", "two"):
        promote(http, name)
    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(lambda _: http.post("/v1/policies/rollback"), range(2)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes in ([200, 200], [200, 400])
    assert states(http)["one" if codes == [200, 400] else "base"] == "current"


@pytest.mark.parametrize("model", ["base", "two"])
def test_a_restart_keeps_what_was_promoted(home: Home, model: str) -> None:
    """Also where the settings name another model than before."""
    with running(home.settings()) as server, server.http() as http:
        promote(http, "one")
    with running(home.settings(model)) as server, server.http() as http:
        assert server.model == "one"
        assert token_ids(ask(http, "honed")) == home.greedy("one")
        assert states(http)["one"] == "current"
        assert len(engines(server)._all_served()) == 1
        assert server.served.cache_bytes == int(0.01 * 2**30)
        assert token_ids(ask(http, model)) == home.greedy(model)
        assert roll_back(http) == model
    with running(home.settings(model)) as server:
        assert server.model == model


def test_a_promoted_checkpoint_that_has_gone(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "FOLLOW_S", 0.05)
    with running(home.settings()) as server, server.http() as http:
        promote(http, "one")
    folder = home.folder / "models" / "one"
    folder.rename(home.folder / "elsewhere")
    with running(home.settings()) as server, server.http() as http:
        assert server.model == "base", "another policy is better than none"
        assert "cannot serve what was promoted" in caplog.text
        eventually(lambda: http.get("/health").json()["detail"] is not None)
        health = http.get("/health")
        assert (health.status_code, home.ids["one"] in health.json()["detail"]) == (200, True)
        (home.folder / "elsewhere").rename(folder)
        eventually(lambda: server.served.policy.name == "one")
        eventually(lambda: http.get("/health").json()["detail"] is None)


def test_servers_of_a_store_follow_each_other(store_url: URL, tmp_path: Path) -> None:
    home = Home.at(tmp_path, store_url)
    home.add("base", stage="source", is_registered=False)
    home.add("other", stage="source", is_registered=False)
    home.add("one")
    with (
        running(home.settings()) as first,
        running(home.settings("other")) as second,
        first.http() as http,
        second.http() as http_of_second,
    ):
        promote(http, "one")
        eventually(lambda: second.served.policy.name == "one")
        assert token_ids(ask(http_of_second, "honed")) == home.greedy("one")
        assert roll_back(http_of_second) == "other", "what its own settings name"
        eventually(lambda: first.served.policy.name == "base")
        assert token_ids(ask(http, "honed")) == home.greedy("base")


KILLED = """
import os, signal, sys
from honed.server import policies
from honed.server.serve import serve
from honed.server.settings import Settings

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before":
    policies.promotions.promote = die  # it is loaded, and the store has not been told
else:
    policies.Service._serve = die  # the store has been told, and nothing else has happened
settings = Settings.model_validate_json(sys.argv[1])
sys.exit(serve(settings, on_ready=lambda url, _: print(url, flush=True)))
"""


@pytest.mark.parametrize(("when", "holds"), [("before", "base"), ("after", "one")])
def test_a_server_that_is_killed_while_it_promotes(home: Home, when: str, holds: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HONED_")}
    given = home.settings(port=0).model_dump_json(include={"home", "model", "dtype", "kv_cache_gib", "logging", "port"})
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED, given, when],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{url}/v1/policies/one/promote", timeout=60)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    store = open_database(home.url)
    with reading(store) as connection:
        assert promotions.newest(connection).policy_id == (None if holds == "base" else home.ids[holds])
    store.dispose()
    with running(home.settings()) as server, server.http() as http:
        assert server.model == holds
        assert token_ids(ask(http, "honed")) == home.greedy(holds)
