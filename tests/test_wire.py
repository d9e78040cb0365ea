"""The wire types: what requests mean, and that answers are OpenAI's to the key."""

import json
from typing import Any, get_args

import pytest
from openai import types
from openai.types import completion_create_params as legacy_params
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat import completion_create_params as chat_params
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.fine_tuning import (
    dpo_hyperparameters_param,
    job_create_params,
    reinforcement_hyperparameters_param,
    supervised_hyperparameters_param,
)
from pydantic import ValidationError

from honed.server.wire import chat, completions, fine_tuning
from honed.server.wire.logprobs import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob
from honed.server.wire.messages import for_template
from honed.server.wire.models import Model, ModelList
from honed.server.wire.usage import Usage

USAGE = Usage.of(prompt_tokens=3, completion_tokens=2, cached_tokens=1)
COMMON: dict[str, Any] = {"id": "x-1", "created": 1, "model": "m", "system_fingerprint": "fp"}
TOKEN = TokenLogprob(token="é", logprob=-0.5, bytes=[195, 169], top_logprobs=[])


def chat_request(**fields: Any) -> chat.ChatCompletionRequest:
    base = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return chat.ChatCompletionRequest.model_validate({**base, **fields})


def completion_request(**fields: Any) -> completions.CompletionRequest:
    return completions.CompletionRequest.model_validate({"model": "m", "prompt": "hi", **fields})


@pytest.mark.parametrize(
    ("model", "params"),
    [
        (chat.ChatCompletionRequest, chat_params.CompletionCreateParamsBase),
        (completions.CompletionRequest, legacy_params.CompletionCreateParamsBase),
        (fine_tuning.CreateJobRequest, job_create_params.JobCreateParams),
        (fine_tuning.Method, job_create_params.Method),
        (fine_tuning.Hyperparameters, supervised_hyperparameters_param.SupervisedHyperparametersParam),
        (fine_tuning.PreferenceHyperparameters, dpo_hyperparameters_param.DpoHyperparametersParam),
        (
            fine_tuning.ReinforcementHyperparameters,
            reinforcement_hyperparameters_param.ReinforcementHyperparametersParam,
        ),
    ],
)
def test_every_parameter_of_the_official_client_is_known(model: Any, params: Any) -> None:
    assert set(params.__annotations__) - set(model.model_fields) - {"extra_headers"} == set()


def test_null_is_the_default() -> None:
    nulls = {name: None for name in chat.ChatCompletionRequest.model_fields if name not in ("model", "messages")}
    assert chat_request(**nulls) == chat_request()
    assert chat_request(temperature=None).temperature == 1.0
    nulls = {name: None for name in completions.CompletionRequest.model_fields if name not in ("model", "prompt")}
    assert completion_request(**nulls) == completion_request()
    assert completion_request(max_tokens=None).max_tokens == 16


def test_values_that_ask_for_nothing_are_accepted() -> None:
    chat_request(
        tools=[], tool_choice="none", functions=[], function_call="none", store=False, metadata={},
        modalities=["text"], response_format={"type": "text"}, service_tier="auto",
    )  # fmt: skip
    completion_request(echo=False, suffix="", best_of=1)


def test_the_limit_of_tokens() -> None:
    assert chat_request().token_limit is None
    assert chat_request(max_tokens=5).token_limit == 5
    assert chat_request(max_tokens=5, max_completion_tokens=7).token_limit == 7


def test_stop_strings() -> None:
    assert chat_request().stop_strings == ()
    assert chat_request(stop="a").stop_strings == ("a",)
    assert chat_request(stop=["a", "b"]).stop_strings == ("a", "b")


def test_the_end_user() -> None:
    assert chat_request(user="u").end_user == "u"
    assert chat_request(safety_identifier="s").end_user == "s"
    assert chat_request(user="u", safety_identifier="u").end_user == "u"
    with pytest.raises(ValidationError, match="differs from 'user'"):
        chat_request(user="u", safety_identifier="s")
    assert completion_request(user="u").end_user == "u"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ([""], [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts(prompt: Any, prompts: Any) -> None:
    assert completion_request(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "user", "content": ""}, ""),
        (
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            "a\nb",
        ),
        ({"role": "assistant", "content": "a", "refusal": None, "tool_calls": None, "audio": None}, "a"),
        ({"role": "assistant", "content": None, "refusal": "no"}, "no"),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, "no"),
    ],
)
def test_messages_have_a_text(message: dict[str, Any], text: str) -> None:
    assert chat_request(messages=[message]).messages[0].text == text


def test_names_reach_the_template() -> None:
    messages = [{"role": "user", "content": "a", "name": "Ada"}, {"role": "assistant", "content": "b"}]
    assert [for_template(message) for message in chat_request(messages=messages).messages] == messages


def test_an_answer_can_be_sent_back_as_history() -> None:
    answer = ChatCompletion.model_validate(chat_answer())
    message = answer.choices[0].message
    for form in (message.model_dump(), message.model_dump(exclude_unset=True)):
        assert chat_request(messages=[form]).messages[0].text == "hello"


def chat_answer(**choice: Any) -> dict[str, Any]:
    message = chat.ChatMessage(content="hello")
    made = chat.ChatChoice(index=0, message=message, finish_reason="stop", **choice)
    answer = chat.ChatCompletion(**COMMON, choices=[made], usage=USAGE)
    body: dict[str, Any] = json.loads(answer.model_dump_json())
    return body


