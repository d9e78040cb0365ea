"""Rows of every format -> records, and the reason for each row that is none."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.server.store.exchange.reading import Entry, Malformed, read, record_of
from honed.server.store.exchange.records import Answer, Demonstration, Prompt, Ranking, RecordError, Thumb, text_prompt

HI: dict[str, Any] = {"role": "user", "content": "hi"}
HELLO: dict[str, Any] = {"role": "assistant", "content": "hello"}
BYE: dict[str, Any] = {"role": "assistant", "content": "bye"}
ANSWERS: list[dict[str, Any]] = [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]


def reason(row: dict[str, Any]) -> str:
    with pytest.raises(RecordError) as refused:
        record_of(row)
    assert len(str(refused.value)) < 700, "nothing of a row is quoted at length"
    return str(refused.value)


def record(row: dict[str, Any]) -> Any:
    """Of a row that has only keys of its format."""
    found, ignored = record_of(row)
    assert ignored == ()
    return found


def pair(prompt: tuple[Any, ...], chosen: str, rejected: str) -> Ranking:
    return Ranking(prompt, (Answer(chosen, 1), Answer(rejected, 2)))


def openai_pair(**changes: Any) -> dict[str, Any]:
    return {"input": {"messages": [HI]}, "preferred_output": [HELLO], "non_preferred_output": [BYE]} | changes


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [HI, HELLO]}, Demonstration((HI,), "hello")),
        ({"id": "x", "messages": [HI, HELLO]}, Demonstration((HI,), "hello", "x")),
        ({"id": 7, "messages": [HI, HELLO]}, Demonstration((HI,), "hello", "7")),
        ({"prompt": "1 + 1 =", "completion": " 2"}, Demonstration(text_prompt("1 + 1 ="), " 2")),
        ({"prompt": [HI], "completion": [HELLO]}, Demonstration((HI,), "hello")),
        ({"prompt": "sky", "completion": "", "label": False}, Thumb(text_prompt("sky"), "", False)),
        ({"prompt": [HI], "completion": [HELLO], "label": True}, Thumb((HI,), "hello", True)),
        ({"prompt": [HI]}, Prompt((HI,))),
        ({"prompt": "sky", "id": "x"}, Prompt(text_prompt("sky"), "x")),
        ({"messages": [HI], "answers": ANSWERS}, Ranking((HI,), (Answer("a", 1), Answer("b", 2)))),
        (
            {"id": "x", "prompt": "sky", "demonstration": "d", "answers": [{**ANSWERS[0], "source": "m"}, ANSWERS[1]]},
            Ranking(text_prompt("sky"), (Answer("a", 1, "m"), Answer("b", 2)), "d", "x"),
        ),
    ],
)
def test_formats(row: dict[str, Any], expected: object) -> None:
    assert record(row) == expected


def test_null_keys_are_as_if_they_were_not_there() -> None:
    """Parquet has every column in every row, and OpenAI's answers come with many nulls."""
    reply = {**HELLO, "name": None, "refusal": None, "tool_calls": None, "function_call": None, "weight": None}
    row = {"messages": [HI, reply], "chosen": None, "answers": None, "prompt": None, "id": None, "score": None}
    assert record(row) == Demonstration((HI,), "hello")


def test_openai_roles_names_and_parts() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    turns = [{"role": "developer", "content": "be"}, {"role": "user", "content": parts, "name": "ann"}, HELLO]
    expected = ({"role": "system", "content": "be"}, {"role": "user", "content": "one\ntwo", "name": "ann"})
    assert record({"messages": turns}).prompt == expected


def test_weights_that_say_what_is_learned_anyhow() -> None:
    turns = [HI, {**BYE, "weight": 0}, HI, {**HELLO, "weight": 1}]
    assert record({"messages": turns}) == Demonstration((HI, BYE, HI), "hello")
    _, ignored = record_of({"messages": [{**HI, "weight": 1}, HELLO]})
    assert ignored == ("messages[].weight",), "only answers have one"


