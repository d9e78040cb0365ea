"""Each row of the error table, as bytes on the wire: status, type, code, param, and OpenAI's shape."""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually, running

from honed.server.settings import Settings

CHAT: dict[str, Any] = {"model": "honed", "messages": [{"role": "user", "content": "Hi"}]}
LEGACY: dict[str, Any] = {"model": "honed", "prompt": "Hi"}
INVALID = "invalid_request_error"
KEY = "sk-test-0123456789abcdef"


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, after a look at its shape."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert body.keys() == {"error"}, "FastAPI's own shape has a `detail`"
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["message"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


def seen(response: httpx.Response) -> tuple[int, str, str | None, str | None]:
    error = error_of(response)
    return response.status_code, error["type"], error["code"], error["param"]


def chat(**fields: Any) -> bytes:
    return json.dumps(CHAT | fields).encode()


def without(body: dict[str, Any], key: str) -> bytes:
    return json.dumps({name: value for name, value in body.items() if name != key}).encode()


CHAT_ROWS = [
    (b"", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b"[]", "invalid_json", None),
    (b'"hi"', "invalid_json", None),
    (b'{"model": NaN}', "invalid_json", None),
    (b"\xff\xfe", "invalid_json", None),
    (without(CHAT, "messages"), "missing_required_parameter", "messages"),
    (without(CHAT, "model"), "missing_required_parameter", "model"),
    (chat(messages=[{"content": "Hi"}]), "missing_required_parameter", "messages[0].role"),
    (chat(messages=[{"role": "user"}]), "missing_required_parameter", "messages[0].content"),
    (chat(messages="Hi"), "invalid_type", "messages"),
    (chat(messages=[]), "empty_array", "messages"),
    (chat(messages=[{"role": "user", "content": 5}]), "invalid_type", "messages[0].content"),
    (chat(messages=[{"role": 5, "content": "Hi"}]), "invalid_value", "messages[0].role"),
    (chat(messages=[{"role": "wizard", "content": "Hi"}]), "invalid_value", "messages[0].role"),
    (chat(max_tokens="5"), "invalid_type", "max_tokens"),
    (chat(max_tokens=1.5), "invalid_type", "max_tokens"),
    (chat(stream="yes"), "invalid_type", "stream"),
    (chat(temperature=2.1), "decimal_above_max_value", "temperature"),
    (chat(temperature=-1), "decimal_below_min_value", "temperature"),
    (chat(top_p=1.5), "decimal_above_max_value", "top_p"),
    (chat(repetition_penalty=1e-40), "decimal_below_min_value", "repetition_penalty"),
    (chat(n=0), "integer_below_min_value", "n"),
    (chat(n=129), "integer_above_max_value", "n"),
    (chat(max_tokens=0), "integer_below_min_value", "max_tokens"),
    (chat(max_completion_tokens=0), "integer_below_min_value", "max_completion_tokens"),
    (chat(logprobs=True, top_logprobs=21), "integer_above_max_value", "top_logprobs"),
    (chat(top_logprobs=3), "invalid_value", "top_logprobs"),
    (chat(presence_penalty=3), "decimal_above_max_value", "presence_penalty"),
    (chat(logit_bias={"5": 101}), "decimal_above_max_value", "logit_bias.5"),
    (chat(stop=["a"] * 5), "array_above_max_length", "stop"),
    (chat(stop=""), "string_below_min_length", "stop"),
    (chat(seed=2**63), "integer_above_max_value", "seed"),
    (chat(stream_options={"include_usage": True}), "invalid_value", "stream_options"),
    (chat(min_tokens=9, max_tokens=5), "invalid_value", "min_tokens"),
    (chat(logit_bias={"9999": 1}), "invalid_value", "logit_bias"),
    (chat(stop_token_ids=[268]), "invalid_value", "stop_token_ids"),
    (chat(tools=[{"type": "function", "function": {"name": "f"}}]), "unsupported_parameter", "tools"),
    (chat(tool_choice="auto"), "unsupported_parameter", "tool_choice"),
    (chat(functions=[{"name": "f"}]), "unsupported_parameter", "functions"),
    (chat(store=True), "unsupported_value", "store"),  # this server keeps nothing
    (chat(store="yes"), "invalid_type", "store"),
    (chat(metadata={"a": "b"}), "invalid_value", "metadata"),
    (chat(metadata={"a": 5}), "invalid_type", "metadata.a"),
    (chat(audio={"voice": "alloy"}), "unsupported_parameter", "audio"),
    (chat(modalities=["audio"]), "unsupported_parameter", "modalities"),
    (chat(prediction={"type": "content", "content": "a"}), "unsupported_parameter", "prediction"),
    (chat(reasoning_effort="low"), "unsupported_parameter", "reasoning_effort"),
    (chat(web_search_options={}), "unsupported_parameter", "web_search_options"),
    (chat(response_format={"type": "json_object"}), "unsupported_value", "response_format"),
    (chat(service_tier="flex"), "unsupported_value", "service_tier"),
    (
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}]),
        "unsupported_value",
        "messages[0].content[0].type",
    ),
    (chat(messages=[{"role": "tool", "content": "5"}]), "unsupported_value", "messages[0].role"),
    (chat(messages=[{"role": "user", "content": "a " * 600}]), "context_length_exceeded", "messages"),
]


