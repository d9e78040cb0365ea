"""People as judges of the gate: labelers compare the candidate's answers with the incumbent's, blind.

Each of so many held-out prompts makes one task of two answers (`store/pairs.py`), the first that either policy gave,
among the tasks that labelers have anyway. They are asked when all else lets the candidate through, and until they have
answered nothing is decided: the report's `promote` is None. Imports no torch. Invariants: a prompt is asked once for
the same two policies, however often they are evaluated; a report that was decided stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import IntegrityError

from honed.server.store import pairs
from honed.server.store.database import StoreConflictError, reading, writing
from honed.server.store.exchange.records import is_text
from honed.server.store.ids import new_id
from honed.server.store.ingest import Ingest
from honed.server.store.logged import LoggedChoice, LoggedCompletion
from honed.server.store.messages import batches
from honed.server.store.tables import Completion
from honed.server.store.users import load_salt
from honed.training.data.datasets import Example
from honed.training.evaluation.config import DIGITS, LEAST
from honed.training.evaluation.statistics import rate_of
from honed.training.evaluation.verdict import Rule, decide, win_rule
from honed.training.failures import TrainingError

ATTEMPTS: Final = 3  # to store pairs of prompts that are still there when they are written down


def ask(
    engine: Engine, report: Mapping[str, Any], prompts: Sequence[Example], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Makes tasks of the first prompts, as many as the report's settings say, and returns the report with what labelers
    have said of them until now. `rows`: of answers.jsonl. Raises TrainingError where the prompts are being erased, and
    StoreError."""
    asked = list(zip(prompts, rows, strict=True))[: report["settings"]["people"]]
    made = [_pair(report, example, row) for example, row in asked]
    differing = [pair for pair in made if len({choice.text.strip() for choice in pair.choices}) > 1]
    telling = differing if len(differing) >= LEAST else []  # of fewer it is decided: no labeler has to work for it
    of = sorted({str(pair.derived_from) for pair in telling})
    people = {"asked": len(made), "same": len(made) - len(differing), "of": of}
    ingest = Ingest(load_salt(engine))
    for _ in range(ATTEMPTS):
        try:
            with writing(engine) as connection:
                _store(connection, ingest, telling, report)
        except (IntegrityError, StoreConflictError):
            continue
        with reading(engine) as connection:
            return heard(connection, {**report, "people": people, "promote": None})
    raise TrainingError("The store is being erased from: wait until that is done, and start again.")


def heard(connection: Connection, report: Mapping[str, Any], *, now: datetime | None = None) -> dict[str, Any]:
    """The report with what labelers said until now, decided where that was the last thing to wait for."""
    if report["promote"] is not None:
        return dict(report)
    told = {key: report["people"][key] for key in ("asked", "same", "of")}
    policies = (report["candidate"]["id"], report["incumbent"]["id"])
    found = pairs.compared(connection, *policies, told["of"], now=now or datetime.now(UTC))
    people = told | {"judged": len(found.shares), "waiting": found.waiting}
    if found.waiting:
        return {**report, "people": people}
    shares = [*found.shares, *[0.5] * told["same"]]
    settings = report["settings"]
    if len(found.shares) < LEAST:
        differing = f"{told['asked'] - told['same']} of {told['asked']} answers differ from the incumbent's"
        sentence = f"Labelers judged {len(found.shares)} prompts" if told["of"] else differing
        rule = Rule("people", sentence, f"at least {LEAST}", passed=False)
    else:
        rate = rate_of(shares, settings["seed"])
        people |= {key: round(value, DIGITS) for key, value in rate.items()}
        rule = win_rule("win rate by people", people, settings["min_win_rate"])
    promote, reasons = decide([rule])
    reasons = [*report["reasons"], *reasons] if promote else reasons
    return {**report, "people": people, "promote": promote, "reasons": reasons}


def _pair(report: Mapping[str, Any], example: Example, row: Mapping[str, Any]) -> LoggedCompletion:
    """Of the first answers. Whose it is says the store (`_store`)."""
    now, settings, is_chat = time.time(), report["settings"], not is_text(example.record.prompt)
    first = (row["candidate"][0], row["incumbent"][0])
    writers = (None, report["incumbent"]["id"])
    return LoggedCompletion(
        id=new_id("chatcmpl" if is_chat else "cmpl", at_s=now),
        endpoint="chat" if is_chat else "text",
        source=pairs.EVALUATION,
        created_s=now,
        model=report["candidate"]["name"],
        policy_id=report["candidate"]["id"],
        messages=[dict(message) for message in example.record.prompt],
        choices=[
            LoggedChoice(index, answer["text"], "stop" if answer["ended"] else "length", source=writer)
            for index, answer, writer in zip((pairs.OWN, pairs.RIVAL), first, writers, strict=True)
        ],
        params={"temperature": settings["temperature"], "max_tokens": settings["max_new_tokens"]},
        completion_tokens=sum(answer["tokens"] for answer in first),
        key_id="",
        derived_from=example.completion_id,
        retrievable=False,
        trainable=True,
    )


def _store(connection: Connection, ingest: Ingest, made: Sequence[LoggedCompletion], report: Mapping[str, Any]) -> None:
    """Those that are not there yet, of what has not been erased meanwhile; each is of whom it repeats."""
    there = pairs.evaluated(connection, report["candidate"]["id"], report["incumbent"]["id"])
    new = {str(pair.derived_from): pair for pair in made if pair.derived_from not in there}
    columns = (Completion.id, Completion.key_id, Completion.user_hash)
    rows = [row for some in batches(new) for row in connection.execute(select(*columns).where(Completion.id.in_(some)))]
    ingest.insert(connection, [replace(new[row.id], key_id=row.key_id, user_hash=row.user_hash) for row in rows])