def test_a_chat_answer_to_the_key() -> None:
    assert chat_answer() == {
        "id": "x-1", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0, "finish_reason": "stop", "logprobs": None,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
            }
        ],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
            },
        },
    }  # fmt: skip


def test_extensions_appear_only_when_set() -> None:
    answer = chat_answer(token_ids=[1, 2])
    assert answer["choices"][0]["token_ids"] == [1, 2]
    assert "token_ids" not in chat_answer()["choices"][0]


def test_a_chat_answer_parses_as_the_official_type() -> None:
    logprobs = ChatLogprobs(content=[TOKEN])
    parsed = ChatCompletion.model_validate(chat_answer(logprobs=logprobs), strict=True)
    assert parsed.choices[0].logprobs is not None
    assert parsed.choices[0].logprobs.content is not None
    assert parsed.choices[0].logprobs.content[0].bytes == [195, 169]
    assert parsed.usage is not None
    assert parsed.usage.prompt_tokens_details is not None
    assert parsed.usage.prompt_tokens_details.cached_tokens == 1


def chunk_of(delta: chat.ChatDelta, **fields: Any) -> chat.ChatCompletionChunk:
    choice = chat.ChatChunkChoice(index=0, delta=delta, finish_reason=fields.pop("finish_reason", None))
    return chat.ChatCompletionChunk(**COMMON, choices=[choice], **fields)


def test_chat_chunks_to_the_key() -> None:
    first = json.loads(chunk_of(chat.ChatDelta(role="assistant", content="")).to_json(include_usage=False))
    assert first == {
        "id": "x-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0, "logprobs": None, "finish_reason": None,
                "delta": {"role": "assistant", "content": ""},
            }
        ],
    }  # fmt: skip
    last = json.loads(chunk_of(chat.ChatDelta(), finish_reason="length").to_json(include_usage=False))
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]


def test_usage_is_null_only_where_it_was_asked_for() -> None:
    chunk = chunk_of(chat.ChatDelta(content="a"), obfuscation="xy")
    assert "usage" not in json.loads(chunk.to_json(include_usage=False))
    asked = json.loads(chunk.to_json(include_usage=True))
    assert asked["usage"] is None
    assert asked["obfuscation"] == "xy"
    final = chat.ChatCompletionChunk(**COMMON, choices=[], usage=USAGE).to_json(include_usage=True)
    parsed = ChatCompletionChunk.model_validate_json(final)
    assert parsed.choices == []
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 5


def test_chat_chunks_parse_as_the_official_type() -> None:
    parsed = ChatCompletionChunk.model_validate_json(
        chunk_of(chat.ChatDelta(content="a")).to_json(include_usage=True), strict=True
    )
    assert parsed.choices[0].delta == ChoiceDelta(content="a")


def test_completions_to_the_key() -> None:
    choice = completions.CompletionChoice(index=0, text="a", finish_reason="stop")
    answer = completions.Completion(**COMMON, choices=[choice], usage=USAGE)
    body = json.loads(answer.to_json(include_usage=True))
    assert list(body) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert body["choices"] == [{"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}]
    assert types.Completion.model_validate(body, strict=True).choices[0].text == "a"
    assert "usage" not in json.loads(answer.to_json(include_usage=False))


def test_legacy_logprobs_parse_as_the_official_type() -> None:
    logprobs = CompletionLogprobs(tokens=["a"], token_logprobs=[-1.0], top_logprobs=[{"a": -1.0}], text_offset=[0])
    choice = completions.CompletionChoice(index=0, text="a", finish_reason="length", logprobs=logprobs)
    body = completions.Completion(**COMMON, choices=[choice]).to_json(include_usage=True)
    parsed = types.Completion.model_validate_json(body, strict=True).choices[0].logprobs
    assert parsed is not None
    assert parsed.top_logprobs == [{"a": -1.0}]


def test_an_impossible_token_has_openais_lowest_logprob() -> None:
    made = TopLogprob(token="a", logprob=float("-inf"), bytes=None)
    assert json.loads(made.model_dump_json()) == {"token": "a", "logprob": -9999.0, "bytes": None}


def test_models_parse_as_the_official_type() -> None:
    listed = ModelList(data=[Model(id="m", created=1, owned_by="honed")])
    body = json.loads(listed.model_dump_json())
    assert body == {
        "object": "list",
        "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "honed"}],
    }
    assert types.Model.model_validate(body["data"][0], strict=True).id == "m"


def test_finish_reasons_are_openais() -> None:
    assert set(get_args(chat.FinishReason)) <= {
        "stop",
        "length",
        "tool_calls",
        "content_filter",
        "function_call",
    }


def test_the_json_schema_says_the_bounds() -> None:
    schema = chat.ChatCompletionRequest.model_json_schema()
    assert schema["required"] == ["model", "messages"]
    assert schema["additionalProperties"] is True
    fields = schema["properties"]
    assert fields["temperature"]["anyOf"] == [
        {"maximum": 2, "minimum": 0, "type": "number"},
        {"type": "null"},
    ]
    assert fields["n"]["anyOf"][0] == {"maximum": 128, "minimum": 1, "type": "integer"}
    assert fields["metadata"]["anyOf"][0]["maxProperties"] == 16
    assert fields["audio"]["enum"] == [None]
    assert fields["messages"]["minItems"] == 1
    assert fields["logit_bias"]["anyOf"][0]["maxProperties"] == 1024
    prompt = completions.CompletionRequest.model_json_schema()["properties"]["prompt"]
    assert [branch["type"] for branch in prompt["oneOf"]] == ["string", "array", "array", "array"]
