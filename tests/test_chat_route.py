"""`/v1/chat/completions` through the official client, against the real application with a tiny model."""

import asyncio
import json
import logging
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually, running
from fakes import tiny_tokenizer
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion

from honed.models.checkpoint import read_lineage
from honed.server.auth import short_hash
from honed.server.settings import Settings

EOS = 2
LETTER_A = tiny_tokenizer().convert_tokens_to_ids("A")
BLOCK = 16  # tokens, the unit in which prompts are cached
MESSAGES = [{"role": "user", "content": "Hello there"}]
EXTENSIONS = {
    "top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens", "stop_token_ids", "return_token_ids"
}  # fmt: skip


def fields(**given: Any) -> dict[str, Any]:
    """Arguments of `create`: what OpenAI's client does not know goes into the extra body."""
    request: dict[str, Any] = {"model": "honed", "messages": MESSAGES, "max_tokens": 12} | given
    extra = {key: request.pop(key) for key in EXTENSIONS & request.keys()}
    return request | {"extra_body": extra}


@pytest.fixture
def ask(openai_client: OpenAI) -> Any:
    def create(**given: Any) -> ChatCompletion:
        return openai_client.chat.completions.create(**fields(**given))

    return create


def texts(answer: ChatCompletion) -> list[str]:
    return [choice.message.content or "" for choice in answer.choices]


def test_an_answer(ask: Any) -> None:
    answer = ask(max_tokens=8, temperature=0, ignore_eos=True)
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_the_fingerprint_is_the_checkpoints_id(ask: Any, tiny_checkpoint: Path) -> None:
    lineage = read_lineage(tiny_checkpoint)
    assert lineage is not None
    assert ask().system_fingerprint == lineage.id


def test_n_choices_share_a_prompt_and_the_second_request_finds_it(ask: Any) -> None:
    request = {"messages": [{"role": "user", "content": "n choices share one prompt " * 3}], "n": 3}
    first = ask(**request, return_token_ids=True, ignore_eos=True)
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert first.usage.prompt_tokens == len(first.prompt_token_ids)
    assert first.usage.completion_tokens == sum(len(choice.token_ids) for choice in first.choices) == 3 * 12
    assert first.usage.prompt_tokens_details.cached_tokens < BLOCK * 2
    second = ask(**request)
    whole_blocks = (second.usage.prompt_tokens - 1) // BLOCK * BLOCK
    assert second.usage.prompt_tokens_details.cached_tokens == whole_blocks
    assert second.usage.prompt_tokens == first.usage.prompt_tokens


def test_max_completion_tokens_wins(ask: Any) -> None:
    assert ask(max_completion_tokens=3, max_tokens=9, ignore_eos=True).usage.completion_tokens == 3


def test_without_a_limit_the_context_is_filled(ask: Any, live_server: LiveServer) -> None:
    answer = ask(max_tokens=None, ignore_eos=True)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == live_server.served.context_length == 512


def test_the_end_of_sequence_stops_and_is_no_text(ask: Any) -> None:
    answer = ask(logit_bias={EOS: 100})
    assert (answer.choices[0].finish_reason, texts(answer), answer.usage.completion_tokens) == ("stop", [""], 1)


def test_ignore_eos_and_min_tokens(ask: Any) -> None:
    answer = ask(logit_bias={EOS: 100}, ignore_eos=True)
    assert (answer.choices[0].finish_reason, texts(answer), answer.usage.completion_tokens) == ("length", [""], 12)
    answer = ask(logit_bias={EOS: 100}, min_tokens=5)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 6)


def test_a_bias_forces_a_token_and_a_stop_token_ends(ask: Any) -> None:
    answer = ask(logit_bias={LETTER_A: 100})
    assert (texts(answer), answer.choices[0].finish_reason) == (["A" * 12], "length")
    answer = ask(logit_bias={LETTER_A: 100}, stop_token_ids=[LETTER_A])
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 1)


