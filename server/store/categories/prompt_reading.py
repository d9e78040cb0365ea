"""Tells what a prompt asks from the text that it merely gives, by punctuation, lines and how people begin to ask.

Owns the cutting of a prompt into sentences, which of them ask, and what counts as a passage; forgives one slip of the
fingers in the verb. Does not say what kind of request it is: the package itself does.

Invariant: every sentence is either asked or given.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from honed.server.store.categories.cues import BY_WORD, openings
from honed.server.store.categories.prompt_words import (
    GIVEN,
    LABELS,
    PERSONAL,
    POLITE,
    QUESTION_WORDS,
    is_chinese,
    normalised,
    numbered,
)

MAX_ASIDE_CHARS: Final = 60  # a longer last sentence without a verb that asks is text, whatever words it has
MAX_LABEL_CHARS: Final = 45  # of what stands before a colon to be a label or a heading of choices
MAX_LINE_CHARS: Final = 300  # a longer first sentence is no request
MIN_PASSAGE_CHARS: Final = 15  # of text set apart by a line's end, a colon or quotes
MIN_LOOSE_PASSAGE_CHARS: Final = 40  # of sentences that are not: they may be details of the request
LONG_PASSAGE_CHARS: Final = 250
MIN_MISSPELT_CHARS: Final = 6  # shorter words have too many neighbours
HEAD_SENTENCES: Final = 3  # may ask, and so may
TAIL_SENTENCES: Final = 2  # what lies between is given
HAN_CHARS: Final = 3  # a Chinese character says about as much as so many letters

# Categories that work on a text that comes with the prompt.
ON_TEXT: Final = ("rewrite", "summarization", "classification", "closed_qa", "extraction")

_PIECE: Final = re.compile(r"(?:[^.!?:\n]+|[.!?:](?=\S))+[.!?:]*|[.!?:]+|\n+")
_QUOTED: Final = re.compile(
    r'"""(?:.+?)(?:"""|$)|```(?:.+?)(?:```|$)|"[^"\n]{12,}"|(?<!\w)\'(?:[^\'\n]|(?<=\w)\'(?=\w)){12,}\'(?!\w)',
    re.DOTALL,
)
_CHOICES: Final = re.compile(r"[\s(]a ?[.):] .+[\s(]b ?[.):] ", re.DOTALL)
_QUIZ: Final = frozenset(("q", "a", "question", "answer"))  # of questions and answers only: no text to find them in
_SECOND_CHOICE: Final = ("b)", "b.", "b:")  # far quicker to look for
_LABEL: Final = re.compile(r"\n *([a-z]+)[a-z ]{0,20}:")
_MARKS: Final = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~¿¡…、，。！；', " "))

_OPENINGS: Final = openings(3, without=("chat", "other"))
_LEADS: Final = openings(2)
_ASIDES: Final = {
    word: [cue for cue in cues if cue.weight >= 4 and cue.category in (*ON_TEXT, "brainstorming")]
    for word, cues in BY_WORD.items()
}


class Sentence(NamedTuple):
    words: str  # " like this ", politeness taken off
    first: str
    mark: str  # the one of .!?: that ends it, or nothing
    size: int
    after: str  # what sets it apart from the sentence before: "\n", ":", "?" or nothing


class Reading(NamedTuple):
    text: str  # the ends of the prompt in lower case, without accents
    ask: str  # " . like this . " with points around the sentences
    num_words: int  # of what is asked
    num_tasks: int  # sentences that begin with a verb that asks
    given_chars: int
    passage: bool  # there is a text to work on, rather than details of the request
    choices: bool  # a) and b)
    question: bool
    refers: bool  # it points at a text, such as "this article"
    labels: Sequence[str]  # "name" of each line "Name: ..."
    num_blanks: int  # labels with nothing behind them
    last: Sentence


NOTHING: Final = Sentence(" ", "", "", 0, "\n")


def read(prompt: str) -> Reading:
    """All that the package itself goes by; never raises."""
    text = normalised(prompt)
    bare = _QUOTED.sub(" @ ", text).replace(":  @ ", ": @\n") if '"' in text or "'" in text or "`" in text else text
    sentences = _sentences(bare)
    asks, given = _split(sentences)
    ask = GIVEN.sub(" given", " . " + " . ".join([*(numbered(s.words) for s in asks), ""]))
    question = any(s.mark == "?" or s.first in QUESTION_WORDS for s in asks)
    refers = " given " in ask
    choices = any(map(text.__contains__, _SECOND_CHOICE)) and _CHOICES.search(text) is not None
    scale = HAN_CHARS if is_chinese(text) else 1
    apart = scale * (len(text) - len(bare) + sum(s.size for s in given if s.after in ("\n", ":")))
    size = apart + scale * sum(s.size for s in given if s.after not in ("\n", ":"))
    labels = _LABEL.findall("\n" + text)
    is_quiz = len(labels) > 1 and _QUIZ.issuperset(labels)
    is_text = (question or refers) and _is_passage(given, size, refers=refers)
    return Reading(
        text=text,
        ask=ask,
        num_words=ask.count(" ") - 2,
        num_tasks=sum(map(_opens, asks)),
        given_chars=size,
        passage=choices or ((apart >= MIN_PASSAGE_CHARS or is_text) and not is_quiz),
        choices=choices,
        question=question,
        refers=refers,
        labels=labels,
        num_blanks=sum(s.mark == ":" and after.after == "\n" for s, after in pairwise([*sentences, NOTHING])),
        last=sentences[-1] if sentences else NOTHING,
    )


def _sentences(text: str) -> list[Sentence]:
    """Those of both ends with their words, those between with their size only."""
    pieces: list[tuple[str, str]] = []
    after = "\n"
    for piece in _PIECE.findall(text):
        if piece[0] == "\n":
            after = "\n"
        elif piece[0] in ".!?:":  # behind a space, as the French do
            if pieces:
                pieces[-1] = (pieces[-1][0] + piece, pieces[-1][1])
                after = piece[0] if piece[0] in ":?" else ""
        elif not piece.isspace():
            pieces.append((piece, after))
            after = piece[-1] if piece[-1] in ":?" else ""
    if len(pieces) > 1 and pieces[1][1] != "\n":
        pieces[0] = (pieces[0][0], "")
    last = len(pieces) - 1
    return [
        _sentence(piece, after, at_end=i in (0, last))
        if i < HEAD_SENTENCES or i > last - TAIL_SENTENCES
        else Sentence(" ", "", "", len(piece), after)
        for i, (piece, after) in enumerate(pieces)
    ]


def _sentence(piece: str, after: str, *, at_end: bool) -> Sentence:
    words = " ".join(piece.replace("'", "").replace("/", " or ").translate(_MARKS).split()) + " "
    polite = POLITE.match(words)
    if polite and polite.end() < len(words):
        words = words[polite.end() :]
    if piece.lstrip()[0] in "-*•":  # an item of a list, whatever it says
        return Sentence(f" {words}", "", "", len(piece), after)
    first, _, rest = words.partition(" ")
    first = _spelt(first) if at_end else first
    return Sentence(f" {first} {rest}", first, piece[-1] if piece[-1] in ".!?:" else "", len(piece), after)


def _without_one_letter(word: str) -> set[str]:
    return {word[:i] + word[i + 1 :] for i in range(len(word))}


_MISSPELT: Final = {
    variant: word
    for word in _OPENINGS
    if len(word) >= MIN_MISSPELT_CHARS
    for variant in (word, *_without_one_letter(word))
}


def _spelt(word: str) -> str:
    """The verb that asks which is about one slip of the fingers away from `word`, or `word`."""
    if len(word) < MIN_MISSPELT_CHARS - 1 or word in _LEADS or word in BY_WORD or word in QUESTION_WORDS:
        return word
    return next((_MISSPELT[slip] for slip in (word, *sorted(_without_one_letter(word))) if slip in _MISSPELT), word)


def _opens(sentence: Sentence) -> bool:
    return sentence.words.startswith(_OPENINGS.get(sentence.first, ()))


def _speaks(sentence: Sentence) -> bool:
    """An aside that asks for work on a text without beginning with a verb, such as "grammar please"."""
    words = f" .{sentence.words}. "
    is_item = not sentence.first
    return (
        sentence.size <= MAX_ASIDE_CHARS
        and not is_item
        and any(cue.speaks_in(words) for word in words.split() for cue in _ASIDES.get(word, ()))
    )


def _split(sentences: Sequence[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    """Those that ask and those that are given."""
    last = len(sentences) - 1
    asks: list[int] = []
    in_text = False  # a text that was set apart goes on
    for i, sentence in enumerate(sentences):
        asking = sentence.mark == "?" or _opens(sentence) or (i in (0, last) and sentence.first in QUESTION_WORDS)
        asking = asking or (i == 0 and _leads(sentence))
        if i and asks and asks[-1] == i - 1 and sentences[i - 1].mark == ":":
            asking = i < last and sentence.first in QUESTION_WORDS
        elif in_text and not sentence.after:
            asking = asking and sentence.mark == "?" and i == last
        elif i and i in (1, last) and not asking:
            asking = sentence.after != ":" and _speaks(sentence)
        if asking:
            asks.append(i)
        else:
            in_text = (in_text or bool(sentence.after)) and i > 0
    if sentences and 0 not in asks and last not in asks:
        asks = sorted({*asks, *_first_line(sentences)})
    if len(asks) == len(sentences) > 1 and sentences[-1].after and GIVEN.search(sentences[0].words):
        asks.pop()  # "Translate this.", and a text that happens to ask
    return [sentences[i] for i in asks], [s for i, s in enumerate(sentences) if i not in asks]


def _leads(first: Sentence) -> bool:
    """Whether the first sentence belongs to what is asked although it does not ask: a heading, a choice, a persona."""
    is_heading = first.mark == ":" and first.first not in LABELS
    is_choice = " or " in first.words and first.size <= MAX_LABEL_CHARS
    return is_heading or is_choice or _speaks(first) or first.words.startswith(_LEADS.get(first.first, ()))


def _first_line(sentences: Sequence[Sentence]) -> range:
    """The first sentence, or all of the first line when others follow it."""
    if sentences[0].size > MAX_LINE_CHARS:
        return range(0)
    ends = next((i for i, s in enumerate(sentences[:HEAD_SENTENCES]) if i and s.after), 0)
    return range(ends or 1)


def _is_passage(given: Sequence[Sentence], size: int, *, refers: bool) -> bool:
    """Whether sentences that nothing sets apart are a text, not what somebody tells of himself before he asks."""
    if not refers and any(s.after != "\n" and PERSONAL.search(s.words) for s in given):
        return size > LONG_PASSAGE_CHARS
    after_question = any(s.after == "?" for s in given)
    return size >= (MIN_PASSAGE_CHARS if after_question else MIN_LOOSE_PASSAGE_CHARS)
