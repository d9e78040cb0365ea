"""What can be told of an answer from its words alone: whether it refuses, and how much it repeats itself.

Owns our own short rules, in English; nobody's word lists. Invariant: both are shares between 0 and 1 for any text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Final

PHRASE: Final = 4  # tokens

_BEGINNING_CHARS: Final = 160  # a refusal is said at once; later, "I cannot" may be in a story
_CANNOT: Final = r"(?:can(?:no|')t|can\ not|am\ (?:not\ able|unable|not\ allowed)|will\ not|won't)"
_REFUSALS: Final = re.compile(
    rf"""
      \bI\ {_CANNOT}\b (?!\ (?:wait|believe|stress|recommend|say)\b)
    | \bI'm\ (?:not\ able|unable|not\ allowed)\ to\b
    | \bI\ (?:have\ to|must)\ (?:decline|refuse)\b
    | \b(?:as|being)\ an?\ (?:AI|artificial\ intelligence|(?:large\ )?language\ model)\b
    | \b(?:sorry|apologi[sz]e)\b [^.!?]{{0,60}} \b(?:can(?:no|')t|can\ not|unable|not\ able)\b
    | \bI\ do(?:\ not|n't)\ (?:feel\ comfortable|have\ the\ ability)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_refusal(text: str) -> bool:
    """Whether an answer begins by saying that it will not or cannot answer."""
    return _REFUSALS.search(text[:_BEGINNING_CHARS].replace("’", "'")) is not None


def repetition(tokens: Sequence[Hashable]) -> float:
    """The share of an answer's phrases (of PHRASE tokens) that were in it before; 0 where it is shorter than two."""
    phrases = [tuple(tokens[start : start + PHRASE]) for start in range(len(tokens) - PHRASE + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0
