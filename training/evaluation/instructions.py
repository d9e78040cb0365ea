"""Instructions whose following a program can check, as in IFEval (Zhou et al. 2023, arXiv:2311.07911); all our own.

Each is one message and a check of the answer as it is shown to people. Owns the list and the checks; asks nobody.
Invariant: a check is a pure function of the text, and says of an empty answer that it follows nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Check: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Instruction:
    """`name` says which; `prompt` is what a user would write."""

    name: str
    prompt: str
    check: Check

    def is_followed(self, answer: str) -> bool:
        text = answer.strip()
        return bool(text) and self.check(text)


def words(text: str) -> list[str]:
    """Runs of letters and digits; an apostrophe or a hyphen inside joins them."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)


def sentences(text: str) -> list[str]:
    """What ends with a full stop, a question mark or an exclamation mark before a space or the end."""
    parts = re.split(r"(?<=[.!?])[\"')\]]*\s+", text)
    return [part for part in parts if words(part)]


def paragraphs(text: str) -> list[str]:
    """What blank lines separate."""
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def lines(text: str) -> list[str]:
    """Those that are not blank."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _has_word(text: str, word: str, times: int = 1) -> bool:
    return len(re.findall(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)) >= times


def _json(text: str) -> Any:
    """None where the whole answer, but for a fence around it, is no JSON."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n```", text, re.DOTALL)
    try:
        return json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):  # so deep a nesting is no answer to anything here
        return None


def _is_object_with(text: str, key: str) -> bool:
    value = _json(text)
    return isinstance(value, dict) and key in value


def _is_array_of_numbers(text: str, count: int) -> bool:
    value = _json(text)
    return isinstance(value, list) and len(value) == count and all(type(each) in (int, float) for each in value)


def _has_marked(text: str, pattern: str, count: int) -> bool:
    """Whether every line is an item of a list, and there are so many."""
    found = lines(text)
    return len(found) == count and all(re.match(pattern, line) for line in found)


_ASKED: Final[tuple[tuple[str, str, Check], ...]] = (
    ("three words", "What is the sea like? Answer in exactly three words.", lambda text: len(words(text)) == 3),
    ("one word", "Which animal says meow? Answer with one word.", lambda text: len(words(text)) == 1),
    ("five words", "Describe winter in exactly five words.", lambda text: len(words(text)) == 5),
    ("at most ten words", "What is a bicycle? Use no more than ten words.", lambda text: 1 <= len(words(text)) <= 10),
    ("at least thirty words", "Tell me about bread in thirty words or more.", lambda text: len(words(text)) >= 30),
    ("lower case", "Name a city you like and say why, using lower-case letters only.", str.islower),
    ("upper case", "Wish me a good morning, using capital letters only.", str.isupper),
    ("include a word", "Write a sentence about a garden with the word river in it.",
     lambda text: _has_word(text, "river")),
    ("include two words", "Write a sentence with both the words candle and window.",
     lambda text: _has_word(text, "candle") and _has_word(text, "window")),
    ("a word twice", "Write about the night and use the word moon at least twice.",
     lambda text: _has_word(text, "moon", 2)),
    ("avoid a word", "What do bees make? Do not use the word honey.", lambda text: not _has_word(text, "honey")),
    ("avoid a letter", "Say something kind without using the letter z or the letter q.",
     lambda text: not set("zqZQ") & set(text)),
    ("end with a question", "Talk to me about music and end with a question mark.", lambda text: text.endswith("?")),
    ("end with an exclamation mark", "Congratulate me, and end with an exclamation mark.",
     lambda text: text.endswith("!")),
    ("end with a phrase", "Say where you would travel, and end with these exact words: safe and sound.",
     lambda text: re.search(r"safe and sound[.!]?$", text) is not None),
    ("begin with a word", "Give me advice about sleep. Begin your answer with the word First.",
     lambda text: re.match(r"First\b", text) is not None),
    ("no comma", "Describe a market in one sentence without any comma.", lambda text: "," not in text),
    ("one sentence", "Explain rain to a child in exactly one sentence.", lambda text: len(sentences(text)) == 1),
    ("two sentences", "Describe a cat in exactly two sentences.", lambda text: len(sentences(text)) == 2),
    ("two paragraphs", "Write two short paragraphs about tea, with a blank line between them.",
     lambda text: len(paragraphs(text)) == 2),
    ("three bullets", "List three fruits, each on its own line that begins with a hyphen, and nothing else.",
     lambda text: _has_marked(text, r"- ?\S", 3)),
    ("numbered list", "Give the four seasons as a list numbered 1. to 4., and nothing else.",
     lambda text: _has_marked(text, r"[1-4]\. ?\S", 4) and [line[0] for line in lines(text)] == list("1234")),
    ("JSON object", 'Reply with a JSON object that has the key "color", and nothing else.',
     lambda text: _is_object_with(text, "color")),
    ("JSON array", "Reply with a JSON array of three numbers, and nothing else.",
     lambda text: _is_array_of_numbers(text, 3)),
    ("quoted", "Give me a proverb, with your whole answer in double quotation marks.",
     lambda text: len(text) > 2 and text[0] in '"“' and text[-1] in '"”'),
    ("digits only", "How much is 12 plus 30? Answer with digits only.",
     lambda text: re.fullmatch(r"[0-9]+", text) is not None),
    ("repeat first", "Repeat the words green door exactly, then on a new line say what may be behind it.",
     lambda text: len(lines(text)) >= 2 and lines(text)[0].strip('".').lower() == "green door"),
)  # fmt: skip
INSTRUCTIONS: Final = tuple(Instruction(*each) for each in _ASKED)
