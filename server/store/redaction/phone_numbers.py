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

from honed.server.store.redaction.number_labels import label_after, label_before
from honed.server.store.redaction.text_spans import MASK, Span, is_after_digits, walk

_RIGHT: Final = r"(?!\w)(?![-.:][0-9])(?!\s?[%€$£°])"
_START = re.compile(
    r"[(+0-9](?:(?<=\+)|(?<![\w+].))(?<![$€£¥₹#^*].)(?<![A-Za-z0-9]-.)"
    r"(?:(?<![A-Za-z0-9][/.].)|(?<=wa\.me/.)|(?<=[Tt]el\..)|(?<=[Mm]ob\..)|(?<=[Ff]ax\..))"
    r"(?:(?<=[0-9])|(?=\+?\(?[0-9]))(?=[ .\-/()+]{0,3}[0-9](?:[ .\-/()]{0,3}[0-9]){5})",
    re.ASCII,
)
_EXTENSION = re.compile(
    r"(?i)(?:[ ,;]{1,2}|[ ,;]?\()(?:ext|extn|extension|x|dw|durchwahl|poste|int|anexo|ramal|доб|分机|转|内線)"
    r"\.? ?[0-9]{1,6}\)?(?!\w)"
)
_DATE: Final = (
    r"(?<![0-9./-])(?:[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:19|20)[0-9]{2})"
    r"(?![0-9]|[-./][0-9])"
)
_HARDWARE_ADDRESS: Final = r"\b(?:[0-9A-Fa-f]{2}-){5}[0-9A-Fa-f]{2}\b"
_WRONG_IBAN: Final = r"\b[A-Z]{2}[0-9]{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?\b"
_NO_PHONES = re.compile(f"{_DATE}|{_HARDWARE_ADDRESS}|{_WRONG_IBAN}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How numbers are written in some countries.

    `regions`: one must know the number; none: the shape suffices. `is_alone`: no digits stand a space away.
    """

    pattern: re.Pattern[str]
    regions: tuple[str, ...]
    is_alone: bool


def _shape(pattern: str, regions: str = "", *, alone: bool = True) -> _Shape:
    ending = ("(?! [0-9])" if alone else "") + _RIGHT
    return _Shape(re.compile(pattern + ending, re.ASCII), tuple(regions.split()), alone)


_TRUNK_ZERO: Final = (
    "GB DE FR IT NL AU JP CN IN KR SE CH AT BE TR ZA UA IL NZ ID PH NG EG VN TH MY TW RO GR IE FI AR PK BD KE"
)
_SHAPES: Final = (
    # (212) 555-0123   555-123-4567   1-800-555-0199   212/555-0123
    _shape(r"(?:1[ .-]?)?\([1-9][0-9]{2}\)[ .-]?[0-9]{3}[ .-][0-9]{4}", alone=False),
    _shape(r"(?:1[ .-]?)?(?:[2-9][0-9]{2}|123)(?:([.-])[0-9]{3}\1|/[0-9]{3}-)[0-9]{4}", alone=False),
    _shape(r"(?:1 )?[2-9][0-9]{2} (?:[0-9]{3}-|[0-9]{3} )[0-9]{4}"),
    # 06 12 34 56 78
    _shape(r"0[1-9]([ .-])[0-9]{2}(?:\1[0-9]{2}){3}", "FR"),
    # 03-1234-5678   012-345-6789   010-62345678
    _shape(r"0[1-9][0-9]?-[0-9]{3,4}-[0-9]{4}", alone=False),
    _shape(r"0[1-9][0-9]{2}-(?:[0-9]{2}-[0-9]{4}|[0-9]{3}-[0-9]{3,4})", alone=False),
    _shape(r"\(?0[1-9][0-9]{1,3}\)?-[2-9][0-9]{6,7}", alone=False),
    # 020 7946 0958   07700 900123   (030) 123456   030 / 1234567
    _shape(r"0[1-9][0-9]{1,3} [0-9]{3,4} [0-9]{3,4}"),
    _shape(r"0[1-9][0-9]{3} [0-9]{5,6}"),
    _shape(r"\(0[1-9][0-9]{0,4}\)[ /-]?[0-9]{2,8}(?:[ -][0-9]{2,5}){0,3}"),
    _shape(r"0[1-9][0-9]{0,3}(?: ?[/-] ?| )[0-9]{2,8}(?:[ -][0-9]{2,5}){0,4}", _TRUNK_ZERO),
    # Mobile numbers without a space: 07700900123
    _shape(r"0(?:7[1-9][0-9]{8}|[67][0-9]{8}|1[5-7][0-9]{8,9}|4[0-9]{8})", "GB FR DE AU NL"),
    _shape(r"0(?:[789]0|10)[0-9]{8}", "JP KR"),
    # (11) 91234-5678   (55) 1234-5678   8 (495) 123-45-67   138 0013 8000   010-1234-5678
    _shape(r"(?:0?\(?[1-9][0-9]\)? ?)9 ?[0-9]{4}-[0-9]{4}", alone=False),
    _shape(r"\([0-9]{2,3}\) ?[0-9]{3,4}[- ][0-9]{4}", alone=False),
    _shape(r"8[ -]?\(?[3489][0-9]{2}\)?[ -]?[0-9]{3}[ -][0-9]{2}[ -][0-9]{2}", alone=False),
    _shape(r"1[3-9][0-9]([ -])[0-9]{4}\1[0-9]{4}"),
    _shape(r"01[0-9]-[0-9]{3,4}-[0-9]{4}", alone=False),
    # 98765 43210   612 34 56 78   91 123 45 67   55 1234 5678   333 1234567
    _shape(r"0?[6-9][0-9]{4}[ -][0-9]{5}", "IN"),
    _shape(r"[679][0-9]{2} [0-9]{2} [0-9]{2} [0-9]{2}", "ES"),
    _shape(r"[1-9][0-9] [0-9]{3} [0-9]{2} [0-9]{2}", "ES PL"),
    _shape(r"[1-9][0-9] [0-9]{4} [0-9]{4}", "MX"),
    _shape(r"3[0-9]{2}[ -][0-9]{6,7}", "IT"),
)
_ZIP_CODE = re.compile(r"[0-9]{5}-[0-9]{4}")

_FEWEST_DIGITS, _MOST_DIGITS = 7, 15
_SURE_SPACES, _MOST_SEPARATORS = 3, 7
_SEPARATORS = re.compile("[ ./()-]+")
_INTERNATIONAL = re.compile(
    r"(?:\(?\+[ (]{0,2}|\(?0(?:0|11)[ .-]?(?=[1-9]))[0-9](?:[ .\-/()]{0,3}[0-9]){6,16}(?!\w)", re.ASCII
)
_IN_A_SUM = re.compile(r"[\w+]$", re.ASCII)
_IN_A_ROW = re.compile(r"\+?[0-9]+(?:\.[0-9]+)?")
_LONGEST_FRACTION = 8
# Prefixes of mobile numbers in Mexico and Argentina have gone, people still write them: country, digits with the plus.
_OLD_PREFIXES: Final = {(52, 14), (54, 14), (54, 13)}

_DIGITS = re.compile(r"\(?[0-9](?:(?: ?[-/] ?|[ .]|\) ?[-/]?| ?\()?[0-9]){6,14}(?! [0-9])" + _RIGHT, re.ASCII)
_COMPACT_DATE = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[0-9]{4}|[0-9]{6})?")
_CHINESE_MOBILE = re.compile(r"1[3-9][0-9]{9}")
_IDEOGRAPH = re.compile(r"[一-鿿]")
_CALL = re.compile(r"[A-Za-z0-9_]\($")
_IN_CODE = re.compile(r"[\[\]{}=\"<>]")
_REGIONS: Final = tuple(
    phonenumbers.region_code_for_country_code(code)
    for code in (1, 44, 49, 33, 34, 39, 55, 91, 86, 81, 31, 48, 52, 61, 82, 7, 46, 41, 43, 32, 351, 45, 47, 90, 27, 380)
)


def find_phones(seen: str) -> list[Span]:
    seen = _NO_PHONES.sub(lambda found: MASK * len(found[0]), seen)

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
    if not found or (is_after_digits(before) if "+" not in found[0] else _IN_A_SUM.search(before)):
        return 0
    if re.match(r"\.[0-9]", seen[found.end() : found.end() + 2]):
        return 0  # a decimal fraction
    cuts = [cut.start() for cut in _SEPARATORS.finditer(found[0])]
    plausible_end = 0
    for length in [len(found[0]), *reversed(cuts)][-_MOST_SEPARATORS:]:
        written = found[0][:length]
        number = _parsed(written) if _is_written_as_one(written, before) else None
        if number and phonenumbers.is_valid_number(number):
            return start + length
        is_sure = "+" in written or (written.count(" ") >= _SURE_SPACES and re.search("[0-9]{3}", written))
        if number and is_sure and not plausible_end and _is_plausible(number):
            plausible_end = start + length
    return plausible_end


def _parsed(written: str) -> phonenumbers.PhoneNumber | None:
    digits = _digits(written.replace("(0)", ""))  # which is not dialled from abroad
    if "+" not in written:
        digits = digits.removeprefix("011").removeprefix("00")
    try:
        return phonenumbers.parse("+" + digits) if _FEWEST_DIGITS < len(digits) <= _MOST_DIGITS else None
    except phonenumbers.NumberParseException:
        return None


def _is_plausible(number: phonenumbers.PhoneNumber) -> bool:
    """The length fits the country: of numbers that are given to nobody, or no longer."""
    length = len(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    return phonenumbers.is_possible_number(number) or (number.country_code, length) in _OLD_PREFIXES


def _is_written_as_one(written: str, before: str) -> bool:
    """No decimal fraction and no sum, unless words say that it is a phone number."""
    if not _IN_A_ROW.fullmatch(written):
        return True
    is_fraction = "." in written and len(written.partition(".")[2]) <= _LONGEST_FRACTION
    return (not is_fraction and len(_digits(written)) >= 10) or _says_phone(before)


def _national(seen: str, start: int, before: str) -> int:
    for shape in _SHAPES:
        found = None if shape.is_alone and is_after_digits(before) else shape.pattern.match(seen, start)
        if not found or not 9 <= len(_digits(found[0])) <= 12 or _ZIP_CODE.fullmatch(found[0]):
            continue
        if shape.regions and not any(_is_valid(found[0], region) for region in shape.regions):
            continue
        label = label_before(before) or label_after(seen, found.end())
        is_decided = label is not None and (label.tight or found[0].isdigit())
        return 0 if label and is_decided and label.meaning not in ("phone", "host") else found.end()
    return 0


def _labelled(seen: str, start: int, before: str) -> int:
    """Any 7 to 15 digits right beside a word for a phone; some words away those that are a number somewhere."""
    found = None if is_after_digits(before) else _DIGITS.match(seen, start)
    if not found or not _may_be_dialled(found[0], before):
        return 0
    label = label_before(before) or label_after(seen, found.end())
    if label is None:  # the text around it is Chinese
        is_phone = _CHINESE_MOBILE.fullmatch(found[0]) is not None and _IDEOGRAPH.search(before[-20:]) is not None
    else:
        is_phone = label.meaning == "phone" and (label.tight or _is_somewhere(found[0], before))
    return found.end() if is_phone else 0


def _may_be_dialled(written: str, before: str) -> bool:
    """Neither a date nor a decimal fraction nor the argument of a call."""
    if not _FEWEST_DIGITS <= len(_digits(written)) <= _MOST_DIGITS or _COMPACT_DATE.fullmatch(written):
        return False
    return not re.fullmatch(r"[0-9]+\.[0-9]+", written) and not (written.isdigit() and _CALL.search(before))


def _is_somewhere(written: str, before: str) -> bool:
    digits = _digits(written)
    if len(digits) < 9 or _IN_CODE.search(before):
        return False
    is_american = len(digits) == 10 and digits[0] >= "2"
    return is_american or any(_is_valid(written, region) for region in _REGIONS)


def _says_phone(before: str) -> bool:
    label = label_before(before)
    return label is not None and label.meaning == "phone"


def _digits(written: str) -> str:
    return re.sub("[^0-9]", "", written)


def _is_valid(written: str, region: str) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(written, region))
    except phonenumbers.NumberParseException:
        return False
