"""Messages that judge a redactor: what must not survive it, and what it must leave alone.

Labels are what a careful privacy officer would say of the whole message, so context decides: 1.2.3.4 is a version where
the message says so. Not in either list, since officers disagree: loopback, private and documentation addresses, public
resolvers, hotlines of companies, MAC addresses, names.
Invariant: a span occurs once in its text; texts are distinct over both lists.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import redaction_negatives
import redaction_negatives_in_code
import redaction_positives
import redaction_secrets
from texts import texts

Kind = Literal["email", "phone", "card", "iban", "ip", "ssn", "secret"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Positive:
    text: str
    kind: Kind
    span: str  # the substring of `text` that must not survive


@dataclass(frozen=True)
class Negative:
    text: str  # nothing of it may be changed


def _positives() -> Iterator[Positive]:
    rows = {**redaction_positives.ROWS, **redaction_secrets.ROWS}
    for kind in KINDS:
        for row in texts(rows[kind]):
            before, span, after = re.split("[⟦⟧]", row)
            yield Positive(before + span + after, kind, span)


def _negatives() -> Iterator[Negative]:
    for module in (redaction_negatives, redaction_negatives_in_code):
        for block in module.ROWS.values():
            yield from map(Negative, texts(block))


POSITIVES: tuple[Positive, ...] = tuple(_positives())
NEGATIVES: tuple[Negative, ...] = tuple(_negatives())
