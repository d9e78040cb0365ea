"""`/v1/labeling` over HTTP: who may do what, what a labeler sees, and tasks made by an engine."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from completions import add, count
from conftest import LiveServer, eventually, running
from fakes import FakeEngine, fake_load, tiny_tokenizer
from labeling_tasks import make_task
from sqlalchemy import Engine, select

from honed.models.chat import render_chat
from honed.models.engine.engine import Token
from honed.models.engine.sampler import Sample
from honed.models.engine.sequence import Sequence
from honed.server import labeling, policies
from honed.server.auth import short_hash
from honed.server.settings import Settings
from honed.server.store import labeling as stored_tasks
from honed.server.store.database import reading
from honed.server.store.ingest import logprobs, token_ids
from honed.server.store.labeling import PassedOverError
from honed.server.store.tables import Choice, Completion, Feedback

CLIENT, LABELER, OTHER, ADMIN = (f"sk-{name}-0123456789" for name in ("client", "labeler", "other", "admin"))
KEYS = (CLIENT, f"{LABELER} role=labeler", f"{OTHER} role=labeler", f"{ADMIN} role=admin")
INVALID = "invalid_request_error"
ENDLESS = "x" * 4000
BLIND = {"id", "object", "messages", "answers", "leased_until"}


class ScriptedEngine(FakeEngine):
    """Answers each sequence with the next of some texts; `asked` are the sequences."""

    def __init__(self, texts: Iterator[str]) -> None:
        super().__init__([2])
        self.asked: list[Sequence] = []
        self._texts = texts
        self._answers: dict[Sequence, list[Sample]] = {}

    def add(self, sequence: Sequence) -> None:
        ids = [*tiny_tokenizer().encode(next(self._texts), add_special_tokens=False), 2]
        self._answers[sequence] = [Sample(token_id, -0.5, (), is_finite=True) for token_id in ids]
        self.asked.append(sequence)
        super().add(sequence)

    def _next(self, sequence: Sequence) -> Token:
        self._answer = self._answers[sequence]
        return super()._next(sequence)


def numbered() -> Iterator[str]:
    return (f"Answer {number}." for number in range(10_000))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Servers that are started from here on answer with the texts; the engine that does."""

    def start(texts: Iterator[str]) -> ScriptedEngine:
        engine = ScriptedEngine(texts)
        stand_in: Any = engine
        monkeypatch.setattr(policies, "load", lambda settings: replace(fake_load(settings), engine=stand_in))
        return engine

    return start


@pytest.fixture
def engine(script: Any) -> ScriptedEngine:
    scripted: ScriptedEngine = script(numbered())
    return scripted


@pytest.fixture
def server(engine: ScriptedEngine) -> Iterator[LiveServer]:
    """Open to all, who are admins."""
    with running(Settings()) as live:
        yield live


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


@pytest.fixture
def guarded(engine: ScriptedEngine) -> Iterator[LiveServer]:
    with running(Settings.model_validate({"api_keys": KEYS})) as live:
        yield live


def database(server: LiveServer) -> Engine:
    store: Engine = server.app.state.storage.engine
    return store


def fill(server: LiveServer, prompts: int) -> list[str]:
    return [add(database(server), f"Question {number}", user=f"user-{number}") for number in range(prompts)]