def test_sharegpt() -> None:
    turns = [("system", ""), ("human", "hi"), ("gpt", "hello"), ("user", "more"), ("chatgpt", "bye")]
    row = {"id": "abc_0", "conversations": [{"from": who, "value": text} for who, text in turns]}
    assert record(row) == Demonstration(
        ({"role": "system", "content": ""}, HI, HELLO, {"role": "user", "content": "more"}), "bye", "abc_0"
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [HI]}, "the last message of 'messages' must be the assistant's"),
        ({"messages": []}, "'messages' must be a list of at least one message, but it is an empty list"),
        ({"messages": "hi"}, "but it is the string 'hi'"),
        ({"messages": [HELLO]}, "the prompt is empty"),
        ({"messages": [HI, HELLO, BYE]}, "must end with the user's message, but it ends with the assistant's"),
        ({"messages": [HI, {"role": "assistant", "content": " "}]}, "the answer is empty"),
        ({"messages": [{"role": "user", "content": ""}, HELLO]}, "message 1 is empty"),
        ({"messages": [{"role": "usr", "content": "hi"}, HELLO]}, "'messages[0].role' must be one of system,"),
        ({"messages": [{"role": "text", "content": "hi"}, HELLO]}, "but it is the string 'text'"),
        ({"messages": [{"content": "hi"}, HELLO]}, "'messages[0].role' must be one of"),
        ({"messages": [["hi"], HELLO]}, "'messages[0]' must be an object"),
        ({"messages": [HI, {"role": "assistant"}]}, "'messages[1].content' must be a string, but it is null"),
        ({"messages": [HI, {**HELLO, "tool_calls": [{}]}]}, "'messages[1].tool_calls' is unsupported"),
        ({"messages": [HI, {"role": "tool", "content": "5"}, HELLO]}, "'tool', which is unsupported"),
        ({"messages": [HI, HELLO], "tools": [{"type": "function"}]}, "offers tools, which is unsupported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, HELLO]},
            "'messages[0].content[0]' is a part of the type 'image_url', which is unsupported",
        ),
        ({"messages": [{"role": "user", "content": [{"text": "hi"}]}, HELLO]}, "a part without a type"),
        ({"messages": [{"role": "user", "content": ["hi"]}, HELLO]}, "must be an object with a type"),
        ({"messages": [HI, {**HELLO, "weight": 0}]}, "'messages[1].weight' is 0, and the message is the last"),
        ({"messages": [HI, {**BYE, "weight": 1}, HI, HELLO]}, "'messages[1].weight' is 1, which is unsupported"),
        ({"messages": [HI, {**HELLO, "weight": 0.5}]}, "'messages[1].weight' must be 0 or 1, but it is a number"),
        ({"messages": [HI, {**HELLO, "weight": True}]}, "'messages[1].weight' must be 0 or 1, but it is true"),
        ({"messages": [{**HI, "name": 5}, HELLO]}, "'messages[0].name' must be a string"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "the prompt is empty"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}]},
            "'conversations[1].weight' is 0",
        ),
        ({"conversations": [{"from": "observation", "value": "a"}]}, "'observation', which is unsupported"),
        ({"conversations": [{"from": "someone", "value": "a"}]}, "'conversations[0].from' must be one of"),
    ],
)
def test_chats_that_cannot_be_read(row: dict[str, Any], words: str) -> None:
    assert words in reason(row)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "completion": [HELLO]}, "must be two strings or two lists of messages"),
        ({"prompt": [HI], "completion": [HELLO, HI]}, "'completion' must be one message of the assistant"),
        ({"prompt": [HI], "completion": [HI]}, "but it is: user"),
        ({"prompt": "", "completion": "b"}, "the prompt is empty"),
        ({"prompt": "a", "completion": ""}, "the answer is empty"),
        ({"prompt": "a", "completion": "b", "label": 1}, "'label' must be true or false, but it is a number"),
        ({"prompt": "a", "completion": "b", "label": "true"}, "but it is the string 'true'"),
        ({"prompt": "a", "completion": "b", "label": None}, "'label' must be true or false, but it is null"),
        ({"prompt": [{"role": "system", "content": "be"}]}, "it ends with the system's"),
        ({"prompt": 5}, "'prompt' must be a list of at least one message, but it is a number"),
        ({"prompt": "a\0", "completion": "b"}, "the prompt holds a NUL character, which PostgreSQL cannot store"),
        ({"prompt": [HI], "completion": [{**HELLO, "content": "\ud800"}]}, "half of a surrogate pair"),
        ({"prompt": "a", "completion": "b", "id": "x" * 256}, "the id is longer than 255 characters"),
        ({"prompt": "a", "completion": "b", "id": ""}, "the id is empty"),
        ({"prompt": "a", "completion": "b", "id": True}, "'id' must be a string, but it is true"),
        ({"prompt": "a", "id": 1.5}, "'id' must be a string, but it is a number"),
    ],
)
def test_completions_that_cannot_be_read(row: dict[str, Any], words: str) -> None:
    assert words in reason(row)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([], "a ranking needs at least 2 answers, but it has 0"),
        (ANSWERS[:1], "at least 2 answers, but it has 1"),
        ([{"text": "a", "rank": 2}, {"text": "b", "rank": 3}], "ranks must start at 1, but the best is 2"),
        ([{"text": "a", "rank": 0}, {"text": "b", "rank": 1}], "from 1, the best, to 2147483647, but one is 0"),
        ([{"text": "a", "rank": 1}, {"text": "b", "rank": 2**31}], "but one is 2147483648"),
        ([{"text": "a", "rank": 1.0}, {"text": "b", "rank": 2}], "'answers[0].rank' must be an integer"),
        ([{"text": "a", "rank": True}, {"text": "b", "rank": 2}], "but it is true"),
        ([{"text": "a"}, {"text": "b", "rank": 2}], "'answers[0].rank' must be an integer from 1, the best, but it"),
        ([{"rank": 1}, {"text": "b", "rank": 2}], "'answers[0].text' must be a string, but it is null"),
        (["a", "b"], "'answers[0]' must be an object with a text and a rank"),
        ([{"text": "a", "rank": 1, "source": 5}, ANSWERS[1]], "'answers[0].source' must be a string"),
        ([{"text": "a", "rank": 1, "source": ""}, ANSWERS[1]], "the source of an answer is empty"),
        ("a", "'answers' must be a list"),
    ],
)
def test_rankings_that_cannot_be_read(answers: object, words: str) -> None:
    assert words in reason({"messages": [HI], "answers": answers})


