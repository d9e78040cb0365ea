"""From logged completions to rows: once, redacted, hashed, with what was consented to."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from completions import add, count, ingest, logged
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from honed.server.store.database import reading, writing
from honed.server.store.ids import new_id
from honed.server.store.ingest import logprobs, token_ids
from honed.server.store.logged import LoggedChoice, LoggedCompletion, from_line
from honed.server.store.messages import load_prompts
from honed.server.store.originals import Sealer
from honed.server.store.prefixes import prefix_key
from honed.server.store.tables import Choice, Completion, Erasure, Message, Original, Tag
from honed.server.store.users import hash_user, load_salt, set_consent


def row(engine: Engine, table: Any, **key: Any) -> Any:
    with reading(engine) as connection:
        return connection.execute(select(table).filter_by(**key)).one()


def test_a_completion_is_stored_whole(store: Engine) -> None:
    completion = logged(
        "Hi", "A", "B", params={"temperature": 0.5, "stop": ["x"]}, tags={"app": "mail"}, request_id="req_1",
        created_s=1_700_000_000.25, first_token_ms=5, total_ms=9, cached_tokens=3,
    )  # fmt: skip
    assert ingest(store, [completion]).completions == 1
    stored = row(store, Completion, id=completion.id)
    assert stored.created == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert (stored.params, stored.tags) == ({"temperature": 0.5, "stop": ["x"]}, {"app": "mail"})
    assert (stored.model, stored.policy_id, stored.key_id, stored.request_id) == ("tiny", "ckpt-1", "key-1", "req_1")
    assert (stored.prompt_tokens, stored.completion_tokens, stored.cached_tokens) == (7, 3, 3)
    assert (stored.first_token_ms, stored.total_ms) == (5, 9)
    assert stored.prefix == prefix_key(completion.messages)
    assert (stored.user_hash, stored.redactions, stored.derived_from) == (None, {}, None)
    with reading(store) as connection:
        assert load_prompts(connection, [stored.prompt_id])[stored.prompt_id] == completion.messages
        choices = connection.execute(select(Choice).order_by(Choice.index)).all()
    assert [(choice.index, choice.text, choice.finish_reason) for choice in choices] == [
        (0, "A", "stop"), (1, "B", "stop")
    ]  # fmt: skip
    assert token_ids(choices[0].token_ids) == [5, 6, 2]
    assert logprobs(choices[0].logprobs) == [-0.5, -0.25, -0.125]
    assert row(store, Tag, key="app").value == "mail"


def test_the_same_completion_twice_is_there_once(store: Engine) -> None:
    completion = logged("Hi", tags={"a": "b"})
    ingest(store, [completion, completion])
    ingest(store, [completion])
    assert [count(store, table) for table in (Completion, Choice, Message, Tag)] == [1, 1, 1, 1]


def test_personal_data_is_redacted_and_its_tokens_are_not_kept(store: Engine) -> None:
    completion = logged(
        "I am ann@example.org", "Hello ann@example.org", "Hello", prompt_token_ids=[1, 2],
        messages=[{"role": "user", "content": "I am ann@example.org", "name": "ann@example.org"}],
        params={"stop": ["ann@example.org:", "x"], "temperature": 1},
    )  # fmt: skip
    done = ingest(store, [completion])
    assert done.redactions == {"email": 4}
    stored = row(store, Completion, id=completion.id)
    assert stored.redactions == {"email": 4}
    assert stored.params == {"stop": ["[EMAIL]:", "x"], "temperature": 1}
    assert stored.prompt_token_ids is None
    message = row(store, Message)
    assert (message.content, message.name) == ("I am [EMAIL]", "[EMAIL]")
    first, second = (row(store, Choice, index=index) for index in (0, 1))
    assert (first.text, first.token_ids, first.logprobs) == ("Hello [EMAIL]", None, None)
    assert (second.text, token_ids(second.token_ids)) == ("Hello", [5, 6, 2])
    assert count(store, Original) == 0, "nothing is kept unless the operator says so"


def test_token_ids_of_a_harmless_prompt_are_kept(store: Engine) -> None:
    ingest(store, [logged("Hi", prompt_token_ids=[7, 8])])
    assert token_ids(row(store, Completion).prompt_token_ids) == [7, 8]


def test_originals_are_sealed(store: Engine) -> None:
    sealer = Sealer(Fernet.generate_key().decode())
    ingest(store, [logged("I am ann@example.org", "Hello"), logged("Harmless")], sealer=sealer)
    original = row(store, Original)
    assert b"ann@" not in original.sealed
    opened = sealer.open(original.sealed)
    assert opened is not None
    assert (opened.messages[0]["content"], opened.choices) == ("I am ann@example.org", {0: "Hello"})
    assert Sealer(Fernet.generate_key().decode()).open(original.sealed) is None


def test_imports_may_keep_personal_data(store: Engine) -> None:
    ingest(store, [logged("I am ann@example.org")], keep_personal_data=True)
    assert row(store, Message).content == "I am ann@example.org"


def test_users_are_hashed_with_the_stores_salt(store: Engine) -> None:
    ingest(store, [logged(user="ann")])
    stored = row(store, Completion).user_hash
    assert stored == hash_user(load_salt(store), "ann") != hash_user("another", "ann")
    assert "ann" not in stored


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((True, True), [(True, True)]), ((True, False), [(True, False)]), ((False, True), [(False, True)]),
     ((False, False), [])],
)  # fmt: skip
def test_the_two_flags_are_apart(store: Engine, flags: tuple[bool, bool], expected: list[tuple[bool, bool]]) -> None:
    ingest(store, [logged(retrievable=flags[0], trainable=flags[1])])
    with reading(store) as connection:
        assert connection.execute(select(Completion.retrievable, Completion.trainable)).all() == expected


def test_a_user_who_denied_training_is_out_of_it(store: Engine) -> None:
    user_hash = hash_user(load_salt(store), "ann")
    ingest(store, [logged(user="ann"), logged(user="ben")])
    with writing(store) as connection:
        assert set_consent(connection, user_hash, trainable=False) == 1
    ingest(store, [logged(user="ann"), logged(user="ann", retrievable=False)])
    with reading(store) as connection:
        rows = connection.execute(select(Completion.user_hash, Completion.trainable)).all()
    assert sorted(trainable for owner, trainable in rows if owner == user_hash) == [False, False]
    assert [trainable for owner, trainable in rows if owner != user_hash] == [True]
    with writing(store) as connection:
        assert set_consent(connection, user_hash, trainable=True) == 0
    ingest(store, [logged(user="ann")])
    with reading(store) as connection:
        assert (
            connection.execute(select(Completion.trainable).filter_by(user_hash=user_hash)).scalars().all().count(True)
            == 1
        )


def test_what_was_asked_before_an_erasure_does_not_come_in_after_it(store: Engine) -> None:
    user_hash = hash_user(load_salt(store), "ann")
    note = {"id": new_id("erasure"), "created": datetime.now(UTC), "user_hash": user_hash, "completions": 0,
            "feedback": 0, "checkpoints": {"ids": []}}  # fmt: skip
    with writing(store) as connection:
        connection.execute(insert(Erasure).values(note))
    late = logged(user="ann", created_s=time.time() - 60)
    done = ingest(
        store, [late, logged(user="ben", created_s=time.time() - 60), logged(user="ann", created_s=time.time() + 1)]
    )
    assert (done.completions, done.dropped) == (2, 1)
    with reading(store) as connection:
        assert late.id not in connection.execute(select(Completion.id)).scalars().all()


def test_characters_that_a_database_refuses(store: Engine) -> None:
    completion = logged("a\0b", "c\0d", tags={"k\0": "v\0"}, params={"stop": ["\0"]})
    ingest(store, [completion])
    assert row(store, Message).content == "a\ufffdb"
    assert row(store, Choice).text == "c\ufffdd"
    assert row(store, Tag).key == "k\ufffd"


def test_a_category_is_that_of_the_last_question(store: Engine) -> None:
    turns = [{"role": "user", "content": "Write a poem about spring"}, {"role": "assistant", "content": "..."},
             {"role": "user", "content": "What is the capital of France?"}]  # fmt: skip
    add(store, messages=turns)
    assert row(store, Completion).category == "open_qa"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.text(), st.lists(st.floats(width=32, allow_nan=False), max_size=5))
def test_a_line_holds_all_of_it(prompt: str, answer: str, values: list[float]) -> None:
    prompt, answer = (text.encode("utf-8", "replace").decode() for text in (prompt, answer))
    choice = LoggedChoice(0, answer, None, token_ids=[1] * len(values), logprobs=values)
    completion = logged(prompt, choices=[choice], user="ann", tags={"a": "b"}, prompt_token_ids=[3])
    line = completion.to_line()
    assert b"\n" not in line
    assert from_line(line) == completion


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"{}", b'{"choices": [{}]}', b'{"choices": [], "x": 1}'])
def test_a_damaged_line_is_said(line: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        from_line(line)


def test_lines_are_small() -> None:
    assert isinstance(logged(), LoggedCompletion)
    assert len(logged().to_line()) < 1000