def test_greedy_is_deterministic_and_sampling_is_not(ask: Any) -> None:
    request = {"max_tokens": 40, "ignore_eos": True}
    assert texts(ask(**request, temperature=0)) == texts(ask(**request, temperature=0))
    assert texts(ask(**request, temperature=1e-300)) == texts(ask(**request, temperature=0))
    assert texts(ask(**request)) != texts(ask(**request))


def test_a_seed_decides_also_in_company(ask: Any, live_server: LiveServer) -> None:
    request = {"max_tokens": 40, "ignore_eos": True}
    alone = ask(**request, seed=7, n=3)
    assert len(set(texts(alone))) == 3
    assert texts(ask(**request, seed=7)) == texts(alone)[:1]
    assert texts(ask(**request, seed=8)) != texts(alone)[:1]
    assert texts(ask(**request, seed=-7)) != texts(alone)[:1]

    async def in_company() -> list[list[str]]:
        async with AsyncOpenAI(base_url=f"{live_server.url}/v1", api_key="unused", max_retries=0) as client:
            others = [{"max_tokens": 5 * i + 1, "temperature": i / 5, "ignore_eos": True} for i in range(8)]
            requests = [*others[:4], {**request, "seed": 7, "n": 3}, *others[4:], {**request, "seed": 7}]
            calls = [client.chat.completions.create(**fields(**each)) for each in requests]
            return [texts(answer) for answer in await asyncio.gather(*calls)]

    answers = asyncio.run(in_company())
    assert answers[4] == texts(alone)
    assert answers[-1] == texts(alone)[:1]


def test_logprobs_without_alternatives(ask: Any) -> None:
    answer = ask(logprobs=True, top_logprobs=0, return_token_ids=True, ignore_eos=True, seed=1)
    entries = answer.choices[0].logprobs.content
    assert answer.choices[0].logprobs.refusal is None
    assert len(entries) == len(answer.choices[0].token_ids) == answer.usage.completion_tokens == 12
    assert all(entry.top_logprobs == [] and entry.logprob <= 0 for entry in entries)
    tokenizer = tiny_tokenizer()
    assert [entry.token for entry in entries] == [
        tokenizer.decode([token_id]) for token_id in answer.choices[0].token_ids
    ]


def test_alternatives_are_sorted_and_their_bytes_are_the_text(ask: Any) -> None:
    answer = ask(logprobs=True, top_logprobs=20, temperature=0, logit_bias=dict.fromkeys(range(4), -100), max_tokens=30)
    entries = answer.choices[0].logprobs.content
    for entry in entries:
        assert len(entry.top_logprobs) == 20
        assert all(a.logprob >= b.logprob for a, b in pairwise(entry.top_logprobs))
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1 + 1e-5
    written = b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace")
    assert written.startswith(texts(answer)[0])
    assert len(written) - len(texts(answer)[0]) <= 1  # an unfinished character


def test_what_is_filtered_out_has_the_lowest_logprob(ask: Any) -> None:
    answer = ask(logprobs=True, top_logprobs=3, top_k=1, seed=1)
    for entry in answer.choices[0].logprobs.content:
        assert entry.logprob == 0
        assert [top.logprob for top in entry.top_logprobs] == [0, -9999, -9999]


@pytest.mark.parametrize("start", [0, 1, 9])
@pytest.mark.parametrize("length", [1, 4])
def test_a_stop_string_ends_the_answer_and_is_not_in_it(ask: Any, start: int, length: int) -> None:
    request = {"seed": 3, "max_tokens": 60, "ignore_eos": True, "logprobs": True, "return_token_ids": True}
    whole = ask(**request)
    text = texts(whole)[0]
    stop = text[start : start + length]
    answer = ask(**request, stop=["never said by it", stop])
    (choice,) = answer.choices
    assert choice.message.content == text[: text.find(stop)]
    assert choice.finish_reason == "stop"
    assert choice.token_ids == whole.choices[0].token_ids[: len(choice.token_ids)]
    assert len(choice.token_ids) == len(choice.logprobs.content) == answer.usage.completion_tokens < 60


