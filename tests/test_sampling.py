"""Which prompts are drawn: one a prefix, at most so many a user, along the index, on both databases."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count as numbers
from types import SimpleNamespace
from typing import Any

import pytest
from completions import add, count
from query_plans import plan
from sqlalchemy import Engine, event, insert, select

from honed.server.store import sampling
from honed.server.store.database import reading, writing
from honed.server.store.erasure import erase_completion
from honed.server.store.messages import chain
from honed.server.store.sampling import HIGHEST, LOWEST, MAX_PER_USER, SampledPrompt, batch_query, has_room, prompts
from honed.server.store.tables import Completion, Message, Task
from honed.server.store.users import set_consent

NOW = datetime(2026, 1, 2, tzinfo=UTC)
_numbers = numbers()


def put(engine: Engine, prefixes: Iterable[int], *, prompt: str = "Hi", **fields: Any) -> list[str]:
    """Completions with these prefixes, one after the other; their ids."""
    message = chain([{"role": "user", "content": prompt}])[0]
    rows = [_row(prefix, message["id"], **fields) for prefix in prefixes]
    with writing(engine) as connection:
        if connection.execute(select(Message.id).where(Message.id == message["id"])).first() is None:
            connection.execute(insert(Message), [message])
        connection.execute(insert(Completion), rows)
    return [row["id"] for row in rows]


def _row(prefix: int, prompt_id: str, **fields: Any) -> dict[str, Any]:
    row = {
        "id": f"chatcmpl-{next(_numbers):08d}",
        "endpoint": "chat",
        "source": "server",
        "created": NOW,
        "model": "tiny",
        "policy_id": "ckpt-1",
        "prompt_id": prompt_id,
        "params": {},
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "cached_tokens": 0,
        "key_id": "key-1",
        "user_hash": None,
        "retrievable": True,
        "trainable": True,
        "tags": {},
        "redactions": {},
        "prefix": prefix,
        "category": "other",
    }
    return row | fields


def put_tasks(engine: Engine, prefixes: Iterable[int], *, user_hash: str | None = None) -> None:
    """Tasks of these prefixes, which no completion of `put` needs to have."""
    for prefix in prefixes:
        (completion_id,) = put(engine, [prefix], source="labeling", user_hash=user_hash)
        row = {
            "id": f"task-{completion_id}",
            "created": NOW,
            "completion_id": completion_id,
            "prefix": prefix,
            "user_hash": user_hash,
            "wanted": 1,
            "is_open": True,
        }
        with writing(engine) as connection:
            connection.execute(insert(Task), [row])


def drawn(engine: Engine, start: int, tried: Iterable[int] = ()) -> int | None:
    """The prefix of what is sampled from there."""
    with reading(engine) as connection:
        found = sampling.sample(connection, start, set(tried))
    return None if found is None else found.prefix


def listed(engine: Engine) -> list[SampledPrompt]:
    with reading(engine) as connection:
        return list(prompts(connection))


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_the_next_prefix_is_drawn_round_the_end(store: Engine) -> None:
    put(store, [LOWEST, -5, 7, 9, HIGHEST])
    starts = {LOWEST: LOWEST, LOWEST + 1: -5, -5: -5, -4: 7, 8: 9, 10: HIGHEST, HIGHEST: HIGHEST}
    assert {start: drawn(store, start) for start in starts} == starts
    assert drawn(store, 8, tried=[9, HIGHEST, LOWEST]) == -5


def test_an_empty_store_has_none(store: Engine) -> None:
    assert drawn(store, 0) is None
    assert listed(store) == []


def test_what_has_a_task_is_passed_over(store: Engine) -> None:
    put(store, [1, 2, 3])
    put_tasks(store, [1, 3])
    assert [drawn(store, start) for start in (1, 2, 3)] == [2, 2, 2]
    put_tasks(store, [2])
    assert drawn(store, 1) is None


def test_what_may_not_be_trained_on_and_answers_for_labelers_are_none(store: Engine) -> None:
    put(store, [1], trainable=False)
    put(store, [2], source="labeling")
    put(store, [3], source="import")
    assert (drawn(store, 1), [each.prefix for each in listed(store)]) == (3, [3])


def test_a_denial_takes_a_users_prompts_out(store: Engine) -> None:
    add(store, "One prompt", user="ada", messages=[{"role": "user", "content": "One prompt"}])
    with reading(store) as connection:
        (sampled,) = prompts(connection)
    assert sampled.user_hash is not None
    with writing(store) as connection:
        set_consent(connection, sampled.user_hash, trainable=False)
    assert drawn(store, 0) is None


def test_the_oldest_stands_for_its_prefix(store: Engine) -> None:
    oldest, *_ = put(store, [4], prompt="first", user_hash="ada", key_id="key-9", endpoint="text")
    put(store, [4, 4], prompt="second", user_hash="bob")
    with reading(store) as connection:
        sampled = sampling.sample(connection, 0)
    assert sampled == SampledPrompt(
        completion_id=oldest,
        endpoint="text",
        key_id="key-9",
        user_hash="ada",
        prefix=4,
        messages=[{"role": "user", "content": "first"}],
    )
    assert listed(store) == [sampled]


def test_a_user_has_so_many_tasks_and_no_more(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_PER_USER", 3)
    put(store, [10, 11], user_hash="ada")
    put(store, [12])
    put_tasks(store, [0, 1], user_hash="ada")
    put_tasks(store, range(20, 26))  # of nobody: they count for nobody
    assert drawn(store, 10) == 10
    with reading(store) as connection:
        assert has_room(connection, "ada")
    put_tasks(store, [2], user_hash="ada")
    assert drawn(store, 10) == 12
    with reading(store) as connection:
        assert (has_room(connection, "ada"), has_room(connection, "bob"), has_room(connection, None)) == (
            False,
            True,
            True,
        )


def test_the_limit_is_instructgpts(store: Engine) -> None:
    put(store, range(MAX_PER_USER + 50), user_hash="ada")
    put(store, range(1000, 1250))
    put(store, range(2000, 2005), user_hash="bob")
    assert MAX_PER_USER == 200
    assert [each.prefix for each in listed(store)] == [*range(200), *range(1000, 1250), *range(2000, 2005)]


def test_prompts_are_in_the_order_of_prefixes_with_their_messages(store: Engine) -> None:
    conversation = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi", "name": "ada"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    first, second = add(store, messages=conversation), add(store, "Something else")
    add(store, messages=conversation)
    found = listed(store)
    assert [each.prefix for each in found] == sorted(each.prefix for each in found)
    assert {each.completion_id: each.messages for each in found} == {
        first: conversation,
        second: [{"role": "user", "content": "Something else"}],
    }


@pytest.mark.parametrize("seed", range(3))
def test_batches_change_nothing(store: Engine, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the rules written down as they read, with batches that end everywhere."""
    monkeypatch.setattr(sampling, "_FEW", 2)
    monkeypatch.setattr(sampling, "_MANY", 5)
    monkeypatch.setattr(sampling, "MAX_PER_USER", 4)
    rng = random.Random(seed)
    rows = [(rng.randrange(-40, 40), rng.choice([None, "ada", "bob", "cy"])) for _ in range(120)]
    for prefix, user in rows:
        put(store, [prefix], user_hash=user)
    tasked = {prefix: user for prefix, user in rows if rng.random() < 0.1}
    for prefix, user in tasked.items():
        put_tasks(store, [prefix], user_hash=user)
    owners: dict[int, str | None] = {}
    for prefix, user in rows:
        owners.setdefault(prefix, user)
    tasks_of = list(tasked.values())
    usable = sorted(
        prefix for prefix, user in owners.items() if prefix not in tasked and (user is None or tasks_of.count(user) < 4)
    )
    for start in range(-42, 42):
        assert drawn(store, start) == next((p for p in usable if p >= start), usable[0])
    kept: list[tuple[int, str | None]] = []
    for prefix, user in sorted(owners.items()):
        if user is None or [owner for _, owner in kept].count(user) < 4:
            kept.append((prefix, user))
    assert [(each.prefix, each.user_hash) for each in listed(store)] == kept


