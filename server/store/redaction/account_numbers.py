"""Finds payment card numbers and bank accounts (IBAN).

A card's number has an issuer's prefix and length and a Luhn digit; an IBAN its country's length and structure and two
check digits. Everything with a wrong check digit stays. National account numbers without them are not looked for.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from stdnum import iban, luhn, numdb

from honed.server.store.redaction.number_labels import label_after, label_before
from honed.server.store.redaction.text_spans import Span, walk

# First and last prefix of a range, and the lengths that its numbers have.
_ISSUERS: Final = (
    ("34", "34", {15}),  # American Express
    ("37", "37", {15}),
    ("4", "4", {13, 16, 19}),  # Visa
    ("51", "55", {16}),  # Mastercard
    ("2221", "2720", {16}),
    ("2200", "2204", {16, 17, 18, 19}),  # Mir
    ("6011", "6011", {16, 19}),  # Discover
    ("644", "659", {16, 19}),
    ("300", "305", {14, 16}),  # Diners Club
    ("3095", "3095", {14, 16}),
    ("36", "36", {14, 16, 19}),
    ("38", "39", {14, 16}),
    ("3528", "3589", {16, 19}),  # JCB
    ("2131", "2131", {15}),
    ("1800", "1800", {15}),
    ("62", "62", {16, 17, 18, 19}),  # UnionPay
    ("81", "82", {16}),  # UnionPay, RuPay
    ("60", "60", {16}),  # RuPay, Hipercard
    ("508", "508", {16}),
    ("50", "50", {16, 18, 19}),  # Maestro, Dankort, Verve, Elo
    ("56", "58", {16, 18, 19}),
    ("63", "63", {16, 18, 19}),
    ("67", "67", {16, 18, 19}),
    ("9792", "9792", {16}),  # Troy
)
_CARD_START = re.compile(r"[0-9](?<![\w$€£¥.].)(?<![0-9A-Za-z]-.)(?=(?:[ -]?[0-9]){12})", re.ASCII)
_END: Final = r"(?!\w)(?![.-][0-9])"
_CARD_SHAPES: Final = tuple(
    re.compile(shape + _END, re.ASCII)
    for shape in (
        r"[0-9]{13,19}",
        r"[0-9]{4}(?P<by>[ -])[0-9]{4}(?P=by)[0-9]{4}(?P=by)[0-9]{4}(?P=by)[0-9]{3}",
        r"[0-9]{4}(?P<by>[ -])[0-9]{4}(?P=by)[0-9]{4}(?P=by)[0-9]{1,4}(?!(?P=by)[0-9]{4})",
        r"[0-9]{4}(?P<by>[ -])[0-9]{6}(?P=by)[0-9]{4,5}",
        r"[0-9]{8}(?P<by>[ -])[0-9]{8}",
        r"[0-9]{6}(?P<by>[ -])[0-9]{13}",
    )
)
_CARD_WORD = re.compile(r"(?i)card|karte|tarjeta|carte|cart[aã]o|carta|visa|master|amex|卡|カード|카드|карт")


def find_cards(seen: str) -> list[Span]:
    return walk(seen, "card", _CARD_START, lambda start, before: _card_end(seen, start, before))


def _card_end(seen: str, start: int, before: str) -> int:
    for shape in _CARD_SHAPES:
        found = shape.match(seen, start)
        if not found or not _has_check_digit(re.sub("[ -]", "", found[0])):
            continue
        # The tail of a longer number is none: its groups are separated as the digit before is from it.
        is_tail = found.lastgroup and before[-1:] == found["by"] and before[-2:-1].isdigit()
        if not is_tail and (_CARD_WORD.search(before) or _is_card_by_itself(found, seen, before)):
            return found.end()
    return 0


def _has_check_digit(number: str) -> bool:
    issued = any(low <= number[: len(low)] <= high and len(number) in lengths for low, high, lengths in _ISSUERS)
    return issued and len(set(number)) > 1 and luhn.is_valid(number)


def _is_card_by_itself(found: re.Match[str], seen: str, before: str) -> bool:
    """Thirteen digits in a row are an article or a German mobile number, as Visa has given up such short ones, and
    more than sixteen the key of some database."""
    label = label_before(before) or label_after(seen, found.end())
    is_other = label is not None and label.tight and label.meaning in ("other", "phone")
    return not is_other and (14 <= len(found[0]) <= 16 or not found[0].isdigit())


_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2} ?[0-9]{2}[ .-]?[A-Za-z0-9]")
_IBAN_RUN = re.compile(r"[A-Za-z]{2} ?[0-9]{2}(?:[ .-]{0,2}[A-Za-z0-9]){11,30}")


def find_ibans(seen: str) -> list[Span]:
    return walk(seen, "iban", _IBAN_START, lambda start, _: _iban_end(seen, start))


def _iban_end(seen: str, start: int) -> int:
    length = _iban_length(seen[start : start + 2].upper())
    run = _IBAN_RUN.match(seen, start) if length else None
    if not run:
        return 0
    places = [place for place in range(start, run.end()) if seen[place].isalnum()][:length]
    end = places[-1] + 1
    number = "".join(seen[place] for place in places)
    is_whole = len(number) == length and not re.match("[A-Za-z0-9]", seen[end : end + 1])
    return end if is_whole and iban.is_valid(number, check_country=False) else 0


@cache
def _iban_length(country: str) -> int:
    """Letters and digits; 0 for what is no country with IBANs. `country`: two upper-case letters."""
    details = dict(numdb.get("iban").info(country + "00")).get(country, {})
    return 4 + sum(map(int, re.findall(r"(\d+)!", details["bban"]))) if "bban" in details else 0
