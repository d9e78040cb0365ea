"""`/v1/cycles` over HTTP: what is shown of a cycle, who may ask for one, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer
from fine_tuning_server import register, started
from sqlalchemy import Engine
from sqlalchemy.engine import URL
from test_cycle import collect

from honed.server.store import cycles, jobs, promotions
from honed.server.store.database import writing
from honed.training.cycle import advance

pytestmark = pytest.mark.usefixtures("fake_engine")

PATH = "/v1/cycles"
REPORT = {
    "candidate": {"name": "ft:fake:ppo:1", "id": "ckpt-new"}, "incumbent": {"name": "fake", "id": "ckpt-fake"},
    "promote": True, "reasons": ["It wins."],
}  # fmt: skip


class Http:
    """As a key's owner."""

    def __init__(self, server: LiveServer, key: str = "root") -> None:
        self._url = server.url
        self._headers = {"authorization": f"Bearer sk-{key}"}

    def get(self, path: str, expected: int = 200) -> Any:
        return self._checked(httpx.get(f"{self._url}{path}", headers=self._headers), expected)

    def post(self, path: str, body: Any = None, expected: int = 200) -> Any:
        return self._checked(httpx.post(f"{self._url}{path}", json=body, headers=self._headers), expected)

    @staticmethod
    def _checked(response: httpx.Response, expected: int) -> Any:
        assert response.status_code == expected, response.text
        return response.json()

    def refused(self, path: str, body: Any = None, status: int = 400) -> tuple[str | None, str | None]:
        """`code` and `param` of the error."""
        error = self.post(path, body, status)["error"]
        return error["code"], error["param"]


