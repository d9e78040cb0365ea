"""`/metrics`: vLLM's names, and numbers that add up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually, running
from prometheus_client.parser import text_string_to_metric_families

from honed.server.settings import Settings

PROMPT = [7] * 40  # two blocks of 16 tokens, and 8 more
LETTER_A = "36"


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[LiveServer]:
    with running(Settings(model=str(tiny_checkpoint), dtype="float32", kv_cache_gib=0.01)) as server:
        yield server


def numbers(server: LiveServer) -> dict[str, float]:
    """Samples by name, with the label that tells them apart."""
    text = httpx.get(f"{server.url}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        sample.name + "".join(f"[{sample.labels[key]}]" for key in ("finished_reason", "code") if key in sample.labels):
        sample.value for sample in samples if "le" not in sample.labels
    }  # fmt: skip


def test_the_names_are_vllms(server: LiveServer) -> None:
    response = httpx.get(f"{server.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert names >= {
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions", "vllm:prompt_tokens", "vllm:generation_tokens", "vllm:request_success",
        "vllm:prefix_cache_queries", "vllm:prefix_cache_hits", "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds", "vllm:e2e_request_latency_seconds",
    }  # fmt: skip


def test_known_requests_add_up(server: LiveServer) -> None:
    def complete(**fields: Any) -> None:
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5, "ignore_eos": True} | fields
        assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200

    complete(n=2)  # 40 prompt tokens, 10 sampled, by length
    complete()  # 32 of the 40 are cached, 5 sampled, by length
    complete(logit_bias={"2": 100}, ignore_eos=False)  # 32 cached, 1 sampled, the end of sequence
    complete(logit_bias={LETTER_A: 100}, stop="AAA")  # 32 cached, 3 sampled, a stop string
    for code in ("model_not_found", "model_not_found", "invalid_json"):
        content = b"{" if code == "invalid_json" else b'{"model": "gpt", "prompt": "a"}'
        assert httpx.post(f"{server.url}/v1/completions", content=content).json()["error"]["code"] == code
    httpx.get(f"{server.url}/nowhere")
    eventually(lambda: server.served.num_live == 0)
    got = numbers(server)
    assert got["vllm:prompt_tokens_total"] == got["vllm:prefix_cache_queries_total"] == 160
    assert got["vllm:prefix_cache_hits_total"] == 96
    # The engine samples on until the abort of the stopped sequence reaches it, at most to its max_tokens of 5.
    assert 19 <= got["vllm:generation_tokens_total"] <= 21
    assert got["vllm:request_success_total[length]"] == 3
    assert got["vllm:request_success_total[stop]"] == 2
    assert got["vllm:time_to_first_token_seconds_count"] == 5
    assert got["vllm:inter_token_latency_seconds_count"] == 19 - 5
    assert got["vllm:e2e_request_latency_seconds_count"] == 4
    assert got["vllm:num_requests_running"] == got["vllm:kv_cache_usage_perc"] == 0
    assert got["honed_error_responses_total[model_not_found]"] == 2
    assert got["honed_error_responses_total[invalid_json]"] == 1
    assert got["honed_error_responses_total[not_found]"] == 1


def test_who_goes_away_is_counted(server: LiveServer) -> None:
    before = numbers(server).get("vllm:request_success_total[abort]", 0)
    body = {"model": "tiny", "prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True, "n": 2}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
    eventually(lambda: numbers(server).get("vllm:request_success_total[abort]", 0) == before + 2)
    eventually(lambda: server.gauge("vllm:num_requests_running") == 0)
