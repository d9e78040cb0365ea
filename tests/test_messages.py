"""Conversations stored message by message: shared beginnings, addresses, what is pruned."""

from completions import add, count, ingest, logged
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from honed.server.store.database import reading, writing
from honed.server.store.messages import address, chain, load_prompts, prune
from honed.server.store.tables import Message

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi", "name": "ann"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Hi"},
]


def test_an_address_is_stable() -> None:
    """It is in the tables: another algorithm would store every conversation again."""
    assert address(None, "user", None, "Hi") == "40e7d7deb25711757958931f4c1ce532"


def test_fields_do_not_run_into_each_other() -> None:
    variants = [
        (None, "user", None, "ab"),
        (None, "usera", None, "b"),
        (None, "user", "", "ab"),
        (None, "user", "a", "b"),
        ("", "user", None, "ab"),
        (None, "user", None, "ab1:"),
    ]
    assert len({address(*fields) for fields in variants}) == len(variants)


def test_a_history_that_is_sent_again_is_stored_once(store: Engine) -> None:
    for length in range(1, 5):
        ingest(store, [logged(messages=TURNS[:length])])
    assert count(store, Message) == 4
    ingest(store, [logged(messages=[*TURNS[:2], {"role": "assistant", "content": "Another answer."}])])
    assert count(store, Message) == 5


def test_a_conversation_comes_back_as_it_was(store: Engine) -> None:
    ids = []
    for messages in (TURNS, TURNS[:2], [{"role": "text", "content": "Once upon"}]):
        ingest(store, [logged(messages=messages)])
        ids.append(chain(messages)[-1]["id"])
    with reading(store) as connection:
        loaded = load_prompts(connection, [*ids, ids[0], "unknown"])
    assert loaded == {ids[0]: TURNS, ids[1]: TURNS[:2], ids[2]: [{"role": "text", "content": "Once upon"}]}


def test_the_same_words_after_other_words_are_another_message(store: Engine) -> None:
    assert chain(TURNS)[-1]["id"] != chain(TURNS[-1:])[-1]["id"]


def test_pruning_takes_what_nobody_refers_to(store: Engine) -> None:
    add(store, messages=TURNS[:2])
    with writing(store) as connection:
        rows = chain(TURNS)
        connection.execute(Message.__table__.insert(), rows[2:])  # type: ignore[attr-defined]  # an answer and a question that no completion has
        prune(connection, [rows[-1]["id"]])
    assert count(store, Message) == 2, "up to the message that a completion has"
    with writing(store) as connection:
        prune(connection, [rows[1]["id"], rows[0]["id"]])
    assert count(store, Message) == 2


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), min_size=1, max_size=5))
def test_ids_tell_conversations_apart(turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    rows = chain(messages)
    assert [row["parent_id"] for row in rows] == [None, *(row["id"] for row in rows[:-1])]
    assert chain([*messages, {"role": "user", "content": ""}])[:-1] == rows
