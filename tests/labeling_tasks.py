"""Labeling tasks without a server, for tests of the store."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from completions import add, logged
from conftest import eventually
from sqlalchemy import Engine, select, text

from honed.server.store import feedback, labelers, leases, rankings
from honed.server.store.database import reading, writing
from honed.server.store.feedback import StoredFeedback
from honed.server.store.ingest import Ingest
from honed.server.store.labeling import StoredTask, create
from honed.server.store.leases import Lease
from honed.server.store.logged import LoggedCompletion
from honed.server.store.rankings import NewVerdict, StoredVerdict
from honed.server.store.sampling import SampledPrompt
from honed.server.store.tables import Completion, Task
from honed.server.store.users import load_salt

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TEXTS = ("Paris.", "London.", "It is Paris, the capital.", "I do not know.")


def sampled(engine: Engine, prompt: str, **fields: Any) -> SampledPrompt:
    """A stored completion of that prompt, as sampling gives it."""
    completion_id = add(engine, prompt, **fields)
    with reading(engine) as connection:
        row = connection.execute(select(Completion).where(Completion.id == completion_id)).one()
    return SampledPrompt(
        completion_id=completion_id,
        endpoint="chat",
        key_id=row.key_id,
        user_hash=row.user_hash,
        prefix=row.prefix,
        messages=[{"role": "user", "content": prompt}],
    )


def answers_to(prompt: SampledPrompt, texts: tuple[str, ...] = TEXTS) -> LoggedCompletion:
    return logged(
        prompt.messages[0]["content"],
        *texts,
        source="labeling",
        policy_id="ckpt-2",
        key_id=prompt.key_id,
        user_hash=prompt.user_hash,
        derived_from=prompt.completion_id,
        retrievable=False,
    )


def store_task(engine: Engine, prompt: SampledPrompt, *, texts: tuple[str, ...] = TEXTS, wanted: int = 1) -> StoredTask:
    """Later than all others: ids of one millisecond have no order."""
    time.sleep(0.001)
    ingest = Ingest(load_salt(engine))
    with writing(engine) as connection:
        return create(connection, ingest, prompt, answers_to(prompt, texts), wanted=wanted)


def make_task(
    engine: Engine, prompt: str = "What is the capital of France?", *, texts: tuple[str, ...] = TEXTS, wanted: int = 1
) -> StoredTask:
    return store_task(engine, sampled(engine, prompt), texts=texts, wanted=wanted)


def take(engine: Engine, labeler: str, now: datetime = NOW) -> Lease | None:
    with writing(engine) as connection:
        return leases.lease(connection, labeler, now=now)


def taken(engine: Engine, labeler: str, now: datetime = NOW) -> Lease:
    lease = take(engine, labeler, now)
    assert lease is not None
    return lease


def say(
    engine: Engine, task_id: str, labeler: str, verdict: Any = "ranked", *, now: datetime = NOW, **said: Any
) -> StoredVerdict:
    """Unless something else is said, that all answers are as good as in the order of their labels."""
    if verdict == "ranked":
        said.setdefault("ranking", [["A"], ["B"], ["C"], ["D"]])
    new = NewVerdict(task_id=task_id, labeler=labeler, verdict=verdict, **{"key_id": "key-2"} | said)
    with writing(engine) as connection:
        return rankings.record(connection, new, now=now)


def ranking_of(lease: Lease, *texts: tuple[str, ...]) -> list[list[str]]:
    """Groups of texts, in the labels that this labeler sees."""
    labels = {answer.text: answer.label for answer in lease.answers}
    return [[labels[text] for text in group] for group in texts]


def given(engine: Engine) -> list[StoredFeedback]:
    """All feedback, the oldest first."""
    with reading(engine) as connection:
        found, _ = feedback.list_feedback(connection, scope=None)
    return sorted(found, key=lambda each: each.created)  # ids of one millisecond have no order


def task_row(engine: Engine, task_id: str) -> Any:
    with reading(engine) as connection:
        return connection.execute(select(Task).where(Task.id == task_id)).one()


def states(engine: Engine, now: Any = NOW) -> dict[str, Counter[Any]]:
    """How often each labeler's assignments are in which state."""
    with reading(engine) as connection:
        return labelers.progress(connection, now=now).labelers


def until_blocked(engine: Engine) -> None:
    """Waits until somebody else waits for a lock."""
    if engine.dialect.name == "sqlite":
        time.sleep(0.1)  # SQLite does not tell; whoever comes later than this finds no lock, and the same answer
        return
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    def is_blocked() -> bool:
        with reading(engine) as connection:
            return bool(connection.execute(waiting).scalar_one())

    eventually(is_blocked)
