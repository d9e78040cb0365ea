"""Records -> tables: what `honed import` stores of each, all of it or nothing.

Every record becomes a completion of the source `import`, which may be trained on and not be retrieved. Its judgements
become feedback: a ranking (a comparison where it is a pair), a thumb, and what a person wrote as a correction. Texts
are redacted as those of users are, unless the caller says that they may stay; ids and sources are kept as they are.
Does not tell formats apart (`reading.py`).

Invariants: an import that fails leaves nothing. A file that is imported again adds nothing, in whatever order its
records are then: the id of a completion is made of what the record says and of how often the file has said it before
(what one file says twice is there twice). It is made of the redacted texts, or whoever reads the store could try out
what was taken from them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import IntegrityError

from honed.server.store.database import writing
from honed.server.store.exchange.files import FileError
from honed.server.store.exchange.reading import Entry, Malformed, read
from honed.server.store.exchange.records import Demonstration, Ranking, Record, Thumb, is_text, shown
from honed.server.store.feedback import Kind
from honed.server.store.ingest import Ingest
from honed.server.store.logged import LoggedChoice, LoggedCompletion
from honed.server.store.messages import batches
from honed.server.store.tables import Completion, Feedback, Target
from honed.server.store.upserts import insert_missing
from honed.server.store.users import load_salt

SOURCE: Final = "import"  # of the completions, and their key, model and policy
ID_TAG: Final = "id"  # the record's own id is a tag
AT_ONCE = 200  # records a batch: their texts fit the memory that `Ingest` has
MAX_SHOWN = 20  # malformed rows

Clean = Callable[[str], str]


@dataclass(slots=True)
class Survey:
    """What files hold. `ignored_keys`: those that no format has, and in how many rows."""

    records: int = 0
    malformed: int = 0
    first_malformed: list[Malformed] = field(default_factory=list)
    ignored_keys: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Imported:
    """`redactions`: kind -> how many were found in the `redacted` of the new records."""

    records: int = 0
    known: int = 0  # were there already
    redactions: Counter[str] = field(default_factory=Counter)
    redacted: int = 0


@dataclass(slots=True)
class _Prepared:
    completion: LoggedCompletion
    feedback: list[dict[str, Any]]
    targets: list[dict[str, Any]]
    redactions: Counter[str]


def survey(paths: Iterable[Path]) -> Survey:
    """Reads all of the files and stores nothing. Raises FileError."""
    found = Survey()
    for path in paths:
        if path.exists() and not path.is_file():
            raise FileError(f"{shown(str(path), max_chars=300)} is no regular file: an import reads each file twice")
        for item in read(path):
            if isinstance(item, Entry):
                found.records += 1
                found.ignored_keys.update(item.ignored_keys)
            else:
                found.malformed += 1
                if len(found.first_malformed) < MAX_SHOWN:
                    found.first_malformed.append(item)
    return found


def import_files(
    engine: Engine, paths: Iterable[Path], *, skip_malformed: bool = False, keep_personal_data: bool = False
) -> Imported:
    """Stores the records of all files in one transaction. Raises FileError and StoreUnavailableError: nothing is
    stored then."""
    ingest = Ingest(load_salt(engine), keep_personal_data=keep_personal_data)
    now_s = time.time()
    done = Imported()
    with writing(engine) as connection:
        for path in paths:
            said: Counter[bytes] = Counter()
            prepared = (_prepare(entry, ingest, said, now_s) for entry in _entries(path, skip_malformed=skip_malformed))
            for some in batches(prepared, AT_ONCE):
                _insert(connection, ingest, some, done)
    return done


def _entries(path: Path, *, skip_malformed: bool) -> Iterator[Entry]:
    for item in read(path):
        if isinstance(item, Entry):
            yield item
        elif not skip_malformed:
            raise FileError(f"{shown(str(path), max_chars=300)} cannot be imported: line {item.line}: {item.reason}")


def _insert(connection: Connection, ingest: Ingest, prepared: Sequence[_Prepared], done: Imported) -> None:
    ids = [each.completion.id for each in prepared]
    known = {found for some in batches(ids) for found in _known(connection, some)}
    new = [each for each in prepared if each.completion.id not in known]
    try:
        with connection.begin_nested():
            _insert_new(connection, ingest, new)
    except IntegrityError:  # an erasure pruned a message that a record refers to: it is inserted anew
        _insert_new(connection, ingest, new)
    done.records += len(new)
    done.known += len(known)
    for each in new:
        done.redactions.update(each.redactions)
        done.redacted += bool(each.redactions)


def _known(connection: Connection, ids: list[str]) -> Iterable[str]:
    return connection.execute(select(Completion.id).where(Completion.id.in_(ids))).scalars()


def _insert_new(connection: Connection, ingest: Ingest, new: Sequence[_Prepared]) -> None:
    ingest.insert(connection, [each.completion for each in new])
    insert_missing(connection, Feedback, [row for each in new for row in each.feedback])
    insert_missing(connection, Target, [row for each in new for row in each.targets])


def _prepare(entry: Entry, ingest: Ingest, said: Counter[bytes], now_s: float) -> _Prepared:
    """`said`: how often each record was in the file before, by its hash."""
    record = entry.record
    redactions: Counter[str] = Counter()

    def clean(text: str) -> str:
        redaction = ingest.clean(text)
        redactions.update(redaction.counts)
        return redaction.text

    digest = blake2b(json.dumps(_said(record, clean)).encode(), digest_size=10).digest()
    completion = LoggedCompletion(
        id=f"{SOURCE}-{said[digest]:012x}{digest.hex()}",
        endpoint="text" if is_text(record.prompt) else "chat",
        source=SOURCE,
        created_s=now_s,
        model=SOURCE,
        policy_id=SOURCE,
        messages=record.prompt,
        choices=_choices(record),
        key_id=SOURCE,
        retrievable=False,
        trainable=True,
        tags={} if record.external_id is None else {ID_TAG: record.external_id},
    )
    said[digest] += 1
    rows = [_feedback(entry.line, completion, *judgement) for judgement in _judgements(record, ingest)]
    return _Prepared(completion, rows, _targets(record, rows), redactions)


def _said(record: Record, clean: Clean) -> list[Any]:
    """All that a record says, as it may be stored. The ids of what is stored depend on every word here."""
    prompt = [[each["role"], clean(each["content"]), _or_none(clean, each.get("name"))] for each in record.prompt]
    if isinstance(record, Ranking):
        answers = [[clean(answer.text), answer.rank, answer.source] for answer in record.answers]
        return ["ranking", record.external_id, prompt, answers, _or_none(clean, record.demonstration)]
    if isinstance(record, Thumb):
        return ["thumb", record.external_id, prompt, clean(record.answer), record.label]
    if isinstance(record, Demonstration):
        return ["demonstration", record.external_id, prompt, clean(record.answer)]
    return ["prompt", record.external_id, prompt]


def _or_none(clean: Clean, text: str | None) -> str | None:
    return None if text is None else clean(text)


def _choices(record: Record) -> list[LoggedChoice]:
    if isinstance(record, Ranking):
        return [
            LoggedChoice(index, answer.text, "stop", source=answer.source)
            for index, answer in enumerate(record.answers)
        ]
    return [LoggedChoice(0, record.answer, "stop")] if isinstance(record, Thumb) else []


def _judgements(record: Record, ingest: Ingest) -> Iterator[tuple[Kind, int, int | None, str | None]]:
    """Kind, choice, number and text of each. The first is what `_targets` belong to."""
    if isinstance(record, Ranking):
        best = min(range(len(record.answers)), key=lambda index: record.answers[index].rank)
        yield "comparison" if _is_pair(record) else "ranking", best, None, None
        if record.demonstration is not None:
            yield "correction", best, None, ingest.clean(record.demonstration).text
    elif isinstance(record, Thumb):
        yield "thumb", 0, int(record.label), None
    elif isinstance(record, Demonstration):
        yield "correction", 0, None, ingest.clean(record.answer).text


def _is_pair(record: Ranking) -> bool:
    """Whether a row of a chosen and a rejected answer says all of it."""
    if record.demonstration is not None or [answer.rank for answer in record.answers] != [1, 2]:
        return False
    better, worse = record.answers
    return better.text != worse.text and better.source is None and worse.source is None


def _feedback(
    line: int, completion: LoggedCompletion, kind: Kind, choice: int, number: int | None, text: str | None
) -> dict[str, Any]:
    """The line is in the id, so that an export has the order of the file."""
    digest = blake2b(f"{completion.id} {kind}".encode(), digest_size=10).hexdigest()
    return {
        "id": f"fb-{line:012x}{digest}",
        "created": datetime.fromtimestamp(completion.created_s, UTC),
        "completion_id": completion.id,
        "choice": choice,
        "kind": kind,
        "number": number,
        "text": text,
        "source": "labeler",
        "labeler": None,
        "key_id": SOURCE,
        "idempotency_key": None,
        "fingerprint": None,
        "policy_id": SOURCE,
        "tags": {},
    }


def _targets(record: Record, feedback: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if not isinstance(record, Ranking):
        return []
    order = feedback[0]
    return [
        {"feedback_id": order["id"], "completion_id": order["completion_id"], "choice": index, "rank": answer.rank}
        for index, answer in enumerate(record.answers)
    ]