def test_a_prompt_that_was_asked_very_often_is_stepped_over(store: Engine) -> None:
    put(store, [5] * 3000)
    put(store, [6])
    put_tasks(store, [5])
    with statements(store) as asked:
        assert drawn(store, 5) == 6
    assert len([one for one in asked if "FROM completions" in one]) <= 3
    assert [each.prefix for each in listed(store)] == [5, 6]


def test_the_walk_ends_where_hardly_anything_is_left(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_WALKED", 20)
    put(store, range(100))
    put_tasks(store, range(90))
    assert drawn(store, 0) is None
    assert drawn(store, 85) == 90


def test_the_walk_goes_along_the_index(store: Engine) -> None:
    put(store, range(50))
    with reading(store) as connection:
        found = plan(connection, batch_query(3, HIGHEST, 16))
    assert "ix_completions_samplable" in found
    assert "TEMP B-TREE" not in found
    assert "Sort" not in found
    assert "Seq Scan" not in found


def test_tasks_and_users_are_looked_up_by_their_indices(store: Engine) -> None:
    put_tasks(store, range(50), user_hash="ada")
    with reading(store) as connection:
        by_prefix = plan(connection, sampling.tasks_query([3, 4]))
        by_user = plan(connection, sampling.users_query(["ada", "bob"]))
    for found in (by_prefix, by_user):
        assert "SCAN tasks" not in found.replace("SCAN tasks USING COVERING INDEX", "")
        assert "Seq Scan" not in found
    assert "prefix" in by_prefix
    assert "ix_tasks_user_hash" in by_user


def test_an_erased_prompt_is_not_drawn(store: Engine) -> None:
    completion_id = add(store, "Forget this")
    add(store, "Keep this")
    erase_completion(store, completion_id)
    assert [each.messages[0]["content"] for each in listed(store)] == ["Keep this"]
    assert count(store, Completion) == 1


def test_what_was_erased_while_it_was_read_is_left_out(store: Engine) -> None:
    """On PostgreSQL a row and its message are read in two queries, each of which sees what is there then."""
    put(store, [1, 2])
    with reading(store) as connection:
        first, second = connection.execute(batch_query(LOWEST, HIGHEST, 10)).all()
        rows = [SimpleNamespace(**dict(first._mapping) | {"prompt_id": "erased"}), second]
        assert [each.prefix for each in sampling._loaded(connection, rows)] == [2]
