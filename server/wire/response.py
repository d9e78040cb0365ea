"""What all response types share.

Invariant: a field is null on the wire where OpenAI's answer has null, and absent where OpenAI's has nothing
(`OMITTED_WHEN_NONE`); never one for the other, since SDKs tell the two apart.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]

# OpenAI's value for a token that is very unlikely; JSON has no minus infinity.
LOWEST_LOGPROB = -9999.0
Logprob = Annotated[float, AfterValidator(lambda value: max(value, LOWEST_LOGPROB))]


class ResponsePart(BaseModel):
    """A JSON object in a response."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def omitted_when_none(description: str | None = None) -> Any:
    """The default of a field that is absent, rather than null, where there is nothing to say."""
    return Field(default=None, exclude_if=lambda value: value is None, description=description)
