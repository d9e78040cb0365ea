"""Finds phone numbers: international ones anywhere, national ones by their shape or by the words beside them.

`phonenumbers` says whether digits are a number of a country. Its matcher takes milliseconds for a message, so that only
candidates that cheap patterns find are shown to it. It calls the numbers of fiction invalid (area code 555), which
people write as often as others: a shape that only phone numbers have stands without it. Bare digits are a phone number
only where the nearest word says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import phonenumbers

from honed.server.store.number_labels import Label, label_after, label_before
from honed.server.store.text_spans import MASK, Span, is_after_digits, walk

_RIGHT: Final = r"(?!\w)(?![-./:,][0-9])(?!\s?[%€$£°])"
_START = re.compile(
    r"[(+0-9](?<![\w+].)(?<![$€£¥₹#^*].)(?<![A-Za-z0-9]-.)"
    r"(?:(?<![A-Za-z0-9][/.].)|(?<=wa\.me/.)|(?<=[Tt]el\..)|(?<=[Mm]ob\..)|(?<=[Ff]ax\..))"
    r"(?:(?<=[0-9])|(?=\+?\(?[0-9]))(?=[ .\-/()+]{0,3}[0-9](?:[ .\-/()]{0,3}[0-9]){5})",
    re.ASCII,
)
_EXTENSION = re.compile(
    r"(?i)(?:[ ,;]{1,2}|[ ,;]?\()(?:ext|extn|extension|x|dw|durchwahl|poste|int|anexo|ramal|доб|分机|转|内線)\.? ?[0-9]{1,6}\)?(?!\w)"
)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How numbers are written in some countries.

    `regions`: one must know the number; none: the shape suffices. `is_alone`: no digits stand a space away.
    """

    pattern: re.Pattern[str]
    regions: tuple[str, ...]
    is_alone: bool


def _shape(pattern: str, *regions: str, alone: bool = False) -> _Shape:
    return _Shape(re.compile(pattern + ("(?! [0-9])" if alone else "") + _RIGHT, re.ASCII), regions, alone)