@pytest.mark.parametrize(("content", "code", "param"), CHAT_ROWS, ids=lambda value: str(value)[:60])
def test_chat(http_client: httpx.Client, content: bytes, code: str, param: str | None) -> None:
    response = http_client.post("/v1/chat/completions", content=content)
    assert seen(response) == (400, INVALID, code, param)


LEGACY_ROWS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "invalid_type", "prompt"),
    ({"prompt": {}}, "invalid_type", "prompt"),
    ({"prompt": []}, "empty_array", "prompt"),
    ({"prompt": [[]]}, "empty_array", "prompt[0]"),
    ({"prompt": ""}, "invalid_value", "prompt"),
    ({"prompt": ["a", 5]}, "invalid_type", "prompt[1]"),
    ({"prompt": [1, "a"]}, "invalid_type", "prompt[1]"),
    ({"prompt": [5, 268]}, "invalid_value", "prompt"),
    ({"prompt": [[5], [99999999]]}, "invalid_value", "prompt"),
    ({"prompt": [-1]}, "integer_below_min_value", "prompt[0]"),
    ({"prompt": [5] * 512}, "context_length_exceeded", "prompt"),
    ({"max_tokens": -1}, "integer_below_min_value", "max_tokens"),
    ({"logprobs": 6}, "integer_above_max_value", "logprobs"),
    ({"logprobs": True}, "invalid_type", "logprobs"),
    ({"echo": True}, "unsupported_parameter", "echo"),
    ({"suffix": "b"}, "unsupported_parameter", "suffix"),
    ({"best_of": 3}, "unsupported_parameter", "best_of"),
    ({"prompt": ["a"] * 100, "n": 100}, "invalid_value", "n"),
]


@pytest.mark.parametrize(("fields", "code", "param"), LEGACY_ROWS, ids=lambda value: str(value)[:60])
def test_legacy(http_client: httpx.Client, fields: dict[str, Any], code: str, param: str) -> None:
    response = http_client.post("/v1/completions", json=LEGACY | fields)
    assert seen(response) == (400, INVALID, code, param)


def test_both_numbers_are_in_the_message(http_client: httpx.Client) -> None:
    error = error_of(http_client.post("/v1/completions", json=LEGACY | {"prompt": [5] * 700}))
    assert "512" in error["message"]
    assert "700" in error["message"]


