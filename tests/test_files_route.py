"""`/v1/files` through the official client: what is taken, what is refused and why, and whose it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from completions import count
from conftest import LiveServer, running
from openai import OpenAI
from openai.types import FileObject
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from honed.server.settings import Settings
from honed.server.store.tables import File, FilePart

pytestmark = pytest.mark.usefixtures("fake_engine")

KEYS = ("sk-ann", "sk-ben", "sk-root role=admin")
HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}
BYE = {"role": "assistant", "content": "bye"}
CHAT = {"messages": [HI, HELLO]}
MAX_FILE_BYTES = 3 * 2**20
FORM = {"purpose": "fine-tune"}
MULTIPART = "multipart/form-data"


def started(url: URL, home: Path, **more: Any) -> running:
    secret = SecretStr(url.render_as_string(hide_password=False))
    keys = tuple(map(SecretStr, KEYS))
    limits = {"max_file_bytes": MAX_FILE_BYTES, "max_body_bytes": 2**20}
    return running(Settings(home=home, database_url=secret, api_keys=keys, **limits | more))


@pytest.fixture
def server(store_url: URL, tmp_path: Path) -> Iterator[LiveServer]:
    with started(store_url, tmp_path) as live:
        yield live


def client(server: LiveServer, name: str = "ann") -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=f"sk-{name}", max_retries=0)


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def upload(api: OpenAI, *rows: Any, name: str = "rows.jsonl") -> FileObject:
    return api.files.create(file=(name, lines(*rows or (CHAT,))), purpose="fine-tune")


def post(server: LiveServer, **request: Any) -> tuple[int, dict[str, Any], httpx.Headers]:
    response = httpx.post(f"{server.url}/v1/files", headers={"authorization": "Bearer sk-ann"}, timeout=60, **request)
    return response.status_code, response.json(), response.headers


def refusal(server: LiveServer, content: bytes, name: str = "rows.jsonl") -> str:
    """What is said of a file that nothing is stored of."""
    status, body, _ = post(server, data=FORM, files={"file": (name, content)})
    assert (status, body["error"]["param"], body["error"]["code"]) == (400, "file", "invalid_file")
    return str(body["error"]["message"])


def test_a_file_comes_back_as_it_was_sent(server: LiveServer, store: Engine) -> None:
    big = lines(*({"messages": [{"role": "user", "content": f"{n} {'x' * 2000}"}, HELLO]} for n in range(1200)))
    assert 2 * 2**20 < len(big) < MAX_FILE_BYTES, "three parts, larger than other requests may be"
    with client(server) as api:
        sent = api.files.create(file=("Übung.jsonl", big), purpose="fine-tune")
        FileObject.model_validate(sent.model_dump(), strict=True)
        assert (sent.object, sent.status, sent.purpose) == ("file", "processed", "fine-tune")
        assert (sent.filename, sent.bytes) == ("Übung.jsonl", len(big))
        assert sent.id.startswith("file-")
        assert api.files.retrieve(sent.id) == sent
        assert api.files.wait_for_processing(sent.id) == sent
        answer = api.files.content(sent.id)
        assert answer.content == big
        assert answer.response.headers["content-type"] == "application/octet-stream"
    assert count(store, FilePart) == 3


@pytest.mark.parametrize(
    "row",
    [
        CHAT,
        {"messages": [HI, {**BYE, "weight": 0}, HI, {**HELLO, "weight": 1}]},
        {"input": {"messages": [HI]}, "preferred_output": [HELLO], "non_preferred_output": [BYE]},
        {"messages": [HI], "answers": [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]},
        {"prompt": [HI], "completion": [HELLO], "label": True},
        {"prompt": [HI]},
        {"prompt": "1 + 1 =", "completion": " 2"},
    ],
)
def test_every_format_that_training_reads_is_taken(server: LiveServer, row: dict[str, Any]) -> None:
    status, _, headers = post(server, data=FORM, files={"file": ("x", lines(row))})
    assert (status, headers.get("x-honed-warning")) == (200, None)


def test_a_file_that_cannot_be_read_is_refused_line_by_line_and_not_kept(server: LiveServer, store: Engine) -> None:
    said = refusal(server, lines(CHAT, {"messages": [HI]}, CHAT) + b"{\n\n[1]\n")
    assert said == (
        "Invalid 'file': line 2: the last message of 'messages' must be the assistant's. "
        "line 4: the line is not JSON: Expecting property name enclosed in double quotes at column 2. "
        "line 6: the line is not a JSON object."
    )
    weighed = [HI, {**BYE, "weight": 1}, HI, HELLO]
    assert "line 1: 'messages[1].weight' is 1, which is unsupported" in refusal(server, lines({"messages": weighed}))
    many = refusal(server, b"x\n" * 10_000)
    assert "line 10:" in many
    assert "line 11:" not in many
    assert "it is one JSON array" in refusal(server, json.dumps([CHAT]).encode())
    assert "it is a binary file" in refusal(server, b"PAR1\0\0\0\0")
    for empty in (b"", b"\n \n"):
        assert refusal(server, empty) == "Invalid 'file': it has no rows."
    assert (count(store, File), count(store, FilePart)) == (0, 0)


def test_keys_that_are_ignored_are_named_in_a_header(store_url: URL, tmp_path: Path, store: Engine) -> None:
    request = {"data": {**FORM, "mood": "good"}, "files": {"file": ("x", lines({**CHAT, "score": 5}))}}
    with started(store_url, tmp_path) as server:
        status, _, headers = post(server, **request)
        assert (status, headers["x-honed-warning"]) == (200, "ignored unknown parameters: mood, score")
    with started(store_url, tmp_path, strict=True) as server:
        _, body, _ = post(server, **request)
        assert (body["error"]["code"], body["error"]["param"]) == ("unknown_parameter", "mood")
        assert "keys that nobody knows: score" in refusal(server, lines({**CHAT, "score": 5}))
    assert count(store, File) == 1


FILE = {"file": ("x", lines(CHAT))}


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        ({"data": {"purpose": "batch"}, "files": FILE}, "unsupported_value", "purpose"),
        ({"data": {"purpose": "nonsense"}, "files": FILE}, "invalid_value", "purpose"),
        ({"data": {}, "files": FILE}, "missing_required_parameter", "purpose"),
        ({"data": {**FORM, "expires_after[anchor]": "created_at"}, "files": FILE}, "unsupported_parameter",
         "expires_after"),
        ({"data": FORM, "files": {"other": ("x", lines(CHAT))}}, "missing_required_parameter", "file"),
        ({"files": {"purpose": (None, "fine-tune"), "file": (None, "a text")}}, "invalid_type", "file"),
        ({"data": FORM, "files": {"file": ("x" * 256, lines(CHAT))}}, "invalid_value", "file"),
        ({"data": FORM, "files": [("file", ("x", lines(CHAT))), ("file", ("y", lines(CHAT)))]}, "invalid_form", None),
        ({"data": FORM}, "invalid_form", None),
        ({"json": FORM}, "invalid_form", None),
        ({"content": b"nonsense", "headers": {"content-type": f"{MULTIPART}; boundary=x"}}, "invalid_form", None),
        ({"content": b"", "headers": {"content-type": MULTIPART}}, "invalid_form", None),
    ],
)  # fmt: skip
def test_bad_forms_are_refused(
    server: LiveServer, store: Engine, request_: dict[str, Any], code: str, param: str | None
) -> None:
    headers = {"authorization": "Bearer sk-ann"} | request_.pop("headers", {})
    response = httpx.post(f"{server.url}/v1/files", headers=headers, **request_)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert count(store, File) == 0


def test_a_file_over_the_limit_is_refused_however_it_comes(server: LiveServer, store: Engine) -> None:
    content = lines(CHAT) * (MAX_FILE_BYTES // len(lines(CHAT)) + 1)
    status, body, _ = post(server, data=FORM, files={"file": ("x", content)})
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert str(MAX_FILE_BYTES) in body["error"]["message"]

    start = b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n'
    pieces = (start, *(content[at : at + 2**16] for at in range(0, len(content), 2**16)), b"\r\n--b--\r\n")
    headers = {"authorization": "Bearer sk-ann", "content-type": f"{MULTIPART}; boundary=b"}
    response = httpx.post(f"{server.url}/v1/files", headers=headers, content=iter(pieces))
    assert response.status_code == 413
    assert count(store, File) == 0


def test_only_uploads_may_be_that_large(server: LiveServer) -> None:
    body = b"x" * (2**20 + 1)
    for path in ("/v1/chat/completions", "/v1/files/x"):
        assert httpx.post(f"{server.url}{path}", content=body).status_code == 413


def test_lists_have_an_order_and_pages(server: LiveServer) -> None:
    with client(server) as api:
        ids = [upload(api, name=f"{number}.jsonl").id for number in range(5)]
        assert [each.id for each in api.files.list()] == ids[::-1]
        assert [each.id for each in api.files.list(limit=2, order="asc")] == ids, "the client turns the pages"
        assert [each.id for each in api.files.list(after=ids[2]).data] == ids[1::-1]
        assert list(api.files.list(purpose="batch")) == []
        assert len(list(api.files.list(purpose="fine-tune"))) == 5
    with server.http() as http:
        listed = http.get("/v1/files?limit=2", headers={"authorization": "Bearer sk-ann"}).json()
    assert (listed["object"], listed["first_id"], listed["last_id"], listed["has_more"]) == (
        "list", ids[4], ids[3], True
    )  # fmt: skip


@pytest.mark.parametrize(("query", "param"), [("limit=0", "limit"), ("limit=10001", "limit"), ("order=up", "order")])
def test_bad_queries_are_refused(server: LiveServer, query: str, param: str) -> None:
    response = httpx.get(f"{server.url}/v1/files?{query}", headers={"authorization": "Bearer sk-ann"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_deleted_file_is_gone(server: LiveServer, store: Engine) -> None:
    with client(server) as api:
        file_id = upload(api).id
        deleted = api.files.delete(file_id)
        assert (deleted.id, deleted.deleted, deleted.object) == (file_id, True, "file")
        for call in (api.files.retrieve, api.files.content, api.files.delete):
            with pytest.raises(openai.NotFoundError) as refused:
                call(file_id)
            assert (refused.value.code, refused.value.param) == ("not_found", "file_id")
    assert (count(store, File), count(store, FilePart)) == (0, 0)


def test_nobody_sees_what_is_anothers(server: LiveServer) -> None:
    with client(server, "ann") as ann, client(server, "ben") as ben, client(server, "root") as root:
        file_id = upload(ann).id
        assert list(ben.files.list()) == []
        for call in (ben.files.retrieve, ben.files.content, ben.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(file_id)
        assert [each.id for each in root.files.list()] == [file_id]
        assert root.files.content(file_id).content == lines(CHAT)


def test_without_a_key_nothing_is_read(server: LiveServer) -> None:
    response = httpx.post(f"{server.url}/v1/files", data=FORM, files=FILE)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


def test_the_document_has_the_form(server: LiveServer) -> None:
    operation = httpx.get(f"{server.url}/openapi.json").json()["paths"]["/v1/files"]["post"]
    form = operation["requestBody"]["content"][MULTIPART]["schema"]
    assert form["required"] == ["file", "purpose"]
    assert form["properties"]["file"] == {"type": "string", "format": "binary"}
    assert form["properties"]["purpose"]["const"] == "fine-tune"