@pytest.fixture
def server(store_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    numbers = itertools.count(1)  # in order, also of what is made in the same millisecond
    monkeypatch.setattr(jobs, "new_id", lambda prefix: f"{prefix}-{next(numbers):032x}")
    with started(store_url, tmp_path) as live:
        yield live


@pytest.fixture
def http(server: LiveServer) -> Http:
    return Http(server)


def work(store: Engine, result: Any) -> None:
    """As a worker does with the job that waits."""
    with writing(store) as connection:
        job = jobs.claim(connection, "fine_tuning", "evaluation")
        assert job is not None
        jobs.finish(connection, job, result=result)
    advance(store)


def test_a_cycle_shows_its_steps_and_what_the_gate_said(http: Http, store: Engine) -> None:
    collect(store)
    body = {"approve": True, "share": 5, "seed": 3, "settings": {"ppo": {"iterations": 4}}}
    cycle = http.post(PATH, body)
    assert cycle == {
        "id": cycle["id"], "object": "cycle", "created_at": cycle["created_at"], "finished_at": None,
        "status": "queued", "model": cycle["model"], "approve": True, "share": 5, "seed": 3, "steps": [],
        "candidate": None, "decision": None, "reasons": [], "evaluation": None, "error": None,
    }  # fmt: skip
    assert cycle["model"] == http.get("/v1/policies")["data"][0]["name"], "`honed` is what is in service"
    one = f"{PATH}/{cycle['id']}"
    advance(store)
    running = http.get(one)
    assert running["status"] == "running"
    assert [(step["name"], step["status"]) for step in running["steps"]] == [
        ("reward", "queued"), ("judge", "waiting"), ("ppo", "waiting"), ("evaluation", "waiting")
    ]  # fmt: skip
    job = http.get(f"/v1/fine_tuning/jobs/{running['steps'][0]['job_id']}")
    assert (job["method"]["type"], job["metadata"]) == ("reward", {"cycle": cycle["id"]})
    register(store, "new", "ppo")
    for made in ("r", "j", "p"):
        work(store, {"fine_tuned_model": made, "trained_tokens": 1, "checkpoints": []})
    work(store, REPORT)
    proposed = http.get(one)
    assert (proposed["status"], proposed["decision"], proposed["reasons"]) == ("proposed", "proposed", ["It wins."])
    assert (proposed["candidate"], proposed["evaluation"]) == ("ft:fake:ppo:1", REPORT)
    assert http.post(f"{one}/approve")["status"] == "running"
    advance(store)
    ended = http.get(one)
    assert (ended["status"], ended["decision"], ended["finished_at"] is not None) == ("succeeded", "canary", True)
    said = [event["message"] for event in http.get(f"{one}/events?limit=100")["data"]]
    assert said[-1] == "The cycle is queued."
    assert said[0].startswith("ft:fake:ppo:1: canary.")
    with writing(store) as connection:
        assert promotions.newest(connection).candidate_id == "ckpt-new"
    assert http.refused(PATH, {}) == ("policy_tried_out", None)


def test_it_shows_that_labelers_are_waited_for(http: Http, store: Engine) -> None:
    collect(store)
    cycle_id = http.post(PATH, {"settings": {"evaluation": {"people": 50}}})["id"]
    advance(store)
    with writing(store) as connection:
        held = cycles.hold(connection, cycle_id)
        assert held is not None
        people = {"asked": 50, "same": 0, "judged": 12, "waiting": 38}
        told = {"candidate": "new", "evaluation": REPORT | {"promote": None, "people": people}}
        cycles.go_on(connection, cycle_id, held.result | told)
    shown = http.get(f"{PATH}/{cycle_id}")
    assert (shown["status"], shown["candidate"], shown["decision"]) == ("awaiting_labelers", "new", None)
    assert shown["evaluation"]["people"] == people
    http.post(f"{PATH}/{cycle_id}/cancel")


def test_one_goes_on_at_a_time_and_lists_have_pages(http: Http) -> None:
    ids = []
    for _ in range(3):
        ids.append(http.post(PATH, {})["id"])
        assert http.refused(PATH, {}) == ("cycle_going_on", None)
        assert http.post(f"{PATH}/{ids[-1]}/cancel")["status"] == "cancelled"
    page = http.get(f"{PATH}?limit=2")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    page = http.get(f"{PATH}?limit=2&after={ids[1]}")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([ids[0]], False)


def test_what_has_ended_is_neither_cancelled_nor_approved(http: Http) -> None:
    one = f"{PATH}/{http.post(PATH, {})['id']}"
    assert http.refused(f"{one}/approve") == ("invalid_cycle_state", None)
    http.post(f"{one}/cancel")
    for verb in ("cancel", "approve"):
        assert http.refused(f"{one}/{verb}") == ("invalid_cycle_state", None)


def test_only_admins_ask_and_decide(server: LiveServer, http: Http) -> None:
    one = f"{PATH}/{http.post(PATH, {})['id']}"
    for key in ("ann", "lab"):
        other = Http(server, key)
        for path in (PATH, one, f"{one}/events"):
            other.get(path, 403)
        for path in (PATH, f"{one}/cancel", f"{one}/approve"):
            other.post(path, {}, 403)
    assert http.get(one)["status"] == "queued"


def test_what_is_no_cycle_is_not_found(http: Http, store: Engine) -> None:
    with writing(store) as connection:
        other = jobs.enqueue(connection, "another", payload={})
    for name in ("cycle-none", other):
        for path in (f"{PATH}/{name}", f"{PATH}/{name}/events"):
            assert http.get(path, 404)["error"]["param"] == "cycle_id"
        for verb in ("cancel", "approve"):
            assert http.refused(f"{PATH}/{name}/{verb}", status=404)[1] == "cycle_id"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"share": 0}, "integer_below_min_value", "share"),
        ({"share": 101}, "integer_above_max_value", "share"),
        ({"share": "10"}, "invalid_type", "share"),
        ({"demonstrations": 0}, "integer_below_min_value", "demonstrations"),
        ({"settings": {"ppo": {"iterations": [4]}}}, "invalid_type", "settings.ppo.iterations"),
    ],
)
def test_what_is_wrong_is_refused_by_name(http: Http, body: dict[str, Any], code: str, param: str) -> None:
    assert http.refused(PATH, body) == (code, param)
