"""How the finders of personal data see a text: folded, with what was already found masked.

Owns the two texts that go through redaction side by side, always of one length: the one that is shown in the end,
and the one that is searched, in which foreign digits, dashes and quotes are ASCII and every placeholder is a run of
`MASK`. A finder therefore sees after a replacement exactly what it will see when the result is redacted again, which
is what makes redaction idempotent. Knows nothing of what is looked for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final

Span = tuple[int, int]  # [start, end)

MASK: Final = "\0"
KINDS: Final = ("email", "phone", "card", "iban", "ip", "ssn", "secret")
PLACEHOLDERS: Final = {kind: f"[{kind.upper()}]" for kind in KINDS}
CONTEXT_CHARS: Final = 64

_LISTED = re.compile(rf"(?:{MASK}++[\s,;/|]*+){{2,}}+$")
_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS.values())))


def _folds() -> dict[str, str]:
    """Characters of the basic plane and what they are read as, one for one."""
    folds = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full width
    digits = (chr(code) for code in range(0x80, 0xFF00))
    folds |= {char: str(unicodedata.decimal(char)) for char in digits if unicodedata.decimal(char, None) is not None}
    folds |= dict.fromkeys("\xa0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " ")
    folds |= dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63", "-")
    return folds | dict.fromkeys("“”„«»", '"') | dict.fromkeys("‘’‚", "'")


_FOLDS: Final = _folds()
_FOLDED = re.compile(f"[{re.escape(''.join(_FOLDS))}]")


def searchable(text: str) -> str:
    """`text` as finders see it: the same length, folded, its placeholders masked."""
    if "[" in text:
        text = _PLACEHOLDER.sub(lambda found: MASK * len(found[0]), text)
    return text if text.isascii() else _FOLDED.sub(lambda found: _FOLDS[found[0]], text)


def lowered(seen: str) -> str:
    """Lower case, of the same length: some letters, such as `İ`, become two otherwise."""
    low = seen.lower()
    if len(low) == len(seen):
        return low
    return "".join(small if len(small := char.lower()) == 1 else char for char in seen)


def replaced(text: str, spans: list[Span], replacement: str) -> str:
    """`spans` in order, none overlapping."""
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [text[end:start], replacement]
        end = stop
    return "".join([*pieces, text[end:]])


def merged(spans: list[Span]) -> list[Span]:
    """In order, and those that overlap as one."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start < result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def is_after_digits(before: str) -> bool:
    """Whether the text before a number ends with another, a space away."""
    return before[-1:] == " " and before[-2:-1].isdigit()


def walk(seen: str, kind: str, starts: re.Pattern[str], accept: Callable[[int, str], int]) -> list[Span]:
    """The spans that begin where `starts` matches and that `accept(start, before)` gives an end (0: none).

    `before` holds the last `CONTEXT_CHARS` characters as they will be once the spans further left are replaced, a list
    of them as one: all numbers behind "phones:" must be found at once, and not some more in each pass.
    """
    spans: list[Span] = []
    mask = MASK * len(PLACEHOLDERS[kind])
    tail, end = "", 0
    for found in starts.finditer(seen):
        start = found.start()
        if start < end:
            continue
        gap = seen[max(end, start - CONTEXT_CHARS) : start]
        before = gap if len(gap) == CONTEXT_CHARS else (tail + gap)[-CONTEXT_CHARS:]
        if stop := accept(start, before):
            spans.append((start, stop))
            tail, end = _LISTED.sub(mask, before + mask), stop
    return spans
