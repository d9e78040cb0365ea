"""The edge: headers, body limit, access log, last refusal."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from honed.server.errors import InvalidValue, install_error_handlers
from honed.server.middleware import EdgeMiddleware

MAX_BODY_BYTES = 1000
NO_CHANNEL: Any = (None, None)


def make_app() -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(EdgeMiddleware, max_body_bytes=MAX_BODY_BYTES)

    @app.post("/echo")
    async def echo(request: Request) -> PlainTextResponse:
        request.state.key_id = "k1"
        request.state.user_hash = "u1"
        return PlainTextResponse(str(len(await request.body())))

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return StreamingResponse(parts())

    @app.get("/fail")
    async def fail() -> None:
        raise KeyError("a secret")

    @app.get("/refuse")
    async def refuse() -> None:
        raise InvalidValue("no", param="x")

    return app


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(make_app(), raise_server_exceptions=False) as client:
        yield client


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "honed.access"]


@pytest.mark.parametrize("path", ["/stream", "/fail", "/refuse", "/nowhere"])
def test_every_response_has_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"])
    assert headers["openai-processing-ms"].isdecimal()
    assert headers["openai-version"] == "2020-10-01"


def test_a_sane_request_id_is_kept(client: TestClient) -> None:
    sane = "A-z_0.9:" + "x" * 504
    assert client.get("/stream", headers={"x-request-id": sane}).headers["x-request-id"] == sane


@pytest.mark.parametrize("odd", ["", "a b", "x" * 513, "a\tb", "{}", 'a"b'])
def test_any_other_request_id_is_replaced(client: TestClient, odd: str) -> None:
    response = client.get("/stream", headers={"x-request-id": odd})
    assert response.headers["x-request-id"].startswith("req_")


def test_bodies_up_to_the_limit_pass(client: TestClient) -> None:
    assert client.post("/echo", content=b"x" * MAX_BODY_BYTES).text == "1000"


def chunks() -> Iterator[bytes]:
    for _ in range(11):
        yield b"x" * 100


@pytest.mark.parametrize("content", [b"x" * (MAX_BODY_BYTES + 1), chunks()], ids=["declared", "chunked"])
def test_bodies_over_the_limit_are_refused(client: TestClient, content: Any) -> None:
    response = client.post("/echo", content=content)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert "x-request-id" in response.headers


def test_an_unexpected_error_is_answered_and_logged_once(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    response = client.get("/fail")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-should-retry"] == "false"
    assert caplog.text.count("Traceback") == 1


def test_one_line_a_request_and_nothing_private_in_it(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="honed.access"):
        client.post("/echo?token=secret", content=b"my prompt", headers={"x-request-id": "r1"})
        client.get("/nowhere%0Aforged")
    first, second = logged(caplog)
    assert first.pop("ms") >= 0
    assert first == {
        "method": "POST", "path": "/echo", "status": 200, "request_id": "r1", "key_id": "k1",
        "user_hash": "u1", "disconnected": False,
    }  # fmt: skip
    assert (second["status"], second["path"], second["key_id"]) == (404, "/nowhere\nforged", None)
    assert "\n" not in caplog.records[-1].message


def http_scope(headers: list[tuple[bytes, bytes]]) -> Scope:
    return {"type": "http", "method": "POST", "path": "/x", "headers": headers}


async def run(app: Any, messages: list[Message], headers: list[tuple[bytes, bytes]]) -> list[Message]:
    """What `app` behind the middleware sends to a client that says `messages`."""
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await EdgeMiddleware(app, max_body_bytes=MAX_BODY_BYTES)(http_scope(headers), receive, send)
    return sent


async def never_called(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the application was called")


def run_sync(app: Any, messages: list[Message], headers: list[tuple[bytes, bytes]] | None = None) -> list[Message]:
    return asyncio.run(run(app, messages, headers or []))


@pytest.mark.parametrize("length", [b"1001", b"9" * 5000])
def test_a_declared_length_is_refused_before_anything_is_read(length: bytes) -> None:
    sent = run_sync(never_called, [], [(b"content-length", length)])
    assert sent[0]["status"] == 413


def test_a_stream_passes_message_by_message() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"a", b"b", b""):
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})

    sent = run_sync(app, [])
    assert [message.get("body") for message in sent] == [None, b"a", b"b", b""]


def test_a_client_that_leaves_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    with caplog.at_level(logging.INFO, logger="honed.access"):
        assert run_sync(app, [{"type": "http.disconnect"}]) == []
    assert [(line["status"], line["disconnected"]) for line in logged(caplog)] == [(499, True)]


def test_a_disconnect_after_the_answer_is_none(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        await receive()

    with caplog.at_level(logging.INFO, logger="honed.access"):
        run_sync(app, [{"type": "http.disconnect"}])
    assert logged(caplog)[0]["disconnected"] is False


def test_half_an_answer_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("x")

    with caplog.at_level(logging.INFO, logger="honed.access"), pytest.raises(KeyError):
        run_sync(app, [])
    assert len(logged(caplog)) == 1


def test_other_scopes_pass_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    asyncio.run(EdgeMiddleware(app, max_body_bytes=1)({"type": "lifespan"}, *NO_CHANNEL))
    assert seen == ["lifespan"]
