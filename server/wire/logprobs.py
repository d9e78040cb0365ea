"""Log-probabilities of sampled tokens, in the two shapes that OpenAI has for them.

They are natural logarithms, of the distribution that was sampled from (after temperature and filters).
Sources: OpenAI's `ChatCompletionTokenLogprob` and `CreateCompletionResponse.choices[].logprobs`.
"""

from honed.server.wire.response import Logprob, ResponsePart


class TopLogprob(ResponsePart):
    """`bytes` are the token's own, since `token` may be a part of a character."""

    token: str
    logprob: Logprob
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A sampled token and its most likely alternatives, the likeliest first."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(ResponsePart):
    """One entry a token of the content; `refusal` is null, as these models have no channel of their own for
    one.
    """

    content: list[TokenLogprob] | None
    refusal: None = None


class CompletionLogprobs(ResponsePart):
    """Four lists of one length. `text_offset` counts characters; the first token of a prompt has no
    log-probability.
    """

    tokens: list[str]
    token_logprobs: list[Logprob | None]
    top_logprobs: list[dict[str, Logprob] | None] | None
    text_offset: list[int]
