"""`POST /v1/completions`: OpenAI's request and its answer, which is also the shape of its chunks.

Source: `CreateCompletionRequest`, `CreateCompletionResponse`. Every parameter of the first is a validated
field here or is refused by name. Token ids are checked against the vocabulary by the route, which knows it.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator as UnionBranch
from pydantic import Field, Tag, model_validator

from honed.server.wire.logprobs import CompletionLogprobs
from honed.server.wire.request import INT64_MAX, TokenIds
from honed.server.wire.response import FinishReason, ResponsePart, omitted_when_none
from honed.server.wire.sampling import SamplingRequest
from honed.server.wire.unsupported import Unsupported, problem
from honed.server.wire.usage import Usage

MAX_PROMPTS = 1024


def _prompt_kind(value: Any) -> str:
    """Which of the four shapes; the first item decides, and an empty list is an empty list of strings."""
    if not isinstance(value, list):
        return "string"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "token_lists"
    return "tokens" if isinstance(first, int | float) else "strings"


Prompt = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS), Tag("strings")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS), Tag("token_lists")],
    UnionBranch(_prompt_kind),
]


class CompletionRequest(SamplingRequest):
    prompt: Prompt = Field(description="A text, texts, token ids, or lists of them. Token ids get no BOS.")
    max_tokens: int = Field(
        default=16, ge=0, le=INT64_MAX, description="Clamped to what the context holds. 0 generates nothing."
    )
    logprobs: int | None = Field(default=None, ge=0, le=5, description="Alternatives to each token.")

    best_of: Annotated[Any, Unsupported(1)] = None
    echo: Annotated[Any, Unsupported(False)] = None
    suffix: Annotated[Any, Unsupported("")] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One text or one list of token ids for each prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @property
    def end_user(self) -> str | None:
        return self.user

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.best_of is not None and self.n > self.best_of:
            raise problem("invalid_value", "it may not be less than 'n'", field="best_of")
        self._check_min_tokens(self.max_tokens)
        return self


class CompletionChoice(ResponsePart):
    """`index` is prompt index * n + j. In chunks, `text` is what is new and `finish_reason` null until the
    last.
    """

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = omitted_when_none("Extension, with return_token_ids.")
    prompt_token_ids: list[int] | None = omitted_when_none("Extension, with return_token_ids.")


class Completion(ResponsePart):
    """An answer, or one chunk of it. `created` is in Unix seconds."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    obfuscation: str | None = omitted_when_none("In chunks: random padding that hides the length of the delta.")

    def to_json(self, *, include_usage: bool) -> str:
        """One line of JSON. A chunk has the key `usage`, be it null, only where the client asked for it."""
        return self.model_dump_json(exclude=None if include_usage else {"usage"})
