"""Stored chat completions. Source: OpenAI's `ChatCompletionList`, `ChatCompletionMessageList`,
`ChatCompletionDeleted`."""

from typing import Any, Literal

from honed.server.wire.metadata import Metadata
from honed.server.wire.request import RequestPart
from honed.server.wire.response import FinishReason, ResponsePart
from honed.server.wire.usage import Usage


class UpdateRequest(RequestPart):
    metadata: Metadata


class StoredMessage(ResponsePart):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class StoredChoice(ResponsePart):
    """`finish_reason` is null where the client went away before the end."""

    index: int
    message: StoredMessage
    logprobs: None = None
    finish_reason: FinishReason | None


class StoredChatCompletion(ResponsePart):
    """`created` is in Unix seconds. What the request did not set is null."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    request_id: str | None
    service_tier: Literal["default"] = "default"
    temperature: float | None
    top_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    input_user: None = None
    tools: None = None
    tool_choice: None = None
    response_format: None = None
    metadata: dict[str, str]
    choices: list[StoredChoice]
    usage: Usage


class StoredChatCompletionList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[StoredChatCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PromptMessage(ResponsePart):
    """`id` is the completion's and the message's place in it."""

    id: str
    role: str
    content: str
    name: str | None = None
    content_parts: Any = None


class PromptMessageList(ResponsePart):
    object: Literal["list"] = "list"
    data: list[PromptMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedChatCompletion(ResponsePart):
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    id: str
    deleted: bool = True
