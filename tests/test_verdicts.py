"""What becomes of a policy that is tried out: by what users say, how it fails, and where it cannot be loaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import candidates
import httpx
import pytest
from candidates import (
    NEVER,
    USERS,
    answered_by,
    filled,
    give_to_all,
    history,
    is_out,
    policy,
    try_out,
    try_out_in_store,
)
from conftest import LiveServer, eventually, running
from policies_server import ENDLESS, Home, ask, error_of, events, states, token_ids
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select, update
from sqlalchemy.engine import URL
from test_engines import die, served
from test_erasure import train

from honed.server import engines as engines_module
from honed.server import policies
from honed.server.store import promotions, users
from honed.server.store.database import reading, writing
from honed.server.store.erasure import erase_user
from honed.server.store.tables import Checkpoint, Completion

looks_often, home = candidates.looks_often, candidates.home
server, http = candidates.server, candidates.http


def thumbs(http: httpx.Client, name: str) -> tuple[int, int]:
    counted = policy(http, name)["feedback"]
    return counted["up"], counted["down"]


def ask_and_judge(http: httpx.Client, user: str, values: dict[str, str]) -> str:
    """The answer's id. `values`: what is said, by the policy that answers."""
    answer = ask(http, "honed", user=user, max_tokens=2).json()
    say(http, answer["id"], values[answer["model"]])
    return str(answer["id"])


def say(http: httpx.Client, completion_id: str, value: str, **author: str) -> None:
    said = {"completion_id": completion_id, "kind": "thumb", "value": value} | author
    eventually(lambda: http.post("/v1/feedback", json=said).status_code == 200)


def thumb_gauges(http: httpx.Client) -> dict[tuple[str, str], float]:
    families = {each.name: each for each in text_string_to_metric_families(http.get("/metrics").text)}
    samples = families["honed_policy_thumbs"].samples
    return {(each.labels["policy"], each.labels["direction"]): each.value for each in samples}


def test_thumbs_are_shown_by_policy(home: Home) -> None:
    with running(home.settings(canary_step_s=NEVER, logging="all")) as server, server.http() as http:
        assert policy(http, "base")["feedback"] == {"up": 0, "down": 0, "rate": None, "low": None, "high": None}
        for value in ("up", "up", "down"):
            ask_and_judge(http, "ann", {"base": value})
        eventually(lambda: thumb_gauges(http) == {("base", "up"): 2, ("base", "down"): 1})
        counted = policy(http, "base")["feedback"]
        assert (counted["up"], counted["down"], counted["rate"]) == (2, 1, pytest.approx(2 / 3))
        assert (counted["low"], counted["high"]) == pytest.approx((0.2077, 0.9385), abs=1e-4), "Wilson"
        give_to_all(home, http, "one")
        eventually(lambda: thumbs(http, "base") == (0, 0))  # what counts is what was answered since then
        ask_and_judge(http, "ann", {"one": "up"})
        eventually(lambda: thumbs(http, "one") == (1, 0))
        http.post("/v1/policies/rollback")
        assert thumbs(http, "base") == (2, 1)


