"""The default model, in float32: served through the official client, and against transformers' own `generate`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import exactness
import pytest
import torch
from conftest import LiveServer, running
from openai import OpenAI
from transformers import PreTrainedModel

from honed.models.chat import render_chat
from honed.models.engine.engine import Engine, EngineConfig
from honed.models.engine.sampler import Sample
from honed.models.engine.sequence import SamplingParams, Sequence
from honed.models.policy import Policy, load_policy
from honed.models.sources import DEFAULT_MODEL, honed_home, pull
from honed.server.settings import Settings

pytestmark = pytest.mark.real_model

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
EXOTIC = "你好，世界 🌍🚀"  # 16 tokens, all but one of them a part of a character
COPYING = f"Text: {EXOTIC}\nCopy: {EXOTIC}\n\n" * 2 + f"Text: {EXOTIC}\nCopy:"
MAX_TOKENS = 24
PROMPTS = (
    "Once upon a time",
    "def fibonacci(n):\n    ",
    COPYING,
    "The years 1914, 1918, 1939 and 1945 are",
    "Les trois couleurs du drapeau français sont",
    "The river ran past the mill, and the miller counted his sacks of flour. " * 12,
    "A",
)


@pytest.fixture(scope="session")
def folder() -> Path:
    return pull(DEFAULT_MODEL, honed_home())


@pytest.fixture(scope="session")
def server() -> Iterator[LiveServer]:
    with running(Settings(model=DEFAULT_MODEL, dtype="float32", kv_cache_gib=1)) as live:
        yield live


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[OpenAI]:
    with server.openai() as opened:
        yield opened


@pytest.fixture(scope="session")
def policy(folder: Path) -> Policy:
    return load_policy(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def prompts(policy: Policy) -> list[list[int]]:
    texts = [list(policy.tokenizer.encode(text)) for text in PROMPTS]
    return [*texts, render_chat(policy.tokenizer, FRANCE)]


@pytest.fixture(scope="session")
def expected(policy: Policy, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers answers to each prompt, with its own attention and cache."""
    policy.model.set_attn_implementation("eager")
    return [generate(policy.model, prompt) for prompt in prompts]


@pytest.fixture(scope="session")
def batched(policy: Policy, prompts: list[list[int]]) -> list[list[Sample]]:
    """What the engine answers to all of them at once."""
    engine = new_engine(policy)
    answers = engine.run([greedy(policy, prompt) for prompt in prompts])
    engine.check_integrity()
    return answers


def generate(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=2
    )
    return output[0, len(prompt) :].tolist()


def greedy(policy: Policy, prompt: list[int]) -> Sequence:
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0, stop_token_ids=policy.eos_token_ids)
    return Sequence(tuple(prompt), params, seed=0)


def new_engine(policy: Policy) -> Engine:
    return Engine(policy.model, EngineConfig(num_blocks=256, block_size=16, max_batch_tokens=128))


def ids(samples: list[Sample]) -> list[int]:
    return [sample.token_id for sample in samples]


def test_the_capital_of_france(server: LiveServer) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="unused")
    for model in (DEFAULT_MODEL, "honed"):
        answer = client.chat.completions.create(model=model, messages=FRANCE, temperature=0, max_tokens=40)
        assert "Paris" in answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == DEFAULT_MODEL


@pytest.mark.parametrize(
    ("question", "temperature"),
    [("Tell me about the sea.", 0), ("Write three emoji, then 你好 and a poem.", 1), (EXOTIC, 1)],
)
def test_the_stream_is_the_answer(client: OpenAI, question: str, temperature: float) -> None:
    messages = [{"role": "user", "content": question}]
    request = {"model": "honed", "messages": messages, "temperature": temperature, "seed": 11, "max_tokens": 60}
    whole = client.chat.completions.create(**request).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**request, stream=True)]
    assert "".join(choice.delta.content or "" for choice in chunks) == whole.message.content
    assert chunks[-1].finish_reason == whole.finish_reason
    assert len(chunks) > 10


def test_an_answer_does_not_depend_on_its_company(server: LiveServer) -> None:
    """16 requests of different lengths, temperatures and seeds, one by one and then at once."""
    comparison = asyncio.run(exactness.run(server.url, clients=16))
    assert comparison.answers == 16
    assert comparison.partings == []
    assert comparison.largest_move < 1e-3


def test_chinese_and_emoji_arrive_whole(client: OpenAI) -> None:
    request = {"model": "honed", "prompt": COPYING, "temperature": 0, "max_tokens": 40, "stop": "\n"}
    whole = client.completions.create(**request)
    assert whole.choices[0].text == f" {EXOTIC}"
    deltas = [chunk.choices[0].text for chunk in client.completions.create(**request, stream=True)]
    assert "".join(deltas) == f" {EXOTIC}"
    assert len(deltas) > 5
    assert not any("\ufffd" in delta for delta in deltas)


def test_greedy_equals_generate_alone(policy: Policy, prompts: list[list[int]], expected: list[list[int]]) -> None:
    engine = new_engine(policy)
    assert [ids(engine.run([greedy(policy, prompt)])[0]) for prompt in prompts] == expected


def test_greedy_equals_generate_in_a_batch(expected: list[list[int]], batched: list[list[Sample]]) -> None:
    assert [ids(samples) for samples in batched] == expected


def test_logprobs_equal_a_plain_forward_pass(
    policy: Policy, prompts: list[list[int]], batched: list[list[Sample]]
) -> None:
    policy.model.set_attn_implementation("eager")
    for prompt, samples in zip(prompts, batched, strict=True):
        answer = ids(samples)
        with torch.inference_mode():
            logits = policy.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        plain = logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
        torch.testing.assert_close(torch.tensor([sample.logprob for sample in samples]), plain, atol=1e-4, rtol=0)


def test_the_default_dtype_answers_too(folder: Path) -> None:
    policy = load_policy(folder)
    answer = new_engine(policy).run([greedy(policy, render_chat(policy.tokenizer, FRANCE))])[0]
    assert "Paris" in policy.tokenizer.decode(ids(answer))
    assert policy.name == DEFAULT_MODEL
    assert policy.context_length == 8192
    assert policy.eos_token_ids == {2}


def test_the_template_gives_the_ids_that_the_model_was_trained_on(policy: Policy) -> None:
    """Its own system prompt where there is none, digits one by one, bytes of a character it does not know."""
    system = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712]
    question = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198]
    assistant = [1, 520, 9531, 198]
    assert render_chat(policy.tokenizer, FRANCE) == [*system, 8182, 2, 198, *question, *assistant]

    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi 世界"},
        {"role": "assistant", "content": "Yo"},
        {"role": "user", "content": "12 apples"},
    ]
    turns = [
        [1, 9690, 198, 6077, 5453, 30, 2, 198],
        [1, 4093, 198, 26843, 216, 7906, 240, 178, 239, 230, 2, 198],
        [1, 520, 9531, 198, 73, 95, 2, 198],
        [1, 4093, 198, 33, 34, 13855, 2, 198],
    ]
    assert render_chat(policy.tokenizer, conversation) == [token for turn in turns for token in turn] + assistant
