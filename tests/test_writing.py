"""Records -> TRL's rows, and back: what is written is read as the same record, and what is canonical stays."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.server.store.exchange.jsonl import encode
from honed.server.store.exchange.reading import record_of
from honed.server.store.exchange.records import (
    Answer,
    Demonstration,
    Message,
    Prompt,
    Ranking,
    Record,
    RecordError,
    Thumb,
    message,
    text_prompt,
)
from honed.server.store.exchange.writing import demonstration_row, pair_rows, prompt_row, ranking_row, thumb_row

HI: Message = {"role": "user", "content": "hi"}
HELLO: Message = {"role": "assistant", "content": "hello"}
SYSTEM: Message = {"role": "system", "content": ""}
NAMED: Message = {"role": "user", "content": "hi", "name": "ann"}


def rows_of(record: Record) -> list[dict[str, Any]]:
    """A record in the form of its kind; a pair as a pair."""
    if isinstance(record, Demonstration):
        return [demonstration_row(record)]
    if isinstance(record, Thumb):
        return [thumb_row(record)]
    if isinstance(record, Prompt):
        return [prompt_row(record)]
    return list(pair_rows(record)) if len(record.answers) == 2 else [ranking_row(record)]


CANONICAL: list[dict[str, Any]] = [
    {"messages": [SYSTEM, NAMED, HELLO, HI, HELLO]},
    {"id": "x", "messages": [HI, HELLO]},
    {"prompt": "The sky is", "completion": " blue."},
    {"prompt": [HI], "chosen": [HELLO], "rejected": [{"role": "assistant", "content": ""}]},
    {"id": "x", "prompt": "The sky is", "chosen": " blue.", "rejected": " red."},
    {"prompt": [HI], "completion": [HELLO], "label": True},
    {"prompt": "The sky is", "completion": "", "label": False},
    {"prompt": [HI, HELLO, HI]},
    {"prompt": "The sky is"},
    {
        "id": "x",
        "messages": [HI],
        "answers": [{"text": t, "source": "m", "rank": r} for t, r in (("a", 1), ("a", 2), ("", 2))],
        "demonstration": "hello",
    },
    {"prompt": "sky", "answers": [{"text": t, "rank": r} for t, r in (("c", 3), ("a", 1), ("b", 1))]},
]


@pytest.mark.parametrize("row", CANONICAL, ids=lambda row: ",".join(row))
def test_a_canonical_row_is_written_as_it_was_read(row: dict[str, Any]) -> None:
    record, ignored = record_of(row)
    assert ignored == ()
    assert rows_of(record) == [row]
    assert list(rows_of(record)[0]) == list(row), "keys in the same order"


def test_every_strict_pair_is_written_and_no_other() -> None:
    texts = [("c", 3), ("a", 1), ("b", 1), ("a", 3), ("d", 7)]
    ranking = Ranking((HI,), tuple(Answer(text, rank, "m") for text, rank in texts), "hello", "x")
    rows = list(pair_rows(ranking))
    assert all(row["prompt"] == [HI] and row["id"] == "x" and len(row) == 4 for row in rows)
    pairs = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert pairs == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "a"), ("b", "d"), ("c", "d"), ("a", "d")]


def test_a_tie_says_nothing_in_pairs() -> None:
    assert list(pair_rows(Ranking((HI,), (Answer("a", 1), Answer("b", 1))))) == []


def test_a_row_does_not_share_its_messages_with_the_record() -> None:
    record = Prompt((dict(HI),))
    prompt_row(record)["prompt"][0]["content"] = "changed"
    assert record.prompt == (HI,)


def test_developer_is_written_as_system() -> None:
    assert message("developer", "be") == {"role": "system", "content": "be"}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ((), "the prompt is empty"),
        ((HI, *text_prompt("sky")), "message 2 has the unknown role 'text'"),
        (({"role": "developer", "content": "be"}, HI), "the unknown role 'developer': use system, user, assistant"),
        (({**HI, "name": "a\0"},), "the name of message 1 holds a NUL character"),
        ((HI, SYSTEM), "must end with the user's message"),
    ],
)
def test_a_record_is_valid_or_it_is_not_made(prompt: tuple[Message, ...], words: str) -> None:
    with pytest.raises(RecordError) as refused:
        Prompt(prompt)
    assert words in str(refused.value)


LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
ANY_TEXT = st.text(LETTERS, max_size=12)
TEXT = ANY_TEXT.filter(lambda text: bool(text.strip()))
LABEL = st.none() | TEXT
SPEECH = st.builds(message, st.sampled_from(["user", "assistant"]), TEXT, LABEL)
INSTRUCTION = st.builds(message, st.sampled_from(["system", "developer"]), ANY_TEXT)
QUESTION = st.builds(message, st.just("user"), TEXT, LABEL)
CHAT = st.tuples(st.lists(INSTRUCTION | SPEECH, max_size=3), QUESTION).map(lambda parts: (*parts[0], parts[1]))
PROMPT = CHAT | TEXT.map(text_prompt)
ANSWER = st.builds(Answer, ANY_TEXT, st.integers(1, 5), LABEL)
RANKED = st.lists(ANSWER, min_size=1, max_size=4).map(lambda some: (*some, Answer("", 1)))
RANKING = st.builds(Ranking, PROMPT, RANKED, LABEL, LABEL)
PAIR = st.lists(ANY_TEXT, min_size=2, max_size=2, unique=True).map(lambda two: (Answer(two[0], 1), Answer(two[1], 2)))
RECORD = (
    st.builds(Prompt, PROMPT, LABEL)
    | st.builds(Demonstration, PROMPT, TEXT, LABEL)
    | st.builds(Thumb, PROMPT, ANY_TEXT, st.booleans(), LABEL)
    | st.builds(Ranking, PROMPT, PAIR, st.none(), LABEL)
)


def read_back(row: dict[str, Any]) -> Record:
    record, ignored = record_of(json.loads(encode(row)))
    assert ignored == ()
    return record


@settings(deadline=None)
@given(record=RECORD)
def test_what_is_written_is_read_as_the_same_record(record: Record) -> None:
    assert [read_back(row) for row in rows_of(record)] == [record]


@settings(deadline=None)
@given(ranking=RANKING)
def test_a_ranking_comes_back_whole_and_its_pairs_as_pairs(ranking: Ranking) -> None:
    assert read_back(ranking_row(ranking)) == ranking
    strict = [(a, b) for a in ranking.answers for b in ranking.answers if a.rank < b.rank and a.text != b.text]
    pairs = [read_back(row) for row in pair_rows(ranking)]
    assert sorted(
        (pair.answers[0].text, pair.answers[1].text) for pair in pairs if isinstance(pair, Ranking)
    ) == sorted((a.text, b.text) for a, b in strict)
    assert all(pair.prompt == ranking.prompt for pair in pairs)