def test_what_does_not_fit_behind_the_prompt_is_clamped(http_client: httpx.Client) -> None:
    body = LEGACY | {"prompt": [5] * 500, "max_tokens": 10**15, "ignore_eos": True}
    answer = http_client.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] | {"total_tokens": 512, "completion_tokens": 12} == answer["usage"]
    just_fits = http_client.post("/v1/completions", json=LEGACY | {"prompt": [5] * 511, "ignore_eos": True})
    assert just_fits.json()["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_unknown_models(http_client: httpx.Client, path: str) -> None:
    response = http_client.post(path, json=CHAT | LEGACY | {"model": "gpt-4o"})
    assert seen(response) == (404, INVALID, "model_not_found", "model")
    assert "gpt-4o" in error_of(response)["message"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/chat/completions/x/y", "/v2/chat/completions"])
def test_unknown_paths(http_client: httpx.Client, path: str) -> None:
    assert seen(http_client.post(path, json=CHAT)) == (404, INVALID, "not_found", None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/chat/completions"),
        ("PUT", "/v1/completions"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/tiny"),
    ],
)
def test_wrong_methods(http_client: httpx.Client, method: str, path: str) -> None:
    response = http_client.request(method, path)
    assert seen(response) == (405, INVALID, "method_not_allowed", None)
    assert response.headers["allow"]


def test_ten_problems_at_most_are_told(http_client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "x" * 1000, "name": 5}] * 100
    fields = dict.fromkeys(("temperature", "top_p", "n", "seed", "stream", "logprobs", "user", "top_k"), "x" * 5000)
    response = http_client.post("/v1/chat/completions", json=CHAT | fields | {"messages": messages})
    assert response.status_code == 400
    assert len(response.content) < 4000


@pytest.fixture(scope="module")
def guarded(tiny_checkpoint: Path) -> Iterator[LiveServer]:
    """A server with a key and a small limit on bodies."""
    settings = Settings(model=str(tiny_checkpoint), kv_cache_gib=0.01, api_keys=(KEY,), max_body_bytes=2000)
    with running(settings) as server:
        yield server


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/tiny"])
def test_no_key_or_a_wrong_one(guarded: LiveServer, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    method = "GET" if "models" in path else "POST"
    # Also before the body is looked at: who has no key learns nothing else.
    response = httpx.request(method, guarded.url + path, headers=headers, content=None if method == "GET" else b"{")
    assert seen(response) == (401, INVALID, "invalid_api_key", None)
    assert KEY not in response.text


def test_the_right_key_opens_and_probes_need_none(guarded: LiveServer) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    assert httpx.post(f"{guarded.url}/v1/completions", json=LEGACY, headers=headers).status_code == 200
    assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200
    health = httpx.get(f"{guarded.url}/health").json()
    assert (health["status"], health["model"], health["detail"]) == ("ready", "tiny", None)
    assert httpx.get(f"{guarded.url}/metrics").status_code == 200


def pieces() -> Iterator[bytes]:
    for _ in range(100):
        yield b" " * 1000


@pytest.mark.parametrize("content", [b" " * 2001, pieces()], ids=["declared", "chunked"])
def test_bodies_over_the_limit(guarded: LiveServer, content: Any) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    response = httpx.post(f"{guarded.url}/v1/completions", content=content, headers=headers)
    assert seen(response) == (413, INVALID, "request_too_large", None)
    assert "2000" in response.text


def test_a_body_that_is_announced_too_large_is_not_waited_for(guarded: LiveServer) -> None:
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: 999999999999\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_full_queue(long_checkpoint: Path) -> None:
    settings = Settings(model=str(long_checkpoint), kv_cache_gib=0.02, max_sequences=1, max_queue=1)
    body = LEGACY | {"stream": True, "max_tokens": 8000, "ignore_eos": True}
    with running(settings) as server, server.http() as http, contextlib.ExitStack() as streams:
        for live in (1, 2):
            streams.enter_context(http.stream("POST", "/v1/completions", json=body))
            assert server.served.num_live == live
        refused = http.post("/v1/completions", json=LEGACY)
        assert seen(refused) == (503, "server_error", "overloaded", None)
        assert int(refused.headers["retry-after"]) >= 1
        assert "x-should-retry" not in refused.headers
        assert seen(http.post("/v1/completions", json=body)) == seen(refused), "a stream is refused before its 200"
        never = http.post("/v1/completions", json=LEGACY | {"n": 3})
        assert seen(never) == (400, INVALID, "invalid_value", "n")
        assert http.get("/health").status_code == 200
        streams.close()
        eventually(lambda: server.served.num_live == 0)
        assert http.post("/v1/completions", json=LEGACY).status_code == 200


def test_numbers_that_are_none(tiny_checkpoint: Path) -> None:
    """Weights that went wrong are our own fault, and take nobody else down."""
    with running(Settings(model=str(tiny_checkpoint), kv_cache_gib=0.01)) as server, server.http() as http:
        weight = server.served.policy.model.get_input_embeddings().weight
        good = weight[5].clone()
        weight.data[5] = float("nan")
        broken = http.post("/v1/completions", json=LEGACY | {"prompt": [5, 5]})
        assert seen(broken) == (500, "server_error", "internal_error", None)
        weight.data[5] = good
        assert http.post("/v1/completions", json=LEGACY | {"prompt": [5, 5]}).status_code == 200
