"""`/v1/feedback` over HTTP: every kind, retries, who may judge what, and what is refused."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from completions import add
from conftest import LiveServer, eventually, running
from pydantic import SecretStr
from sqlalchemy import Engine, func, select
from sqlalchemy.engine import URL

from honed.server.settings import Settings
from honed.server.store import feedback
from honed.server.store.database import open_database, reading, writing
from honed.server.store.feedback import NewFeedback
from honed.server.store.tables import Feedback

pytestmark = pytest.mark.usefixtures("fake_engine")

KEYS = ("sk-ann", "sk-ben", "sk-lab role=labeler", "sk-root role=admin")


class Api:
    """One key's view of a server."""

    def __init__(self, server: LiveServer, key: str) -> None:
        self._url = f"{server.url}/v1"
        self._options: dict[str, Any] = {"headers": {"authorization": f"Bearer sk-{key}"}, "timeout": 60}

    def complete(self, endpoint: str, body: dict[str, Any]) -> str:
        """The id of an answer."""
        completion_id: str = httpx.post(f"{self._url}/{endpoint}", json=body, **self._options).json()["id"]
        return completion_id

    def ask(self, content: str = "Hi", n: int = 1) -> str:
        messages = [{"role": "user", "content": content}]
        return self.complete("chat/completions", {"model": "honed", "messages": messages, "n": n})

    def judge(self, completion_id: str, kind: str, value: Any, **fields: Any) -> httpx.Response:
        body = {"completion_id": completion_id, "kind": kind, "value": value} | fields
        return httpx.post(f"{self._url}/feedback", json=body, **self._options)

    def list(self, **query: Any) -> Any:
        return httpx.get(f"{self._url}/feedback", params=query, **self._options).json()

    def delete(self, completion_id: str) -> None:
        assert httpx.delete(f"{self._url}/chat/completions/{completion_id}", **self._options).status_code == 200


def started(url: URL, home: Path) -> running:
    secret = SecretStr(url.render_as_string(hide_password=False))
    return running(Settings(home=home, database_url=secret, logging="all", api_keys=tuple(map(SecretStr, KEYS))))


@pytest.fixture
def server(store_url: URL, tmp_path: Path) -> Iterator[LiveServer]:
    with started(store_url, tmp_path) as live:
        yield live


def answer(completion_id: str, choice: int) -> dict[str, Any]:
    return {"completion_id": completion_id, "choice": choice}


def test_every_kind_comes_back_as_it_was_given(server: LiveServer) -> None:
    ann = Api(server, "ann")
    one, two = ann.ask(n=3), ann.ask(n=2)
    values: list[tuple[str, Any, Any]] = [
        ("thumb", "up", "up"),
        ("thumb", "down", "down"),
        ("rating", 7, 7),
        ("comparison", {"chosen": 2, "rejected": answer(two, 1)},
         {"chosen": answer(one, 2), "rejected": answer(two, 1), "tie": False}),
        ("comparison", {"chosen": 0, "rejected": 1, "tie": True},
         {"chosen": answer(one, 0), "rejected": answer(one, 1), "tie": True}),
        ("ranking", [[1], [0, 2]], [[answer(one, 1)], [answer(one, 0), answer(one, 2)]]),
        ("correction", "As it should have been.", "As it should have been."),
        ("comment", "I am ann@example.org", "I am [EMAIL]"),
    ]  # fmt: skip
    for kind, value, shown in values:
        response = ann.judge(one, kind, value, metadata={"page": "1"})
        assert response.status_code == 200, response.text
        body = response.json()
        assert (body["object"], body["kind"], body["value"]) == ("feedback", kind, shown)
        assert (body["completion_id"], body["choice"], body["policy"]) == (one, 0, "ckpt-fake")
        assert (body["source"], body["labeler"], body["metadata"]) == ("user", None, {"page": "1"})
    listed = ann.list(order="asc")
    assert [each["value"] for each in listed["data"]] == [shown for _, _, shown in values]
    assert 'honed_feedback_total{kind="comparison"} 2.0' in httpx.get(f"{server.url}/metrics").text


def test_who_said_it(server: LiveServer) -> None:
    ann, lab = Api(server, "ann"), Api(server, "lab")
    completion_id = ann.ask()
    assert ann.judge(completion_id, "thumb", "up", labeler="carla").json()["source"] == "labeler"
    assert ann.judge(completion_id, "thumb", "up", source="automatic").json()["source"] == "automatic"
    own = lab.judge(lab.ask(), "thumb", "up").json()
    assert (own["source"], len(own["labeler"])) == ("labeler", 12), "a labeler's key is its name"
    other = lab.judge(lab.ask(), "thumb", "up", labeler="carla")
    assert (other.status_code, other.json()["error"]["param"]) == (400, "labeler")


