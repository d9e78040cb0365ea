"""Finds the numbers that states give to people: a US social security number, a NINO, a CPF and their like.

python-stdnum's check (digits, date of birth) must hold where a number has one. A shape that is rare elsewhere then
stands by itself; where the shape says little (nine or eleven digits in a row) a word must be near that means such a
number. Passports and driving licences are not looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stdnum.be import nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.kr import rrn
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import itin

from honed.server.store.redaction.number_labels import Label, Meaning, label_after, label_before
from honed.server.store.redaction.text_spans import Span, is_after_digits, merged, walk


@dataclass(frozen=True, slots=True)
class _Number:
    """`words`: what must be said near it; nothing where shape and check suffice."""

    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]
    words: tuple[Meaning, ...] = ()


def _number(pattern: str, is_valid: Callable[[str], bool], *words: Meaning) -> _Number:
    return _Number(re.compile(rf"(?:{pattern})(?![\w@])(?![-.]?[0-9])", re.ASCII | re.IGNORECASE), is_valid, words)


def _always(number: str) -> bool:
    """Where a number has no check digit, its pattern says it all."""
    return bool(number)


def _is_chinese(number: str) -> bool:
    """Without the county that stdnum looks up: its list has gaps."""
    return ric.calc_check_digit(number) == number[-1].upper()


_US: Final = r"(?!000|666|9)[0-9]{3}%s(?!00)[0-9]{2}%s(?!0000)[0-9]{4}"
_NINO: Final = r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"
_FISCAL: Final = r"[A-Z]{3} ?[A-Z]{3} ?[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2} ?[A-Z][0-9LMNP-V]{3}[A-Z]"
_DIGITS_FIRST: Final = (
    _number(_US % ("-", "-"), _always),
    _number(_US % ("[ -]?", "[ -]?"), _always, "social"),
    _number(r"9[0-9]{2}-?[0-9]{2}-?[0-9]{4}", itin.is_valid, "social", "identity"),
    _number(
        r"[12378][ .]?[0-9]{2}[ .]?[0-9]{2}[ .]?(?:[0-9]{2}|2[AB])[ .]?[0-9]{3}[ .]?[0-9]{3}[ .]?[0-9]{2}", nir.is_valid
    ),
    _number(r"[1-9][0-9] [0-9]{3} [0-9]{3} [0-9]{3}", idnr.is_valid),
    _number(r"[1-9][0-9][ /.]?[0-9]{3}[ /.]?[0-9]{3}[ /.]?[0-9]{3}", idnr.is_valid, "identity"),
    _number(r"[0-9]{2}\.?[0-9]{3}\.?[0-9]{3}-?[A-Z]", dni.is_valid),
    _number(r"[0-9]{2}\.?[0-9]{3}\.?[0-9]{3} [A-Z]", dni.is_valid, "identity"),
    _number(r"[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-[0-9]{2}", cpf.is_valid),
    _number(r"[0-9]{3}[. ]?[0-9]{3}[. ]?[0-9]{3}[ -]?[0-9]{2}", cpf.is_valid, "identity"),
    _number(r"[2-9][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}", aadhaar.is_valid),
    _number(r"[2-9][0-9]{11}", aadhaar.is_valid, "identity"),
    _number(r"[1-9][0-9]{5}(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9X]", _is_chinese),
    _number(r"(?:[0-9][ .-]?){7,8}[0-9]", bsn.is_valid, "identity"),
    _number(r"[0-9]{11}", pesel.is_valid, "identity"),
    _number(r"(?:18|19|20)?[0-9]{6}[-+][0-9]{4}", personnummer.is_valid),
    _number(r"(?:18|19|20)?[0-9]{6} ?[0-9]{4}", personnummer.is_valid, "identity"),
    _number(r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", sin.is_valid, "identity", "social"),
    _number(r"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}", ahv.is_valid),
    _number(r"[0-9]{6}-[1-8][0-9]{6}", rrn.is_valid),
    _number(r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", nn.is_valid),
    _number(r"[0-9]{6}[-+A][0-9]{3}[0-9A-Y]", hetu.is_valid),
)
_LETTERS_FIRST: Final = (
    _number(rf"(?-i:(?!BG|GB|NK|KN|TN|NT|ZZ){_NINO})", _always),
    _number(rf"(?!BG|GB|NK|KN|TN|NT|ZZ){_NINO}", _always, "identity"),
    _number(rf"QQ{_NINO[_NINO.index(' ') :]}", _always, "identity"),  # the example of the British tax office
    _number(r"[XYZ]-?[0-9]{7}[ -]?[A-Z]", nie.is_valid),
    _number(_FISCAL, codicefiscale.is_valid),
    _number(r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", curp.is_valid),
)
_FEWEST_CHARS: Final = 9
_DIGITS_START = re.compile(r"[0-9](?<![\w+$€£¥#].)(?<![A-Za-z0-9][-./].)(?=(?:[ .\-/]?[0-9]){4})", re.ASCII)
_LETTERS_START = re.compile(
    r"(?<![\w+$€£¥#])(?<![A-Za-z0-9][-./])[A-Za-z](?=[A-Za-z]{0,5}[ -]?[0-9]{2}|[A-Za-z]{2} [A-Za-z]{3} [0-9]{2})",
    re.ASCII,
)
_DIGITS_AFTER_LETTER = re.compile(r"[0-9]{2}(?:(?<=[A-Za-z]..)|(?<=[A-Za-z][ -]..))")


def find_identity_numbers(seen: str) -> list[Span]:
    spans = walk(seen, "ssn", _DIGITS_START, lambda start, before: _end(_DIGITS_FIRST, seen, start, before))
    if _DIGITS_AFTER_LETTER.search(seen):
        spans += walk(seen, "ssn", _LETTERS_START, lambda start, before: _end(_LETTERS_FIRST, seen, start, before))
    return merged(spans)


def _end(numbers: tuple[_Number, ...], seen: str, start: int, before: str) -> int:
    if is_after_digits(before) and " " in seen[start : start + _FEWEST_CHARS]:
        return 0  # a group of digits in a longer row of groups
    for number in numbers:
        found = number.pattern.match(seen, start)
        if (
            found
            and number.is_valid(found[0])
            and not (" " in found[0] and re.match(" [0-9]", seen[found.end() : found.end() + 2]))
        ):
            label = label_before(before) or label_after(seen, found.end())
            if _fits(label, number.words):
                return found.end()
    return 0


def _fits(label: Label | None, words: tuple[Meaning, ...]) -> bool:
    if words:
        return label is not None and label.meaning in words
    return label is None or not label.tight or label.meaning in ("identity", "social")
