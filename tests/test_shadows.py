"""A policy that answers in the shadow of the one in service: who sees what, in which order, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import candidates
import httpx
import pytest
from candidates import NEVER, USERS, answered_by, filled, history, policy
from conftest import LiveServer, eventually, running
from labeling_server import lease, rows
from policies_server import Home, by_role, engines, error_of, events, promote, states
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import URL
from test_engines import die, served
from test_verdicts import fail

from honed.server import shadows
from honed.server.canary import MIN_VOTES, gets_candidate
from honed.server.store import erasure, users
from honed.server.store.ingest import token_ids
from honed.server.store.tables import Choice, Completion, Task

looks_often, home = candidates.looks_often, candidates.home

CHAT: dict[str, Any] = {"model": "honed", "max_tokens": 8, "seed": 3, "temperature": 1.5, "ignore_eos": True}


@pytest.fixture
def server(home: Home) -> Iterator[LiveServer]:
    with running(home.settings(canary_step_s=NEVER, logging="all")) as server:
        yield server


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


def shadow(http: httpx.Client, name: str, share: int = 100) -> None:
    response = http.post(f"/v1/policies/{name}/shadow", json={"share": share})
    assert response.status_code == 200, response.text
    policy = response.json()
    assert (policy["name"], policy["state"], policy["share"], policy["shadow"]["share"]) == (
        name, "candidate", 0, share,
    )  # fmt: skip


def body(prompt: str = "Hi", **fields: Any) -> dict[str, Any]:
    return CHAT | {"messages": [{"role": "user", "content": prompt}]} | fields


def chat(http: httpx.Client, prompt: str = "Hi", **fields: Any) -> httpx.Response:
    response = http.post("/v1/chat/completions", json=body(prompt, **fields))
    assert response.status_code == 200, response.text
    return response


def stored(server: LiveServer, source: str) -> list[Any]:
    return [row for row in rows(server, Completion) if row.source == source]


def outcomes(http: httpx.Client) -> dict[str, float]:
    """Of shadows, those that there are."""
    families = {each.name: each for each in text_string_to_metric_families(http.get("/metrics").text)}
    samples = [each for each in families["honed_shadows"].samples if each.name.endswith("_total")]
    return {each.labels["outcome"]: each.value for each in samples}


@contextmanager
def waiting(server: LiveServer, home: Home, name: str) -> Iterator[None]:
    """Nothing that the policy is to answer reaches its engine: its tokenizer has something else to do."""
    may_go_on = Event()
    served(server, home, name).tokenizing.submit(may_go_on.wait)
    try:
        yield
    finally:
        may_go_on.set()


def seen_bytes(response: httpx.Response) -> str:
    """Without what is of this request alone."""
    answer = json.loads(response.content)
    return response.text.replace(answer["id"], "ID").replace(f'"created":{answer["created"]}', "CREATED")


def test_users_get_what_they_got_before(server: LiveServer, http: httpx.Client) -> None:
    """Byte for byte, whole or streamed."""
    asked = {"return_token_ids": True, "logprobs": True, "user": "ann"}
    streamed = {"stream": True, "stream_options": {"include_obfuscation": False}, "user": "ann"}

    def chunks() -> list[Any]:
        with http.stream("POST", "/v1/chat/completions", json=body(**streamed)) as response:
            *found, done = events(response)
        assert done == "[DONE]"
        return [json.loads(each) | {"id": "", "created": 0} for each in found]

    chat(http, **asked)  # from here on its prompt is cached
    before = seen_bytes(chat(http, **asked)), chunks()
    shadow(http, "one")
    assert (seen_bytes(chat(http, **asked)), chunks()) == before
    eventually(lambda: len(stored(server, "shadow")) == 2)
    assert outcomes(http) == {"answered": 2}
    assert {each["name"]: each["share"] for each in http.get("/v1/policies").json()["data"]} == {
        "base": 100, "one": 0, "two": 0,
    }  # fmt: skip


def test_no_user_waits_for_a_shadow(home: Home, server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    with waiting(server, home, "one"):
        assert chat(http).json()["model"] == "base"
        with http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
            assert events(response)[-1] == "[DONE]"
        eventually(lambda: len(stored(server, "server")) == 2)
        assert served(server, home, "one").num_leases == 2, "they wait"
        assert outcomes(http) == {}
    eventually(lambda: outcomes(http) == {"answered": 2})


def test_the_candidate_answers_the_same_request(home: Home, server: LiveServer, http: httpx.Client) -> None:
    """As it would if it were asked by its name."""
    shadow(http, "one")
    asked = {"user": "ann", "metadata": {"of": "ann"}, "return_token_ids": True, "stop": ["never"]}
    seen = chat(http, "Who are you?", **asked).json()
    eventually(lambda: len(stored(server, "shadow")) == 1)
    (unseen,) = stored(server, "shadow")
    (first,) = stored(server, "server")
    assert (unseen.policy_id, unseen.model, unseen.derived_from) == (home.ids["one"], "one", seen["id"])
    assert (unseen.prompt_id, unseen.user_hash, unseen.key_id, unseen.params, unseen.request_id) == (
        first.prompt_id, first.user_hash, first.key_id, first.params, first.request_id,
    )  # fmt: skip
    assert (unseen.retrievable, unseen.trainable, unseen.assigned, unseen.tags) == (False, True, False, {})
    own, rival = sorted((row for row in rows(server, Choice) if row.completion_id == unseen.id), key=lambda row: row[1])
    by_name = chat(http, "Who are you?", model="one", return_token_ids=True).json()["choices"][0]
    assert (own.text, token_ids(own.token_ids), own.source) == (
        by_name["message"]["content"], by_name["token_ids"], None,
    )  # fmt: skip
    assert (rival.text, token_ids(rival.token_ids), rival.source) == (
        seen["choices"][0]["message"]["content"], seen["choices"][0]["token_ids"], home.ids["base"],
    )  # fmt: skip


def test_users_do_not_see_it(home: Home, server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    seen = chat(http).json()
    eventually(lambda: len(stored(server, "shadow")) == 1)
    (unseen,) = stored(server, "shadow")
    assert [each["id"] for each in http.get("/v1/chat/completions").json()["data"]] == [seen["id"]]
    assert http.get("/v1/chat/completions", params={"model": "one"}).json()["data"] == []
    assert http.get(f"/v1/chat/completions/{unseen.id}").status_code == 404
    assert http.delete(f"/v1/chat/completions/{seen['id']}").status_code == 200
    assert stored(server, "shadow") == [], "it goes with what it repeats"
    assert rows(server, Task) == []


def test_it_is_erased_with_its_user(server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    chat(http, user="ann")
    chat(http, "Else", user="ben")
    eventually(lambda: len(stored(server, "shadow")) == 2)
    store = server.app.state.storage.engine
    erasure.erase_user(store, users.hash_user(users.load_salt(store), "ann"))
    assert len(stored(server, "server")) == len(stored(server, "shadow")) == 1


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"store": False}, {}),
        ({}, {"x-honed-training": "deny"}),
        ({"n": 2}, {}),
        ({"model": "base"}, {}),
        ({"model": "one"}, {}),
    ],
    ids=str,
)
def test_what_is_not_shadowed(
    server: LiveServer, http: httpx.Client, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    shadow(http, "one")
    assert http.post("/v1/chat/completions", json=body(**fields), headers=headers).status_code == 200
    chat(http, "This is")
    eventually(lambda: outcomes(http) == {"answered": 1})
    eventually(lambda: len(stored(server, "shadow")) == 1)


def test_what_a_client_cut_off_is_not_shadowed(server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    with http.stream("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=3000)) as response:
        lines = response.iter_lines()
        while '"content":""' in (line := next(lines)) or not line:
            continue  # until a part of the answer is there
    eventually(lambda: len(stored(server, "server")) == 1)
    chat(http, "This is")
    eventually(lambda: outcomes(http) == {"answered": 1})


def test_personal_data_is_redacted(server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    chat(http, "I am ann@example.com")
    eventually(lambda: len(stored(server, "shadow")) == 1)
    (unseen,), (first,) = stored(server, "shadow"), stored(server, "server")
    assert unseen.prompt_id == first.prompt_id
    assert unseen.redactions["email"] == 1


def test_a_share_of_the_users(home: Home, server: LiveServer, http: httpx.Client) -> None:
    """The canary's: who was shadowed keeps the policy when it is tried out."""
    shadow(http, "one", 50)
    for user in USERS[:12]:
        chat(http, user, user=user, max_tokens=1)
    chosen = sum(gets_candidate(home.ids["one"], 50, user) for user in USERS[:12])
    assert 0 < chosen < 12
    eventually(lambda: sum(outcomes(http).values()) == chosen)


