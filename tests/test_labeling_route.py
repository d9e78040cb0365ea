"""`/v1/labeling` over HTTP: who may do what, what a labeler sees and says, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from completions import add, count
from conftest import LiveServer
from labeling_server import INVALID, as_key, database, fill, lease, order, ranked, rows, scripted, seen
from labeling_tasks import make_task
from pydantic import SecretStr
from sqlalchemy.engine import URL

from honed.server.auth import short_hash
from honed.server.settings import Settings
from honed.server.store.tables import Feedback

CLIENT, LABELER, OTHER, ADMIN = (f"sk-{name}-0123456789" for name in ("client", "labeler", "other", "admin"))
KEYS = (CLIENT, f"{LABELER} role=labeler", f"{OTHER} role=labeler", f"{ADMIN} role=admin")
BLIND = {"id", "object", "messages", "answers", "leased_until"}


@pytest.fixture
def server() -> Iterator[LiveServer]:
    """Open to all, who are admins."""
    with scripted() as (live, _):
        yield live


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


@pytest.fixture(scope="module")
def guarded() -> Iterator[LiveServer]:
    with scripted(settings=Settings.model_validate({"api_keys": KEYS})) as (live, _):
        yield live


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


@pytest.mark.usefixtures("store")
def test_a_task_from_lease_to_ranking(store_url: URL) -> None:
    """On both databases."""
    settings = Settings(database_url=SecretStr(store_url.render_as_string(hide_password=False)))
    with scripted(settings=settings) as (server, _), server.http() as http:
        _label(server, http)


def _label(server: LiveServer, http: httpx.Client) -> None:
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
    assert sorted(row.kind for row in rows(server, Feedback)) == ["comment", "correction", "ranking"]
    metrics = http.get("/metrics").text
    for kind in ("comment", "correction", "ranking"):
        assert f'honed_feedback_total{{kind="{kind}"}} 1.0' in metrics
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
    with scripted() as (server, _), server.http() as http:
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
