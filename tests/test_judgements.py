"""Which feedback an export has: the newest word of each author, and what is left of an order."""

from pathlib import Path

import pytest
from completions import add
from exchanged import answers, chosen, exported, make_ids_in_order, make_small_batches, order, say, taken_out, untrain
from sqlalchemy import Engine

from honed.server.store.erasure import erase_completion
from honed.server.store.exchange.exporting import Exported


@pytest.fixture(autouse=True)
def small_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_batches(monkeypatch)
    make_ids_in_order(monkeypatch)


def test_the_newest_correction_of_an_author_counts(store: Engine, tmp_path: Path) -> None:
    one = add(store, "Q", "a", "b")
    for choice, words, by in [
        (0, "old", {}), (0, "ann's old", {"labeler": "ann"}), (0, "new", {}), (1, "of the other", {}),
        (0, "of another key", {"key_id": "key-2"}), (0, "another's ann's", {"labeler": "ann", "key_id": "key-2"}),
        (0, "ann's new", {"labeler": "ann"}),
    ]:  # fmt: skip
        say(store, one, "correction", choice, text=words, **by)
    say(store, add(store, "R"), "correction", text="of another question")
    assert answers(taken_out(store, tmp_path, "demonstrations")) == [
        "new", "of the other", "of another key", "another's ann's", "ann's new", "of another question"
    ]  # fmt: skip


def test_the_newest_thumb_of_an_author_counts(store: Engine, tmp_path: Path) -> None:
    one = add(store, "Q", "a", "b")
    for choice, number, by in [(0, 1, {}), (1, 1, {}), (0, 0, {"labeler": "ann"}), (0, 0, {}), (1, 1, {})]:
        say(store, one, "thumb", choice, number=number, **by)
    say(store, one, "rating", number=7)
    rows = taken_out(store, tmp_path, "thumbs")
    assert [(row["completion"][0]["content"], row["label"]) for row in rows] == [
        ("a", False),
        ("a", False),
        ("b", True),
    ]


def test_the_newest_order_of_the_same_answers_counts(store: Engine, tmp_path: Path) -> None:
    one, two = add(store, "Q", "a", "b", "c"), add(store, "Q", "d")
    order(store, (one, 0, 1), (one, 1, 2))  # said anew below, as a comparison
    order(store, (one, 0, 1), (two, 0, 2))  # said anew below, naming the other
    order(store, (one, 0, 1), (one, 1, 2), (one, 2, 3))  # more answers: another word
    order(store, (one, 0, 1), (one, 1, 2), labeler="ann")  # another author
    order(store, (one, 1, 1), (one, 0, 2), kind="comparison")
    order(store, (two, 0, 1), (one, 0, 2))
    assert chosen(taken_out(store, tmp_path, "pairs")) == [
        ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b"), ("b", "a"), ("d", "a")
    ]  # fmt: skip
    ranked = [[each["text"] for each in row["answers"]] for row in taken_out(store, tmp_path, "rankings")]
    assert ranked == [["a", "b", "c"], ["a", "b"], ["a", "d"]]


def test_ties_and_the_same_text_make_no_pair(store: Engine, tmp_path: Path) -> None:
    one = add(store, "Q", "a", "b", "b")
    order(store, (one, 0, 1), (one, 1, 1), kind="comparison")
    order(store, (one, 0, 1), (one, 1, 1), (one, 2, 3))
    assert chosen(taken_out(store, tmp_path, "pairs")) == [("a", "b")]
    [row] = taken_out(store, tmp_path, "rankings")
    assert [each["rank"] for each in row["answers"]] == [1, 1, 3]


def test_what_is_left_of_an_order_stands(store: Engine, tmp_path: Path) -> None:
    ids = [add(store, "Q", answer) for answer in "abcd"]
    order(store, *[(each, 0, rank) for rank, each in reversed(list(enumerate(ids, start=1)))])
    erase_completion(store, ids[0])
    untrain(store, ids[2])
    [row] = taken_out(store, tmp_path, "rankings")
    assert row["answers"] == [{"text": "b", "rank": 1}, {"text": "d", "rank": 3}]
    assert chosen(taken_out(store, tmp_path, "pairs")) == [("b", "d")]
    untrain(store, ids[1])
    assert exported(store, tmp_path, "rankings") == ([], Exported()), "one answer is no order, and no failure"


def test_an_order_that_names_what_may_not_be_trained_on(store: Engine, tmp_path: Path) -> None:
    ids = [add(store, "Q", answer) for answer in "abc"]
    order(store, *[(each, 0, rank) for rank, each in enumerate(ids, start=1)])
    untrain(store, ids[0])
    assert taken_out(store, tmp_path, "pairs") == []


def test_a_ranking_has_its_own_authors_demonstration(store: Engine, tmp_path: Path) -> None:
    one, two = add(store, "Q", "a", "b"), add(store, "R", "a", "b")
    say(store, one, "correction", 1, text="old", labeler="ann")
    order(store, (one, 0, 1), (one, 1, 2), labeler="ann")
    order(store, (one, 0, 1), (one, 1, 2), labeler="ben")
    order(store, (two, 0, 1), (two, 1, 2), labeler="ann")
    say(store, one, "correction", text="new", labeler="ann")
    say(store, two, "correction", text="of the key")
    found = [row.get("demonstration") for row in taken_out(store, tmp_path, "rankings")]
    assert found == ["new", None, None]
