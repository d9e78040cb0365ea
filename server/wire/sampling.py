"""The parameters that both completion endpoints share: what to sample, how, and how to send it.

The defaults are OpenAI's. Extensions (vLLM's names and meanings) are `top_k`, `min_p`, `repetition_penalty`,
`ignore_eos`, `min_tokens`, `stop_token_ids`, `return_token_ids` and `stream_options.continuous_usage_stats`.
"""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, Tag, model_validator
from pydantic import Discriminator as UnionBranch

from honed.server.wire.request import INT64_MAX, MAX_TOKEN_ID_DIGITS, NonEmptyStr, RequestPart, TokenId
from honed.server.wire.unsupported import problem

MAX_BIASED_TOKENS = 1024
MAX_STOP_TOKEN_IDS = 1024


def string_or_list(value: Any) -> str:
    """Which branch of `string | list` a JSON value belongs to: a value of neither kind is told that strings
    are.
    """
    return "list" if isinstance(value, list) else "string"


def _few_biases(value: Any) -> Any:
    # Before its items are looked at: a million wrong items would be a million problems.
    if isinstance(value, dict) and len(value) > MAX_BIASED_TOKENS:
        raise problem("object_above_max_properties", f"expected at most {MAX_BIASED_TOKENS} tokens")
    return value


Stop = Annotated[
    Annotated[NonEmptyStr, Tag("string")]
    | Annotated[list[NonEmptyStr], Field(fail_fast=True, min_length=1, max_length=4), Tag("list")],
    UnionBranch(string_or_list),
]
TokenIdKey = Annotated[str, Field(pattern=rf"^[0-9]{{1,{MAX_TOKEN_ID_DIGITS}}}$")]
LogitBias = Annotated[
    dict[TokenIdKey, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_few_biases),
    Field(json_schema_extra={"maxProperties": MAX_BIASED_TOKENS, "additionalProperties": False}),
]


class StreamOptions(RequestPart):
    """OpenAI's `ChatCompletionStreamOptions`; only with `stream: true`."""

    include_usage: bool = Field(
        default=False, description="Send one more chunk, with the usage and no choices, before [DONE]."
    )
    include_obfuscation: bool = Field(default=True, description="Pad every delta with a random `obfuscation` string.")
    continuous_usage_stats: bool = Field(
        default=False, description="Extension: with include_usage, every chunk carries the usage so far."
    )


class SamplingRequest(RequestPart):
    """The shared fields of `CreateChatCompletionRequest` and `CreateCompletionRequest`."""

    model: NonEmptyStr = Field(description="A checkpoint's name, or `honed`: whatever is in service.")
    temperature: float = Field(default=1.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(default=1.0, ge=0, le=1, description="0 leaves the most likely token.")
    n: int = Field(default=1, ge=1, le=128, description="Choices for each prompt.")
    stop: Stop | None = Field(default=None, description="Up to 4 strings that end the answer and are not part of it.")
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    logit_bias: LogitBias = Field(default={}, description="Token id -> what is added to its logit, -100 to 100.")
    seed: int | None = Field(default=None, ge=-INT64_MAX - 1, le=INT64_MAX)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="The end user; appears, hashed, in the access log.")

    top_k: int = Field(default=-1, ge=-1, le=INT64_MAX, description="Extension. 0 and -1 are off.")
    min_p: float = Field(default=0.0, ge=0, le=1, description="Extension.")
    # Bounds of ours: far beyond use, and logits stay finite.
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100, description="Extension.")
    ignore_eos: bool = Field(default=False, description="Extension.")
    min_tokens: int = Field(default=0, ge=0, le=INT64_MAX, description="Extension.")
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] = Field(
        default=[], max_length=MAX_STOP_TOKEN_IDS, description="Extension."
    )
    return_token_ids: bool = Field(default=False, description="Extension: token ids beside the text.")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise problem("invalid_value", "it is only allowed when 'stream' is true", field="stream_options")
        return self

    def _check_min_tokens(self, max_tokens: int | None) -> None:
        if max_tokens is not None and self.min_tokens > max_tokens:
            raise problem("invalid_value", f"it may not exceed the {max_tokens} tokens asked for", field="min_tokens")