def test_a_ranking_may_tie_and_its_models_may_have_answered_nothing_or_the_same() -> None:
    answers = [{"text": "", "rank": 5}, {"text": "a", "rank": 1}, {"text": "a", "rank": 1}, {"text": "a", "rank": 3}]
    ranking = record({"messages": [HI], "answers": answers})
    assert [(answer.text, answer.rank) for answer in ranking.answers] == [("", 5), ("a", 1), ("a", 1), ("a", 3)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "sky", "chosen": " blue", "rejected": " red"}, pair(text_prompt("sky"), " blue", " red")),
        ({"prompt": [HI], "chosen": [HELLO], "rejected": [BYE]}, pair((HI,), "hello", "bye")),
        ({"chosen": [HI, HELLO], "rejected": [HI, BYE]}, pair((HI,), "hello", "bye")),
        ({"prompt": [HI], "chosen": [HI, HELLO], "rejected": [HI, BYE]}, pair((HI,), "hello", "bye")),
        ({"prompt": "hi", "chosen": [HI, HELLO], "rejected": [HI, BYE]}, pair((HI,), "hello", "bye")),
        (
            {"chosen": "The sky is  blue.", "rejected": "The sky is  black."},
            pair(text_prompt("The sky is"), "  blue.", "  black."),
        ),
        ({"chosen": "The sky", "rejected": "The sky is"}, pair(text_prompt("The"), " sky", " sky is")),
        (
            {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " hello", "rejected": ""},
            pair(text_prompt("\n\nHuman: hi\n\nAssistant:"), " hello", ""),
        ),
        (openai_pair(), pair((HI,), "hello", "bye")),
        (openai_pair(input={"messages": [HI], "tools": [], "parallel_tool_calls": True}), pair((HI,), "hello", "bye")),
    ],
)
def test_pairs(row: dict[str, Any], expected: Ranking) -> None:
    assert record(row).answers[0].text == expected.answers[0].text
    assert record(row) == expected


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {turn}" for i, turn in enumerate(turns))


