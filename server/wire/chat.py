"""`POST /v1/chat/completions`: OpenAI's request, answer and chunks.

Source: `CreateChatCompletionRequest`, `CreateChatCompletionResponse`, `CreateChatCompletionStreamResponse`.
Every parameter of the first is a validated field here or is refused by name.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from honed.server.wire.logprobs import ChatLogprobs
from honed.server.wire.messages import Message
from honed.server.wire.metadata import Metadata
from honed.server.wire.request import DEPRECATED, INT64_MAX
from honed.server.wire.response import FinishReason, ResponsePart, omitted_when_none
from honed.server.wire.sampling import SamplingRequest
from honed.server.wire.unsupported import Unsupported, problem
from honed.server.wire.usage import Usage

CACHED_ANYWAY = "Accepted: prefixes of prompts are cached without being asked for."


class ChatCompletionRequest(SamplingRequest):
    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1)
    max_completion_tokens: int | None = Field(
        default=None,
        ge=1,
        le=INT64_MAX,
        description="Wins over max_tokens. Clamped to what the context holds.",
    )
    max_tokens: int | None = Field(default=None, ge=1, le=INT64_MAX, json_schema_extra=DEPRECATED)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="Only with logprobs.")
    service_tier: Annotated[Any, Unsupported("auto", "default", code="unsupported_value")] = None
    safety_identifier: str | None = Field(
        default=None, max_length=64, description="The end user, as in `user`, which it replaces."
    )
    prompt_cache_key: str | None = Field(default=None, description=CACHED_ANYWAY)
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = Field(
        default=None, json_schema_extra=DEPRECATED, description=CACHED_ANYWAY
    )

    store: bool | None = Field(
        default=None, description="Whether the completion is remembered; unset, the server's rule decides."
    )
    metadata: Metadata = Field(default={}, description="Stored with the completion, which can be listed by it.")

    response_format: Annotated[Any, Unsupported({"type": "text"}, code="unsupported_value")] = None
    tools: Annotated[Any, Unsupported([])] = None
    tool_choice: Annotated[Any, Unsupported("none")] = None
    parallel_tool_calls: Annotated[Any, Unsupported()] = None
    functions: Annotated[Any, Unsupported([])] = None
    function_call: Annotated[Any, Unsupported("none")] = None
    modalities: Annotated[Any, Unsupported(["text"])] = None
    audio: Annotated[Any, Unsupported()] = None
    prediction: Annotated[Any, Unsupported()] = None
    web_search_options: Annotated[Any, Unsupported()] = None
    reasoning_effort: Annotated[Any, Unsupported()] = None
    verbosity: Annotated[Any, Unsupported()] = None
    moderation: Annotated[Any, Unsupported()] = None
    prompt_cache_options: Annotated[Any, Unsupported()] = None

    @property
    def token_limit(self) -> int | None:
        """Tokens that a choice may have at most; None is as many as the context holds."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def end_user(self) -> str | None:
        return self.safety_identifier if self.safety_identifier is not None else self.user

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise problem("invalid_value", "it is only allowed when 'logprobs' is true", field="top_logprobs")
        if None not in (self.user, self.safety_identifier) and self.user != self.safety_identifier:
            raise problem(
                "invalid_value",
                "it differs from 'user', which it replaces: send one of them",
                field="safety_identifier",
            )
        self._check_min_tokens(self.token_limit)
        return self


class ChatMessage(ResponsePart):
    """An answer. `refusal` is always there, and null: OpenAI's SDKs require the key."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None


class ChatChoice(ResponsePart):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    token_ids: list[int] | None = omitted_when_none("Extension, with return_token_ids.")


class ChatCompletion(ResponsePart):
    """`created` is in Unix seconds."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"] | None = omitted_when_none("What served, where the request asked for a tier.")
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = omitted_when_none("Extension, with return_token_ids.")


class ChatDelta(ResponsePart):
    """What is new: the role in the first chunk of a choice, nothing in its last."""

    role: Literal["assistant"] | None = omitted_when_none()
    content: str | None = omitted_when_none()


class ChatChunkChoice(ResponsePart):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    token_ids: list[int] | None = omitted_when_none("Extension, with return_token_ids: this delta's.")


class ChatCompletionChunk(ResponsePart):
    """`created` is in Unix seconds, and the same in every chunk of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["default"] | None = omitted_when_none()
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    obfuscation: str | None = omitted_when_none("Random padding that hides the length of the delta.")
    prompt_token_ids: list[int] | None = omitted_when_none("Extension, with return_token_ids: first chunk only.")

    def to_json(self, *, include_usage: bool) -> str:
        """One line of JSON. A chunk has the key `usage`, be it null, only where the client asked for it."""
        return self.model_dump_json(exclude=None if include_usage else {"usage"})
