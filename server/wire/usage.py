"""Token counts, as both endpoints report them. Source: OpenAI's `CompletionUsage`."""

from typing import Self

from honed.server.wire.response import ResponsePart


class PromptTokensDetails(ResponsePart):
    """`cached_tokens`: prompt tokens that were not computed again, because their keys and values were at
    hand.
    """

    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(ResponsePart):
    """All zero: text models that neither reason apart nor predict. Clients read the keys all the same."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(ResponsePart):
    """Sums over the choices of a request; a prompt counts once, however many choices share it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()

    @classmethod
    def of(cls, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Self:
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
        )