def test_a_stop_string_across_the_end_is_text(ask: Any) -> None:
    """Its beginning is held back, and comes when no more tokens do."""
    answer = ask(logit_bias={LETTER_A: 100}, stop="A" * 13)
    assert (texts(answer), answer.choices[0].finish_reason) == (["A" * 12], "length")


def prompt_ids(ask: Any, *messages: dict[str, Any]) -> list[int]:
    ids: list[int] = ask(messages=list(messages), return_token_ids=True, max_tokens=1).prompt_token_ids
    return ids


def test_developers_are_the_system_and_parts_are_joined(ask: Any) -> None:
    user = {"role": "user", "content": "Hi\nthere"}
    plain = prompt_ids(ask, {"role": "system", "content": "Be brief"}, user)
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]
    assert prompt_ids(ask, {"role": "developer", "content": "Be brief"}, {**user, "content": parts}) == plain
    assert tiny_tokenizer().decode(plain).startswith("<|im_start|>system\nBe brief<|im_end|>")


def test_the_prompt_ids_are_absent_unless_asked_for(http_client: httpx.Client) -> None:
    body = {"model": "honed", "messages": MESSAGES, "max_tokens": 2}
    plain = http_client.post("/v1/chat/completions", json=body).json()
    assert not {"prompt_token_ids", "service_tier"} & plain.keys()
    assert set(plain["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}
    assert plain["choices"][0]["message"]["refusal"] is None
    tier = http_client.post("/v1/chat/completions", json=body | {"service_tier": "auto"}).json()
    assert tier["service_tier"] == "default"


def test_unknown_keys_are_named_in_a_header(http_client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Hi", "mood": "good"}]
    body = {"model": "honed", "messages": messages, "max_tokens": 2, "tempratur": 1}
    response = http_client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert response.headers["x-honed-warning"] == "ignored unknown parameters: tempratur, messages[0].mood"
    streamed = http_client.post("/v1/chat/completions", json=body | {"stream": True})
    assert streamed.headers["x-honed-warning"] == response.headers["x-honed-warning"]


def test_strict_refuses_unknown_keys(tiny_checkpoint: Path) -> None:
    with running(Settings(model=str(tiny_checkpoint), strict=True, kv_cache_gib=0.01)) as server, server.http() as http:
        body = {"model": "honed", "messages": MESSAGES, "tempratur": 1}
        response = http.post("/v1/chat/completions", json=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("unknown_parameter", "tempratur")


def test_a_shorter_context_can_be_set(tiny_checkpoint: Path) -> None:
    settings = Settings(model=str(tiny_checkpoint), max_model_len=48, kv_cache_gib=0.01)
    with running(settings) as server, server.openai() as client:
        answer = client.chat.completions.create(**fields(max_tokens=None, ignore_eos=True))
        assert answer.usage.total_tokens == 48


def test_the_request_id_is_the_clients(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(**fields(), extra_headers={"x-request-id": "mine-1"})
    assert answer._request_id == "mine-1"
    raw = openai_client.chat.completions.with_raw_response.create(**fields())
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-version"] == "2020-10-01"
    assert raw.headers["openai-processing-ms"].isdecimal()


def test_the_access_log_knows_the_user_by_hash_only(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[dict[str, Any]]:
        return [json.loads(record.message) for record in caplog.records if record.name == "honed.access"]

    with caplog.at_level(logging.INFO, logger="honed.access"):
        ask(user="alice@example.com")
        ask(safety_identifier="alice-2")
        eventually(lambda: len(lines()) == 2)
    assert [line["user_hash"] for line in lines()] == [short_hash("alice@example.com"), short_hash("alice-2")]
    assert [(line["status"], line["key_id"]) for line in lines()] == [(200, "anonymous")] * 2
    assert "alice" not in caplog.text