def test_one_that_users_like_less_is_rolled_back(
    store_url: URL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On all servers: what is said to one of them is in the store."""
    home = filled(Home.at(tmp_path, store_url))
    settings = home.settings(canary_step_s=NEVER, logging="all")
    with running(settings) as first, running(settings) as second, first.http() as http, second.http() as other:
        try_out(http, "one", 50, advance=True)
        for number in range(300):
            ask_and_judge(http, f"user {number}", {"base": "up", "one": "down"})
            if is_out(http):
                break
        eventually(lambda: is_out(http) and is_out(other))
        assert {answered_by(each, user=user, max_tokens=1) for user in USERS for each in (http, other)} == {"base"}
        newest, *before = history(http)
        assert (newest["policy"], newest["candidate"], newest["share"]) == ("base", None, 0)
        assert newest["reason"].startswith("Users like it less: thumbs up 0 of ")
        assert newest["reason"] in caplog.text
        assert len(before) == 1, "one of the servers did it, once"


def test_who_asks_for_a_policy_by_its_name_decides_nothing(home: Home) -> None:
    """Nor does one client that speaks for many labelers."""
    with running(home.settings(canary_step_s=NEVER, logging="all")) as server, server.http() as http:
        try_out(http, "one", 50)
        for name, value in {"base": "up", "one": "down"}.items():
            asked = [ask(http, name, max_tokens=1).json()["id"] for _ in range(30)]
            asked += [ask_and_judge(http, f"user {each}", {"base": value, "one": value}) for each in range(4)]
            for number, completion_id in enumerate(asked):
                say(http, completion_id, value, labeler=f"labeler {number}")
            for number in range(30):
                say(http, asked[-1], value, labeler=f"labeler {number}")
        eventually(lambda: sum(map(sum, (thumbs(http, "base"), thumbs(http, "one")))) == 8)
        assert not is_out(http)
        candidate, current = (served(server, home, name).outcomes for name in ("one", "base"))
        assert candidate.answered + current.answered == 8
        assert {answered_by(http, user=user, max_tokens=1) for user in USERS} == {"base", "one"}, "it goes on"


def test_one_that_is_liked_as_much_advances_to_a_promotion(store_url: URL, tmp_path: Path) -> None:
    home = filled(Home.at(tmp_path, store_url))
    settings = home.settings(canary_step_s=0, canary_min_answers=3, canary_shares=(20, 60))
    with running(settings) as first, running(settings) as second, first.http() as http, second.http() as other:
        try_out(http, "one", 5, advance=True)
        for _ in range(2000):  # 20 answers are enough, but for chance; of users, none may be among the 5 %
            answered_by(http, max_tokens=1)
            if is_out(http):
                break
        assert is_out(http)
        changes = history(http)
        steps = [(each["policy"], each["candidate"], each["share"]) for each in reversed(changes)]
        assert steps == [("base", "one", 5), ("base", "one", 20), ("base", "one", 60), ("one", None, 0)]
        assert all("not found to be worse" in each["reason"] for each in changes[:-1])
        assert changes[-1]["reason"] is None
        assert states(http) == {"one": "current", "base": "idle", "two": "unloaded"}
        eventually(lambda: states(other)["one"] == "current")
        assert token_ids(ask(other, "honed")) == home.greedy("one")
        assert http.post("/v1/policies/rollback").json()["name"] == "base"


def test_one_whose_engine_dies_is_rolled_back(
    home: Home,
    server: LiveServer,
    http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    give_to_all(home, http, "one")
    dying = served(server, home, "one")
    monkeypatch.setattr(dying._engine, "step", lambda: die(dying._engine))
    assert error_of(ask(http, "honed")) == (500, "internal_error")
    assert answered_by(http) == "base", "at once"
    eventually(lambda: len(history(http)) == 2)
    newest = history(http)[0]
    assert (newest["policy"], newest["candidate"]) == ("base", None)
    assert "engine has stopped" in newest["reason"]
    assert newest["reason"] in caplog.text
    assert http.get("/health").json()["status"] == "ready"
    assert token_ids(ask(http, "one")) == home.greedy("one"), "its name is there still"


def fail(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def test_one_that_fails_more_often_is_rolled_back(
    home: Home, server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer fails for half of the users; the current policy's answers the others."""
    try_out(http, "one", 50)
    monkeypatch.setattr(served(server, home, "one").policy.tokenizer, "encode", fail)
    codes: Counter[int] = Counter()
    for number in range(400):
        codes[ask(http, "honed", user=f"user {number}", prompt="Hi", max_tokens=1).status_code] += 1
        if is_out(http):
            break
    eventually(lambda: is_out(http))
    assert codes.keys() == {200, 500}
    assert history(http)[0]["reason"].startswith("It fails more often: ")


def test_what_counts_as_a_failure(
    home: Home, server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what is the client's fault, nor one that goes away, nor of requests that name the policy."""
    give_to_all(home, http, "one")
    candidate = served(server, home, "one")
    for _ in range(3):
        assert ask(http, "honed", stop_token_ids=[10**6]).status_code == 400
    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "honed"}):
        pass
    eventually(lambda: candidate.is_idle)
    assert (candidate.outcomes.answered, candidate.outcomes.failed) == (0, 0)
    answered_by(http)
    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "honed", "max_tokens": 3}) as stream:
        assert events(stream)[-1] == "[DONE]"
    assert (candidate.outcomes.answered, candidate.outcomes.failed) == (2, 0)
    assert ask(http, "one", max_tokens=1).status_code == 200
    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "one", "max_tokens": 3}) as stream:
        assert events(stream)[-1] == "[DONE]"
    with monkeypatch.context() as patch:
        patch.setattr(candidate.policy.tokenizer, "encode", fail)
        assert ask(http, "one", prompt="Hi").status_code == 500
        assert (candidate.outcomes.answered, candidate.outcomes.failed) == (2, 0)
        assert ask(http, "honed", prompt="Hi").status_code == 500
        assert (candidate.outcomes.answered, candidate.outcomes.failed) == (2, 1)
    monkeypatch.setattr(candidate._engine, "step", lambda: die(candidate._engine))
    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "honed"}) as stream:
        assert events(stream)[-1] != "[DONE]"
    eventually(lambda: (candidate.outcomes.answered, candidate.outcomes.failed) == (2, 2))