def test_a_retry_is_counted_once(server: LiveServer) -> None:
    ann, ben = Api(server, "ann"), Api(server, "ben")
    completion_id = ann.ask(n=2)
    value = {"chosen": 0, "rejected": 1}
    first = ann.judge(completion_id, "comparison", value, idempotency_key="k1")
    again = ann.judge(completion_id, "comparison", value, idempotency_key="k1")
    assert first.json() == again.json()
    assert len(ann.list()["data"]) == 1
    other = ann.judge(completion_id, "comparison", {"chosen": 1, "rejected": 0}, idempotency_key="k1")
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert ben.judge(ben.ask(), "thumb", "up", idempotency_key="k1").status_code == 200, "keys have their own"
    assert ann.judge(completion_id, "thumb", "up").json()["id"] != ann.judge(completion_id, "thumb", "up").json()["id"]


def test_answers_of_others_and_of_nobody_are_not_found(server: LiveServer) -> None:
    ann, ben, root = Api(server, "ann"), Api(server, "ben"), Api(server, "root")
    mine, foreign = ann.ask(n=2), ben.ask()
    erased = ann.ask()
    ann.judge(erased, "thumb", "up")
    ann.delete(erased)
    for completion_id, choice, param in (
        ("chatcmpl-unknown", 0, "completion_id"),
        (foreign, 0, "completion_id"),
        (erased, 0, "completion_id"),
        (mine, 2, "completion_id"),
    ):
        response = ann.judge(completion_id, "thumb", "up", choice=choice)
        assert (response.status_code, response.json()["error"]["param"]) == (404, param)
    response = ann.judge(mine, "comparison", {"chosen": 0, "rejected": answer(foreign, 0)})
    assert (response.status_code, response.json()["error"]["param"]) == (404, "value")
    assert root.list()["data"] == [], "no row of any of these, and none of what was erased"
    assert root.judge(foreign, "thumb", "up").status_code == 200


def test_answers_to_different_prompts_are_not_compared(server: LiveServer) -> None:
    ann = Api(server, "ann")
    one, same, other = ann.ask("One"), ann.ask("One"), ann.ask("Other")
    assert ann.judge(one, "comparison", {"chosen": 0, "rejected": answer(same, 0)}).status_code == 200
    response = ann.judge(one, "ranking", [[0], [answer(other, 0)]])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "value")


def test_a_choice_of_a_legacy_batch_is_found_by_its_index(server: LiveServer) -> None:
    ann = Api(server, "ann")
    body = {"model": "honed", "prompt": ["One", "Two"], "n": 2, "max_tokens": 3}
    completion_id = ann.complete("completions", body)
    judged = ann.judge(completion_id, "thumb", "up", choice=3).json()
    assert (judged["completion_id"], judged["choice"]) == (f"{completion_id}.1", 3)
    assert ann.judge(completion_id, "thumb", "up", choice=4).status_code == 404
    assert [each["choice"] for each in ann.list(completion_id=completion_id)["data"]] == [3], "by the client's id"
    assert ann.judge(completion_id, "comparison", {"chosen": 2, "rejected": 3}, choice=2).status_code == 200
    assert ann.judge(completion_id, "comparison", {"chosen": 0, "rejected": 3}).status_code == 400, "two prompts"


def test_lists_are_narrowed_and_turned(server: LiveServer) -> None:
    ann, ben, root = Api(server, "ann"), Api(server, "ben"), Api(server, "root")
    one, two = ann.ask(), ann.ask()
    ids = [ann.judge(one, "thumb", "up", labeler="carla").json()["id"] for _ in range(3)]
    ids.append(ann.judge(two, "rating", 3).json()["id"])
    ben.judge(ben.ask(), "thumb", "down")
    assert [each["id"] for each in ann.list()["data"]] == ids[::-1], "the newest first"
    page = ann.list(order="asc", limit=3)
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (ids[:3], True)
    assert (page["first_id"], page["last_id"]) == (ids[0], ids[2])
    rest = ann.list(order="asc", after=page["last_id"])
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (ids[3:], False)
    assert len(ann.list(completion_id=one)["data"]) == 3
    assert len(ann.list(kind="rating")["data"]) == 1
    assert len(ann.list(labeler="carla")["data"]) == 3
    assert len(ann.list(policy="ckpt-fake")["data"]) == 4
    assert ann.list(policy="ckpt-none") == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False
    }  # fmt: skip
    assert len(root.list(limit=1000)["data"]) == 5, "an admin sees all"
    assert ann.list(limit=1001)["error"]["param"] == "limit"
    assert ann.list(kind="applause")["error"]["param"] == "kind"


