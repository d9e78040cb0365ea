"""A policy that is tried out beside the one in service, over HTTP: who gets it, and how it comes and goes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import candidates
import httpx
import pytest
from candidates import NEVER, USERS, answered_by, filled, give_to_all, history, policy, try_out, try_out_in_store
from conftest import LiveServer, eventually, running
from policies_server import ENDLESS, PROMPT, Home, ask, by_role, error_of, events, promote, states, token_ids
from sqlalchemy.engine import URL
from test_engines import Blocked, served

from honed.server import engines as engines_module
from honed.server.canary import gets_candidate
from honed.server.store import promotions
from honed.server.store.database import open_database, writing

looks_often, home = candidates.looks_often, candidates.home
server, http = candidates.server, candidates.http


def test_each_user_has_one_policy(home: Home, http: httpx.Client) -> None:
    try_out(http, "one", 50)
    assert states(http) == {"base": "current", "one": "candidate", "two": "unloaded"}
    shares = {each["name"]: each["share"] for each in http.get("/v1/policies").json()["data"]}
    assert shares == {"base": 50, "one": 50, "two": 0}
    expected = {user: "one" if gets_candidate(home.ids["one"], 50, user) else "base" for user in USERS}
    for _ in range(2):
        assert {user: answered_by(http, user=user, max_tokens=1) for user in USERS} == expected
    chat = {"model": "honed", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    for name in ("user", "safety_identifier"):
        got = {each: http.post("/v1/chat/completions", json=chat | {name: each}).json()["model"] for each in USERS[:9]}
        assert got == {user: expected[user] for user in USERS[:9]}
    drawn = {answered_by(http, max_tokens=1) for _ in range(60)}
    assert drawn == {"base", "one"}, "who names no user gets a policy for each request"
    assert http.get("/health").json()["model"] == "base"


def test_who_names_a_policy_gets_it(home: Home, http: httpx.Client) -> None:
    give_to_all(home, http, "one")
    for user in USERS[:5]:
        assert token_ids(ask(http, "honed", user=user)) == home.greedy("one")
        assert token_ids(ask(http, "base", user=user)) == home.greedy("base")
        assert token_ids(ask(http, "one", user=user)) == home.greedy("one")


def test_a_larger_share_takes_no_user_back(http: httpx.Client) -> None:
    had: set[str] = set()
    for share in (10, 40, 70):
        try_out(http, "one", share)
        has = {user for user in USERS if answered_by(http, user=user, max_tokens=1) == "one"}
        assert has >= had
        had = has
    assert 0 < len(had) < len(USERS)


def streamed(http: httpx.Client, user: str) -> tuple[set[str], list[list[int]]]:
    """Two answers to one request: the policies that its chunks name, and the tokens."""
    asked = {
        "model": "honed", "prompt": PROMPT, "temperature": 0, "max_tokens": 30, "n": 2, "user": user,
        "stream": True, "return_token_ids": True,
    }  # fmt: skip
    with http.stream("POST", "/v1/completions", json=asked) as response:
        *chunks, done = map(json.loads, (each if each != "[DONE]" else '"done"' for each in events(response)))
    assert done == "done"
    ids: list[list[int]] = [[], []]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        ids[choice["index"]] += choice.get("token_ids") or []
    return {chunk["system_fingerprint"] for chunk in chunks}, ids


def test_no_answer_is_of_two_policies(home: Home, server: LiveServer, http: httpx.Client) -> None:
    """While the candidate comes and goes, and is promoted."""
    expected = {home.ids[name]: home.greedy(name, PROMPT, 30) for name in ("base", "one")}
    ending: list[bool] = []

    def ask_on(user: str) -> list[object]:
        faults: list[object] = []
        with server.http() as client:
            while not ending:
                stamps, ids = streamed(client, user)
                if len(stamps) != 1 or ids != [expected[min(stamps)]] * 2:
                    faults.append((stamps, ids))
        return faults

    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(ask_on, user) for user in USERS[:4]]
        try:
            for _ in range(4):
                try_out(http, "one", 50)
                answered_by(http)
                assert http.post("/v1/policies/rollback").json()["name"] == "base"
            try_out(http, "one", 50)
            promote(http, "one")
            answered_by(http)
        finally:
            ending.append(True)
    assert [client.result() for client in clients] == [[]] * 4


def test_a_rollback_takes_the_candidate_out(home: Home, http: httpx.Client) -> None:
    promote(http, "two")
    give_to_all(home, http, "one")
    back = http.post("/v1/policies/rollback").json()
    assert (back["name"], back["state"], back["share"]) == ("two", "current", 100)
    assert states(http) == {"two": "current", "one": "idle", "base": "unloaded"}
    assert answered_by(http, user=USERS[0]) == "two"
    assert http.post("/v1/policies/rollback").json()["name"] == "base"


def test_the_candidate_is_promoted_by_hand(http: httpx.Client) -> None:
    try_out(http, "one", 10, advance=True)
    promote(http, "one")
    assert states(http) == {"one": "current", "base": "idle", "two": "unloaded"}
    changes = [(each["policy"], each["candidate"], each["share"], each["reason"]) for each in history(http)]
    assert changes == [("one", None, 0, None), ("base", "one", 10, None)]
    assert http.post("/v1/policies/rollback").json()["name"] == "base"


def test_the_candidate_keeps_its_place(home: Home, server: LiveServer, http: httpx.Client) -> None:
    try_out(http, "one", 1)
    before = served(server, home, "one")
    assert error_of(ask(http, "two")) == (503, "no_room_for_policy")
    assert error_of(http.post("/v1/policies/two/canary", json={"share": 1})) == (503, "no_room_for_policy")
    assert served(server, home, "one") is before
    http.post("/v1/policies/rollback")
    assert token_ids(ask(http, "two")) == home.greedy("two")
    assert states(http)["one"] == "unloaded"


def test_another_candidate_takes_its_place(home: Home) -> None:
    with running(home.settings(canary_step_s=NEVER, max_policies=3)) as server, server.http() as http:
        give_to_all(home, http, "one")
        give_to_all(home, http, "two")
        assert states(http) == {"base": "current", "one": "idle", "two": "candidate"}
        assert answered_by(http) == "two"


@pytest.mark.parametrize("loading", ["a promotion", "a canary", "what another server tries out", "what it promotes"])
def test_a_rollback_does_not_wait_while_another_policy_is_loaded(
    home: Home, monkeypatch: pytest.MonkeyPatch, loading: str
) -> None:
    blocked = Blocked()
    with running(home.settings(canary_step_s=NEVER, max_policies=3)) as server, server.http() as http:
        promote(http, "one")
        monkeypatch.setattr(engines_module, "load_folder", blocked)
        with ThreadPoolExecutor(1) as threads:
            if loading == "a promotion":
                asked = threads.submit(http.post, "/v1/policies/two/promote")
            elif loading == "a canary":
                asked = threads.submit(http.post, "/v1/policies/two/canary", json={"share": 10})
            else:
                change = try_out_in_store if loading == "what another server tries out" else promote_in_store
                asked = threads.submit(change, home, "two")
            try:
                assert blocked.has_begun.wait(60)
                back = http.post("/v1/policies/rollback", timeout=20).json()
                assert not blocked.may_go_on.is_set()
                assert (back["state"], answered_by(http)) == ("current", back["name"])
            finally:
                blocked.may_go_on.set()
            asked.result()
        by_hand = loading in ("a promotion", "a canary")
        assert back["name"] == ("base" if by_hand else "one"), "what the store already had is taken back"
        last = {"a promotion": "two", "a canary": "base"}.get(loading, "one")
        eventually(lambda: states(http)["two"] in ("current", "candidate", "idle"))
        assert (answered_by(http, user=nobody(home)), states(http)[last]) == (last, "current")
        assert (states(http)["two"] == "candidate") == (loading == "a canary")


def nobody(home: Home) -> str:
    return next(each for each in USERS if not gets_candidate(home.ids["two"], 10, each))


def promote_in_store(home: Home, name: str) -> None:
    engine = open_database(home.url)
    with writing(engine) as connection:
        promotions.promote(connection, home.ids[name], key_id=None)
    engine.dispose()


def test_running_answers_of_a_candidate_that_is_taken_out_go_on(home: Home, http: httpx.Client) -> None:
    give_to_all(home, http, "one")
    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "honed"}) as stream:
        http.post("/v1/policies/rollback")
        assert states(http) == {"base": "current", "one": "loaded", "two": "unloaded"}
        payloads = events(stream)
    assert {json.loads(each)["model"] for each in payloads[:-1]} == {"one"}
    assert payloads[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "share"),
        ({"share": 0}, "integer_below_min_value", "share"),
        ({"share": 100}, "integer_above_max_value", "share"),
        ({"share": 1.5}, "invalid_type", "share"),
        ({"share": 1, "advance": "yes"}, "invalid_type", "advance"),
    ],
)
def test_a_share_is_checked(http_client: httpx.Client, body: dict[str, Any], code: str, param: str) -> None:
    refused = http_client.post("/v1/policies/one/canary", json=body)
    assert error_of(refused) == (400, code)
    assert refused.json()["error"]["param"] == param


def test_what_is_refused(http: httpx.Client) -> None:
    assert error_of(http.post("/v1/policies/one/canary")) == (400, "invalid_json")
    assert error_of(http.post("/v1/policies/nobody/canary", json={"share": 1})) == (404, "model_not_found")
    for name in ("base", "honed"):
        assert error_of(http.post(f"/v1/policies/{name}/canary", json={"share": 1})) == (400, "already_in_service")
    promote(http, "one")
    assert error_of(http.post("/v1/policies/one/canary", json={"share": 1})) == (400, "already_in_service")
    assert error_of(http.post("/v1/policies/base/canary", json={"share": 1})) == (400, "not_registered")
    warned = http.post("/v1/policies/two/canary", json={"share": 1, "until": "noon"})
    assert warned.headers["x-honed-warning"] == "ignored unknown parameters: until"
    for query in ("limit=0", "limit=1001", "after=0", "after=x"):
        assert error_of(http.get(f"/v1/policies/history?{query}")) == (400, "invalid_value")


def test_only_admins_try_out_and_see_the_history(home: Home) -> None:
    with by_role(home) as (_, client, admin):
        refused = client.post("/v1/policies/one/canary", json={"share": 1})
        assert error_of(refused) == (403, "insufficient_permissions")
        assert error_of(client.get("/v1/policies/history")) == (403, "insufficient_permissions")
        try_out(admin, "one", 1)
        assert states(client)["one"] == "candidate"
        assert len(history(admin)) == 1


def test_the_history_comes_in_pages(http: httpx.Client) -> None:
    for share in (1, 2, 3):
        try_out(http, "one", share)
    page = http.get("/v1/policies/history", params={"limit": 2}).json()
    assert ([each["share"] for each in page["data"]], page["has_more"]) == ([3, 2], True)
    rest = http.get("/v1/policies/history", params={"limit": 2, "after": page["data"][-1]["number"]}).json()
    assert ([each["number"] for each in rest["data"]], rest["has_more"]) == ([1], False)
    assert rest["data"][0].keys() == {
        "number",
        "object",
        "created",
        "policy",
        "candidate",
        "share",
        "is_shadow",
        "reason",
    }


def test_the_document_has_the_routes(http_client: httpx.Client) -> None:
    paths = http_client.get("/openapi.json").json()["paths"]
    assert "/v1/policies/history" in paths
    body = paths["/v1/policies/{name}/canary"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["share"]
    assert (body["properties"]["share"]["minimum"], body["properties"]["share"]["maximum"]) == (1, 99)


def test_servers_of_a_store_try_out_together(store_url: URL, tmp_path: Path) -> None:
    home = filled(Home.at(tmp_path, store_url))
    settings = home.settings(canary_step_s=NEVER)
    with running(settings) as first, running(settings) as second, first.http() as http, second.http() as other:
        try_out(http, "one", 50)
        eventually(lambda: states(other)["one"] == "candidate")
        got = [[answered_by(each, user=user, max_tokens=1) for user in USERS] for each in (http, other)]
        assert got[0] == got[1]
        assert set(got[0]) == {"base", "one"}
        other.post("/v1/policies/rollback")
        eventually(lambda: states(http)["one"] == "idle")
        assert {answered_by(http, user=user, max_tokens=1) for user in USERS} == {"base"}


def test_a_server_that_starts_later_tries_out_too(home: Home) -> None:
    settings = home.settings(canary_step_s=NEVER)
    with running(settings) as server, server.http() as http:
        promote(http, "two")
        give_to_all(home, http, "one")
    with running(settings) as server, server.http() as http:
        assert server.model == "two"
        eventually(lambda: states(http)["one"] == "candidate")
        assert answered_by(http) == "one"
        assert policy(http, "one")["share"] == 100
