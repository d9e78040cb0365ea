"""Which of InstructGPT's ten categories a prompt belongs to, judged by its wording and its shape.

The cues in what is asked (`cues.py`) vote with their weights, and so does the shape of the prompt
(`prompt_reading.py`): a passage, a question, a dialogue, a choice of answers, a form to fill in. Weights and factors
were set by hand. Learns nothing, calls no model and knows one prompt, not the conversation around it: a rough sorter
for reports and for balancing data, not a judge of what anybody may ask.

Invariant: the same prompt gives the same category, in a time that does not grow with the prompt's length.

Source: Ouyang et al. 2022 (arXiv:2203.02155), table 1 and appendix A.2.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from honed.server.store.categories.cues import BY_WORD
from honed.server.store.categories.prompt_reading import MAX_LABEL_CHARS, MIN_PASSAGE_CHARS, ON_TEXT, Reading, read
from honed.server.store.categories.prompt_words import LABELS, PERSONAL, QUESTION_WORDS

CATEGORIES: Final[tuple[str, ...]] = (
    "generation",
    "open_qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "other",
    "closed_qa",
    "extraction",
)
INSTRUCTGPT_SHARES: Final[Mapping[str, float]] = MappingProxyType(
    dict(zip(CATEGORIES, (45.6, 12.4, 11.2, 8.4, 6.6, 4.2, 3.5, 3.5, 2.6, 1.9), strict=True))
)

SILENCE: Final = 1.5  # what the cues must outvote before a prompt is anything but `other`
BY_SHAPE: Final = 2.0  # what the shape says when no cue speaks
MAX_COMMAND_WORDS: Final = 15
MAX_ITEM_WORDS: Final = 5
SHORT_WORDS: Final = 7
MAX_SUM_CHARS: Final = 90
MANY_SENTENCES_CHARS: Final = 130
LONG_REQUEST_CHARS: Final = 60

# Who wins a tie: the more particular a category's cues are.
_SPECIFIC: Final = ("chat", "brainstorming", "summarization", "extraction", "classification", "rewrite", "closed_qa")
_PRIORITIES: Final = (*_SPECIFIC, "generation", "open_qa", "other")

_YOU: Final = re.compile(r" (?:you|your|youre|you're|u|ur|du|tu) ")
# "How do you make bread" speaks to nobody.
_TO_YOU: Final = re.compile(rf"(?<! how do)(?<! can)(?<! should)(?<! what do)(?<! if)(?<! when){_YOU.pattern}")
_WHICH_THINGS: Final = re.compile(
    r" \. (?:which|what|who are the|what are the|welche|quels|quelles) "
    r"(?:(?!is |was |does |has |one )[a-z]+ )?(?!is |was |does |has |this )[a-z]+(?:s|en) "
)
_THINGS: Final = re.compile(r" \. (?:[a-z]+ ){0,2}[a-z]+s (?:and [a-z]+ )?\.")
_HEAD_NOUN: Final = re.compile(r" ([a-z]+) (for|about|of|in|on|where|to|that|which|besides|between|than) ")
_OPTIONS: Final = re.compile(r"[(\[][a-z ]{1,20}(?:(?:/| or |, )[a-z ]{1,20})+[)\]]")
_GREETINGS: Final = ("hi", "hey", "heyy", "hii", "hello", "hallo", "hola", "bonjour", "salut", "ola", "guten", "good")
_UNFINISHED_WORDS: Final = "the a an is and of to was were she he in with which because but or then his her"
_UNFINISHED: Final = frozenset(_UNFINISHED_WORDS.split())


def classify(prompt: str) -> str:
    """The category of `prompt`; `other` when nothing speaks for any."""
    return max(_PRIORITIES, key=_scores(read(prompt)).__getitem__)


def _scores(reading: Reading) -> dict[str, float]:
    scores = dict.fromkeys(CATEGORIES, 0.0)
    for word in set(reading.ask.split()):
        for cue in BY_WORD.get(word, ()):
            if cue.speaks_in(reading.ask):
                scores[cue.category] += cue.weight
    if reading.num_words > MAX_COMMAND_WORDS or reading.given_chars >= MIN_PASSAGE_CHARS:
        scores["other"] = 0.0  # a command to a machine is short and comes alone
    scores["other"] += SILENCE
    _weigh_labels(reading, scores)
    if reading.passage:
        _weigh_with_passage(reading, scores)
    else:
        _weigh_without_passage(reading, scores)
    if reading.ask.startswith(" . you") and reading.num_tasks:
        scores["chat"] -= 5  # a persona that is given a task is not asked to chat
    if max(scores.values()) <= SILENCE:
        scores[_by_shape(reading)] += BY_SHAPE
    return scores


def _weigh_labels(reading: Reading, scores: dict[str, float]) -> None:
    """A form that ends in "Sentiment:" says what it wants; lines of names that come again are a dialogue."""
    last, labels = reading.last, reading.labels
    is_form = not LABELS.keys().isdisjoint(labels)
    if last.mark == ":" and last.size <= MAX_LABEL_CHARS:
        wanted = next((LABELS[word] for word in last.words.split() if LABELS.get(word)), "")
        if wanted == "closed_qa" and not reading.passage:
            wanted = "open_qa"
        if wanted:
            scores[wanted] += 6
        elif reading.num_blanks > 1:
            scores["extraction"] += 4
        elif reading.text.count(":") > 1 and not is_form:
            scores["chat"] += 6
    elif reading.num_blanks > 2:
        scores["extraction"] += 4
    elif len(labels) > len(set(labels)) > 1 and not is_form:
        scores["chat"] += 3


def _weigh_with_passage(reading: Reading, scores: dict[str, float]) -> None:
    if reading.choices:
        scores["closed_qa"] += 5
    if reading.question:
        scores["closed_qa"] += 3
    if " or " in reading.ask:
        scores["classification"] += 5 if reading.num_words <= SHORT_WORDS + 1 else 3 if reading.question else 1
    if _OPTIONS.search(reading.text):
        scores["classification"] += 3
    if _WHICH_THINGS.match(reading.ask):
        scores["extraction"] += 3
    elif reading.question and _is_list_of_things(reading):
        scores["extraction"] += 4
    scores["closed_qa"] += 0.6 * scores["open_qa"]
    scores["open_qa"] *= 0.4
    scores["brainstorming"] -= 1.5
    for category in ON_TEXT:
        if scores[category]:
            scores[category] += 1


def _is_list_of_things(reading: Reading) -> bool:
    """Such as "names and dates?"."""
    few = reading.num_words <= MAX_ITEM_WORDS and not reading.num_tasks
    return few and QUESTION_WORDS.isdisjoint(reading.ask.split())


def _weigh_without_passage(reading: Reading, scores: dict[str, float]) -> None:
    if reading.question:
        scores["open_qa"] += 3
        if not scores["brainstorming"] and _TO_YOU.search(reading.ask):
            scores["chat"] += 3.5
    scores["open_qa"] += 0.5 * scores["closed_qa"]
    scores["closed_qa"] *= 0.5
    scores["extraction"] *= 0.3
    if reading.given_chars < MIN_PASSAGE_CHARS:
        scores["classification"] *= 0.5
    if not reading.given_chars:
        _weigh_without_text(reading, scores)
    first, end = (reading.text.split(None, 1) or [""])[0], (reading.text.rsplit(None, 1) or [""])[-1]
    if first.strip(",!.") in _GREETINGS:
        scores["chat"] += 1.6
    if end in _UNFINISHED:
        scores["other"] += 4
    if _is_no_language(reading.text):
        scores["other"] += 6


def _weigh_without_text(reading: Reading, scores: dict[str, float]) -> None:
    """Work on a text is asked for, and there is none: nobody can do it, unless the request holds it in itself."""
    best = max(_PRIORITIES, key=scores.__getitem__)
    if best == "open_qa":
        impossible = reading.refers and reading.num_words <= SHORT_WORDS
    else:
        impossible = reading.num_words < MAX_ITEM_WORDS or (reading.refers and reading.num_words <= SHORT_WORDS + 3)
    if impossible and best in ("open_qa", *ON_TEXT):
        scores["other"] += scores[best]
    elif best == "summarization":
        scores["open_qa"] += scores["summarization"] + 1


def _is_no_language(text: str) -> bool:
    """Sums, code marks, addresses and file names."""
    if " " not in text and "/" in text:
        return True
    return len(text) <= MAX_SUM_CHARS and 2 * sum(map(str.isalpha, text)) < len(text.replace(" ", ""))


def _by_shape(reading: Reading) -> str:
    """What a prompt without a cue most likely is."""
    if reading.passage or reading.given_chars > MANY_SENTENCES_CHARS:
        return _by_shape_with_text(reading)
    text = f" {reading.text} "
    if PERSONAL.search(text) or _YOU.search(text):
        return "chat"
    if len(text) > LONG_REQUEST_CHARS and text[-2] in ".!,":  # the beginning of a story
        return "generation"
    head = _HEAD_NOUN.search(reading.ask)
    if head is None or reading.num_words < 3:
        return "other"
    noun, link = head.groups()
    if link not in ("of", "in", "on") and noun.endswith("s"):
        return "brainstorming"
    return "generation" if link in ("for", "about", "where") else "open_qa"


def _by_shape_with_text(reading: Reading) -> str:
    if reading.question:
        return "closed_qa"
    if reading.given_chars > MANY_SENTENCES_CHARS:
        return "summarization"
    return "extraction" if _THINGS.match(reading.ask) else "rewrite"
