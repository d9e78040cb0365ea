"""A store with a million completions: how long it takes to list, to filter, to sample a labeling task, to export 10,000
rows, to count, and to erase.

    .venv/bin/python benchmarks/store_scale.py [--completions 1000000] [--database sqlite|postgresql] [--runs 5]

The rows are made in bulk, without redaction or classification. What is timed are the store's own functions, as the
server and the command line call them; the median of the runs counts. The first run finds cold caches.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, insert

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from databases import Postgres

from honed.server.store import completions, erasure, feedback, sampling
from honed.server.store.categories import CATEGORIES, INSTRUCTGPT_SHARES
from honed.server.store.database import database_url, open_database, reading, writing
from honed.server.store.exchange.exporting import What, export
from honed.server.store.ids import new_id
from honed.server.store.messages import chain
from honed.server.store.migrations import migrate
from honed.server.store.prefixes import prefix_key
from honed.server.store.statistics import statistics as count_everything
from honed.server.store.tables import Base, Choice, Completion, Feedback, Message, Tag, Target

AT_ONCE = 10_000  # completions
USERS = 20_000
JUDGED_EVERY = 20  # one completion in so many has a thumb, one a comparison, one a correction
START = datetime(2026, 1, 1, tzinfo=UTC)
ANSWER = "An answer of middling length, as a small model gives it. " * 5
SHARES = [INSTRUCTGPT_SHARES[category] for category in CATEGORIES]

Rows = dict[type[Base], list[dict[str, Any]]]


def batch(first: int, count: int, total: int) -> Rows:
    """Completions number `first` and following, with what belongs to them; every second turn goes on from another."""
    rows: Rows = {Message: [], Completion: [], Choice: [], Tag: [], Feedback: [], Target: []}
    draw = random.Random(first)
    for number in range(first, first + count):
        created = START + timedelta(days=300) * (number / total)
        completion_id = new_id("chatcmpl", at_s=created.timestamp())
        messages = [{"role": "user", "content": f"Question {number}: how do people of group {number % 977} live?"}]
        if number % 2:
            messages += [{"role": "assistant", "content": ANSWER}, {"role": "user", "content": f"And {number}?"}]
        rows[Message] += chain(messages)
        rows[Completion].append(_completion(completion_id, created, messages, number, draw))
        rows[Choice] += [_choice(completion_id, index) for index in range(2)]
        rows[Tag].append({"key": "app", "value": f"app-{number % 1000}", "completion_id": completion_id})
        if number % JUDGED_EVERY < 3:
            _judge(rows, completion_id, created, ("thumb", "comparison", "correction")[number % JUDGED_EVERY])
    return rows


def _completion(
    completion_id: str, created: datetime, messages: list[dict[str, str]], number: int, draw: random.Random
) -> dict[str, Any]:
    prompt_id = chain(messages)[-1]["id"]
    return {
        "id": completion_id, "endpoint": "chat", "source": "server", "created": created,
        "model": f"model-{number % 5}", "policy_id": f"ckpt-{number % 5}", "request_id": None, "prompt_id": prompt_id,
        "prompt_token_ids": None,
        "params": {"temperature": 1.0}, "prompt_tokens": 20, "completion_tokens": 60, "cached_tokens": 0,
        "first_token_ms": 50, "total_ms": 900, "key_id": f"key-{number % 50}", "user_hash": f"{number % USERS:032x}",
        "retrievable": True, "trainable": number % 10 != 9, "tags": {"app": f"app-{number % 1000}"},
        "redactions": {"email": 1} if number % 50 == 0 else {}, "prefix": prefix_key(messages),
        "category": draw.choices(CATEGORIES, SHARES)[0], "derived_from": None,
    }  # fmt: skip


def _choice(completion_id: str, index: int) -> dict[str, Any]:
    packed = bytes(4 * 60)
    return {
        "completion_id": completion_id, "index": index, "text": f"{ANSWER}{index}", "finish_reason": "stop",
        "token_ids": packed, "logprobs": packed, "source": None,
    }  # fmt: skip


def _judge(rows: Rows, completion_id: str, created: datetime, kind: str) -> None:
    feedback_id = new_id("fb", at_s=created.timestamp())
    rows[Feedback].append(
        {
            "id": feedback_id, "created": created, "completion_id": completion_id, "choice": 0, "kind": kind,
            "number": 1 if kind == "thumb" else None, "text": "Better." if kind == "correction" else None,
            "source": "user", "labeler": None, "key_id": "key-1", "idempotency_key": None, "fingerprint": None,
            "policy_id": "ckpt-1", "tags": {},
        }
    )  # fmt: skip
    if kind == "comparison":
        places = range(2)
        rows[Target] += [
            {"feedback_id": feedback_id, "completion_id": completion_id, "choice": place, "rank": place + 1}
            for place in places
        ]


def fill(engine: Engine, total: int) -> None:
    for first in range(0, total, AT_ONCE):
        with writing(engine) as connection:
            for table, rows in batch(first, min(AT_ONCE, total - first), total).items():
                if rows:
                    connection.execute(insert(table), rows)
        print(f"\r{first + AT_ONCE:,} completions", end="", file=sys.stderr, flush=True)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    print(file=sys.stderr)


def questions(engine: Engine, total: int, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is asked, and how. `what` of an export is cut to 10,000 rows by its time, not by its query."""
    middle = new_id("chatcmpl", at_s=(START + timedelta(days=150)).timestamp())

    def listed(**options: Any) -> Callable[[], object]:
        def work() -> object:
            with reading(engine) as connection:
                page, _ = completions.list_chats(connection, None, limit=100, **options)
            assert page, options
            return page

        return work

    def feedback_page() -> object:
        with reading(engine) as connection:
            return feedback.list_feedback(connection, scope=None, limit=1000, kind="comparison")

    def sampled() -> object:
        with reading(engine) as connection:
            found = sampling.sample(connection, random.randint(-(2**63), 2**63 - 1))
        assert found is not None
        return found

    def counted() -> object:
        with reading(engine) as connection:
            return count_everything(connection, now=START + timedelta(days=300))

    def erased() -> object:
        return erasure.erase_user(engine, f"{random.randrange(USERS):032x}")

    yield "list, newest", listed(scope=None, order="desc")
    yield "list, one key, from the middle", listed(scope="key-7", after=middle)
    yield "list, one model", listed(scope=None, model="model-3", after=middle, order="desc")
    yield "list, metadata[app]=...", listed(scope=None, tags={"app": "app-123"})
    yield "list, metadata and key", listed(scope="key-7", tags={"app": "app-7"}, order="desc")
    yield "feedback, 1,000 comparisons", feedback_page
    yield "sample a prompt for labelers", sampled
    whats: tuple[What, ...] = ("pairs", "thumbs", "demonstrations", "prompts", "completions")
    for what in whats:
        yield f"export {what}, for each 10,000 rows", _exporting(engine, what, folder)
    yield "honed stats", counted
    yield f"erase a user ({total // USERS} completions)", erased


def _exporting(engine: Engine, what: What, folder: Path) -> Callable[[], object]:
    def work() -> float:
        started_s = time.perf_counter()
        done = export(engine, what, folder / f"{what}.jsonl")
        return (time.perf_counter() - started_s) * 10_000 / done.rows

    return work


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--completions", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres = Postgres() if given.database == "postgresql" else None
        engine = open_database(database_url(None, folder) if postgres is None else postgres.new_store())
        migrate(engine)
        fill(engine, given.completions)
        for question, work in questions(engine, given.completions, folder):
            seconds = []
            for _ in range(1 if question.startswith("export") else given.runs):
                started_s = time.perf_counter()
                result = work()
                seconds.append(result if isinstance(result, float) else time.perf_counter() - started_s)
            median_ms, first_ms = (1000 * each for each in (statistics.median(seconds), seconds[0]))
            print(f"{question:40} {median_ms:9.1f} ms  (first {first_ms:.1f})", flush=True)
        engine.dispose()
        if postgres is not None:
            postgres.cleanup()


if __name__ == "__main__":
    main()
