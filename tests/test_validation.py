"""Bodies -> requests, or OpenAI's error about all that is wrong with them."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from honed.server.errors import InvalidRequest, ServerError, error_body
from honed.server.validation import parse_json_object, parse_request, warning_header
from honed.server.wire.chat import ChatCompletionRequest
from honed.server.wire.completions import CompletionRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
LEGACY: dict[str, Any] = {"model": "m", "prompt": "hi"}
HUGE = 10**400


def chat_refusal(**fields: Any) -> InvalidRequest:
    return refusal(ChatCompletionRequest, json.dumps({**CHAT, **fields}).encode())


def legacy_refusal(**fields: Any) -> InvalidRequest:
    return refusal(CompletionRequest, json.dumps({**LEGACY, **fields}).encode())


def refusal(model: Any, raw: bytes, *, strict: bool = False) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        parse_request(model, raw, strict=strict)
    assert refused.value.status == 400
    return refused.value


def user(content: Any, **fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **fields}]


def ai(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": "a", **fields}]


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b"5", b'"a"', b"{'a': 1}", b'{"a": NaN}', b'{"a": -Infinity}', b"\xff",
        b"\xef\xbb\xbf{}", b'{"a": "\\ud800"}', b'{"\\udfff": 1}', b"[" * 100_000, b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}", "{}".encode("utf-16"),
    ],
    ids=lambda raw: repr(raw[:16]),
)  # fmt: skip
def test_what_is_no_json_object(raw: bytes) -> None:
    error = refusal(ChatCompletionRequest, raw)
    assert (error.code, error.param) == ("invalid_json", None)


def test_escaped_pairs_of_surrogates_are_text() -> None:
    assert parse_json_object(rb'{"a": "\ud83d\ude00"}') == {"a": "😀"}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": []}, "empty_array", "messages"),
        ({"messages": None}, "invalid_type", "messages"),
        ({"messages": {}}, "invalid_type", "messages"),
        ({"messages": [5]}, "invalid_type", "messages[0]"),
        ({"messages": [{}]}, "missing_required_parameter", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        ({"messages": user(None)}, "invalid_type", "messages[0].content"),
        ({"messages": user(5)}, "invalid_type", "messages[0].content"),
        ({"messages": user([])}, "empty_array", "messages[0].content"),
        ({"messages": user("a", role="robot")}, "invalid_value", "messages[0].role"),
        ({"messages": user("a", role=5)}, "invalid_value", "messages[0].role"),
        ({"messages": user("a", role="tool")}, "unsupported_value", "messages[0].role"),
        ({"messages": user("a", role="function")}, "unsupported_value", "messages[0].role"),
        ({"messages": user("a", name=5)}, "invalid_type", "messages[0].name"),
        ({"messages": user([{"type": "image_url"}])}, "unsupported_value", "messages[0].content[0].type"),
        ({"messages": user([{"type": "input_audio"}])}, "unsupported_value", "messages[0].content[0].type"),
        ({"messages": user([{"type": "file"}])}, "unsupported_value", "messages[0].content[0].type"),
        ({"messages": user([{"type": "refusal"}])}, "invalid_value", "messages[0].content[0].type"),
        ({"messages": user([{"type": "text"}])}, "missing_required_parameter", "messages[0].content[0].text"),
        ({"messages": user(["a"])}, "invalid_type", "messages[0].content[0]"),
        ({"messages": user(None, role="assistant")}, "missing_required_parameter", "messages[0].content"),
        ({"messages": user("a", role="assistant", refusal="b")}, "invalid_value", "messages[0].refusal"),
        ({"messages": ai(tool_calls=[{}])}, "unsupported_parameter", "messages[0].tool_calls"),
        ({"messages": ai(audio={})}, "unsupported_parameter", "messages[0].audio"),
        ({"model": 5}, "invalid_type", "model"),
        ({"model": ""}, "string_below_min_length", "model"),
        ({"temperature": "1"}, "invalid_type", "temperature"),
        ({"temperature": True}, "invalid_type", "temperature"),
        ({"temperature": 2.1}, "decimal_above_max_value", "temperature"),
        ({"temperature": 3}, "decimal_above_max_value", "temperature"),
        ({"temperature": -0.1}, "decimal_below_min_value", "temperature"),
        ({"temperature": HUGE}, "invalid_type", "temperature"),
        ({"top_p": 1.1}, "decimal_above_max_value", "top_p"),
        ({"n": 0}, "integer_below_min_value", "n"),
        ({"n": 129}, "integer_above_max_value", "n"),
        ({"n": 1.0}, "invalid_type", "n"),
        ({"n": True}, "invalid_type", "n"),
        ({"n": "5"}, "invalid_type", "n"),
        ({"n": HUGE}, "integer_above_max_value", "n"),
        ({"seed": -HUGE}, "integer_below_min_value", "seed"),
        ({"max_tokens": 0}, "integer_below_min_value", "max_tokens"),
        ({"max_completion_tokens": HUGE}, "integer_above_max_value", "max_completion_tokens"),
        ({"stop": 5}, "invalid_type", "stop"),
        ({"stop": ""}, "string_below_min_length", "stop"),
        ({"stop": []}, "empty_array", "stop"),
        ({"stop": ["a", ""]}, "string_below_min_length", "stop[1]"),
        ({"stop": list("abcde")}, "array_above_max_length", "stop"),
        ({"frequency_penalty": 2.5}, "decimal_above_max_value", "frequency_penalty"),
        ({"presence_penalty": -2.5}, "decimal_below_min_value", "presence_penalty"),
        ({"logit_bias": []}, "invalid_type", "logit_bias"),
        ({"logit_bias": {"1": "2"}}, "invalid_type", "logit_bias.1"),
        ({"logit_bias": {"1": 101}}, "decimal_above_max_value", "logit_bias.1"),
        ({"logit_bias": {"a": 1}}, "invalid_value", "logit_bias.a"),
        ({"logit_bias": {"-1": 1}}, "invalid_value", "logit_bias.-1"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "object_above_max_properties", "logit_bias"),
        ({"logprobs": 1}, "invalid_type", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "integer_above_max_value", "top_logprobs"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"stream": "yes"}, "invalid_type", "stream"),
        ({"stream_options": {}}, "invalid_value", "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "invalid_type", "stream_options.include_usage"),
        ({"safety_identifier": "a" * 65}, "string_above_max_length", "safety_identifier"),
        ({"prompt_cache_retention": "1h"}, "invalid_value", "prompt_cache_retention"),
        ({"top_k": -2}, "integer_below_min_value", "top_k"),
        ({"min_p": 2}, "decimal_above_max_value", "min_p"),
        ({"repetition_penalty": 0}, "decimal_below_min_value", "repetition_penalty"),
        ({"min_tokens": 3, "max_tokens": 2}, "invalid_value", "min_tokens"),
        ({"stop_token_ids": [-1]}, "integer_below_min_value", "stop_token_ids[0]"),
        ({"response_format": {"type": "json_object"}}, "unsupported_value", "response_format"),
        ({"service_tier": "flex"}, "unsupported_value", "service_tier"),
        ({"store": 0}, "invalid_type", "store"),
    ],
)  # fmt: skip
def test_chat_problems(fields: dict[str, Any], code: str, param: str) -> None:
    error = chat_refusal(**fields)
    assert (error.code, error.param) == (code, param), error.message
    assert f"'{param}'" in error.message


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": []}, "empty_array", "prompt"),
        ({"prompt": 5}, "invalid_type", "prompt"),
        ({"prompt": ["a", 5]}, "invalid_type", "prompt[1]"),
        ({"prompt": [1, "a"]}, "invalid_type", "prompt[1]"),
        ({"prompt": [1.0]}, "invalid_type", "prompt[0]"),
        ({"prompt": [True]}, "invalid_type", "prompt[0]"),
        ({"prompt": [-1]}, "integer_below_min_value", "prompt[0]"),
        ({"prompt": [HUGE]}, "integer_above_max_value", "prompt[0]"),
        ({"prompt": [[1], []]}, "empty_array", "prompt[1]"),
        ({"prompt": [[1], [2, "a"]]}, "invalid_type", "prompt[1][1]"),
        ({"prompt": ["a"] * 1025}, "array_above_max_length", "prompt"),
        ({"prompt": [[1]] * 1025}, "array_above_max_length", "prompt"),
        ({"max_tokens": -1}, "integer_below_min_value", "max_tokens"),
        ({"logprobs": 6}, "integer_above_max_value", "logprobs"),
        ({"logprobs": True}, "invalid_type", "logprobs"),
        ({"min_tokens": 17}, "invalid_value", "min_tokens"),
        ({"best_of": 2}, "unsupported_parameter", "best_of"),
        ({"best_of": 1, "n": 2}, "invalid_value", "best_of"),
        ({"echo": True}, "unsupported_parameter", "echo"),
        ({"suffix": "a"}, "unsupported_parameter", "suffix"),
    ],
)  # fmt: skip
def test_legacy_problems(fields: dict[str, Any], code: str, param: str) -> None:
    error = legacy_refusal(**fields)
    assert (error.code, error.param) == (code, param), error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]), ("tool_choice", "auto"), ("parallel_tool_calls", True),

        ("functions", [{}]), ("function_call", "auto"), ("modalities", ["text", "audio"]),
        ("audio", {}), ("prediction", {}),
        ("web_search_options", {}), ("reasoning_effort", "low"), ("verbosity", "low"), ("moderation", {}),
        ("prompt_cache_options", {}),
    ],
)  # fmt: skip
def test_what_this_server_cannot_do_is_refused_by_name(name: str, value: Any) -> None:
    error = chat_refusal(**{name: value})
    assert (error.code, error.param) == ("unsupported_parameter", name)
    assert error.message == f"Unsupported parameter '{name}': it is not supported by this server."


def test_a_missing_field_is_named() -> None:
    error = refusal(ChatCompletionRequest, b"{}")
    assert (error.code, error.param) == ("missing_required_parameter", "model")
    assert error.message == "Missing required parameter: 'model'. Missing required parameter: 'messages'."


def test_messages_are_sentences() -> None:
    assert chat_refusal(n=200).message == "Invalid 'n': expected a value <= 128, but got 200."
    assert chat_refusal(seed=HUGE).message.startswith("Invalid 'seed': expected a value <= 9223372036854775807, but")
    expected = "Invalid type for 'n': expected an integer, but got the string \"5\" instead."
    assert chat_refusal(n="5").message == expected


def test_unknown_keys_are_told_wherever_they_are() -> None:
    body = {
        **CHAT,
        "guided_json": 1,
        "messages": user([{"type": "text", "text": "a", "cache_control": {}}], reasoning_content="b"),
        "stream": True,
        "stream_options": {"foo": None},
    }
    raw = json.dumps(body).encode()
    request, unknown = parse_request(ChatCompletionRequest, raw, strict=False)
    assert request.messages[0].text == "a"
    assert sorted(unknown) == [
        "guided_json",
        "messages[0].content[0].cache_control",
        "messages[0].reasoning_content",
        "stream_options.foo",
    ]
    error = refusal(ChatCompletionRequest, raw, strict=True)
    assert (error.code, error.param) == ("unknown_parameter", "guided_json")
    assert all(name in error.message for name in unknown)


def test_known_keys_are_not_unknown() -> None:
    assert parse_request(ChatCompletionRequest, json.dumps(CHAT).encode(), strict=True)[1] == []


def test_the_warning_header_is_printable_and_short() -> None:
    assert warning_header([]) == {}
    assert warning_header(["a", "b.c"]) == {"x-honed-warning": "ignored unknown parameters: a, b.c"}
    value = warning_header(["é\r\nx: y" + "z" * 10**5] * 1000)["x-honed-warning"]
    assert value.isascii()
    assert value.isprintable()
    assert len(value) < 600
    assert value.endswith("and 990 more")


@pytest.mark.parametrize(
    "fields",
    [
        {f"k{i}": 1 for i in range(10**4)},
        {"x" * 10**5: 1},
        {"model": "m" * 10**6, "n": "n" * 10**6},
        {"logit_bias": {"x" * 10**5 + str(i): "y" * 1000 for i in range(20)}},
        {"messages": [5] * 10**5},
        {"logit_bias": {"😀" * 100 + str(i): "😀" * 100 for i in range(20)}},
        {"logit_bias": {'"' * 100 + str(i): '"' * 100 for i in range(20)}},
        {"logit_bias": {"\0" * 100 + str(i): "\0" * 100 for i in range(20)}},
        {"😀" * 100 + str(i): 1 for i in range(20)},
        {"stop": "", "n": "a", "seed": "a", "user": 5, "top_p": 9, "top_k": "a", "min_p": 9, "stream": 5,
         "temperature": 9, "logprobs": 9, "tools": 5, "store": 5, "functions": 5, "ignore_eos": 5},
    ],
    ids=["many keys", "long key", "long values", "long paths", "many items", "emoji", "quotes", "nulls", "emoji keys",
         "many problems"],
)  # fmt: skip
def test_errors_are_small_whatever_the_body(fields: dict[str, Any]) -> None:
    error = refusal(ChatCompletionRequest, json.dumps({**CHAT, **fields}).encode(), strict=True)
    assert len(json.dumps(error_body(error), ensure_ascii=False).encode()) < 4096


def test_at_most_ten_problems_are_listed() -> None:
    names = ["n", "seed", "user", "top_p", "top_k", "min_p", "stream", "temperature", "logprobs", "ignore_eos"]
    error = chat_refusal(**{name: [] for name in [*names, "min_tokens", "return_token_ids"]})
    assert error.message.count("Invalid type") == 10
    assert error.message.endswith("(And 2 more problems.)")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([HUGE, -HUGE, "user", "text"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)
PART = st.dictionaries(st.sampled_from(["type", "text", "refusal", "image_url", "x"]), JSON | st.just("text"))
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "x"]) | JSON,
        "content": JSON | st.lists(PART),
    },
    optional={"name": JSON, "refusal": JSON, "tool_calls": JSON, "x": JSON},
)


def bodies(model: Any, likely: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Anything at all; or a body with a good start and a few fields of any value."""
    names = st.sampled_from(sorted(model.model_fields)) | st.text(max_size=3)
    return JSON | st.builds(
        lambda good, odd: {**good, **odd}, st.fixed_dictionaries(likely), st.dictionaries(names, JSON)
    )


