"""Tables into files: what went in comes out, only what may be trained on and what counts, along indices."""

import json
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from completions import add, count
from exchanged import answers, chosen, exported, make_ids_in_order, make_small_batches, order, put_in, say, taken_out
from sqlalchemy import Connection, Engine, event, update

from honed.server.store.database import is_sqlite, writing
from honed.server.store.exchange import exporting
from honed.server.store.exchange.exporting import export
from honed.server.store.exchange.files import read_rows, write_rows
from honed.server.store.exchange.writing import What
from honed.server.store.logged import LoggedChoice
from honed.server.store.tables import Choice, Completion, Feedback, Target
from honed.server.store.users import hash_user, load_salt, set_consent

Row = dict[str, Any]

SYSTEM: Row = {"role": "system", "content": "Be brief."}
HI: Row = {"role": "user", "content": "hi"}
HELLO: Row = {"role": "assistant", "content": "hello"}
BYE: Row = {"role": "assistant", "content": "bye"}
EMPTY: Row = {"role": "assistant", "content": ""}
TALK: list[Row] = [SYSTEM, {**HI, "name": "ann"}, HELLO, {"role": "user", "content": "Grüße, 東京\n"}]
LETTERS: list[Row] = [{"text": "a", "rank": 2, "source": "m"}, {"text": "b", "rank": 1}, {"text": "", "rank": 2}]

# Rows as they are exported, of chats and of text prompts.
CHATS: Mapping[What, list[Row]] = {
    "demonstrations": [{"messages": [HI, HELLO]}, {"messages": [*TALK, BYE]}, {"messages": [HI, HELLO]}],
    "pairs": [
        {"prompt": TALK, "chosen": [HELLO], "rejected": [EMPTY]},
        {"prompt": [HI], "chosen": [BYE], "rejected": [HELLO]},
        {"prompt": [HI], "chosen": [BYE], "rejected": [HELLO]},
    ],
    "rankings": [
        {"id": "x", "messages": [HI], "answers": LETTERS, "demonstration": "d"},
        {"id": "y", "messages": TALK, "answers": [{"text": "a", "rank": 1}, {"text": "b", "rank": 1}]},
        {"id": "a", "messages": TALK, "answers": [{"text": "a", "rank": 3}, {"text": "b", "rank": 1}]},
    ],
    "thumbs": [
        {"id": "1", "prompt": [HI], "completion": [HELLO], "label": True},
        {"id": "0", "prompt": [HI], "completion": [HELLO], "label": False},
        {"id": "0", "prompt": TALK, "completion": [EMPTY], "label": False},
    ],
    "prompts": [{"prompt": [HI]}, {"prompt": TALK}, {"prompt": [SYSTEM, {"role": "user", "content": "Why?"}]}],
}
TEXTS: Mapping[What, list[Row]] = {
    "demonstrations": [{"id": "x", "prompt": "The sky is", "completion": " blue."}],
    "pairs": [{"prompt": "The sky is", "chosen": " blue.", "rejected": ""}],
    "rankings": [{"prompt": "The sky is", "answers": LETTERS}],
    "thumbs": [{"prompt": "The sky is", "completion": " red.", "label": False}],
    "prompts": [{"id": "x", "prompt": "The sky is"}],
}


@pytest.fixture(autouse=True)
def small_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_batches(monkeypatch)
    make_ids_in_order(monkeypatch)


