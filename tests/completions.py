"""Completions as a server logs them, for tests of the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, func, select

from honed.server.store.database import reading, writing
from honed.server.store.ids import new_id
from honed.server.store.ingest import Ingest, Ingested
from honed.server.store.logged import LoggedChoice, LoggedCompletion
from honed.server.store.tables import Base
from honed.server.store.users import load_salt


def logged(prompt: str = "What is the capital of France?", *answers: str, **fields: Any) -> LoggedCompletion:
    """A completion of one user message; `fields` replace those of `LoggedCompletion`."""
    answers = answers or ("Paris.",)
    choices = [
        LoggedChoice(index, text, "stop", token_ids=[5, 6, 2], logprobs=[-0.5, -0.25, -0.125])
        for index, text in enumerate(answers)
    ]
    given: dict[str, Any] = {
        "id": new_id("chatcmpl", at_s=(created_s := _next_millisecond())),
        "endpoint": "chat",
        "created_s": created_s,
        "model": "tiny",
        "policy_id": "ckpt-1",
        "messages": [{"role": "user", "content": prompt}],
        "choices": choices,
        "key_id": "key-1",
        "retrievable": True,
        "trainable": True,
        "prompt_tokens": 7,
        "completion_tokens": 3,
    }
    return LoggedCompletion(**(given | fields))


_milliseconds = 0


def _next_millisecond() -> float:
    """Now, but later than the last: ids of one millisecond have no order."""
    global _milliseconds
    _milliseconds = max(_milliseconds + 1, time.time_ns() // 1_000_000)
    return (_milliseconds + 0.5) / 1000  # the half keeps the millisecond whatever a float makes of it


def ingest(engine: Engine, completions: Sequence[LoggedCompletion], **options: Any) -> Ingested:
    salt = load_salt(engine)
    with writing(engine) as connection:
        return Ingest(salt, **options).insert(connection, completions)


def add(engine: Engine, prompt: str = "What is the capital of France?", *answers: str, **fields: Any) -> str:
    """Stores one; its id."""
    completion = logged(prompt, *answers, **fields)
    ingest(engine, [completion])
    return completion.id


def count(engine: Engine, table: type[Base]) -> int:
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()