_TRUNK_ZERO: Final = (
    "GB DE FR IT NL AU JP CN IN KR SE CH AT BE TR ZA UA IL NZ ID PH NG EG VN TH MY TW RO GR IE FI AR PK BD KE".split()
)
_SHAPES: Final = (
    _shape(
        r"(?:1[ .-]?)?(?:\([1-9][0-9]{2}\)[ .-]?[0-9]{3}[ .-]|(?:[2-9][0-9]{2}|123)(?:([.-])[0-9]{3}\1|/[0-9]{3}-))[0-9]{4}"
    ),  # 555-123-4567
    _shape(r"(?:1 )?[2-9][0-9]{2} (?:[0-9]{3}-|[0-9]{3} )[0-9]{4}", alone=True),
    _shape(r"0[1-9]([ .-])[0-9]{2}(?:\1[0-9]{2}){3}", "FR", alone=True),  # 06 12 34 56 78
    _shape(
        r"0[1-9](?:-[0-9]{3,4}-[0-9]{4}|[0-9]-[0-9]{3,4}-[0-9]{3,4}|[0-9]{2}-[0-9]{2,3}-[0-9]{3,4})"
    ),  # 03-1234-5678
    _shape(r"\(?0[1-9][0-9]{1,3}\)?-[2-9][0-9]{6,7}"),  # 010-62345678
    _shape(r"0[1-9][0-9]{1,3} [0-9]{3,4} [0-9]{3,4}", alone=True),  # 020 7946 0958
    _shape(r"0[1-9][0-9]{3} [0-9]{5,6}", alone=True),  # 07700 900123
    _shape(r"\(0[1-9][0-9]{0,4}\)[ /-]?[0-9]{2,8}(?:[ -][0-9]{2,5}){0,3}", alone=True),  # (030) 123456
    _shape(
        r"0[1-9][0-9]{0,3}(?: ?[/-] ?| )[0-9]{2,8}(?:[ -][0-9]{2,5}){0,4}", *_TRUNK_ZERO, alone=True
    ),  # 030 / 1234567
    _shape(r"(?:0?\(?[1-9][0-9]\)? ?)9 ?[0-9]{4}-[0-9]{4}"),  # (11) 91234-5678
    _shape(r"\([0-9]{2,3}\) ?[0-9]{3,4}[- ][0-9]{4}"),  # (55) 1234-5678
    _shape(r"8[ -]?\(?[3489][0-9]{2}\)?[ -]?[0-9]{3}[ -][0-9]{2}[ -][0-9]{2}"),  # 8 (495) 123-45-67
    _shape(r"1[3-9][0-9]([ -])[0-9]{4}\1[0-9]{4}", alone=True),  # 138 0013 8000
    _shape(r"0?[6-9][0-9]{4}[ -][0-9]{5}", "IN", alone=True),  # 98765 43210
    _shape(r"[679][0-9]{2} [0-9]{2} [0-9]{2} [0-9]{2}", "ES", alone=True),  # 612 34 56 78
    _shape(r"[1-9][0-9] [0-9]{3} [0-9]{2} [0-9]{2}", "ES", "PL", alone=True),  # 91 123 45 67
    _shape(r"[1-9][0-9] [0-9]{4} [0-9]{4}", "MX", alone=True),  # 55 1234 5678
    _shape(r"3[0-9]{2}[ -][0-9]{6,7}", "IT", alone=True),  # 333 1234567
    _shape(  # mobile numbers in a row
        r"0(?:7[1-9][0-9]{8}|[67][0-9]{8}|1[5-7][0-9]{8,9}|4[0-9]{8}|[789]0[0-9]{8}|10[0-9]{8})",
        *("GB FR DE AU JP KR NL".split()),
        alone=True,
    ),
    _shape(r"01[0-9]-[0-9]{3,4}-[0-9]{4}"),  # 010-1234-5678
)
_FEWEST_DIGITS, _MOST_DIGITS = 7, 15
_SEPARATORS = re.compile("[ ./()-]+")
_SURE_SEPARATORS = 3
_INTERNATIONAL = re.compile(
    r"(?:\(?\+[ (]{0,2}|\(?0(?:0|11)[ .-]?(?=[1-9]))[0-9](?:[ .\-/()]{0,3}[0-9]){6,16}(?!\w)", re.ASCII
)
_DIGITS = re.compile(r"\(?[0-9](?:(?: ?[-/] ?|[ .]|\) ?[-/]?| ?\()?[0-9]){6,14}(?! [0-9])" + _RIGHT, re.ASCII)
_CHINESE_MOBILE = re.compile(r"1[3-9][0-9]{9}")
_CALL = re.compile(r"[A-Za-z0-9_]\($")
_IN_CODE = re.compile(r"[\[\]{}=\"<>]")
_IDEOGRAPH = re.compile(r"[一-鿿]")
_REGIONS: Final = (
    "US GB DE FR ES IT BR IN CN JP NL PL MX AU KR RU SE CH AT BE PT DK NO TR ZA UA IL NZ ID PH NG SG".split()
)

_DATE = re.compile(
    r"(?<![0-9./-])(?:[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:19|20)[0-9]{2})(?![0-9]|[-./][0-9])"
)
_ZIP_CODE = re.compile(r"[0-9]{5}-[0-9]{4}")
_COMPACT_DATE = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[0-9]{4}|[0-9]{6})?")


def find_phones(seen: str) -> list[Span]:
    seen = _DATE.sub(lambda date: MASK * len(date[0]), seen)

    def end_of(start: int, before: str) -> int:
        if is_after_digits(before) and seen[start].isdigit() and " " in seen[start : start + 4]:
            return 0  # a group of digits in a longer row of groups
        end = _international(seen, start, before) or _national(seen, start, before) or _labelled(seen, start, before)
        extension = _EXTENSION.match(seen, end) if end else None
        return extension.end() if extension else end

    return walk(seen, "phone", _START, end_of)


