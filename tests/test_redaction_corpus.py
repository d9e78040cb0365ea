"""The corpus that judges redaction: sizes, spans, and that every number is what its label says."""

import ipaddress
import re
from collections import Counter

import phonenumbers
import pytest
import stdnum.br.cpf
import stdnum.cn.ric
import stdnum.de.idnr
import stdnum.es.dni
import stdnum.es.nie
import stdnum.fr.nir
import stdnum.in_.aadhaar
import stdnum.it.codicefiscale
import stdnum.nl.bsn
import stdnum.pl.pesel
import stdnum.se.personnummer
import stdnum.us.ssn
from redaction_corpus import KINDS, NEGATIVES, POSITIVES, Positive
from stdnum import iban, luhn
from texts import texts

LEAST = {"email": 30, "phone": 30, "card": 30, "iban": 30, "ip": 30, "ssn": 30, "secret": 50}
REGIONS = (
    "US", "CA", "GB", "DE", "AT", "CH", "FR", "BE", "ES", "MX", "AR", "CO", "IT", "PT", "BR", "PL", "NL", "CN", "JP",
    "KR", "IN", "SA", "EG", "RU", "UA", "TR", "AU", "SE", "NG", "IL",
)  # fmt: skip
NATIONAL = (
    stdnum.us.ssn, stdnum.fr.nir, stdnum.de.idnr, stdnum.es.dni, stdnum.es.nie, stdnum.it.codicefiscale,
    stdnum.br.cpf, stdnum.in_.aadhaar, stdnum.cn.ric, stdnum.nl.bsn, stdnum.pl.pesel, stdnum.se.personnummer,
)  # fmt: skip
NINO = r"(?![DFIQUV])[A-Z](?![DFIOQUV])[A-Z] ?\d\d ?\d\d ?\d\d ?[A-D]"  # GOV.UK, NIM39110: no check digit
LONG_NUMBER = re.compile(r"(?<![\d.])\d(?:[ .-]?\d){13,18}(?!\d)")
ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")


def of(kind: str) -> list[Positive]:
    return [p for p in POSITIVES if p.kind == kind]


def spans(kind: str) -> list[str]:
    return [p.span for p in of(kind)]


def is_phone(span: str) -> bool:
    for region in REGIONS:
        for written in (span, f"+{span}"):
            try:
                if phonenumbers.is_valid_number(phonenumbers.parse(written, region)):
                    return True
            except phonenumbers.NumberParseException:
                continue
    return False


def is_national(p: Positive) -> bool:
    if "bsn" in p.text.casefold() or "burgerservice" in p.text:
        return stdnum.nl.bsn.is_valid(p.span)  # nine digits without a dash would always do as an American number
    return any(m.is_valid(p.span) for m in NATIONAL) or bool(re.fullmatch(NINO, p.span))


def test_sizes() -> None:
    counts = Counter(p.kind for p in POSITIVES)
    assert set(counts) == set(KINDS)
    assert {kind: counts[kind] for kind in KINDS if counts[kind] < LEAST[kind]} == {}
    assert len(POSITIVES) >= 260
    assert len(NEGATIVES) >= 260


def test_texts_and_spans_are_distinct() -> None:
    written = [p.text for p in POSITIVES] + [n.text for n in NEGATIVES]
    assert [text for text, n in Counter(written).items() if n > 1] == []
    assert [span for span, n in Counter(p.span for p in POSITIVES).items() if n > 1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_occurs_once_and_carries_no_mark(kind: str) -> None:
    for p in of(kind):
        assert p.text.count(p.span) == 1, p
        assert p.span == p.span.strip()
        assert len(p.span) >= 8, p


def test_no_text_carries_a_mark() -> None:
    for text in [p.text for p in POSITIVES] + [n.text for n in NEGATIVES]:
        assert text
        assert text == text.strip()
        assert not set("⟦⟧¦⏎") & set(text), text


def test_numbers_have_valid_check_digits() -> None:
    assert [s for s in spans("card") if not luhn.is_valid(re.sub(r"[ .-]", "", s))] == []
    assert [s for s in spans("iban") if not iban.is_valid(s)] == []
    assert [p.span for p in of("ssn") if not is_national(p)] == []
    assert [s for s in spans("phone") if not is_phone(s)] == []


def test_every_national_number_is_there() -> None:
    assert [m.__name__ for m in NATIONAL if not any(m.is_valid(s) for s in spans("ssn"))] == []


def test_addresses_are_public() -> None:
    assert [s for s in spans("ip") if not ipaddress.ip_address(s).is_global] == []
    assert {ipaddress.ip_address(s).version for s in spans("ip")} == {4, 6}


def test_emails_have_a_host() -> None:
    assert [s for s in spans("email") if not re.fullmatch(r"[^@\s]+(@|%40)[^@\s]+\.[^@\s.]{2,}", s)] == []


def test_negatives_hold_no_valid_card_or_account() -> None:
    for n in NEGATIVES:
        assert not any(luhn.is_valid(re.sub(r"[ .-]", "", found)) for found in LONG_NUMBER.findall(n.text)), n
        assert not any(iban.is_valid(found) for found in ACCOUNT.findall(n.text)), n


def test_rows_are_read_as_written() -> None:
    assert texts("\na b\n    c\nx¦\n    y¦z⏎  w\n") == ["a b c", "xyz\n  w"]
