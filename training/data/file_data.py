"""A file as candidates for training, in the formats that an import reads too (`exchange/reading.py`).

Owns what becomes of a file's rows: redaction, as an import does it, and which rows end the run. Does not choose among
them. Invariant: a row that cannot be read or contradicts itself is an error that names it; the other rows are
candidates, or are counted as left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

from honed.server.store.categories import classify
from honed.server.store.exchange.files import FileError
from honed.server.store.exchange.reading import Entry, read
from honed.server.store.exchange.records import (
    TEXT_ROLE,
    Answer,
    Demonstration,
    Message,
    Prompt,
    Ranking,
    Record,
    RecordError,
    Thumb,
    message,
    shown,
)
from honed.server.store.prefixes import prefix_key
from honed.server.store.redaction import redact
from honed.training.configs import STAGES, Stage
from honed.training.data.offers import (
    CONTRADICTORY,
    KIND_NAMES,
    PERSON,
    READS,
    UNKNOWN,
    Candidate,
    DataError,
    Offer,
    as_read,
    fault,
)

OTHER_KIND: Final = "of a kind that the stage does not read"

_REMEMBERED_TEXTS: Final = 4096  # prompts come again with each of their answers
_CHUNK_BYTES: Final = 1 << 20

Clean: TypeAlias = Callable[[str], str]


def offer_file(path: Path, stage: Stage) -> Offer:
    """The file's candidates, in the order of its rows. Raises DataError where the file or a row of it cannot be read,
    where a ranking only contradicts itself, and where nothing in it is for this stage."""
    offer = Offer()
    kinds: Counter[type[Record]] = Counter()
    clean = _cleaner(offer.redactions)
    for entry in _entries(path):
        kinds[type(entry.record)] += 1
        record = as_read(entry.record, stage)
        if record is None:
            offer.left_out[OTHER_KIND] += 1
            continue
        if fault(record) == CONTRADICTORY:
            raise _row_error(path, entry.line, "all answers are the same text, so none is better")
        try:
            record = _redacted(record, clean)
        except RecordError as error:
            raise _row_error(path, entry.line, str(error)) from error
        if (reason := fault(record)) is not None:
            offer.left_out[reason] += 1
        else:
            offer.candidates.append(_candidate(record))
    if kinds.total() == offer.left_out[OTHER_KIND]:
        raise DataError(_nothing_to_read(path, stage, kinds))
    return offer


def sha256_of(path: Path) -> str:
    """Of the file's bytes, in hexadecimal digits. Raises DataError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise DataError(
            f"{_named(path)} cannot be read ({error.strerror or error}): `data` is a file, `store`, or the id of a "
            "snapshot (data- and 12 hexadecimal digits)."
        ) from error
    return digest.hexdigest()


def _entries(path: Path) -> Iterator[Entry]:
    try:
        for item in read(path):
            if not isinstance(item, Entry):
                raise _row_error(path, item.line, item.reason)
            yield item
    except FileError as error:
        raise DataError(str(error)) from error


def _row_error(path: Path, line: int, reason: str) -> DataError:
    return DataError(f"{_named(path)} cannot be trained on: line {line}: {reason}")


def _nothing_to_read(path: Path, stage: Stage, kinds: Counter[type[Record]]) -> str:
    wanted = KIND_NAMES[READS[stage]]
    if not kinds:
        return f"{_named(path)} has no rows: {stage} needs {wanted}."
    held = " and ".join(KIND_NAMES[kind] for kind, _ in kinds.most_common())
    others = [other for other in STAGES if READS[other] in kinds]
    hint = f" Train {' or '.join(others)} on this file, or give" if others else " Give"
    return f"{_named(path)} holds {held}, but {stage} reads {wanted}.{hint} {stage} another."


def _cleaner(found: Counter[str]) -> Clean:
    remembered = lru_cache(_REMEMBERED_TEXTS)(redact)

    def clean(text: str) -> str:
        redaction = remembered(text)
        found.update(redaction.counts)
        return redaction.text

    return clean


def _redacted(record: Record, clean: Clean) -> Record:
    prompt = tuple(_redacted_message(each, clean) for each in record.prompt)
    if isinstance(record, Ranking):
        answers = tuple(Answer(clean(answer.text), answer.rank, answer.source) for answer in record.answers)
        demonstration = None if record.demonstration is None else clean(record.demonstration)
        return Ranking(prompt, answers, demonstration, record.external_id)
    if isinstance(record, Demonstration):
        return Demonstration(prompt, clean(record.answer), record.external_id)
    if isinstance(record, Thumb):
        return Thumb(prompt, clean(record.answer), record.label, record.external_id)
    return Prompt(prompt, record.external_id)


def _redacted_message(given: Message, clean: Clean) -> Message:
    name = given.get("name")
    return message(given["role"], clean(given["content"]), None if name is None else clean(name))


def _candidate(record: Record) -> Candidate:
    asked = [each["content"] for each in record.prompt if each["role"] in ("user", TEXT_ROLE)]
    return Candidate(
        record=record, prefix=prefix_key(record.prompt), category=classify(asked[-1]), writers=_writers(record)
    )


def _writers(record: Record) -> tuple[str, ...]:
    if isinstance(record, Ranking):
        return tuple(answer.source or UNKNOWN for answer in record.answers)
    if isinstance(record, Demonstration):
        return (PERSON,)
    return (UNKNOWN,) if isinstance(record, Thumb) else ()


def _named(path: Path) -> str:
    return shown(str(path), max_chars=300)
