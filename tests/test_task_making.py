"""`POST /v1/labeling/tasks`: prompts from the store, answers from the engine that serves."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from completions import add
from conftest import LiveServer, eventually, running
from fakes import tiny_tokenizer
from labeling_server import (
    INVALID,
    ScriptedEngine,
    database,
    fill,
    labeled,
    lease,
    numbered,
    order,
    ranked,
    rows,
    scripted,
    seen,
)

from honed.models.chat import render_chat
from honed.server import labeling
from honed.server.settings import Settings
from honed.server.store import labeling as stored_tasks
from honed.server.store.ingest import logprobs, token_ids
from honed.server.store.labeling import PassedOverError
from honed.server.store.tables import Choice, Completion


@pytest.fixture
def started() -> Iterator[tuple[LiveServer, ScriptedEngine]]:
    with scripted() as both:
        yield both


@pytest.fixture
def server(started: tuple[LiveServer, ScriptedEngine]) -> LiveServer:
    return started[0]


@pytest.fixture
def engine(started: tuple[LiveServer, ScriptedEngine]) -> ScriptedEngine:
    return started[1]


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def test_tasks_are_made_of_sampled_prompts(server: LiveServer, http: httpx.Client, engine: ScriptedEngine) -> None:
    sources = fill(server, 5)
    made = order(http, count=3, labelers=2, max_tokens=30)
    assert (made["object"], made["has_more"], made["passed_over"], made["stopped"]) == ("list", False, {}, None)
    assert len(made["data"]) == 3
    for task in made["data"]:
        assert (task["object"], task["policy"], task["model"]) == ("labeling.task", "ckpt-fake", "fake")
        assert (task["labelers"], task["open"], task["leased"], task["ranked"]) == (2, True, 0, 0)
    derived = labeled(server)
    assert {row.id for row in derived} == {task["completion_id"] for task in made["data"]}
    assert len({row.derived_from for row in derived} & set(sources)) == 3
    by_id = {row.id: row for row in rows(server, Completion)}
    for row in derived:
        source = by_id[row.derived_from]
        assert (row.user_hash, row.key_id, row.prompt_id) == (source.user_hash, source.key_id, source.prompt_id)
        assert (row.retrievable, row.trainable, row.policy_id) == (False, True, "ckpt-fake")
        assert row.params == {"temperature": 1.0, "top_p": 1.0, "n": 4, "max_tokens": 30}
    choices = [row for row in rows(server, Choice) if row.completion_id == derived[0].id]
    assert [row.index for row in choices] == [0, 1, 2, 3]
    assert all(len(token_ids(row.token_ids) or []) == len(logprobs(row.logprobs) or []) > 5 for row in choices)
    params = {(one.params.temperature, one.params.top_p, one.params.top_k, one.params.min_p) for one in engine.asked}
    assert (params, len(engine.asked)) == ({(1.0, 1.0, 0, 0.0)}, 12)


def test_the_answers_of_a_prompt_share_its_prefill(
    server: LiveServer, http: httpx.Client, engine: ScriptedEngine
) -> None:
    fill(server, 1)
    order(http, answers=9)
    leader, *others = engine.asked
    expected = render_chat(tiny_tokenizer(), [{"role": "user", "content": "Question 0"}])
    assert list(leader.prompt_ids) == expected
    assert len(others) == 8
    assert all(other.leader is leader for other in others)


def test_a_prompt_is_asked_once(server: LiveServer, http: httpx.Client) -> None:
    fill(server, 3)
    add(database(server), "question 0")
    made = order(http, count=10)
    assert (len(made["data"]), made["stopped"]) == (3, "no_prompts")
    again = order(http, count=1)
    assert (again["data"], again["first_id"], again["stopped"]) == ([], None, "no_prompts")


def test_large_orders_are_made_in_rounds(server: LiveServer, http: httpx.Client, engine: ScriptedEngine) -> None:
    fill(server, 20)
    made = order(http, count=20)
    assert (len(made["data"]), made["stopped"]) == (20, None)
    assert len(engine.asked) == 80
    assert engine.peak == labeling.ANSWERS_AT_ONCE


def test_a_seed_draws_the_same_prompts() -> None:
    drawn = []
    for seed in (5, 5, 6):
        with scripted() as (server, _), server.http() as http:
            fill(server, 30)
            order(http, count=4, seed=seed)
            drawn.append({row.prefix for row in labeled(server)})
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(prefixes) == 4 for prefixes in drawn)


def test_answers_that_read_the_same_are_dropped() -> None:
    texts = chain(["Yes.", "No.", " Yes.\n", "No.", "No."], ["Yes."] * 5, numbered())
    with scripted(texts) as (server, _), server.http() as http:
        fill(server, 2)
        made = order(http, count=2, answers=5)
        assert (len(made["data"]), made["passed_over"]) == (1, {"identical": 1})
        (answers,) = [
            [choice.text for choice in rows(server, Choice) if choice.completion_id == row.id]
            for row in labeled(server)
        ]
        assert answers == ["Yes.", "No."]
        assert [answer["label"] for answer in lease(http)["answers"]] == ["A", "B"]


def test_a_policy_that_always_says_the_same_is_given_up(fake_engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeling, "MAX_PASSED_OVER", 10)
    with running(Settings()) as server, server.http() as http:
        fill(server, 30)
        made = order(http, count=2)
        assert (made["data"], made["stopped"]) == ([], "passed_over")
        assert made["passed_over"] == {"identical": 10}


def test_what_cannot_be_answered_is_passed_over(server: LiveServer, http: httpx.Client) -> None:
    store = database(server)
    add(store, "x" * 8000)
    add(store, messages=[{"role": "tool", "content": "5"}])
    add(store, "Short")
    made = order(http, count=3, max_tokens=256)
    assert len(made["data"]) == 1
    assert made["passed_over"] == {"too_long": 1, "unrenderable": 1}
    whole = http.get(f"/v1/labeling/tasks/{made['data'][0]['id']}").json()
    assert whole["messages"] == [{"role": "user", "content": "Short"}]


def test_a_text_is_continued(server: LiveServer, http: httpx.Client, engine: ScriptedEngine) -> None:
    add(database(server), endpoint="text", messages=[{"role": "text", "content": "Once upon"}])
    (task,) = order(http)["data"]
    assert task["completion_id"].startswith("cmpl-")
    assert list(engine.asked[0].prompt_ids) == tiny_tokenizer().encode("Once upon")
    assert lease(http)["messages"] == [{"role": "text", "content": "Once upon"}]


def test_who_was_slower_passes_over(server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(server, 2)
    create, obstacles = stored_tasks.create, iter(["taken"])

    def slow(*args: Any, **kwargs: Any) -> Any:
        for obstacle in obstacles:
            raise PassedOverError(obstacle)  # type: ignore[arg-type]  # one of its words
        return create(*args, **kwargs)

    monkeypatch.setattr(stored_tasks, "create", slow)
    made = order(http, count=1)
    assert (len(made["data"]), made["passed_over"]) == (1, {"taken": 1})
    assert len(labeled(server)) == 1


def test_what_was_made_before_a_failure_stays() -> None:
    """The first round answers, the second never ends."""
    texts = chain(islice(numbered(), 32), repeat(None))
    with scripted(texts, Settings(request_timeout_s=2)) as (server, _), server.http() as http:
        fill(server, 20)
        made = order(http, count=20)
        assert (len(made["data"]), made["stopped"]) == (8, "request_timeout")
        refused = http.post("/v1/labeling/tasks", json={"count": 1})
        assert seen(refused) == (408, INVALID, "request_timeout", None)
        eventually(lambda: server.served.num_live == 0)


def test_a_client_that_goes_away_stops_it() -> None:
    with scripted(repeat(None)) as (server, _):
        fill(server, 3)
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({"count": 3}).encode()
        head = f"POST /v1/labeling/tasks HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + body)
            eventually(lambda: server.served.num_live == 12)
        eventually(lambda: server.served.num_live == 0)
        assert labeled(server) == []


def test_more_than_fits_is_refused(server: LiveServer, http: httpx.Client) -> None:
    fill(server, 1)
    too_long = http.post("/v1/labeling/tasks", json={"count": 1, "max_tokens": 8192})
    assert seen(too_long) == (400, INVALID, "invalid_value", "max_tokens")
    assert len(order(http, max_tokens=8000)["data"]) == 1
    server.served.max_live = 3
    too_many = http.post("/v1/labeling/tasks", json={"count": 1})
    assert seen(too_many) == (400, INVALID, "invalid_value", "answers")


def test_a_real_policy_answers_as_it_serves(tiny_checkpoint: Path) -> None:
    """With the same seed a chat has the same answers."""
    settings = Settings(model=str(tiny_checkpoint), dtype="float32", kv_cache_gib=0.02)
    with running(settings) as server, server.http() as http:
        fill(server, 4)
        made = order(http, count=3, answers=6, max_tokens=20, seed=1)["data"]
        assert len(made) == 3
        for task in made:
            assert (task["policy"], task["model"]) == (server.served.policy.id, "tiny")
            whole = http.get(f"/v1/labeling/tasks/{task['id']}").json()
            body = {"model": "honed", "n": 6, "seed": 1, "max_tokens": 20, "messages": whole["messages"]}
            served = http.post("/v1/chat/completions", json=body).json()["choices"]
            answers = [choice["text"].strip() for choice in whole["choices"]]
            stored = [choice["message"]["content"].replace("\0", "\ufffd").strip() for choice in served]
            assert answers == list(dict.fromkeys(stored))
            assert len(answers) > 1
        task = lease(http)
        assert http.post(f"/v1/labeling/tasks/{task['id']}/rankings", json=ranked(task)).status_code == 200