def in_some_order(rows: Iterable[Row]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def test_what_went_in_comes_out(store: Engine, tmp_path: Path) -> None:
    """All kinds together; prompts come in no order, and with the prompts of all that was judged."""
    for what, rows in [*CHATS.items(), *TEXTS.items()]:
        if what != "prompts":
            assert put_in(store, tmp_path, rows, keep_personal_data=True).records == len(rows)
    for what in CHATS:
        if what not in ("prompts", "demonstrations", "pairs"):
            assert taken_out(store, tmp_path, what) == CHATS[what]
            assert taken_out(store, tmp_path, what, text=True) == TEXTS[what]
    prompts = [{"prompt": [HI]}, {"prompt": TALK}]
    assert in_some_order(taken_out(store, tmp_path, "prompts")) == in_some_order(prompts)
    assert taken_out(store, tmp_path, "prompts", text=True) == [{"prompt": "The sky is"}]


@pytest.mark.parametrize("form", [CHATS, TEXTS], ids=["chats", "texts"])
@pytest.mark.parametrize("what", CHATS)
def test_a_kind_alone_comes_out_as_it_was_and_goes_in_once(
    what: What, form: Mapping[What, list[Row]], store: Engine, tmp_path: Path
) -> None:
    put_in(store, tmp_path, form[what])
    rows = taken_out(store, tmp_path, what, text=form is TEXTS)
    assert in_some_order(rows) == in_some_order(form[what]) if what == "prompts" else rows == form[what]
    again = put_in(store, tmp_path, rows)
    assert (again.records, again.known) == (0, len(rows))
    assert taken_out(store, tmp_path, what, text=form is not TEXTS) == []


def test_redacted_rows_come_out_redacted_and_go_in_once(store: Engine, tmp_path: Path) -> None:
    rows: list[Row] = [{"messages": [HI, {**HELLO, "content": f"Call {name}@example.org"}]} for name in ("ann", "ben")]
    put_in(store, tmp_path, [*rows, {"messages": [HI, HELLO]}])
    out = taken_out(store, tmp_path, "demonstrations")
    assert answers(out) == ["Call [EMAIL]", "Call [EMAIL]", "hello"]
    assert put_in(store, tmp_path, out).known == 3
    assert put_in(store, tmp_path, rows, keep_personal_data=True).records == 2


def test_a_rankings_pairs_and_its_demonstration(store: Engine, tmp_path: Path) -> None:
    put_in(store, tmp_path, CHATS["rankings"])
    assert chosen(taken_out(store, tmp_path, "pairs")) == [("b", "a"), ("b", ""), ("b", "a")]
    assert taken_out(store, tmp_path, "demonstrations") == [
        {"id": "x", "messages": [HI, {"role": "assistant", "content": "d"}]}
    ]


def test_ids_are_given_to_all_rows_or_to_none(store: Engine, tmp_path: Path) -> None:
    put_in(store, tmp_path, CHATS["thumbs"])
    named = add(store, tags={"id": "a client's own, longer than ours may be".ljust(300)})
    assert all("id" in row for row in taken_out(store, tmp_path, "thumbs")), "nothing without one is written"
    say(store, named, "thumb", number=1)
    rows = taken_out(store, tmp_path, "thumbs")
    assert len(rows) == 4
    assert not any("id" in row for row in rows)
    put_in(store, tmp_path, [{**TEXTS["thumbs"][0], "id": "t"}])
    assert [row["id"] for row in taken_out(store, tmp_path, "thumbs", text=True)] == ["t"], "chats are another file"


def test_ids_of_prompts(store: Engine, tmp_path: Path) -> None:
    put_in(store, tmp_path, [{"id": "1", "prompt": [HI]}, {"id": "2", "prompt": TALK}])
    assert sorted(row["id"] for row in taken_out(store, tmp_path, "prompts")) == ["1", "2"]
    add(store, source="labeling", derived_from=None)
    assert all("id" in row for row in taken_out(store, tmp_path, "prompts")), "tasks are no prompts"
    add(store)
    assert not any("id" in row for row in taken_out(store, tmp_path, "prompts"))


def test_texts_and_chats_are_apart_and_counted(store: Engine, tmp_path: Path) -> None:
    put_in(store, tmp_path, [*CHATS["thumbs"], *TEXTS["thumbs"]])
    rows, done = exported(store, tmp_path, "thumbs")
    assert (len(rows), done.other_form, done.inexpressible) == (3, 1, 0)
    rows, done = exported(store, tmp_path, "thumbs", text=True)
    assert (len(rows), done.other_form) == (1, 3)


def test_only_what_may_be_trained_on(store: Engine, tmp_path: Path) -> None:
    for user in ("ann", "ben"):
        completion_id = add(store, f"I am {user}", user, f"not {user}", user=user)
        say(store, completion_id, "thumb", number=1)
        say(store, completion_id, "correction", text=user)
        order(store, (completion_id, 0, 1), (completion_id, 1, 2))
    user_hash = hash_user(load_salt(store), "ann")
    with writing(store) as connection:
        set_consent(connection, user_hash, trainable=False)
    whats: list[What] = ["demonstrations", "pairs", "rankings", "thumbs", "prompts", "completions"]
    for what in whats:
        written = json.dumps(taken_out(store, tmp_path, what))
        assert "ben" in written
        assert "ann" not in written


def test_completions_are_the_finished_answers_of_the_server(store: Engine, tmp_path: Path) -> None:
    for number in range(4):
        add(store, f"Q{number}", f"a{number}", f"b{number}")
    add(store, "cut", choices=[LoggedChoice(0, "off", None), LoggedChoice(1, "whole", "length")])
    add(store, "task", "of a task", source="labeling")
    put_in(store, tmp_path, CHATS["thumbs"])
    rows = taken_out(store, tmp_path, "completions")
    assert answers(rows) == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3", "whole"]
    assert rows[0] == {
        "prompt": [{"role": "user", "content": "Q0"}],
        "completion": [{"role": "assistant", "content": "a0"}],
    }


def test_completions_of_text_prompts(store: Engine, tmp_path: Path) -> None:
    add(store, endpoint="text", messages=[{"role": "text", "content": "The sky is"}])
    add(store)
    rows, done = exported(store, tmp_path, "completions", text=True)
    assert (rows, done.other_form) == ([{"prompt": "The sky is", "completion": "Paris."}], 1)


def test_what_no_row_can_say_is_counted(store: Engine, tmp_path: Path) -> None:
    add(store, messages=[HI, HELLO])
    add(store, messages=[{"role": "tool", "content": "5"}, HI])
    add(store, "Q", "", "fine")
    add(store, messages=[{"role": "developer", "content": "Be brief."}, HI])
    rows, done = exported(store, tmp_path, "completions")
    assert (answers(rows), done.inexpressible) == (["fine", "Paris."], 3)
    assert done.reason == "the prompt must end with the user's message, but it ends with the assistant's"
    assert rows[1]["prompt"] == [SYSTEM, HI]


def test_prompts_are_those_of_the_sampling_rules(store: Engine, tmp_path: Path) -> None:
    for question in ("Q", " q ", "R"):
        add(store, question)
    assert sorted(row["prompt"][0]["content"] for row in taken_out(store, tmp_path, "prompts")) == ["Q", "R"]


def test_a_file_shows_one_state_of_the_store(store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [add(store, f"Q{number}", "a") for number in range(9)]
    for each in ids:
        say(store, each, "thumb", number=1)

    def write_slowly(path: Path, rows: Iterable[Row]) -> int:
        remaining = iter(rows)
        first = next(remaining)
        with writing(store) as connection:
            connection.execute(update(Completion).values(trainable=False))
            connection.execute(update(Feedback).values(number=0))
        return write_rows(path, [first, *remaining])

    monkeypatch.setattr(exporting, "write_rows", write_slowly)
    rows = taken_out(store, tmp_path, "thumbs")
    assert [row["label"] for row in rows] == [True] * 9


def test_parquet(store: Engine, tmp_path: Path) -> None:
    put_in(store, tmp_path, CHATS["thumbs"])
    done = export(store, "thumbs", tmp_path / "thumbs.parquet")
    assert done.rows == 3
    assert [row["label"] for _, row in read_rows(tmp_path / "thumbs.parquet") if isinstance(row, dict)] == [
        True, False, False
    ]  # fmt: skip


def plans(store: Engine, folder: Path, what: What) -> list[str]:
    """How the database finds what each query of an export asks for, with the query."""
    found: list[str] = []

    def explain(connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("SELECT"):
            cursor = connection.connection.cursor()
            cursor.execute(f"{'EXPLAIN QUERY PLAN' if is_sqlite(connection) else 'EXPLAIN'} {statement}", parameters)
            found.append("\n".join([statement, *(row[-1] for row in cursor.fetchall())]))

    event.listen(store, "before_cursor_execute", explain)
    export(store, what, folder / "out.jsonl")
    event.remove(store, "before_cursor_execute", explain)
    return found


WHOLE_TABLE = re.compile(r"^ *(SCAN \w+$|.*Seq Scan)", re.MULTILINE)
SORT = re.compile(r"USE TEMP B-TREE FOR ORDER BY|Sort Key")
WALKS = {
    "demonstrations": "ix_feedback_kind_id",
    "pairs": "ix_feedback_kind_id",
    "rankings": "ix_feedback_kind_id",
    "thumbs": "ix_feedback_kind_id",
    "completions": "sqlite_autoindex_completions_1|pk_completions",
    "prompts": "ix_completions_samplable",
}


@pytest.mark.parametrize("what", WALKS)
def test_every_query_goes_along_an_index(what: What, store: Engine, tmp_path: Path) -> None:
    for number in range(5):
        completion_id = add(store, f"Q{number}", "a", "b")
        say(store, completion_id, "thumb", number=1)
        say(store, completion_id, "correction", text="c")
        order(store, (completion_id, 0, 1), (completion_id, 1, 2))
        order(store, (completion_id, 0, 1), (completion_id, 1, 2), kind="comparison")
    found = plans(store, tmp_path, what)
    if what == "prompts":
        del found[0]  # whether all have an id: a look at all completions, which ends with the first that has none
    walks = [plan for plan in found if "LIMIT" in plan and re.search(WALKS[what], plan)]
    assert len(walks) >= 3 if what != "prompts" else walks
    assert [plan for plan in walks if SORT.search(plan)] == []
    assert [plan for plan in found if WHOLE_TABLE.search(plan)] == []


def test_a_large_store_in_batches(store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes as they are."""
    monkeypatch.undo()
    numbers = list(range(1100))
    random.Random(2).shuffle(numbers)
    rows = [
        {"prompt": [{"role": "user", "content": f"What is {number} + 1?"}], "chosen": [HELLO], "rejected": [BYE]}
        for number in numbers
    ]
    put_in(store, tmp_path, rows)
    assert (count(store, Completion), count(store, Choice), count(store, Target)) == (1100, 2200, 2200)
    assert taken_out(store, tmp_path, "pairs") == rows
