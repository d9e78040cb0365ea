"""Files -> records: what each known format's row means, whatever file it came from.

Owns the formats and the key that each is told by. Does not know how a file is cut into rows (`files.py`) nor what
becomes of the records. Invariant: every row that is not blank comes out once, in order, as an `Entry` or as a
`Malformed` that says why; nothing of a row is dropped without being named.

    {"messages": [...]}  {"conversations": [...]}        OpenAI's and ShareGPT's chats     Demonstration
    {"prompt", "completion"}                             TRL's prompt-completion           Demonstration
    {"chosen", "rejected"}  {"prompt", ...}              hh-rlhf's and TRL's preferences   Ranking of two
    {"input", "preferred_output", "non_preferred_output"} OpenAI's preferences             Ranking of two
    {"messages" or "prompt", "answers", ...}             ranked answers                    Ranking
    {"prompt", "completion", "label"}                    TRL's unpaired preferences        Thumb
    {"prompt"}                                           TRL's prompt-only                 Prompt

Each may have an `id`. Prompts and answers are strings or lists of messages. Of a chat the last answer is what is
learned, so OpenAI's `weight` is taken where it says the same: 1 of the last answer, 0 of those before it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, Final, TypeAlias

from honed.server.store.exchange.dialogues import (
    after_prompt,
    answer,
    described,
    is_answer,
    is_transcript,
    messages,
    note_ignored,
    string,
    transcript,
)
from honed.server.store.exchange.files import read_rows
from honed.server.store.exchange.records import (
    Answer,
    Demonstration,
    Message,
    Prompt,
    Ranking,
    Record,
    RecordError,
    Thumb,
    shown,
    text_prompt,
)

Row: TypeAlias = Mapping[str, Any]
Pair: TypeAlias = tuple[tuple[Message, ...], str, str]  # prompt, chosen, rejected

MAX_KEYS_SHOWN = 10

_ID: Final = "id"
_TOOL_KEYS: Final = ("tools", "functions", "parallel_tool_calls")
_OUTPUTS: Final = ("preferred_output", "non_preferred_output")
_UP_TO_A_SPACE: Final = re.compile(r"(.*\S)\s", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that could be read. `ignored_keys`: what it has beside its format's keys, such as `messages[].weight`."""

    path: Path
    line: int
    record: Record
    ignored_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that could not be read. `line` counts from 1 (in Parquet, the row)."""

    path: Path
    line: int
    reason: str


def read(path: Path) -> Iterator[Entry | Malformed]:
    """Streams a file: JSON Lines, the same gzipped, or Parquet, told apart by their first bytes.

    Raises FileError where the file as a whole cannot be read: at the first step, or later where it is damaged.
    """
    return entries(path, read_rows(path))


def entries(path: Path, rows: Iterable[tuple[int, Row | str]]) -> Iterator[Entry | Malformed]:
    """What `read` gives, of rows with their lines that were cut already. `path` is only named."""
    for line, row in rows:
        if isinstance(row, str):
            yield Malformed(path, line, row)
            continue
        try:
            record, ignored = record_of(row)
        except RecordError as error:
            yield Malformed(path, line, str(error))
        else:
            yield Entry(path, line, record, ignored)


def record_of(row: Row) -> tuple[Record, tuple[str, ...]]:
    """The record in a row, and the keys of it that its format does not have. Raises RecordError."""
    ignored: set[str] = set()
    has = {key for key, value in row.items() if value is not None}
    if "answers" in has:
        record: Record = _ranking(row, ignored)
    elif "preferred_output" in has or "non_preferred_output" in has:
        record = _openai_pair(row, ignored)
    elif "chosen" in has or "rejected" in has:
        record = _pair(row, ignored)
    elif "label" in row and "completion" in has:
        record = _thumb(row, ignored)
    elif "messages" in has or "conversations" in has:
        record = _chat(row, "messages" if "messages" in has else "conversations", ignored)
    elif {"prompt", "completion"} <= has:
        record = _completion(row, ignored)
    elif "prompt" in has and has <= {"prompt", _ID}:  # with others, such as `response`, it is a format unknown to us
        record = Prompt(_prompt(row["prompt"], ignored), _external_id(row))
    else:
        raise RecordError(_unknown(row))
    return record, tuple(sorted(ignored))


def _chat(row: Row, key: str, ignored: set[str]) -> Demonstration:
    _refuse_tools(row)
    note_ignored(row, (_ID, key, *_TOOL_KEYS), "", ignored)
    prompt, reply = after_prompt(messages(_weighed(row[key], key), key, ignored), key)
    return Demonstration(prompt, reply, _external_id(row))


def _refuse_tools(chat: Row) -> None:
    if chat.get("tools") or chat.get("functions"):
        raise RecordError("the chat offers tools, which is unsupported: honed stores text only")


def _weighed(turns: object, key: str) -> object:
    """The turns without the weights of answers, which say what is learned anyhow. Raises RecordError for others."""
    if not isinstance(turns, list):
        return turns
    return [_without_weight(turn, f"{key}[{i}]", is_last=i == len(turns) - 1) for i, turn in enumerate(turns)]


def _without_weight(turn: object, path: str, *, is_last: bool) -> object:
    if not isinstance(turn, dict) or not is_answer(turn) or turn.get("weight") is None:
        return turn
    weight = turn["weight"]
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RecordError(f"'{path}.weight' must be 0 or 1, but it is {described(weight)}")
    if is_last and weight == 0:
        raise RecordError(f"'{path}.weight' is 0, and the message is the last: there is no answer to learn from")
    if not is_last and weight == 1:
        raise RecordError(
            f"'{path}.weight' is 1, which is unsupported: honed learns the last answer of a chat, so give this one a "
            "row that ends with it"
        )
    return {name: value for name, value in turn.items() if name != "weight"}


def _completion(row: Row, ignored: set[str]) -> Demonstration:
    note_ignored(row, (_ID, "prompt", "completion"), "", ignored)
    prompt, reply = _prompt_and_completion(row, ignored)
    return Demonstration(prompt, reply, _external_id(row))


def _thumb(row: Row, ignored: set[str]) -> Thumb:
    note_ignored(row, (_ID, "prompt", "completion", "label"), "", ignored)
    prompt, reply = _prompt_and_completion(row, ignored)
    if not isinstance(label := row["label"], bool):
        raise RecordError(f"'label' must be true or false, but it is {described(label)}")
    return Thumb(prompt, reply, label, _external_id(row))


def _ranking(row: Row, ignored: set[str]) -> Ranking:
    key = "prompt" if row.get("messages") is None else "messages"
    note_ignored(row, (_ID, key, "answers", "demonstration"), "", ignored)
    prompt = _prompt(row.get(key), ignored) if key == "prompt" else messages(row[key], key, ignored)
    answers = row["answers"]
    if not isinstance(answers, list):
        raise RecordError(f"'answers' must be a list, but it is {described(answers)}")
    return Ranking(
        prompt,
        tuple(_answer(value, f"answers[{index}]", ignored) for index, value in enumerate(answers)),
        _string_or_none(row.get("demonstration"), "demonstration"),
        _external_id(row),
    )


def _answer(value: object, path: str, ignored: set[str]) -> Answer:
    if not isinstance(value, dict):
        raise RecordError(f"'{path}' must be an object with a text and a rank, but it is {described(value)}")
    note_ignored(value, ("text", "rank", "source"), "answers[].", ignored)
    rank = value.get("rank")
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise RecordError(f"'{path}.rank' must be an integer from 1, the best, but it is {described(rank)}")
    source = _string_or_none(value.get("source"), f"{path}.source")
    return Answer(string(value.get("text"), f"{path}.text"), rank, source)


def _pair(row: Row, ignored: set[str]) -> Ranking:
    note_ignored(row, (_ID, "prompt", "chosen", "rejected"), "", ignored)
    given, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        prompt, better, worse = _of_conversations(
            given, messages(chosen, "chosen", ignored), messages(rejected, "rejected", ignored), ignored
        )
    elif isinstance(chosen, str) and isinstance(rejected, str):
        prompt, better, worse = _of_texts(given, chosen, rejected)
    else:
        raise RecordError(
            "'chosen' and 'rejected' must be two strings or two lists of messages, "
            f"but they are {described(chosen)} and {described(rejected)}"
        )
    return _ranked(row, prompt, better, worse, "'chosen' and 'rejected'")


def _openai_pair(row: Row, ignored: set[str]) -> Ranking:
    note_ignored(row, (_ID, "input", *_OUTPUTS), "", ignored)
    given = row.get("input")
    if not isinstance(given, dict):
        raise RecordError(f"'input' must be an object with messages, but it is {described(given)}")
    _refuse_tools(given)
    note_ignored(given, ("messages", *_TOOL_KEYS), "input.", ignored)
    prompt = messages(given.get("messages"), "input.messages", ignored)
    better, worse = (answer(messages(row.get(key), key, ignored), key) for key in _OUTPUTS)
    return _ranked(row, prompt, better, worse, "'preferred_output' and 'non_preferred_output'")


def _ranked(row: Row, prompt: tuple[Message, ...], better: str, worse: str, names: str) -> Ranking:
    if better == worse:
        raise RecordError(f"{names} are the same text, so neither is better")
    return Ranking(prompt, (Answer(better, 1), Answer(worse, 2)), external_id=_external_id(row))


def _of_conversations(
    given: object, chosen: tuple[Message, ...], rejected: tuple[Message, ...], ignored: set[str]
) -> Pair:
    if isinstance(given, list):
        prompt = messages(given, "prompt", ignored)
        return prompt, _own_answer(prompt, chosen, "chosen"), _own_answer(prompt, rejected, "rejected")
    pair = _common_turns(chosen, rejected)
    if given is not None and string(given, "prompt") not in [turn["content"] for turn in pair[0]]:
        raise RecordError("'prompt' is a string that the messages of 'chosen' do not have: make it a list of messages")
    return pair


def _own_answer(prompt: tuple[Message, ...], turns: tuple[Message, ...], path: str) -> str:
    """Some data sets have the prompt once more in front of each answer."""
    return answer(turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns, path)


def _of_texts(given: object, chosen: str, rejected: str) -> Pair:
    if given is not None:
        return text_prompt(string(given, "prompt")), chosen, rejected
    dialogues = is_transcript(chosen), is_transcript(rejected)
    if all(dialogues):
        return _common_turns(transcript(chosen), transcript(rejected))
    if any(dialogues):
        raise RecordError("one of 'chosen' and 'rejected' is a dialogue (Human: ... Assistant: ...), the other is not")
    return _common_text(chosen, rejected)


def _common_turns(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Pair:
    """The prompt is all but the last turn, which only the answers may differ in."""
    (prompt, better), (other, worse) = after_prompt(chosen, "chosen"), after_prompt(rejected, "rejected")
    if prompt != other:
        first = next(i for i, (one, two) in enumerate(zip_longest(chosen, rejected), start=1) if one != two)
        raise RecordError(f"'chosen' and 'rejected' part at message {first}: only their last answers may differ")
    return prompt, better, worse


def _common_text(chosen: str, rejected: str) -> Pair:
    """The prompt is what both texts begin with, up to a space: `The sky is` of `The sky is blue` and `... is black`."""
    common = _UP_TO_A_SPACE.match(_common_start(chosen, rejected))
    if common is None:
        raise RecordError("'chosen' and 'rejected' do not begin with the same words: give their 'prompt'")
    return text_prompt(common[1]), chosen[common.end(1) :], rejected[common.end(1) :]


def _common_start(one: str, two: str) -> str:
    return "".join(char for char, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))


def _prompt(value: object, ignored: set[str]) -> tuple[Message, ...]:
    return text_prompt(value) if isinstance(value, str) else messages(value, "prompt", ignored)


def _prompt_and_completion(row: Row, ignored: set[str]) -> tuple[tuple[Message, ...], str]:
    prompt, completion = row.get("prompt"), row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return text_prompt(prompt), completion
    if isinstance(prompt, list) and isinstance(completion, list):
        return (
            messages(prompt, "prompt", ignored),
            answer(messages(completion, "completion", ignored), "completion"),
        )
    raise RecordError(
        "'prompt' and 'completion' must be two strings or two lists of messages, "
        f"but they are {described(prompt)} and {described(completion)}"
    )


def _external_id(row: Row) -> str | None:
    """The row's own id; a number becomes its digits."""
    value = row.get(_ID)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _string_or_none(value, _ID)


def _string_or_none(value: object, path: str) -> str | None:
    return None if value is None else string(value, path)


def _unknown(row: Row) -> str:
    keys = [shown(str(key)) for key in row]
    more = f" and {len(keys) - MAX_KEYS_SHOWN} more" if len(keys) > MAX_KEYS_SHOWN else ""
    found = f"the keys {', '.join(keys[:MAX_KEYS_SHOWN])}{more}" if keys else "no keys"
    return (
        f"the format is unknown: the row has {found}, but not messages, conversations, answers with messages, "
        "chosen with rejected, preferred_output, prompt with completion (and label), nor prompt alone"
    )
