"""Streams on the wire: frames, chunks, equality with the unstreamed answer, errors in their middle."""

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually, running
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.server import streaming
from honed.server.settings import Settings

CHAT: dict[str, Any] = {"model": "honed", "messages": [{"role": "user", "content": "Tell me something"}]}
LEGACY: dict[str, Any] = {"model": "honed", "prompt": "Tell me something"}
PATHS = {"chat": ("/v1/chat/completions", CHAT), "legacy": ("/v1/completions", LEGACY)}


def post(http: httpx.Client, kind: str, **fields: Any) -> httpx.Response:
    path, body = PATHS[kind]
    response = http.post(path, json=body | fields)
    assert response.status_code == 200, response.text
    return response


def frames(text: str) -> list[str]:
    """The payloads of a whole stream; comments are left out."""
    assert text.endswith("\n\n")
    blocks = [block for block in text[:-2].split("\n\n") if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Of a stream that went well."""
    *payloads, done = frames(response.text)
    assert done == "[DONE]"
    return [json.loads(payload) for payload in payloads]


def opened(http: httpx.Client, **fields: Any) -> contextlib.AbstractContextManager[httpx.Response]:
    return http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True} | fields)


def data(lines: Iterator[str]) -> Iterator[str]:
    """The payloads of a stream that is still going on."""
    return (line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def sent_text(chunk: dict[str, Any]) -> str:
    """What is new in a chunk of either endpoint."""
    (choice,) = chunk["choices"]
    return str(choice["text"] if "text" in choice else choice["delta"].get("content", ""))


def test_the_bytes_of_a_stream(http_client: httpx.Client) -> None:
    response = post(http_client, "chat", stream=True, max_tokens=5, ignore_eos=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert "x-request-id" in response.headers
    assert "\r" not in response.text
    assert response.text.endswith("\n\ndata: [DONE]\n\n")
    assert len(chunks(response)) >= 3


@pytest.mark.parametrize("n", [1, 3])
def test_a_role_first_and_an_empty_delta_last(http_client: httpx.Client, n: int) -> None:
    got = chunks(post(http_client, "chat", stream=True, n=n, max_tokens=9, service_tier="auto"))
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"], c["service_tier"]) for c in got}) == 1
    assert {c["object"] for c in got} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in got)
    for index in range(n):
        choices = [chunk["choices"][0] for chunk in got if chunk["choices"][0]["index"] == index]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert choices[-1]["delta"] == {}
        assert choices[-1]["finish_reason"] in ("stop", "length")
        for choice in choices[1:-1]:
            assert choice["delta"].keys() == {"content"}
            assert choice["finish_reason"] is None


@pytest.mark.parametrize("kind", PATHS)
def test_the_usage_comes_last_if_asked_for(http_client: httpx.Client, kind: str) -> None:
    options = {"include_usage": True}
    *others, last = chunks(post(http_client, kind, stream=True, stream_options=options, n=2, max_tokens=9, seed=1))
    assert last["choices"] == []
    whole = post(http_client, kind, n=2, max_tokens=9, seed=1).json()
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert last["usage"][key] == whole["usage"][key]
    assert all(chunk["choices"] and chunk["usage"] is None for chunk in others)


@pytest.mark.parametrize("kind", PATHS)
def test_the_usage_so_far_in_every_chunk(http_client: httpx.Client, kind: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    got = chunks(post(http_client, kind, stream=True, stream_options=options, max_tokens=9, ignore_eos=True))
    counts = [chunk["usage"]["completion_tokens"] for chunk in got]
    assert counts == sorted(counts)
    assert counts[-1] == 9
    assert len({chunk["usage"]["prompt_tokens"] for chunk in got}) == 1


@pytest.mark.parametrize("kind", PATHS)
def test_obfuscation_is_on_by_default(http_client: httpx.Client, kind: str) -> None:
    got = chunks(post(http_client, kind, stream=True, max_tokens=9, ignore_eos=True))
    assert all(chunk["obfuscation"] for chunk in got)
    assert len({chunk["obfuscation"] for chunk in got}) == len(got)
    sent = [(sent_text(chunk), chunk["obfuscation"]) for chunk in got]
    assert {(len(text) + len(padding)) % streaming.PADDED_CHARS for text, padding in sent} == {0}
    got = chunks(post(http_client, kind, stream=True, max_tokens=9, stream_options={"include_obfuscation": False}))
    assert all("obfuscation" not in chunk for chunk in got)


@pytest.mark.parametrize("fields", [{"temperature": 3}, {"model": "gpt"}, {"logit_bias": {"9999": 1}}, {"n": 0}])
def test_what_is_refused_is_refused_before_the_stream(http_client: httpx.Client, fields: dict[str, Any]) -> None:
    response = http_client.post("/v1/chat/completions", json=CHAT | {"stream": True} | fields)
    assert response.status_code in (400, 404)
    assert response.headers["content-type"] == "application/json"


# The concatenated stream is the unstreamed answer.


def whole_choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "text": choice["text"] if "text" in choice else choice["message"]["content"],
            "end": choice["finish_reason"],
            "logprobs": flattened(choice["logprobs"]),
            "ids": choice["token_ids"],
        }
        for choice in body["choices"]
    ]


def joined_choices(got: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    joined: list[dict[str, Any]] = [{"text": "", "end": None, "logprobs": [], "ids": []} for _ in range(n)]
    for chunk in got:
        for choice in chunk["choices"]:
            into = joined[choice["index"]]
            assert into["end"] is None, "a choice went on after its end"
            into["text"] += sent_text(chunk)
            into["end"] = choice["finish_reason"]
            into["logprobs"] += flattened(choice["logprobs"])
            into["ids"] += choice.get("token_ids") or []
    return joined


def flattened(logprobs: dict[str, Any] | None) -> list[Any]:
    """One entry a token, in either endpoint's shape; numbers are rounded, since batches round differently."""
    if logprobs is None:
        return []
    if "content" in logprobs:
        return [rounded(entry) for entry in logprobs["content"]]
    columns = [logprobs["tokens"], logprobs["token_logprobs"], logprobs["text_offset"]]
    tops = logprobs["top_logprobs"] or [None] * len(logprobs["tokens"])
    return [rounded(list(row)) for row in zip(*columns, tops, strict=True)]


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-4)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@functools.cache
def known_text(url: str, kind: str, seed: int, temperature: float) -> str:
    """An answer of 30 tokens, for stop strings that occur."""
    path, body = PATHS[kind]
    fields = {"max_tokens": 30, "seed": seed, "temperature": temperature, "return_token_ids": True}
    answer = httpx.post(url + path, json=body | fields, timeout=60).json()
    return str(whole_choices(answer)[0]["text"])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_stream_is_the_answer(live_server: LiveServer, http_client: httpx.Client, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(PATHS)))
    seed, temperature = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([0.0, 0.7, 1.0, 2.0]))
    n = data.draw(st.integers(1, 3))
    text = known_text(live_server.url, kind, seed, temperature)

    def part() -> str:
        start = data.draw(st.integers(0, max(len(text) - 1, 0)))
        return text[start : start + data.draw(st.integers(1, 6))]

    stops = [part() + data.draw(st.sampled_from(["", "", "x"])) for _ in range(data.draw(st.integers(0, 3)))]
    stops = [stop for stop in stops if stop]
    fields: dict[str, Any] = {
        "max_tokens": 30, "seed": seed, "temperature": temperature, "n": n, "return_token_ids": True
    }  # fmt: skip
    if stops:
        fields["stop"] = stops
    if (alternatives := data.draw(st.sampled_from([None, 0, 3]))) is not None:
        chat_fields = {"logprobs": True, "top_logprobs": alternatives}
        fields |= chat_fields if kind == "chat" else {"logprobs": alternatives}
    whole = post(http_client, kind, **fields).json()
    streamed = chunks(post(http_client, kind, **fields, stream=True, stream_options={"include_usage": True}))
    expected = whole_choices(whole)
    assert joined_choices(streamed[:-1], n) == expected
    assert streamed[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert whole["usage"]["completion_tokens"] == sum(len(choice["ids"]) for choice in expected)
    assert all(stop not in choice["text"] for stop in stops for choice in expected)
    assert all("prompt_token_ids" not in chunk for chunk in streamed[n:])


def test_no_beginning_of_a_stop_string_is_ever_sent(http_client: httpx.Client) -> None:
    fields = {"logit_bias": {"41": 100}, "max_tokens": 9, "stream": True}
    sent = chunks(post(http_client, "chat", **fields, stop="FFFF"))
    assert "".join(map(sent_text, sent)) == ""
    sent = chunks(post(http_client, "chat", **fields, stop="F" * 9 + "!"))
    assert [text for text in map(sent_text, sent) if text] == ["F" * 9]


# Streams that do not end well.


def test_the_engine_dies_in_mid_stream(long_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(Settings(model=str(long_checkpoint), kv_cache_gib=0.02)) as server, server.http() as http:
        with opened(http, ignore_eos=True) as response:
            payloads = data(response.iter_lines())
            for _ in range(3):
                next(payloads)
            server.served._thread._engine.runner.model = None  # type: ignore[assignment]  # the next pass fails
            *_, last = payloads
        error = json.loads(last)["error"]
        assert (error["type"], error["code"], error["param"]) == ("server_error", "internal_error", None)
        health = http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        refused = http.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_dead")
    assert "the engine died" in caplog.text


def test_time_runs_out_in_mid_stream(long_checkpoint: Path) -> None:
    given = Settings(model=str(long_checkpoint), kv_cache_gib=0.02, request_timeout_s=0.2)
    with running(given) as server, server.http() as http:
        whole = http.post("/v1/chat/completions", json=CHAT | {"ignore_eos": True})
        assert whole.status_code == 408
        assert whole.json()["error"]["code"] == "request_timeout"
        assert whole.headers["x-should-retry"] == "false"
        streamed = http.post("/v1/chat/completions", json=CHAT | {"ignore_eos": True, "stream": True})
        assert streamed.status_code == 200
        *_, last = frames(streamed.text)
        assert json.loads(last)["error"]["code"] == "request_timeout"
        eventually(lambda: server.served.num_live == 0)


def test_idle_streams_are_kept_alive(long_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits for its turn gets pings, as comments."""
    monkeypatch.setattr(streaming, "PING_S", 0.05)
    given = Settings(model=str(long_checkpoint), kv_cache_gib=0.02, max_sequences=1)
    with running(given) as server, server.http() as http, opened(http, ignore_eos=True) as running_one:
        payloads = data(running_one.iter_lines())
        next(payloads)
        with opened(http) as waiting_one:
            lines = waiting_one.iter_lines()
            assert json.loads(next(lines).removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
            assert [next(lines) for _ in range(5)] == ["", ": ping", "", ": ping", ""]