BASE = {"completion_id": "chatcmpl-1", "kind": "thumb", "value": "up"}


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[LiveServer]:
    with running(Settings(model=str(tiny_checkpoint), kv_cache_gib=0.01)) as live:
        yield live


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"kind": None}, "missing_required_parameter", "kind"),
        ({"kind": "applause"}, "invalid_value", "kind"),
        ({"kind": ["thumb"]}, "invalid_value", "kind"),
        ({"completion_id": None}, "missing_required_parameter", "completion_id"),
        ({"completion_id": "x" * 129}, "string_above_max_length", "completion_id"),
        ({"completion_id": 5}, "invalid_type", "completion_id"),
        ({"choice": -1}, "integer_below_min_value", "choice"),
        ({"choice": 2**40}, "integer_above_max_value", "choice"),
        ({"value": "sideways"}, "invalid_value", "value"),
        ({"value": None}, "missing_required_parameter", "value"),
        ({"kind": "rating", "value": 8}, "integer_above_max_value", "value"),
        ({"kind": "rating", "value": 0}, "integer_below_min_value", "value"),
        ({"kind": "rating", "value": "5"}, "invalid_type", "value"),
        ({"kind": "comparison", "value": {"chosen": 0}}, "missing_required_parameter", "value.rejected"),
        ({"kind": "comparison", "value": {"chosen": 0, "rejected": "1"}}, "invalid_type", "value.rejected"),
        ({"kind": "comparison", "value": {"chosen": 0, "rejected": 0}}, "invalid_value", "value"),
        ({"kind": "ranking", "value": [[0]]}, "invalid_value", "value"),
        ({"kind": "ranking", "value": [[0], []]}, "empty_array", "value[1]"),
        ({"kind": "ranking", "value": [[0], [1, 0]]}, "invalid_value", "value"),
        ({"kind": "ranking", "value": [[i] for i in range(33)]}, "array_above_max_length", "value"),
        ({"kind": "ranking", "value": 5}, "invalid_type", "value"),
        ({"kind": "correction", "value": ""}, "string_below_min_length", "value"),
        ({"kind": "comment", "value": 5}, "invalid_type", "value"),
        ({"source": "oracle"}, "invalid_value", "source"),
        ({"labeler": ""}, "string_below_min_length", "labeler"),
        ({"idempotency_key": "x" * 129}, "string_above_max_length", "idempotency_key"),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
    ],
)
def test_what_is_wrong_is_named(open_server: LiveServer, fields: dict[str, Any], code: str, param: str) -> None:
    body = {key: value for key, value in (BASE | fields).items() if value is not None}
    error = httpx.post(f"{open_server.url}/v1/feedback", json=body).json()["error"]
    assert (error["code"], error["param"]) == (code, param)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_what_is_no_object_is_refused(open_server: LiveServer, content: bytes) -> None:
    response = httpx.post(f"{open_server.url}/v1/feedback", content=content)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


def test_keys_that_nobody_knows_are_named(server: LiveServer) -> None:
    ann = Api(server, "ann")
    response = ann.judge(ann.ask(), "thumb", "up", mood="good")
    assert response.headers["x-honed-warning"] == "ignored unknown parameters: mood"


def test_characters_that_a_database_refuses(server: LiveServer) -> None:
    ann = Api(server, "ann")
    completion_id = ann.ask()
    assert ann.judge(completion_id, "comment", "a\0b").json()["value"] == "a\ufffdb"
    for fields in ({"labeler": "\0"}, {"metadata": {"k": "\0"}}, {"idempotency_key": "\0"}, {"completion_id": "x\0"}):
        response = ann.judge(**({"completion_id": completion_id, "kind": "thumb", "value": "up"} | fields))
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_value")
    assert ann.list(completion_id="x\0")["error"]["code"] == "invalid_value"


def test_one_key_on_two_servers_is_one_word(store_url: URL, tmp_path: Path) -> None:
    """Sent to both at once: a unique index decides, not a look before."""
    with started(store_url, tmp_path / "1") as one, started(store_url, tmp_path / "2") as two:
        completion_id = Api(one, "ann").ask()
        eventually(lambda: one.app.state.recorder.health().pending == 0)
        apis = [Api(one, "ann"), Api(two, "ann")] * 8
        with ThreadPoolExecutor(len(apis)) as pool:
            responses = list(pool.map(lambda api: api.judge(completion_id, "thumb", "up", idempotency_key="k"), apis))
        assert [response.status_code for response in responses] == [200] * len(apis)
        assert len({response.json()["id"] for response in responses}) == 1
        assert len(Api(two, "root").list()["data"]) == 1


def test_an_answer_of_one_server_is_judged_through_another(postgres: Any, tmp_path: Path) -> None:
    """At once, while the first may not have stored it yet."""
    url = postgres.new_store()
    with started(url, tmp_path / "1") as one, started(url, tmp_path / "2") as two:
        ann, elsewhere = Api(one, "ann"), Api(two, "ann")
        eventually(lambda: one.app.state.recorder.health().state == "up")
        for _ in range(5):
            assert elsewhere.judge(ann.ask(), "thumb", "up").status_code == 200


def test_thousands_are_quick_to_list(store: Engine) -> None:
    completion_id = add(store)
    with writing(store) as connection:
        for number in range(1200):
            new = NewFeedback(
                completion_id=completion_id, choice=0, kind="thumb", source="user", key_id="k", number=number % 2
            )
            feedback.add(connection, new, scope=None)
    with reading(store) as connection:
        page, has_more = feedback.list_feedback(connection, scope=None, limit=1000)
        assert (len(page), has_more) == (1000, True)
        assert connection.execute(select(func.count()).select_from(Feedback)).scalar_one() == 1200


def test_the_database_of_a_test_is_its_own(store_url: URL) -> None:
    engine = open_database(store_url)
    with reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(Feedback)).scalar_one() == 0
    engine.dispose()
