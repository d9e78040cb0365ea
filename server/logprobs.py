"""Sampled tokens in OpenAI's two shapes. One entry for every sampled token, the one that ended the answer included,
so that entries, `token_ids` and `usage.completion_tokens` always agree."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from honed.models.detokenizer import TokenBytes
from honed.models.engine.sampler import Sample
from honed.server.wire.logprobs import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob


def chat_logprobs(samples: Sequence[Sample], tokens: TokenBytes) -> ChatLogprobs:
    return ChatLogprobs(content=[_entry(sample, tokens) for sample in samples])


def _entry(sample: Sample, tokens: TokenBytes) -> TokenLogprob:
    top = [_top(token_id, logprob, tokens) for token_id, logprob in sample.top]
    own = _top(sample.token_id, sample.logprob, tokens)
    return TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=top)


def _top(token_id: int, logprob: float, tokens: TokenBytes) -> TopLogprob:
    literal = tokens.display_bytes(token_id)
    return TopLogprob(token=literal.decode("utf-8", "replace"), logprob=logprob, bytes=list(literal))


class CompletionTokenWriter:
    """The legacy shape, piece by piece: it counts the characters that came before each token."""

    def __init__(self, tokens: TokenBytes) -> None:
        self._tokens = tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def write(self, samples: Sequence[Sample], alternatives: int) -> CompletionLogprobs:
        """`text_offset` is from the beginning of the choice's text."""
        offsets = []
        for sample in samples:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._tokens.token_bytes(sample.token_id)))
        return CompletionLogprobs(
            tokens=[self._name(sample.token_id) for sample in samples],
            token_logprobs=[sample.logprob for sample in samples],
            top_logprobs=[self._alternatives(sample) for sample in samples] if alternatives else None,
            text_offset=offsets,
        )

    def _alternatives(self, sample: Sample) -> dict[str, float]:
        """The most probable tokens, and the sampled one where it is not among them."""
        named = {self._name(token_id): logprob for token_id, logprob in sample.top}
        return named | {self._name(sample.token_id): sample.logprob}

    def _name(self, token_id: int) -> str:
        """OpenAI's spelling: text, or `bytes:\\x..` for a part of a character, so that no two tokens share a key."""
        literal = self._tokens.display_bytes(token_id)
        try:
            return literal.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in literal)
