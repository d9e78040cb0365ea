"""A dataset's card: its numbers, and what people see of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from honed.server.store.exchange.records import Answer, Demonstration, Message, Ranking, Record, message
from honed.training.data.cards import Card, Lengths, Pairs, Source, describe
from honed.training.data.offers import Candidate
from honed.training.data.splits import Split


def candidate(record: Record, prefix: int = 0, **fields: Any) -> Candidate:
    return Candidate(record=record, prefix=prefix, category=fields.pop("category", "chat"), **fields)


def prompt(length: int) -> tuple[Message, ...]:
    return (message("user", "x" * length),)


def card(chosen: list[tuple[Candidate, Split]], **fields: Any) -> Card:
    given = {"id": "data-0123456789ab", "stage": "sft", "source": Source(kind="store", name="store")}
    return Card(**(given | describe(chosen) | fields))


def test_examples_prompts_and_users_are_counted_by_split() -> None:
    record = Demonstration(prompt(3), "yes")
    chosen: list[tuple[Candidate, Split]] = [
        (candidate(record, 1, user="ann"), "train"),
        (candidate(record, 1, user="ann"), "train"),
        (candidate(record, 2), "train"),
        (candidate(record, 3, user="ben"), "validation"),
    ]
    splits = card(chosen).splits
    assert splits["train"].model_dump() == {"examples": 3, "prompts": 2, "users": 1}
    assert splits["validation"].model_dump() == {"examples": 1, "prompts": 1, "users": 1}
    assert splits["test"].model_dump() == {"examples": 0, "prompts": 0, "users": 0}


def test_lengths_are_characters() -> None:
    chosen: list[tuple[Candidate, Split]] = [
        (candidate(Demonstration((message("system", "ab"), *prompt(length)), "y" * length)), "train")
        for length in range(100, 0, -1)
    ]
    found = card(chosen)
    assert found.prompt_lengths == Lengths(min=3, median=52, p95=97, max=102)
    assert found.answer_lengths == Lengths(min=1, median=50, p95=95, max=100)


def test_pairs_that_teach_nothing_are_counted() -> None:
    answers = (Answer("a", 1), Answer("b", 1), Answer("b", 2), Answer("c", 3))
    [found] = [card([(candidate(Ranking(prompt(1), answers)), "train")]).pairs]
    assert found == Pairs(total=6, ties=1, contradictory=1)
    assert card([(candidate(Demonstration(prompt(1), "a")), "train")]).pairs is None


def test_who_wrote_and_who_judged_is_counted_the_most_frequent_first() -> None:
    record = Demonstration(prompt(1), "a")
    names = ["ckpt-1", "person", "ckpt-1"]
    found = card([(candidate(record, writers=(name,), labeler=name[:1], category=name), "train") for name in names])
    assert list(found.sources.items()) == list(found.categories.items()) == [("ckpt-1", 2), ("person", 1)]
    assert found.labelers == {"c": 2, "p": 1}


def test_a_card_is_json_and_comes_back_the_same() -> None:
    found = card(
        [(candidate(Demonstration(prompt(1), "a")), "train")],
        created=datetime(2026, 1, 2, tzinfo=UTC),
        settings={"validation": 0.1, "stage_shares": [0.2, 0.45, 0.35]},
        left_out={"duplicate": 3},
    )
    assert Card.model_validate_json(found.model_dump_json()) == found
