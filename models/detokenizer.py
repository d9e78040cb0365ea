"""Token ids back to text, one at a time, exactly, with stop strings.

Owns the bytes of each token and what may be sent of a text that is still growing. Does not own special
tokens' meaning (they are no text) nor stop token ids (the engine ends a sequence on those). Imports no torch.

Invariant: the pieces that `Detokenizer` returns, joined, are the text decoded in one go and cut before the
stop string, however the text was split into tokens; nothing that was returned is ever taken back.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "▁"


class TokenBytes:
    """The bytes of every token of a vocabulary. Built once a tokenizer, then read by many.

    A token's bytes are those it adds to text before it; so the space that opens a SentencePiece word stays,
    also in the first token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        added = tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        vocabulary = tokenizer.get_vocab()
        bytes_of = _piece_decoder(tokenizer)
        size = max([*vocabulary.values(), *added], default=-1) + 1
        self._text: list[bytes] = [b""] * size
        self._display: list[bytes] = [b""] * size
        for piece, i in vocabulary.items():
            literal = piece.encode() if i in special else bytes_of(piece, i)
            self._display[i] = literal
            self._text[i] = b"" if i in special else literal

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to the text: b"" for special tokens and for ids beyond the vocabulary."""
        return self._text[token_id] if 0 <= token_id < len(self._text) else b""

    def display_bytes(self, token_id: int) -> bytes:
        """The same, but a special token's own literal, as log-probabilities show it."""
        return self._display[token_id] if 0 <= token_id < len(self._display) else b""


class Detokenizer:
    """The text of one answer while it grows. `stop`: strings that end it and never come out.

    The stop string that is complete first wins; of several that are complete at the same character, the
    longest. Bytes that are no UTF-8 come out as U+FFFD; an unfinished character at the end does not come out.
    """

    def __init__(self, token_bytes: TokenBytes, stop: Sequence[str] = ()) -> None:
        self._bytes = token_bytes
        self._stop = tuple(string for string in stop if string)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """True once a stop string has come up; from then on nothing comes out."""
        return self._stopped

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """The text that may be sent now that this token has come. Without `may_stop`, all of it may: stop strings are
        not looked for in it, nor later."""
        if self._stopped:
            return ""
        self._held += self._decoder.decode(self._bytes.token_bytes(token_id))
        if not may_stop:
            return self._release(len(self._held))
        if (cut := self._cut()) is not None:
            self._stopped = True
            return self._release(cut, keep=False)
        return self._release(len(self._held) - self._undecided())

    def finish(self) -> str:
        """What was held back, now that no token will come."""
        return self._release(len(self._held))

    def _release(self, length: int, *, keep: bool = True) -> str:
        out = self._held[:length]
        self._held = self._held[length:] if keep else ""
        return out

    def _cut(self) -> int | None:
        """Where the text ends because a stop string is in it."""
        found = [(self._held.find(string), len(string)) for string in self._stop]
        ends = [(start + length, start) for start, length in found if start >= 0]
        return min(ends)[1] if ends else None

    def _undecided(self) -> int:
        """How many characters at the end could be the beginning of a stop string."""
        longest = max((len(string) for string in self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(string.startswith(self._held[-length:]) for string in self._stop):
                return length
        return 0


def _piece_decoder(tokenizer: "PreTrainedTokenizerBase") -> Callable[[str, int], bytes]:
    """How this vocabulary writes bytes, judged by the decoder that the tokenizer itself uses."""
    kinds = set(_decoder_kinds(tokenizer))
    if "ByteLevel" in kinds:
        return _byte_level()
    if kinds & {"ByteFallback", "Metaspace"}:
        return _sentencepiece
    return _by_difference(tokenizer)


def _decoder_kinds(tokenizer: "PreTrainedTokenizerBase") -> Iterator[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    state: dict[str, Any] = json.loads(decoder.__getstate__()) if decoder is not None else {}
    for part in (state, *state.get("decoders", ())):
        yield part.get("type", "")


def _byte_level() -> Callable[[str, int], bytes]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(0x100 + rank): byte for rank, byte in enumerate(others)}

    def decode(piece: str, _: int) -> bytes:
        if all(letter in alphabet for letter in piece):
            return bytes(alphabet[letter] for letter in piece)
        return piece.encode()

    return decode


def _sentencepiece(piece: str, _: int) -> bytes:
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace(_METASPACE, " ").encode()


def _by_difference(tokenizer: "PreTrainedTokenizerBase") -> Callable[[str, int], bytes]:
    """Any other vocabulary: what a token adds behind an anchor, as the tokenizer itself decodes it."""
    anchor = tokenizer.encode("a", add_special_tokens=False)
    before = str(tokenizer.decode(anchor))

    def decode(_: str, token_id: int) -> bytes:
        after = str(tokenizer.decode([*anchor, token_id]))
        text = after[len(before) :] if after.startswith(before) else str(tokenizer.decode([token_id]))
        return text.encode()

    return decode
