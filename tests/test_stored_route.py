"""OpenAI's stored completions through the official client, and who may see what."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from conftest import LiveServer, running
from cryptography.fernet import Fernet
from fakes import FAKE_ANSWER
from openai import OpenAI
from pydantic import SecretStr
from sqlalchemy.engine import URL

from honed.server.settings import Settings

pytestmark = pytest.mark.usefixtures("fake_engine")

KEYS = ("sk-ann", "sk-ben", "sk-root role=admin")


@pytest.fixture
def server(store_url: URL, tmp_path: Path) -> Iterator[LiveServer]:
    url = SecretStr(store_url.render_as_string(hide_password=False))
    settings = Settings(home=tmp_path, database_url=url, logging="opt_in", api_keys=tuple(map(SecretStr, KEYS)))
    with running(settings) as live:
        yield live


def client(server: LiveServer, name: str) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=f"sk-{name}", max_retries=0)


def ask(api: OpenAI, content: str = "Hi", **fields: Any) -> str:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content, "name": "ann"}]
    fields = {"store": True} | fields
    return api.chat.completions.create(model="honed", messages=messages, **fields).id


def test_a_completion_is_retrieved_as_it_was_answered(server: LiveServer) -> None:
    with client(server, "ann") as api:
        messages: Any = [{"role": "user", "content": "Hi"}]
        answer = api.chat.completions.create(
            model="honed", messages=messages, store=True, metadata={"app": "mail"}, temperature=0.5, seed=7, n=2
        )
        stored = api.chat.completions.retrieve(answer.id)
        assert (stored.id, stored.created, stored.model) == (answer.id, answer.created, answer.model)
        assert stored.usage == answer.usage
        assert [choice.message.content for choice in stored.choices] == [FAKE_ANSWER] * 2
        assert [choice.finish_reason for choice in stored.choices] == ["stop", "stop"]
        assert stored.system_fingerprint == answer.system_fingerprint
        extra = stored.model_dump()
        assert (extra["metadata"], extra["temperature"], extra["seed"]) == ({"app": "mail"}, 0.5, 7)
        assert extra["request_id"] == answer._request_id


def test_the_messages_are_listed(server: LiveServer) -> None:
    with client(server, "ann") as api:
        completion_id = ask(api)
        messages = list(api.chat.completions.messages.list(completion_id))
        assert [(message.role, message.content, message.name) for message in messages] == [  # type: ignore[attr-defined]  # OpenAI's type has only answers
            ("system", "Be brief.", None), ("user", "Hi", "ann")
        ]  # fmt: skip
        assert [message.id for message in messages] == [f"{completion_id}-0", f"{completion_id}-1"]
        page = api.chat.completions.messages.list(completion_id, limit=1, order="desc")
        assert [message.id for message in page.data] == [f"{completion_id}-1"]
        assert page.has_next_page()
        assert [message.id for message in page.get_next_page().data] == [f"{completion_id}-0"]


def test_pages_go_in_the_order_of_time(server: LiveServer) -> None:
    with client(server, "ann") as api:
        ids = [ask(api, f"Question {number}") for number in range(7)]
        assert [each.id for each in api.chat.completions.list(limit=3)] == ids, "the client turns the pages"
        assert [each.id for each in api.chat.completions.list(limit=2, order="desc")] == ids[::-1]
        assert [each.id for each in api.chat.completions.list(after=ids[4]).data] == ids[5:]
        assert [each.id for each in api.chat.completions.list(after=ids[2], order="desc").data] == ids[1::-1]


def test_lists_are_narrowed_by_model_and_metadata(server: LiveServer) -> None:
    with client(server, "ann") as api:
        both = ask(api, metadata={"app": "mail", "lang": "de"})
        one = ask(api, metadata={"app": "mail"})
        ask(api, metadata={"app": "chat"})
        ask(api)

        def listed(**filters: Any) -> list[str]:
            return [each.id for each in api.chat.completions.list(**filters)]

        assert listed(metadata={"app": "mail"}) == [both, one]
        assert listed(metadata={"app": "mail"}, order="desc", limit=1) == [one, both]
        assert listed(metadata={"app": "mail", "lang": "de"}) == [both]
        assert listed(metadata={"app": "mail"}, after=both) == [one]
        assert listed(metadata={"lang": "mail"}) == []
        assert len(listed(model="fake")) == 4
        assert listed(model="another") == []


def test_metadata_is_replaced(server: LiveServer) -> None:
    with client(server, "ann") as api:
        completion_id = ask(api, metadata={"app": "mail", "lang": "de"})
        updated = api.chat.completions.update(completion_id, metadata={"app": "chat"})
        assert updated.model_dump()["metadata"] == {"app": "chat"}
        assert [each.id for each in api.chat.completions.list(metadata={"app": "chat"})] == [completion_id]
        assert list(api.chat.completions.list(metadata={"lang": "de"})) == []


def test_a_deleted_completion_is_gone(server: LiveServer) -> None:
    with client(server, "ann") as api:
        completion_id = ask(api)
        deleted = api.chat.completions.delete(completion_id)
        assert (deleted.id, deleted.deleted, deleted.object) == (completion_id, True, "chat.completion.deleted")
        assert list(api.chat.completions.list()) == []
        for call in (api.chat.completions.retrieve, api.chat.completions.delete, api.chat.completions.messages.list):
            with pytest.raises(openai.NotFoundError) as refused:
                call(completion_id)
            assert refused.value.code == "not_found"


def test_nobody_sees_what_is_anothers(server: LiveServer) -> None:
    with client(server, "ann") as ann, client(server, "ben") as ben, client(server, "root") as root:
        completion_id = ask(ann)
        assert [each.id for each in ann.chat.completions.list()] == [completion_id]
        assert list(ben.chat.completions.list()) == []
        for refused in (
            lambda: ben.chat.completions.retrieve(completion_id),
            lambda: ben.chat.completions.update(completion_id, metadata={}),
            lambda: ben.chat.completions.delete(completion_id),
            lambda: ben.chat.completions.messages.list(completion_id),
        ):
            with pytest.raises(openai.NotFoundError):
                refused()
        assert root.chat.completions.retrieve(completion_id).id == completion_id
        assert [each.id for each in root.chat.completions.list()] == [completion_id]


def test_what_was_not_to_be_stored_is_not_listed(server: LiveServer) -> None:
    with client(server, "ann") as api:
        ask(api, store=False)
        hidden = ask(api, store=None, extra_headers={"x-honed-training": "allow"})
        shown = ask(api)
        assert [each.id for each in api.chat.completions.list()] == [shown]
        with pytest.raises(openai.NotFoundError):
            api.chat.completions.retrieve(hidden)


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order"), ("limit=x", "limit")]
)
def test_bad_queries_are_refused(server: LiveServer, query: str, param: str) -> None:
    with server.http() as http:
        response = http.get(f"/v1/chat/completions?{query}", headers={"authorization": "Bearer sk-ann"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_who_sent_it_sees_what_was_redacted_where_it_is_kept(store_url: URL, tmp_path: Path) -> None:
    url = SecretStr(store_url.render_as_string(hide_password=False))
    key = SecretStr(Fernet.generate_key().decode())

    def read(settings: Settings, completion_id: str | None) -> tuple[str, str]:
        with running(settings) as server, client(server, "x") as api:
            completion_id = completion_id or ask(api, "I am ann@example.org")
            (_, message) = api.chat.completions.messages.list(completion_id).data
            return completion_id, message.content or ""

    completion_id, content = read(Settings(home=tmp_path, database_url=url, logging="all", originals_key=key), None)
    assert content == "I am ann@example.org"
    _, redacted = read(Settings(home=tmp_path, database_url=url, logging="all"), completion_id)
    assert redacted == "I am [EMAIL]"
    other = SecretStr(Fernet.generate_key().decode())
    _, unopened = read(Settings(home=tmp_path, database_url=url, logging="all", originals_key=other), completion_id)
    assert unopened == "I am [EMAIL]"