def test_transcripts_share_all_turns_but_the_last() -> None:
    chosen, rejected = dialogue("hi", "hello", " more\n\nlines ", "yes "), dialogue("hi", "hello", "more\n\nlines", "")
    prompt = (HI, HELLO, {"role": "user", "content": "more\n\nlines"})
    assert record({"chosen": chosen, "rejected": rejected}) == pair(prompt, "yes", "")


def test_a_speakers_own_mark_inside_its_turn_is_text() -> None:
    invented = "hello.  Human: and you?\n\nAssistant: fine"
    row = {"chosen": dialogue("hi", invented), "rejected": dialogue("hi", "no")}
    assert record(row) == pair((HI,), invented, "no")
    doubled = dialogue("hi\n\nHuman: there")
    row = {"chosen": doubled + "\n\nAssistant: a", "rejected": doubled + "\n\nAssistant: b"}
    assert record(row) == pair(({"role": "user", "content": "hi\n\nHuman: there"},), "a", "b")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chosen": dialogue("hi", "a"), "rejected": dialogue("ho", "b")}, "part at message 1"),
        ({"chosen": dialogue("hi", "a", "c", "d"), "rejected": dialogue("hi", "b", "c", "e")}, "part at message 2"),
        ({"chosen": dialogue("hi", "a", "c", "d"), "rejected": dialogue("hi", "a")}, "part at message 3"),
        ({"chosen": dialogue("hi", "a"), "rejected": dialogue("hi", "a", "c", "d")}, "only their last answers may"),
        ({"chosen": dialogue("hi", "a"), "rejected": dialogue("hi", "a ")}, "are the same text, so neither is better"),
        ({"chosen": dialogue("hi", "a", "c"), "rejected": dialogue("hi", "b")}, "last message of 'chosen' must be"),
        ({"chosen": dialogue("", "a"), "rejected": dialogue("", "b")}, "message 1 is empty"),
        ({"chosen": dialogue("hi", "a"), "rejected": "b"}, "one of 'chosen' and 'rejected' is a dialogue"),
        ({"chosen": "yes", "rejected": "no"}, "do not begin with the same words: give their 'prompt'"),
        ({"chosen": "Human: hi Assistant: a", "rejected": "b"}, "do not begin with the same words"),
        ({"prompt": "sky", "chosen": "a", "rejected": "a"}, "are the same text"),
        ({"prompt": "sky", "chosen": "a"}, "they are the string 'a' and null"),
        ({"chosen": [HI, HELLO], "rejected": "b"}, "they are a list and the string 'b'"),
        ({"prompt": [HI], "chosen": "a", "rejected": "b"}, "'prompt' must be a string, but it is a list"),
        ({"prompt": "ho", "chosen": [HI, HELLO], "rejected": [HI, BYE]}, "make it a list of messages"),
        ({"prompt": [HI], "chosen": [HELLO, HI, BYE], "rejected": [BYE]}, "'chosen' must be one message of the assis"),
        ({"chosen": [HI, HELLO], "rejected": [BYE]}, "part at message 1"),
        (openai_pair(input=None), "'input' must be an object with messages, but it is null"),
        (openai_pair(input={"messages": []}), "'input.messages' must be a list of at least one message"),
        (openai_pair(input={"messages": [HI, HELLO]}), "the prompt must end with the user's message"),
        (openai_pair(input={"messages": [HI], "tools": [{}]}), "offers tools, which is unsupported"),
        (openai_pair(preferred_output=None), "'preferred_output' must be a list of at least one message, but it is nu"),
        (openai_pair(preferred_output=[HELLO, BYE]), "'preferred_output' must be one message of the assistant"),
        (openai_pair(non_preferred_output=[HI]), "'non_preferred_output' must be one message of the assistant"),
        (openai_pair(non_preferred_output=[HELLO]), "'non_preferred_output' are the same text, so neither is better"),
    ],
)
def test_pairs_that_cannot_be_read(row: dict[str, Any], words: str) -> None:
    assert words in reason(row)


