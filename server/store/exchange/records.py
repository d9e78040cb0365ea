"""Records: the human data that `honed import` takes in and `honed export` gives out, whatever form a file has.

Owns the five kinds of record and what makes one valid. Knows no file format (`reading.py`, `writing.py`) and no
table. Invariant: a record that exists can be stored in SQLite and PostgreSQL, written in every format of its kind,
and read back as itself. A prompt is a conversation that ends with the user's message, or one message of the role
`text`: the plain text that a legacy completion continues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Message: TypeAlias = Mapping[str, str]  # role, content and, where it has one, name

TEXT_ROLE: Final = "text"
ROLES: Final = ("system", "user", "assistant")
MAX_LABEL_CHARS = 255  # ids, sources and names; PostgreSQL indexes no value of more than 2,700 bytes
MAX_RANK = 2**31 - 1  # a database's integer


class RecordError(ValueError):
    """What is wrong with a record, in words for whoever prepared the file."""


def message(role: str, content: str, name: str | None = None) -> Message:
    """A message as records hold it. `developer` becomes `system`, as it is rendered: few chat templates know it."""
    named = {} if name is None else {"name": name}
    return {"role": "system" if role == "developer" else role, "content": content, **named}


def text_prompt(text: str) -> tuple[Message, ...]:
    """The prompt of a legacy completion."""
    return (message(TEXT_ROLE, text),)


def is_text(prompt: Sequence[Message]) -> bool:
    """True for the prompt of a legacy completion, which is a plain text."""
    return prompt[0]["role"] == TEXT_ROLE


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question without an answer."""

    prompt: tuple[Message, ...]
    external_id: str | None = None

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)
        _check_label(self.external_id, "the id")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """An answer to imitate."""

    prompt: tuple[Message, ...]
    answer: str
    external_id: str | None = None

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)
        _check_text(self.answer, "the answer", may_be_blank=False)
        _check_label(self.external_id, "the id")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a ranking. Rank 1 is best. A model may have answered nothing: `text` can be empty."""

    text: str
    rank: int
    source: str | None = None

    def __post_init__(self) -> None:
        _check_text(self.text, "an answer", may_be_blank=True)
        if not 1 <= self.rank <= MAX_RANK:
            raise RecordError(f"a rank must be an integer from 1, the best, to {MAX_RANK}, but one is {self.rank}")
        _check_label(self.source, "the source of an answer")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answers to one prompt, judged against each other: ties share a rank, and a pair is a ranking of two.

    Only the order of the ranks counts, so 1, 1, 3 and 1, 1, 2 say the same. `demonstration` is a person's answer.
    """

    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]
    demonstration: str | None = None
    external_id: str | None = None

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)
        if len(self.answers) < 2:
            raise RecordError(f"a ranking needs at least 2 answers, but it has {len(self.answers)}")
        if (best := min(answer.rank for answer in self.answers)) != 1:
            raise RecordError(f"ranks must start at 1, but the best is {best}")
        if self.demonstration is not None:
            _check_text(self.demonstration, "the demonstration", may_be_blank=False)
        _check_label(self.external_id, "the id")


@dataclass(frozen=True, slots=True)
class Thumb:
    """An answer that was judged alone: `label` is True for good. As in rankings, `answer` can be empty."""

    prompt: tuple[Message, ...]
    answer: str
    label: bool
    external_id: str | None = None

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)
        _check_text(self.answer, "the answer", may_be_blank=True)
        _check_label(self.external_id, "the id")


Record: TypeAlias = Prompt | Demonstration | Ranking | Thumb


def _check_prompt(prompt: tuple[Message, ...]) -> None:
    if not prompt:
        raise RecordError("the prompt is empty")
    if len(prompt) == 1 and is_text(prompt):
        _check_text(prompt[0]["content"], "the prompt", may_be_blank=False)
        return
    for position, each in enumerate(prompt, start=1):
        role, what = each["role"], f"message {position}"
        if role not in ROLES:
            raise RecordError(f"{what} has the unknown role '{shown(role)}': use {', '.join(ROLES)}")
        # An empty system message is how many data sets say that there is none.
        _check_text(each["content"], what, may_be_blank=role == "system")
        _check_label(each.get("name"), f"the name of {what}")
    if prompt[-1]["role"] != "user":
        raise RecordError(f"the prompt must end with the user's message, but it ends with the {prompt[-1]['role']}'s")


def _check_text(text: str, what: str, *, may_be_blank: bool) -> None:
    if not may_be_blank and not text.strip():
        raise RecordError(f"{what} is empty")
    if "\0" in text:
        raise RecordError(f"{what} holds a NUL character, which PostgreSQL cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecordError(f"{what} holds half of a surrogate pair, which is no character: write it as UTF-8") from None


def _check_label(label: str | None, what: str) -> None:
    """What names something: an id, a source, a speaker."""
    if label is None:
        return
    _check_text(label, what, may_be_blank=False)
    if len(label) > MAX_LABEL_CHARS:
        raise RecordError(f"{what} is longer than {MAX_LABEL_CHARS} characters")


def shown(text: str, max_chars: int = 40) -> str:
    """A stranger's text for a message of ours: short, and safe on a terminal."""
    cut = text if len(text) <= max_chars else text[: max_chars - 1] + "…"
    return "".join(char if char.isprintable() else "?" for char in cut)