@pytest.fixture
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "PATIENCE", policies.PATIENCE * 0)


@pytest.mark.usefixtures("_no_patience")
def test_one_that_cannot_be_loaded_is_rolled_back(home: Home, http: httpx.Client) -> None:
    weights = home.folder / "models" / "one" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert error_of(http.post("/v1/policies/one/canary", json={"share": 10})) == (500, "policy_unloadable")
    assert history(http) == [], "what an admin asks for is loaded first"
    try_out_in_store(home, "one")
    eventually(lambda: len(history(http)) == 2)
    assert "'one' cannot be loaded" in history(http)[0]["reason"]
    assert answered_by(http) == "base"


def test_one_that_comes_late_to_a_server_is_waited_for(home: Home, http: httpx.Client) -> None:
    folder = home.folder / "models" / "one"
    folder.rename(home.folder / "elsewhere")
    try_out_in_store(home, "one", 100)
    eventually(lambda: "not on this server" in str(http.get("/health").json()["detail"]))
    assert answered_by(http) == "base"
    assert http.get("/health").status_code == 200
    (home.folder / "elsewhere").rename(folder)
    eventually(lambda: states(http)["one"] == "candidate")
    assert len(history(http)) == 1
    eventually(lambda: http.get("/health").json()["detail"] is None)
    assert answered_by(http) == "one"


@pytest.mark.usefixtures("_no_patience")
def test_one_that_is_not_on_a_server_is_rolled_back(home: Home, http: httpx.Client) -> None:
    (home.folder / "models" / "one").rename(home.folder / "elsewhere")
    try_out_in_store(home, "one")
    eventually(lambda: len(history(http)) == 2)
    assert "not on this server" in history(http)[0]["reason"]
    assert answered_by(http) == "base"


@pytest.mark.usefixtures("_no_patience")
def test_a_fault_in_loading_that_nobody_foresaw(
    home: Home, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "load_folder", fail)
    try_out_in_store(home, "one")
    eventually(lambda: len(history(http)) == 2)
    assert answered_by(http) == "base"


def test_one_that_finds_no_room_waits_for_some(home: Home, http: httpx.Client) -> None:
    with http.stream("POST", "/v1/completions", json=ENDLESS | {"model": "two"}) as stream:
        try_out_in_store(home, "one", 100)
        eventually(lambda: "no room" in str(http.get("/health").json()["detail"]))
        assert answered_by(http, max_tokens=1) == "base"
        assert http.get("/health").status_code == 200
        events(stream)
    eventually(lambda: states(http)["one"] == "candidate")
    assert len(history(http)) == 1
    eventually(lambda: http.get("/health").json()["detail"] is None)


def test_one_that_finds_no_room_for_long_is_rolled_back(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(home.settings(max_policies=1)) as server, server.http() as http:
        try_out_in_store(home, "one")
        eventually(lambda: "no room" in str(http.get("/health").json()["detail"]))
        monkeypatch.setattr(policies, "PATIENCE", policies.PATIENCE * 0)
        eventually(lambda: len(history(http)) == 2)
        assert "no room" in history(http)[0]["reason"]
        eventually(lambda: http.get("/health").json()["detail"] is None)
        assert answered_by(http) == "base"


def test_an_erasure_leaves_what_is_tried_out(home: Home) -> None:
    """It names the candidate, which was trained on what is erased; what becomes of that is for people to say."""
    with running(home.settings(canary_step_s=NEVER, logging="all")) as server, server.http() as http:
        ask_and_judge(http, "ann", {"base": "up"})
        give_to_all(home, http, "one")
        engine = server.app.state.storage.engine
        with reading(engine) as connection:
            ids = list(connection.execute(select(Completion.id)).scalars())
        train(engine, "snap", ids)
        with writing(engine) as connection:
            connection.execute(update(Checkpoint).where(Checkpoint.name == "one").values(snapshot_id="snap"))
        erased = erase_user(engine, users.hash_user(users.load_salt(engine), "ann"))
        assert erased.checkpoints == (home.ids["one"],)
        with reading(engine) as connection:
            assert promotions.newest(connection).candidate_id == home.ids["one"]
        assert answered_by(http) == "one"
        eventually(lambda: thumbs(http, "base") == (0, 0))
