"""`/v1/completions` through the official client: shapes of prompts, indexes, log-probabilities, streams."""

from typing import Any

import httpx
import pytest
from fakes import tiny_tokenizer
from openai import OpenAI
from openai.types import Completion

from honed.models.detokenizer import TokenBytes
from honed.models.engine.sampler import Sample
from honed.server.logprobs import CompletionTokenWriter

PROMPT = "Once upon a time"
IDS = tiny_tokenizer().encode(PROMPT)
LETTER_A = tiny_tokenizer().convert_tokens_to_ids("A")


@pytest.fixture
def ask(openai_client: OpenAI) -> Any:
    def create(prompt: Any = PROMPT, *, ignore_eos: bool = True, token_ids: bool = False, **given: Any) -> Completion:
        extra = {"ignore_eos": ignore_eos, "return_token_ids": token_ids}
        return openai_client.completions.create(
            **{"model": "tiny", "temperature": 0} | given, prompt=prompt, extra_body=extra
        )

    return create


def texts(answer: Completion) -> list[str]:
    return [choice.text for choice in answer.choices]


def test_an_answer_has_16_tokens_by_default(ask: Any) -> None:
    answer = ask()
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert (answer.model, answer.choices[0].finish_reason) == ("tiny", "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(IDS), 16)
    assert answer.choices[0].logprobs is None


def test_texts_and_token_ids_are_the_same_prompt(ask: Any) -> None:
    plain = texts(ask())
    assert texts(ask([PROMPT])) == texts(ask(IDS)) == texts(ask([IDS])) == plain


def test_indexes_count_prompts_first(ask: Any) -> None:
    alone = {prompt: texts(ask(prompt, n=2, seed=5, temperature=1)) for prompt in ("one", "two", "three")}
    answer = ask(list(alone), n=2, seed=5, temperature=1)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert texts(answer) == [text for pair in alone.values() for text in pair]
    assert len(set(texts(answer))) == 6
    ids = [tiny_tokenizer().encode(prompt) for prompt in alone]
    assert texts(ask(ids, n=2, seed=5, temperature=1)) == texts(answer)
    assert answer.usage.prompt_tokens == sum(map(len, ids))


def test_token_ids_are_returned(ask: Any) -> None:
    answer = ask(["one", PROMPT], n=2, token_ids=True, max_tokens=4)
    assert [choice.prompt_token_ids for choice in answer.choices][2:] == [IDS, IDS]
    assert [len(choice.token_ids) for choice in answer.choices] == [4] * 4


def test_zero_tokens(ask: Any) -> None:
    answer = ask([PROMPT, "b"], max_tokens=0, logprobs=1)
    assert [(c.text, c.finish_reason) for c in answer.choices] == [("", "length")] * 2
    assert answer.choices[0].logprobs.tokens == []
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(IDS) + 1, 0)


@pytest.mark.parametrize("alternatives", range(6))
def test_logprobs(ask: Any, alternatives: int) -> None:
    answer = ask(logprobs=alternatives, seed=1, temperature=1, max_tokens=30)
    got = answer.choices[0].logprobs
    assert len(got.tokens) == len(got.token_logprobs) == len(got.text_offset) == 30
    if not alternatives:
        assert got.top_logprobs is None
        return
    for token, logprob, top in zip(got.tokens, got.token_logprobs, got.top_logprobs, strict=True):
        assert top[token] == logprob
        assert alternatives <= len(top) <= alternatives + 1  # the sampled one is always there


def test_offsets_point_into_the_text(ask: Any) -> None:
    answer = ask(logprobs=0, logit_bias={str(LETTER_A): 100}, max_tokens=4)
    assert (texts(answer), answer.choices[0].logprobs.text_offset) == (["AAAA"], [0, 1, 2, 3])
    readable = {str(token_id): 100 for token_id in range(LETTER_A, 268)[:26]}
    answer = ask(logprobs=0, temperature=1, seed=1, max_tokens=40, logit_bias=readable)
    text, got = answer.choices[0].text, answer.choices[0].logprobs
    assert len(text) == 40
    assert all(text[at] == token for token, at in zip(got.tokens, got.text_offset, strict=True))


def test_offsets_count_characters_not_bytes() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("é!")
    samples = [Sample(token_id, -1.0, (), is_finite=True) for token_id in ids]
    written = CompletionTokenWriter(TokenBytes(tokenizer)).write(samples, alternatives=0)
    assert (written.tokens, written.text_offset) == (["bytes:\\xc3", "bytes:\\xa9", "!"], [0, 0, 1])


def test_a_stop_string_and_the_end_of_sequence(ask: Any) -> None:
    text = texts(ask())[0]
    answer = ask(stop=text[5:7])
    assert (texts(answer), answer.choices[0].finish_reason) == ([text[: text.find(text[5:7])]], "stop")
    answer = ask(logit_bias={"2": 100}, ignore_eos=False)
    assert (texts(answer), answer.choices[0].finish_reason) == ([""], "stop")
    assert answer.usage.completion_tokens == 1


def test_a_stream(openai_client: OpenAI, ask: Any) -> None:
    whole = ask(["one", PROMPT], n=2, temperature=1, seed=9)
    chunks = list(
        openai_client.completions.create(
            model="tiny", prompt=["one", PROMPT], n=2, temperature=1, seed=9, stream=True,
            extra_body={"ignore_eos": True},
        )
    )  # fmt: skip
    joined = [""] * 4
    for chunk in chunks:
        joined[chunk.choices[0].index] += chunk.choices[0].text
    assert joined == texts(whole)
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["length"] * 4


def test_a_stream_of_nothing(http_client: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 0, "stream": True}
    response = http_client.post("/v1/completions", json=body)
    assert response.text.count("data: ") == 2
    assert '"finish_reason":"length"' in response.text


@pytest.mark.parametrize(("name", "value"), [("echo", True), ("best_of", 2), ("suffix", "the end")])
def test_what_is_not_supported_is_refused_by_name(http_client: httpx.Client, name: str, value: object) -> None:
    response = http_client.post("/v1/completions", json={"model": "tiny", "prompt": PROMPT, name: value})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", name)
    assert name in error["message"]


def test_what_asks_for_nothing_is_accepted(http_client: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "echo": False, "best_of": 1, "suffix": None, "user": "a"}
    response = http_client.post("/v1/completions", json=body)
    assert response.status_code == 200
    assert "x-honed-warning" not in response.headers