def test_other_keys_are_named_and_a_format_wins_that_says_more() -> None:
    reply = {**BYE, "weight": 1}
    row = {"prompt": "hi", "prompt_id": "9", "messages": [HI, HELLO], "score": 2.5}
    found, ignored = record_of({**row, "chosen": [HI, HELLO], "rejected": [HI, reply]})
    assert isinstance(found, Ranking)
    assert ignored == ("messages", "prompt_id", "rejected[].weight", "score")
    _, ignored = record_of({"prompt": "hi", "answers": [{**ANSWERS[0], "tokens": 5}, ANSWERS[1]], "sco\nre\ud800": 1})
    assert ignored == ("answers[].tokens", "sco?re?")
    _, ignored = record_of(openai_pair(x=1, input={"messages": [{**HI, "weight": 1}], "y": 1}))
    assert ignored == ("input.messages[].weight", "input.y", "x")


def test_an_unknown_format_names_its_keys() -> None:
    assert "the row has the keys instruction, output, but not messages," in reason({"instruction": "a", "output": "b"})
    assert "the row has no keys" in reason({})
    assert "the keys prompt, response, but" in reason({"prompt": "a", "response": "b"})
    many = reason({f"{'k' * 500}{i}": i for i in range(1000)})
    assert "and 990 more" in many


def test_read_gives_every_row_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}, {"x": 1}, {"messages": [HI, HELLO], "y": 1}
    )
    with path.open("a", encoding="utf-8") as file:
        file.write('\n{"prompt": \n')
    first, second, third, fourth = read(path)
    assert first == Entry(path, 1, Demonstration(text_prompt("a"), "b"))
    assert isinstance(second, Malformed)
    assert (second.line, second.reason.split(",")[0]) == (2, "the format is unknown: the row has the keys x")
    assert third == Entry(path, 3, Demonstration((HI,), "hello"), ("y",))
    assert fourth == Malformed(path, 5, "the line is not JSON: Expecting value at column 11")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("role", "content", "from", "value", "name", "text", "rank", "source", "type")
PIECES = JSON | st.lists(st.dictionaries(st.sampled_from(KEYS), JSON | st.sampled_from(["user", "assistant", "text"])))
NAMES = (
    *("id", "messages", "conversations", "prompt", "completion", "label", "chosen", "rejected", "answers", "x"),
    *("input", "preferred_output", "non_preferred_output"),
)


@settings(deadline=None)
@given(row=st.dictionaries(st.sampled_from(NAMES), PIECES, max_size=6))
def test_whatever_a_row_is_it_is_a_record_or_refused(row: dict[str, Any]) -> None:
    try:
        record_of(row)
    except RecordError as error:
        refusal = str(error)
    else:
        return
    assert refusal.isprintable()
    assert len(refusal) < 700