def parsed_or_refused(model: Any, raw: bytes, *, strict: bool) -> tuple[Any, list[str]] | ServerError:
    try:
        return parse_request(model, raw, strict=strict)
    except ServerError as error:
        return error


def outcome(model: Any, raw: bytes, *, strict: bool) -> None:
    result = parsed_or_refused(model, raw, strict=strict)
    if isinstance(result, ServerError):
        assert result.status == 400
        assert isinstance(result.code, str)
        assert len(json.dumps(error_body(result), ensure_ascii=False).encode()) < 4096
    else:
        assert isinstance(result[0], model)
        assert not (strict and result[1])
        assert len(warning_header(result[1]).get("x-honed-warning", "")) < 1000


@given(
    bodies(ChatCompletionRequest, {"model": st.just("m"), "messages": st.lists(MESSAGE, max_size=3)}),
    st.booleans(),
)
@example({"model": "\ud800"}, False)
def test_any_chat_body_is_a_request_or_a_refusal(body: Any, strict: bool) -> None:
    outcome(ChatCompletionRequest, json.dumps(body).encode(), strict=strict)


@given(bodies(CompletionRequest, {"model": st.just("m"), "prompt": JSON}), st.booleans())
def test_any_completion_body_is_a_request_or_a_refusal(body: Any, strict: bool) -> None:
    outcome(CompletionRequest, json.dumps(body).encode(), strict=strict)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_request_or_a_refusal(raw: bytes) -> None:
    outcome(ChatCompletionRequest, raw, strict=False)
