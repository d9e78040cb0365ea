"""Examples as what the trainers compute on."""

from __future__ import annotations

from fakes import tiny_tokenizer

from honed.server.store.exchange.records import (
    Answer,
    Demonstration,
    Prompt,
    Ranking,
    Record,
    Thumb,
    message,
    text_prompt,
)
from honed.training.data.datasets import Example
from honed.training.encoding import Encoder
from honed.training.groups import Group, demonstrations, groups, prompts, texts_of

ENCODER = Encoder(tiny_tokenizer(), 40, 20)
SHORT, OTHER, LONG = text_prompt("Say it."), text_prompt("And now?"), text_prompt("x" * 40)
RANKED = Ranking(SHORT, (Answer("one", 2, "policy"), Answer("two", 1), Answer("three", 2, "person")), "shown")


def example(record: Record, labeler: str | None = None) -> Example:
    return Example(record, "train", None, None, None, labeler, "other")


def test_demonstrations_are_answers_to_imitate_and_those_beside_rankings() -> None:
    """What shows nothing is left out, and what leaves no room."""
    records = [
        Demonstration(SHORT, "answer"),
        RANKED,
        Ranking(OTHER, (Answer("a", 1), Answer("b", 2))),
        Prompt(SHORT),
        Thumb(SHORT, "liked", True),
        Demonstration(LONG, "answer"),
    ]
    assert demonstrations(map(example, records), ENCODER) == [
        ENCODER.tree(SHORT, ["answer"]),
        ENCODER.tree(SHORT, ["shown"]),
    ]


def test_groups_keep_the_order_of_answers_ranks_and_sources() -> None:
    long = Ranking(LONG, (Answer("a", 1), Answer("b", 2)))
    tree = ENCODER.tree(SHORT, ["one", "two", "three"])
    assert tree is not None
    found = groups([example(RANKED, "ann"), example(long)], ENCODER)
    assert found == [Group(tree, (2, 1, 2), ("policy", None, "person"), "ann")]


def test_prompts_of_any_record_come_once_in_their_order() -> None:
    records = [Prompt(OTHER), Demonstration(SHORT, "answer"), RANKED, Thumb(OTHER, "liked", True)]
    assert prompts(map(example, records), ENCODER, 10) == [ENCODER.prompt(OTHER), ENCODER.prompt(SHORT)]


def test_prompts_that_leave_no_room_for_a_whole_answer_are_left_out() -> None:
    room = 40 - len(ENCODER.prompt(SHORT))
    assert prompts([example(Prompt(SHORT))], ENCODER, room) == [ENCODER.prompt(SHORT)]
    assert prompts([example(Prompt(SHORT))], ENCODER, room + 1) == []


def test_a_prompt_for_people_is_its_texts() -> None:
    assert texts_of((message("system", "Be brief."), message("user", "Why?"))) == "Be brief.\n\nWhy?"
