"""Replaces personal data and secrets in a text before it is stored.

Owns the order in which the finders look, and what a found span becomes: `[EMAIL]`, `[PHONE]`, `[CARD]`, `[IBAN]`,
`[IP]`, `[SSN]` (a national number of any state) or `[SECRET]`. Each finder says what it takes and what it leaves.
Names, street addresses, dates of birth and passports are not covered: patterns cannot tell names from other words, so
that a redacted text may still speak of a person.

Invariants: redacting the result again finds nothing; any text is taken, lone surrogates and NULs as well; the time is
linear in the length.

No library does all of it: presidio needs spaCy and the download of a model, scrubadub is no longer maintained.
phonenumbers, python-stdnum and ipaddress check what the patterns find.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from honed.server.store.redaction.account_numbers import find_cards, find_ibans
from honed.server.store.redaction.identity_numbers import find_identity_numbers
from honed.server.store.redaction.internet_addresses import find_emails, find_ips
from honed.server.store.redaction.phone_numbers import find_phones
from honed.server.store.redaction.secret_assignments import find_assigned_secrets
from honed.server.store.redaction.secret_patterns import find_secret_shapes
from honed.server.store.redaction.text_spans import KINDS, MASK, PLACEHOLDERS, Span, replaced, searchable

__all__ = ["KINDS", "Redaction", "redact"]

MAX_PASSES = 8

# In this order: a secret may hold an address, and a card number is none of the phone numbers that it contains.
_SHAPES: Final[tuple[tuple[str, Callable[[str], list[Span]]], ...]] = (
    ("secret", find_secret_shapes),
    ("secret", find_assigned_secrets),
    ("email", find_emails),
    ("ip", find_ips),
)
_NUMBERS: Final[tuple[tuple[str, Callable[[str], list[Span]]], ...]] = (
    ("iban", find_ibans),
    ("ssn", find_identity_numbers),
    ("card", find_cards),
    ("phone", find_phones),
)
_SIX_DIGITS = re.compile(r"(?:[^0-9]*+[0-9]){6}")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Za-z])")


@dataclass(frozen=True, slots=True)
class Redaction:
    """`counts`: how many spans of each kind were replaced; only kinds that were found are in it."""

    text: str
    counts: Mapping[str, int]


def redact(text: str) -> Redaction:
    counts: Counter[str] = Counter()
    for _ in range(MAX_PASSES):
        text, found = _pass(text)
        if not found:
            return Redaction(text, counts)
        counts += found
    # Each replacement uncovered another: no text that people write, and none that is safe to keep.
    return Redaction(PLACEHOLDERS["secret"], counts + Counter(secret=1))


def _pass(text: str) -> tuple[str, Counter[str]]:
    seen = searchable(text)
    found: Counter[str] = Counter()
    for finders in (_SHAPES, _NUMBERS):
        for kind, find in finders:
            if spans := find(seen):
                text = replaced(text, spans, PLACEHOLDERS[kind])
                seen = replaced(seen, spans, MASK * len(PLACEHOLDERS[kind]))
                found[kind] += len(spans)
        if not _SIX_DIGITS.match(seen):
            break
        seen = _UUID.sub(lambda uuid: MASK * len(uuid[0]), seen)
    return text, found