def test_what_there_is_no_room_for_is_counted(home: Home, server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    with waiting(server, home, "one"):
        for number in range(shadows.AT_ONCE + 3):
            chat(http, f"Question {number}", max_tokens=1)
        assert outcomes(http) == {"no_room": 3}
    eventually(lambda: outcomes(http) == {"no_room": 3, "answered": shadows.AT_ONCE})


def test_a_batch_that_is_full_has_no_room(home: Home) -> None:
    settings = home.settings(canary_step_s=NEVER, logging="all", max_sequences=1)
    with running(settings) as server, server.http() as http:
        shadow(http, "one")
        endless = body(model="one", stream=True, max_tokens=4000)
        with http.stream("POST", "/v1/chat/completions", json=endless) as response:
            lines = response.iter_lines()  # as long as it is there, the stream is open
            assert next(lines).startswith("data: ")
            with server.http() as other:
                chat(other)
                assert outcomes(other) == {"no_room": 1}


def test_labelers_compare_the_two(home: Home, server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    nothing = {"share": 100, "wins": 0, "ties": 0, "losses": 0, "rate": None, "low": None, "high": None}
    assert policy(http, "one")["shadow"] == nothing
    for number, outcome in enumerate(("win", "win", "win", "tie", "loss")):
        seen = chat(http, f"Question {number}").json()["choices"][0]["message"]["content"]
        eventually(lambda: http.post("/v1/labeling/leases", json={}).status_code == 200)
        task = lease(http)
        assert task.keys() == {"id", "object", "messages", "answers", "leased_until"}, "blind"
        assert task["messages"] == [{"role": "user", "content": f"Question {number}"}]
        labels = [answer["label"] for answer in task["answers"]]
        (served_by_base,) = (answer["label"] for answer in task["answers"] if answer["text"] == seen)
        (by_one,) = {*labels} - {served_by_base}
        ranking = {"win": [[by_one], [served_by_base]], "tie": [labels], "loss": [[served_by_base], [by_one]]}[outcome]
        said = {"verdict": "ranked", "ranking": ranking}
        assert http.post(f"/v1/labeling/tasks/{task['id']}/rankings", json=said).status_code == 200
    counted = policy(http, "one")["shadow"]
    assert (counted["wins"], counted["ties"], counted["losses"], counted["rate"]) == (3, 1, 1, 0.7)
    assert (counted["low"], counted["high"]) == pytest.approx((0.2988, 0.9274), abs=1e-4), "Wilson"
    assert policy(http, "base")["shadow"] == nothing | {"share": 0}
    families = {each.name: each for each in text_string_to_metric_families(http.get("/metrics").text)}
    samples = families["honed_policy_shadow_rankings"].samples
    assert {(*(each.labels[name] for name in ("policy", "rival", "outcome")), each.value) for each in samples} == {
        ("one", "base", "win", 3), ("one", "base", "tie", 1), ("one", "base", "loss", 1),
    }  # fmt: skip
    assert http.post("/v1/policies/rollback").status_code == 200
    assert policy(http, "one")["shadow"] == counted | {"share": 0}
    promote(http, "two")
    assert policy(http, "one")["shadow"] == nothing | {"share": 0}, "it was compared with another"


def test_a_rollback_ends_it(home: Home, server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one", 30)
    assert [(each["candidate"], each["share"], each["is_shadow"]) for each in history(http)] == [("one", 30, True)]
    shadow(http, "one")
    back = http.post("/v1/policies/rollback").json()
    assert (back["name"], back["share"]) == ("base", 100)
    chat(http)
    eventually(lambda: len(stored(server, "server")) == 1)
    assert states(http) == {"base": "current", "one": "idle", "two": "unloaded"}
    assert policy(http, "one")["shadow"]["share"] == 0
    assert outcomes(http) == {}
    assert history(http)[0]["is_shadow"] is False


def test_from_the_shadow_into_the_light(home: Home, server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    candidates.try_out(http, "one", 50)
    assert policy(http, "one")["shadow"]["share"] == 0
    assert {answered_by(http, user=user, max_tokens=1) for user in USERS} == {"base", "one"}
    shadow(http, "one", 50)
    assert {answered_by(http, user=user, max_tokens=1) for user in USERS} == {"base"}
    promote(http, "one")
    assert chat(http).json()["model"] == "one"


def test_servers_of_a_store_follow(store_url: URL, tmp_path: Path) -> None:
    home = filled(Home.at(tmp_path, store_url))
    settings = home.settings(canary_step_s=NEVER, logging="all")
    with running(settings) as first, running(settings) as second, first.http() as http, second.http() as other:
        shadow(http, "one")
        eventually(lambda: policy(other, "one")["shadow"]["share"] == 100)
        eventually(lambda: states(other)["one"] == "candidate")
        assert chat(other).json()["model"] == "base"
        eventually(lambda: len(stored(first, "shadow")) == 1)
        other.post("/v1/policies/rollback")
        eventually(lambda: states(http)["one"] == "idle")
    with running(settings) as server, server.http() as http:
        shadow(http, "one")
    with running(settings) as server, server.http() as http:
        eventually(lambda: states(http)["one"] == "candidate")
        chat(http, "Later")
        eventually(lambda: len(stored(server, "shadow")) == 2)


def test_a_candidate_that_dies_touches_nobody(
    home: Home, server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(http, "one")
    dying = served(server, home, "one")
    monkeypatch.setattr(dying._engine, "step", lambda: die(dying._engine))
    assert chat(http).json()["model"] == "base"
    eventually(lambda: len(history(http)) == 2)
    assert "engine has stopped" in history(http)[0]["reason"]
    assert outcomes(http) == {"failed": 1}
    assert chat(http).json()["model"] == "base"
    assert http.get("/health").json()["status"] == "ready"
    eventually(lambda: len(stored(server, "server")) == 2)
    assert stored(server, "shadow") == []


def test_a_candidate_that_fails_is_taken_out(
    home: Home, server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(http, "one")
    monkeypatch.setattr(served(server, home, "one").policy.tokenizer, "apply_chat_template", fail)
    for number in range(10 * MIN_VOTES):
        assert chat(http, f"Question {number}", max_tokens=1).json()["model"] == "base"
        if len(history(http)) > 1:
            break
    eventually(lambda: len(history(http)) == 2)
    assert history(http)[0]["reason"].startswith("It fails more often: ")


def test_a_prompt_that_it_cannot_answer_is_no_failure(home: Home, server: LiveServer, http: httpx.Client) -> None:
    home.add("short", max_position_embeddings=32)
    shadow(http, "short")
    assert chat(http, "long " * 40).json()["model"] == "base"
    eventually(lambda: outcomes(http) == {"unanswered": 1})
    assert served(server, home, "short").outcomes.total == 0


def test_a_drain_cuts_it_off(home: Home, server: LiveServer, http: httpx.Client) -> None:
    shadow(http, "one")
    loop = server.served._loop
    with waiting(server, home, "one"):
        chat(http)
        loop.call_soon_threadsafe(server.app.state.shadows.cancel)
        eventually(lambda: outcomes(http) == {"cut_off": 1})
    chat(http)
    eventually(lambda: len(stored(server, "server")) == 2)
    assert (outcomes(http), engines(server).candidate) == ({"cut_off": 1}, served(server, home, "one"))


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "share"),
        ({"share": 0}, "integer_below_min_value", "share"),
        ({"share": 101}, "integer_above_max_value", "share"),
        ({"share": "1"}, "invalid_type", "share"),
    ],
)
def test_a_share_is_checked(http_client: httpx.Client, body: dict[str, Any], code: str, param: str) -> None:
    refused = http_client.post("/v1/policies/one/shadow", json=body)
    assert error_of(refused) == (400, code)
    assert refused.json()["error"]["param"] == param


def test_what_is_refused(home: Home) -> None:
    with by_role(home) as (_, client, admin):
        assert error_of(client.post("/v1/policies/one/shadow", json={"share": 1})) == (403, "insufficient_permissions")
        assert error_of(admin.post("/v1/policies/nobody/shadow", json={"share": 1})) == (404, "model_not_found")
        assert error_of(admin.post("/v1/policies/base/shadow", json={"share": 1})) == (400, "already_in_service")
        warned = admin.post("/v1/policies/one/shadow", json={"share": 1, "advance": True})
        assert warned.headers["x-honed-warning"] == "ignored unknown parameters: advance"