def _international(seen: str, start: int, before: str) -> int:
    """`+49 30 1234567` or `0049 30 1234567`, shortened by whole groups until it is a number (a year may follow)."""
    found = _INTERNATIONAL.match(seen, start)
    if not found or ("+" not in found[0] and is_after_digits(before)):
        return 0
    if re.match(r"\.[0-9]", seen[found.end() : found.end() + 2]):
        return 0  # a decimal fraction
    ends = [found.end(), *(start + cut.start() for cut in reversed(list(_SEPARATORS.finditer(found[0]))))]
    candidates = [(end, seen[start:end]) for end in ends if _FEWEST_DIGITS < len(_digits(seen[start:end])) <= 17]
    by_plus = "+" in found[0]
    for end, written in candidates:
        if _is_valid(_called(written), None) and _is_written_as_one(written, before):
            return end
    for end, written in candidates:
        if (by_plus or len(_SEPARATORS.findall(written)) >= _SURE_SEPARATORS) and _is_plausible(_called(written)) and _is_written_as_one(written, before):
            return end
    return 0


def _called(written: str) -> str:
    """With the plus; without the zero in brackets that is not dialled from abroad."""
    digits = _digits(re.sub(r"\(0\)", "", written))
    return "+" + (digits if "+" in written else digits.removeprefix("011").removeprefix("00"))


def _is_written_as_one(written: str, before: str) -> bool:
    """No decimal fraction and no sum, unless words say that it is a phone number."""
    if not re.fullmatch(r"\+?[0-9]+(?:\.[0-9]+)?", written):
        return True
    if "." in written and len(written.partition(".")[2]) < 9:
        return _says_phone(label_before(before))
    return len(_digits(written)) >= 10 or _says_phone(label_before(before))


def _national(seen: str, start: int, before: str) -> int:
    for shape in _SHAPES:
        found = None if shape.is_alone and is_after_digits(before) else shape.pattern.match(seen, start)
        if found and 9 <= len(_digits(found[0])) <= 12 and not _ZIP_CODE.fullmatch(found[0]):
            if shape.regions and not any(_is_valid(found[0], region) for region in shape.regions):
                continue
            label = label_before(before) or label_after(seen, found.end())
            is_named = label and (label.tight or found[0].isdigit()) and label.meaning not in ("phone", "host")
            return 0 if is_named else found.end()
    return 0


def _labelled(seen: str, start: int, before: str) -> int:
    """Any 7 to 15 digits right beside a word for a phone; some words away those that are a number somewhere."""
    found = _DIGITS.match(seen, start)
    if not found or is_after_digits(before):
        return 0
    digits = _digits(found[0])
    if not _FEWEST_DIGITS <= len(digits) <= _MOST_DIGITS or _COMPACT_DATE.fullmatch(found[0]):
        return 0
    if re.fullmatch(r"[0-9]+\.[0-9]+", found[0]) or (found[0].isdigit() and _CALL.search(before)):
        return 0
    label = label_before(before) or label_after(seen, found.end())
    if label is None:
        in_chinese = _CHINESE_MOBILE.fullmatch(found[0]) and _IDEOGRAPH.search(before[-20:])
        return found.end() if in_chinese else 0
    if not _says_phone(label):
        return 0
    is_known = label.tight or (not _IN_CODE.search(before) and _is_somewhere(found[0], digits))
    return found.end() if is_known else 0


def _says_phone(label: Label | None) -> bool:
    return label is not None and label.meaning == "phone"


def _is_somewhere(written: str, digits: str) -> bool:
    is_american = len(digits) == 10 and digits[0] >= "2"
    return len(digits) >= 9 and (is_american or any(_is_valid(written, region) for region in _REGIONS))


def _digits(written: str) -> str:
    return re.sub("[^0-9]", "", written)


def _is_valid(written: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(written, region))
    except phonenumbers.NumberParseException:
        return False


def _is_plausible(called: str) -> bool:
    """The length fits the country: of numbers that are given to nobody, or not yet."""
    try:
        parsed = phonenumbers.parse(called, None)
    except phonenumbers.NumberParseException:
        return False
    # Mexico's and Argentina's mobile prefixes have gone, people still write them.
    return phonenumbers.is_possible_number(parsed) or parsed.country_code in (52, 54) and len(called) in (13, 14)