def order(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/labeling/tasks", json={"count": 1} | fields)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


def lease(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/labeling/leases", json=fields)
    assert response.status_code == 200, response.text
    task: dict[str, Any] = response.json()
    return task


def ranked(task: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"verdict": "ranked", "ranking": [[answer["label"]] for answer in task["answers"]]} | fields


def seen(response: httpx.Response) -> tuple[int, str, str | None, str | None]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["code"], error["param"]


def as_key(server: LiveServer, key: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60, headers={"authorization": f"Bearer {key}"})


def rows(server: LiveServer, table: Any) -> Items[Any]:
    with reading(database(server)) as connection:
        return connection.execute(select(table)).all()


def labeled(server: LiveServer) -> Items[Any]:
    return [row for row in rows(server, Completion) if row.source == "labeling"]


# Making tasks


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
    with_peak = _Peak(engine)
    made = order(http, count=20)
    assert (len(made["data"]), made["stopped"]) == (20, None)
    assert len(engine.asked) == 80
    assert with_peak.running == labeling.ANSWERS_AT_ONCE


class _Peak:
    """The most sequences that an engine ever ran."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.running = 0
        step = engine.step

        def watched() -> list[Token]:
            self.running = max(self.running, engine.stats().running)
            return step()

        engine.step = watched  # type: ignore[method-assign]  # to look on


def test_a_seed_draws_the_same_prompts(engine: ScriptedEngine) -> None:
    drawn = []
    for seed in (5, 5, 6):
        with running(Settings()) as server, server.http() as http:
            fill(server, 30)
            order(http, count=4, seed=seed)
            drawn.append({row.prefix for row in labeled(server)})
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(prefixes) == 4 for prefixes in drawn)


def test_answers_that_read_the_same_are_dropped(script: Any) -> None:
    script(chain(["Yes.", "No.", " Yes.\n", "No.", "No."], ["Yes."] * 5, numbered()))
    with running(Settings()) as server, server.http() as http:
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


def test_what_was_made_before_a_failure_stays(script: Any) -> None:
    """The first round answers, the second never ends."""
    script(chain((next(numbers) for numbers in repeat(numbered(), 32)), repeat(ENDLESS)))
    with running(Settings(request_timeout_s=2)) as server, server.http() as http:
        fill(server, 20)
        made = order(http, count=20, max_tokens=4000)
        assert (len(made["data"]), made["stopped"]) == (8, "request_timeout")
        refused = http.post("/v1/labeling/tasks", json={"count": 1, "max_tokens": 4000})
        assert seen(refused) == (408, INVALID, "request_timeout", None)
        eventually(lambda: server.served.num_live == 0)


def test_a_client_that_goes_away_stops_it(script: Any) -> None:
    script(repeat(ENDLESS))
    with running(Settings()) as server:
        fill(server, 3)
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({"count": 3, "max_tokens": 4000}).encode()
        head = f"POST /v1/labeling/tasks HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + body)
            eventually(lambda: server.served.num_live == 12)
        eventually(lambda: server.served.num_live == 0)
        assert labeled(server) == []


def test_more_than_fits_is_refused(engine: ScriptedEngine) -> None:
    with running(Settings(max_queue=1)) as server, server.http() as http:
        engine.config = replace(engine.config, max_sequences=2)
        fill(server, 1)
        too_long = http.post("/v1/labeling/tasks", json={"count": 1, "max_tokens": 8192})
        assert seen(too_long) == (400, INVALID, "invalid_value", "max_tokens")
        server.served.max_live = 3
        too_many = http.post("/v1/labeling/tasks", json={"count": 1})
        assert seen(too_many) == (400, INVALID, "invalid_value", "answers")


# Labeling


def test_a_labeler_is_blind(server: LiveServer, http: httpx.Client) -> None:
    add(database(server), messages=[{"role": "user", "content": "Who?", "name": "ada"}])
    (task,) = order(http)["data"]
    whole = http.get(f"/v1/labeling/tasks/{task['id']}").json()
    response = http.post("/v1/labeling/leases", json={"labeler": "cy"})
    shown = response.json()
    assert shown.keys() == BLIND
    assert shown["messages"] == [{"role": "user", "content": "Who?", "name": "ada"}]
    assert [answer.keys() for answer in shown["answers"]] == [{"label", "text"}] * 4
    secrets = (whole["policy"], whole["model"], whole["completion_id"], whole["derived_from"], "index", "choice")
    assert not [secret for secret in secrets if secret in response.text]
    said = http.post(f"/v1/labeling/tasks/{task['id']}/rankings", json=ranked(shown, labeler="cy"))
    assert said.json().keys() == {"id", "object", "labeler", "verdict", "ranking", "finished"}
    assert not [secret for secret in secrets if secret in said.text]


def test_a_task_from_lease_to_ranking(server: LiveServer, http: httpx.Client) -> None:
    fill(server, 2)
    order(http, count=2)
    first = lease(http)
    assert lease(http) == first
    body = ranked(first, demonstration="Better.", comment="Hm.", idempotency_key="k-1")
    said = http.post(f"/v1/labeling/tasks/{first['id']}/rankings", json=body)
    assert said.json() | {"finished": 0} == {
        "id": first["id"],
        "object": "labeling.verdict",
        "labeler": "anonymous",
        "verdict": "ranked",
        "ranking": body["ranking"],
        "finished": 0,
    }
    again = http.post(f"/v1/labeling/tasks/{first['id']}/rankings", json=body)
    assert (again.status_code, again.json()) == (200, said.json())
    assert [row.kind for row in rows(server, Feedback)] == ["ranking", "correction", "comment"]
    metrics = http.get("/metrics").text
    assert [
        f'honed_feedback_total{{kind="{kind}"}} 1.0' in metrics for kind in ("ranking", "correction", "comment")
    ] == [True] * 3
    second = lease(http)
    assert second["id"] != first["id"]
    http.post(f"/v1/labeling/tasks/{second['id']}/rankings", json={"verdict": "skip"})
    assert http.post("/v1/labeling/leases", json={}).status_code == 204
    whole = http.get(f"/v1/labeling/tasks/{first['id']}").json()
    assert (whole["open"], whole["ranked"]) == (False, 1)
    (assignment,) = whole["assignments"]
    texts = {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert [texts[index] for (index,) in assignment["ranking"]] == [answer["text"] for answer in first["answers"]]
    assert (assignment["state"], assignment["labeler"]) == ("ranked", "anonymous")


def test_progress_and_agreement(server: LiveServer, http: httpx.Client) -> None:
    fill(server, 3)
    order(http, count=3, labelers=2)
    for name, verdicts in {"ada": ["ranked", "ranked", "all_bad"], "bob": ["ranked", "ranked", "skip"]}.items():
        for verdict in verdicts:
            task = lease(http, labeler=name)
            texts = sorted(task["answers"], key=lambda answer: answer["text"])
            body = {"verdict": verdict, "labeler": name}
            body |= {"ranking": [[answer["label"]] for answer in texts]} if verdict == "ranked" else {}
            assert http.post(f"/v1/labeling/tasks/{task['id']}/rankings", json=body).status_code == 200
    progress = http.get("/v1/labeling/progress").json()
    assert progress == {
        "object": "labeling.progress",
        "open": 1,
        "done": 2,
        "leased": 0,
        "ranked": 4,
        "skipped": 1,
        "all_bad": 1,
        "labelers": [
            {"labeler": "ada", "leased": 0, "ranked": 2, "skipped": 0, "all_bad": 1},
            {"labeler": "bob", "leased": 0, "ranked": 2, "skipped": 1, "all_bad": 0},
        ],
    }
    found = http.get("/v1/labeling/agreement").json()
    assert (found["object"], found["alpha"]) == ("labeling.agreement", 1)
    assert (found["pairwise"]["value"], found["pairwise"]["pairs"]) == (1, 12)
    assert [(each["labeler"], each["tasks"], each["pairs"]) for each in found["labelers"]] == [
        ("ada", 2, 12),
        ("bob", 2, 12),
    ]


def test_agreement_of_nobody(http: httpx.Client) -> None:
    assert http.get("/v1/labeling/agreement").json() == {
        "object": "labeling.agreement",
        "pairwise": None,
        "pairwise_with_ties": None,
        "alpha": None,
        "labelers": [],
    }


def test_lists_have_pages_and_a_filter(server: LiveServer, http: httpx.Client) -> None:
    ids = [make_task(database(server), f"Question {number}").id for number in range(3)]
    task = lease(http)
    http.post(f"/v1/labeling/tasks/{task['id']}/rankings", json=ranked(task))

    def listed(**params: Any) -> tuple[list[str], bool]:
        page = http.get("/v1/labeling/tasks", params=params).json()
        return [each["id"] for each in page["data"]], page["has_more"]

    assert listed(limit=2) == (ids[:2], True)
    assert listed(limit=2, after=ids[1]) == (ids[2:], False)
    assert listed(open="true") == (ids[1:], False)
    assert listed(open="false") == (ids[:1], False)
    assert listed(limit=1000) == (ids, False)
    refused = http.get("/v1/labeling/tasks", params={"limit": 1001})
    assert seen(refused) == (400, INVALID, "invalid_value", "limit")


# Roles


@pytest.mark.parametrize(
    ("method", "path", "body", "least"),
    [
        ("POST", "tasks", {"count": 1}, ADMIN),
        ("GET", "tasks", None, ADMIN),
        ("GET", "tasks/task-1", None, ADMIN),
        ("GET", "agreement", None, ADMIN),
        ("POST", "leases", {}, LABELER),
        ("POST", "tasks/task-1/rankings", {"verdict": "skip"}, LABELER),
        ("GET", "progress", None, LABELER),
    ],
)
def test_a_role_is_needed(guarded: LiveServer, method: str, path: str, body: Any, least: str) -> None:
    for key in (CLIENT, LABELER, ADMIN):
        with as_key(guarded, key) as http:
            response = http.request(method, f"/v1/labeling/{path}", json=body)
            may = key in (ADMIN, least)
            assert (response.status_code != 403) is may
            if not may:
                assert seen(response) == (403, INVALID, "insufficient_permissions", None)
    unknown = httpx.request(method, f"{guarded.url}/v1/labeling/{path}", content=b"{")
    assert seen(unknown) == (401, INVALID, "invalid_api_key", None)


def test_a_labelers_key_is_the_labeler(guarded: LiveServer) -> None:
    fill(guarded, 1)
    name = short_hash(LABELER)
    with as_key(guarded, ADMIN) as admin, as_key(guarded, LABELER) as labeler, as_key(guarded, OTHER) as other:
        order(admin, labelers=2)
        refused = labeler.post("/v1/labeling/leases", json={"labeler": "ada"})
        assert seen(refused) == (400, INVALID, "invalid_value", "labeler")
        task = lease(labeler, labeler=name)
        assert lease(labeler)["id"] == task["id"]
        path = f"/v1/labeling/tasks/{task['id']}/rankings"
        assert seen(other.post(path, json=ranked(task))) == (404, INVALID, "lease_not_found", "task_id")
        assert seen(labeler.post(path, json=ranked(task, labeler="ada"))) == (400, INVALID, "invalid_value", "labeler")
        assert labeler.post(path, json=ranked(task)).json()["labeler"] == name
        lease(admin, labeler="ada")
        assert admin.post(path, json=ranked(task, labeler="ada")).json()["labeler"] == "ada"
        progress = labeler.get("/v1/labeling/progress").json()
        assert {each["labeler"]: each["ranked"] for each in progress["labelers"]} == {name: 1, "ada": 1}
    assert {(row.labeler, row.key_id) for row in rows(guarded, Feedback)} == {
        (name, name),
        ("ada", short_hash(ADMIN)),
    }


# Refusals


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("tasks", {}, "missing_required_parameter", "count"),
        ("tasks", {"count": 0}, "integer_below_min_value", "count"),
        ("tasks", {"count": 65}, "integer_above_max_value", "count"),
        ("tasks", {"count": "1"}, "invalid_type", "count"),
        ("tasks", {"count": 1, "answers": 3}, "integer_below_min_value", "answers"),
        ("tasks", {"count": 1, "answers": 10}, "integer_above_max_value", "answers"),
        ("tasks", {"count": 1, "labelers": 17}, "integer_above_max_value", "labelers"),
        ("tasks", {"count": 1, "max_tokens": 0}, "integer_below_min_value", "max_tokens"),
        ("tasks", {"count": 1, "seed": 2**63}, "integer_above_max_value", "seed"),
        ("leases", {"labeler": ""}, "string_below_min_length", "labeler"),
        ("leases", {"labeler": "x" * 65}, "string_above_max_length", "labeler"),
        ("leases", {"labeler": "a\0b"}, "invalid_value", "labeler"),
        ("leases", [], "invalid_json", None),
        ("rankings", {}, "missing_required_parameter", "verdict"),
        ("rankings", {"verdict": "good"}, "invalid_value", "verdict"),
        ("rankings", {"verdict": "ranked"}, "missing_required_parameter", "ranking"),
        ("rankings", {"verdict": "skip", "ranking": [["A"]]}, "invalid_value", "ranking"),
        ("rankings", {"verdict": "all_bad", "ranking": [["A"]]}, "invalid_value", "ranking"),
        ("rankings", {"verdict": "skip", "demonstration": "x"}, "invalid_value", "demonstration"),
        ("rankings", {"verdict": "ranked", "ranking": []}, "empty_array", "ranking"),
        ("rankings", {"verdict": "ranked", "ranking": [[]]}, "empty_array", "ranking[0]"),
        ("rankings", {"verdict": "ranked", "ranking": [["Z"]]}, "invalid_value", "ranking[0][0]"),
        ("rankings", {"verdict": "ranked", "ranking": ["A", "B"]}, "invalid_type", "ranking[0]"),
        ("rankings", {"verdict": "ranked", "ranking": [["A"], ["B"], ["C"]]}, "invalid_value", "ranking"),
        ("rankings", {"verdict": "all_bad", "demonstration": ""}, "string_below_min_length", "demonstration"),
        ("rankings", {"verdict": "skip", "idempotency_key": "a\0"}, "invalid_value", "idempotency_key"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_bad_bodies(refusing: str, path: str, body: Any, code: str, param: str | None) -> None:
    where = refusing if path == "rankings" else f"{refusing.partition('/v1/')[0]}/v1/labeling/{path}"
    assert seen(httpx.post(where, json=body)) == (400, INVALID, code, param)


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    """Where to send rankings of a task that is leased; none is stored."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # until it has loaded: other servers are to load something else
            patch.setattr(policies, "load", fake_load)
            server = stack.enter_context(running(Settings()))
        http = stack.enter_context(server.http())
        make_task(database(server))
        task_id = lease(http)["id"]
        yield f"{server.url}/v1/labeling/tasks/{task_id}/rankings"
        assert count(database(server), Feedback) == 0


def test_refusals_have_codes(server: LiveServer, http: httpx.Client) -> None:
    store = database(server)
    make_task(store, "One"), make_task(store, "Two")
    task = lease(http)
    path = f"/v1/labeling/tasks/{task['id']}/rankings"
    unleased = http.post(path, json=ranked(task, labeler="bob"))
    assert seen(unleased) == (404, INVALID, "lease_not_found", "task_id")
    assert http.post(path, json=ranked(task, idempotency_key="k")).status_code == 200
    changed = http.post(path, json={"verdict": "all_bad"})
    assert seen(changed) == (400, INVALID, "already_judged", "task_id")
    second = lease(http)
    reused = http.post(f"/v1/labeling/tasks/{second['id']}/rankings", json=ranked(second, idempotency_key="k"))
    assert seen(reused) == (400, INVALID, "idempotency_key_reused", "idempotency_key")
    for response in (
        http.post("/v1/labeling/tasks/none/rankings", json=ranked(task)),
        http.get("/v1/labeling/tasks/none"),
    ):
        assert seen(response) == (404, INVALID, "not_found", "task_id")


def test_unknown_keys_are_named_in_a_header(server: LiveServer, http: httpx.Client) -> None:
    fill(server, 1)
    warned = http.post("/v1/labeling/leases", json={"mood": "good"})
    assert (warned.status_code, warned.headers["x-honed-warning"]) == (204, "ignored unknown parameters: mood")
    made = http.post("/v1/labeling/tasks", json={"count": 1, "k": 4})
    assert made.headers["x-honed-warning"] == "ignored unknown parameters: k"
    warned = http.post("/v1/labeling/leases", json={"mood": "good"})
    assert (warned.status_code, warned.headers["x-honed-warning"]) == (200, "ignored unknown parameters: mood")
    task = warned.json()
    said = http.post(f"/v1/labeling/tasks/{task['id']}/rankings", json=ranked(task, stars=5))
    assert said.headers["x-honed-warning"] == "ignored unknown parameters: stars"


# With a model


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


def test_the_document_has_them(server: LiveServer, http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    paths = {path: set(methods) for path, methods in document["paths"].items() if "labeling" in path}
    assert paths == {
        "/v1/labeling/tasks": {"get", "post"},
        "/v1/labeling/tasks/{task_id}": {"get"},
        "/v1/labeling/tasks/{task_id}/rankings": {"post"},
        "/v1/labeling/leases": {"post"},
        "/v1/labeling/progress": {"get"},
        "/v1/labeling/agreement": {"get"},
    }
    shown = document["components"]["schemas"]["ShownTask"]["properties"]
    assert shown.keys() == BLIND
