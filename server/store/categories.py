"""Which of InstructGPT's ten categories a prompt belongs to, judged by its wording and its shape.

A prompt is cut into sentences, and those that ask are told from the text that is merely given. The cues in what is
asked (`category_cues.py`) vote with their weights, and so does the shape: a passage, a question, a dialogue, a choice
of answers, a form to fill in. Learns nothing, calls no model and knows one prompt, not the conversation around it: a
rough sorter for reports and for balancing data, not a judge of what anybody may ask.

Invariant: the same prompt gives the same category, in a time that does not grow with the prompt's length.

Source: Ouyang et al. 2022 (arXiv:2203.02155), table 1 and appendix A.2.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from types import MappingProxyType
from typing import Final, NamedTuple

from honed.server.store.category_cues import CHINESE, CUES, GIVEN, LABELS, POLITE, QUESTION_WORDS

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

HEAD_CHARS: Final = 500
TAIL_CHARS: Final = 300
MAX_PIECES: Final = 24
EDGE: Final = 3  # sentences at either end that may ask; what lies between is given
MAX_LINE_CHARS: Final = 300  # a longer first sentence is no request
MAX_ASIDE_CHARS: Final = 90  # a longer last sentence without a verb that asks is text, whatever words it has
MIN_PASSAGE_CHARS: Final = 15  # of text set apart by a line's end, a colon or quotes
MIN_LOOSE_PASSAGE_CHARS: Final = 40  # of sentences that are not: they may be details of the request
LONG_PASSAGE_CHARS: Final = 250
MANY_SENTENCES_CHARS: Final = 130
LONG_REQUEST_CHARS: Final = 60
HAN_CHARS: Final = 3  # a Chinese character says about as much as so many letters
SHORT_ASK_WORDS: Final = 6
MAX_COMMAND_WORDS: Final = 15
MIN_MISSPELT_CHARS: Final = 6  # shorter words have too many neighbours
SILENCE: Final = 1.5  # what the cues must outvote before a prompt is anything but `other`

ON_TEXT: Final = ("rewrite", "summarization", "classification", "closed_qa", "extraction")
# Who wins a tie: the more particular a category's cues are.
_PRIORITY: Final = ("chat", "brainstorming", "summarization", "extraction", "classification", "rewrite", "closed_qa")
_PRIORITIES: Final = (*_PRIORITY, *(category for category in CATEGORIES if category not in _PRIORITY))

_PIECE: Final = re.compile(r"(?:[^.!?:\n]+|[.!?:](?=\S))+[.!?:]*|[.!?:]+|\n+")
_QUOTED: Final = re.compile(
    r'"""(?:.+?)(?:"""|$)|```(?:.+?)(?:```|$)|"[^"\n]{12,}"|(?<!\w)\'(?:[^\'\n]|(?<=\w)\'(?=\w)){12,}\'(?!\w)',
    re.DOTALL,
)
_CHOICES: Final = re.compile(r"[\s(]a ?[.):] .+[\s(]b ?[.):] ", re.DOTALL)
_OPTIONS: Final = re.compile(r"[(\[][a-z ]{1,20}(?:(?:/| or |, )[a-z ]{1,20})+[)\]]")
_LABEL: Final = re.compile(r"\n *([a-z]+)[a-z ]{0,20}:")
_ARROW: Final = re.compile(r" (?:[-=]>|--?|—|–) | ?->$")
_PERSONAL: Final = re.compile(r" (?:i|my|im|ive|we|our|ich|mein|meine|je|mon|ma|mi|eu|meu) ")
_TO_YOU: Final = re.compile(
    r"(?<! how do)(?<! can)(?<! should)(?<! what do)(?<! if)(?<! when) (?:you|your|youre|u|ur|du|tu) "
)
_PLURAL: Final = re.compile(
    r" \. (?:which|what|who are the|what are the|welche|quels|quelles) (?:(?!is |was |does |has |one )[a-z]+ ){0,1}(?!is |was |does |has |this )[a-z]+(?:s|en) "
)
_HEAD_NOUN: Final = re.compile(r" ([a-z]+) (for|about|of|in|on|where|to|that|which|besides|between|than) ")
_DASHES: Final = (" -", "->", "=>", "—", "–")
_ITEMS: Final = re.compile(r" \. (?:[a-z]+ ){0,2}[a-z]+s (?:and [a-z]+ )?\.")
_YOU: Final = re.compile(r" (?:you|your|youre|you're|u|ur|du|tu) ")
_HAN: Final = re.compile("[\u4e00-\u9fff]")
_ACCENTS: Final = re.compile("[\u0300-\u036f]")
_BARE: Final = {ord(mark): " " for mark in '!"#$%&()*+,-.:;<=>?@[\\]^_`{|}~¿¡…、，。！；'} | {
    ord("/"): " or ",
    ord("'"): None,
}
_PLAIN: Final = {
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "„": '"',
    "«": '"',
    "»": '"',
    "：": ": ",
    "？": "? ",
    "。": ". ",
}
_SAME: Final = {
    **dict.fromkeys(
        "two three four five six seven eight nine ten zwei drei funf zehn trois cinq dix tres cinco".split(), "#"
    ),
    "oder": "or",
}
_GREETINGS: Final = frozenset("hi hey heyy hii hello hallo hola bonjour salut ola guten good".split())
_EVERYWHERE: Final = frozenset("given what which write the".split())
_UNFINISHED: Final = frozenset(
    "the a an is and of to was were she he in with which because but or then his her".split()
)


class _Cue(NamedTuple):
    parts: tuple[str, ...]  # must stand one after the other; none: the word that leads here is enough
    category: str
    weight: float


class _Sentence(NamedTuple):
    words: str  # " like this ", politeness taken off
    first: str
    mark: str  # the one of .!?: that ends it, or nothing
    size: int
    after: str  # what sets it apart from the sentence before: "\n", ":", "?" or nothing


class _Reading(NamedTuple):
    text: str
    ask: str  # " . like this . " with points around the sentences
    num_words: int  # of the ask
    num_tasks: int  # sentences that begin with a verb that asks
    given_chars: int
    choices: bool  # a) and b)
    passage: bool  # there is a text to work on, rather than details of the request
    question: bool
    refers: bool  # it points at a text, such as "this article"
    labels: Sequence[str]  # "name" of each line "Name: ..."
    num_blanks: int  # labels with nothing behind them
    last: _Sentence


_NOTHING: Final = _Sentence(" ", "", "", 0, "\n")


def _rarity(word: str) -> int:
    return 0 if word in _EVERYWHERE else len(word)


def _cues() -> dict[str, list[_Cue]]:
    """Every cue by its longest word, which is likely to be its rarest: only prompts with that word try it."""
    found: dict[str, list[_Cue]] = {}
    for category, by_weight in CUES.items():
        for weight, spoken in by_weight.items():
            for pattern in spoken.split():
                anchor = ". " if pattern[0] == "^" else ""
                for words in product(*(choice.split("|") for choice in pattern.removeprefix("^").split("_"))):
                    parts = tuple(f" {part.strip()} " for part in (anchor + " ".join(words)).split("*"))
                    alone = not anchor and len(words) == 1
                    cue = _Cue(() if alone else parts, category, weight)
                    found.setdefault(max(words, key=_rarity), []).append(cue)
    return found


_CUES: Final = _cues()


def _openings(min_weight: float, but: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What a sentence that asks begins with, by its first word, for all categories but some."""
    found: dict[str, tuple[str, ...]] = {}
    for cue in (cue for cues in _CUES.values() for cue in cues if cue.weight >= min_weight and cue.category not in but):
        if len(cue.parts) == 1 and cue.parts[0].startswith(" . "):
            words = cue.parts[0].removeprefix(" .")
            found[words.split()[0]] = (*found.get(words.split()[0], ()), words)
    return found


_ASIDES: Final = {
    word: [cue for cue in cues if cue.weight >= 4 and cue.category in (*ON_TEXT, "brainstorming")]
    for word, cues in _CUES.items()
}
_OPENINGS: Final = _openings(3, but=("chat", "other"))
_LEADS: Final = _openings(1, but=())


def _without_one_letter(word: str) -> set[str]:
    return {word[:i] + word[i + 1 :] for i in range(len(word))}


_MISSPELT: Final = {
    variant: word
    for word in _OPENINGS
    if len(word) >= MIN_MISSPELT_CHARS
    for variant in (word, *_without_one_letter(word))
}


def _spelt(word: str) -> str:
    """The verb that asks which is at most one slip of the fingers away from `word`, or `word`."""
    if len(word) < MIN_MISSPELT_CHARS - 1 or word in _LEADS or word in _CUES or word in QUESTION_WORDS:
        return word
    return next((_MISSPELT[v] for v in (word, *_without_one_letter(word)) if v in _MISSPELT), word)


def classify(prompt: str) -> str:
    """The category of `prompt`; `other` when nothing speaks for any."""
    return max(_PRIORITIES, key=_scores(prompt).__getitem__)


def _scores(prompt: str) -> dict[str, float]:
    reading = _read(_normalised(prompt))
    scores = dict.fromkeys(CATEGORIES, 0.0)
    for word in set(reading.ask.split()):
        for parts, category, weight in _CUES.get(word, ()):
            if _present(parts, reading.ask):
                scores[category] += weight
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
        scores[_by_shape(reading)] += 2
    return scores


def _normalised(prompt: str) -> str:
    if len(prompt) > HEAD_CHARS + TAIL_CHARS:
        prompt = f"{prompt[:HEAD_CHARS]}\n{prompt[-TAIL_CHARS:]}"
    if not prompt.isascii():
        for mark, plain in _PLAIN.items():
            prompt = prompt.replace(mark, plain)
        if _HAN.search(prompt):
            for word, english in CHINESE.items():
                prompt = prompt.replace(word, english)
        prompt = _ACCENTS.sub("", unicodedata.normalize("NFKD", prompt))
    prompt = prompt.casefold().strip()
    return _ARROW.sub("\n", prompt) if any(map(prompt.__contains__, _DASHES)) else prompt


def _read(text: str) -> _Reading:
    bare = _QUOTED.sub(" @ ", text) if '"' in text or "'" in text or "`" in text else text
    sentences = _sentences(bare)
    asks, given = _split(sentences)
    ask = GIVEN.sub(" given", " . " + " . ".join([*(_numbered(s.words) for s in asks), ""]))
    question = any(s.mark == "?" or s.first in QUESTION_WORDS for s in asks)
    refers = " given " in ask
    choices = any(map(text.__contains__, ("b)", "b.", "b:"))) and _CHOICES.search(text) is not None
    scale = HAN_CHARS if not text.isascii() and _HAN.search(text) else 1
    apart = scale * (len(text) - len(bare) + sum(s.size for s in given if s.after in ("\n", ":")))
    loose = scale * sum(s.size for s in given if s.after not in ("\n", ":"))
    return _Reading(
        text=text,
        ask=ask,
        num_words=ask.count(" ") - 2,
        num_tasks=sum(map(_opens, asks)),
        given_chars=apart + loose,
        passage=choices
        or apart >= MIN_PASSAGE_CHARS
        or ((question or refers) and _is_passage(given, apart + loose, refers=refers)),
        choices=choices,
        question=question,
        refers=refers,
        labels=_LABEL.findall("\n" + text),
        num_blanks=sum(s.mark == ":" and after.after == "\n" for s, after in pairwise([*sentences, _NOTHING])),
        last=sentences[-1] if sentences else _NOTHING,
    )


def _is_passage(given: Sequence[_Sentence], size: int, *, refers: bool) -> bool:
    """Whether sentences that nothing sets apart are a text, not what somebody tells of himself before he asks."""
    if not refers and any(s.after != "\n" and _PERSONAL.search(s.words) for s in given):
        return size > LONG_PASSAGE_CHARS
    after_question = any(s.after == "?" for s in given)
    return size >= (MIN_PASSAGE_CHARS if after_question else MIN_LOOSE_PASSAGE_CHARS)


def _sentences(text: str) -> list[_Sentence]:
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
    ends = len(pieces) - EDGE
    return [
        _sentence(piece, after, at_end=i in (0, len(pieces) - 1))
        if i < EDGE or i >= ends
        else _Sentence(" ", "", "", len(piece), after)
        for i, (piece, after) in enumerate(pieces)
    ]


def _sentence(piece: str, after: str, *, at_end: bool) -> _Sentence:
    words = " ".join(piece.translate(_BARE).split()) + " "
    polite = POLITE.match(words)
    if polite and polite.end() < len(words):
        words = words[polite.end() :]
    if piece.lstrip()[0] in "-*•":  # an item of a list, whatever it says
        return _Sentence(f" {words}", "", "", len(piece), after)
    mark = piece[-1] if piece[-1] in ".!?:" else ""
    first, _, rest = words.partition(" ")
    first = _spelt(first) if at_end else first
    return _Sentence(f" {first} {rest}", first, mark, len(piece), after)


def _opens(sentence: _Sentence) -> bool:
    return sentence.words.startswith(_OPENINGS.get(sentence.first, ()))


def _speaks(sentence: _Sentence) -> bool:
    """An aside that asks for work on a text without beginning with a verb, such as "grammar please"."""
    words = f" .{sentence.words}. "
    return sentence.size <= MAX_ASIDE_CHARS and any(
        _present(cue.parts, words) for word in words.split() for cue in _ASIDES.get(word, ())
    )


def _split(sentences: Sequence[_Sentence]) -> tuple[list[_Sentence], list[_Sentence]]:
    """Those that ask and those that are given."""
    last = len(sentences) - 1
    asks: list[int] = []
    in_text = False  # a text that was set apart goes on
    for i, sentence in enumerate(sentences):
        asking = sentence.mark == "?" or _opens(sentence) or (i in (0, last) and sentence.first in QUESTION_WORDS)
        if i and sentence.after == ":" and asks and asks[-1] == i - 1:
            asking = i < last and sentence.first in QUESTION_WORDS
        elif in_text and not sentence.after:
            asking = asking and sentence.mark == "?" and i == last
        elif i and i in (1, last) and not asking:
            asking = sentence.after != ":" and _speaks(sentence)
        if asking and (i < EDGE or i > last - EDGE):
            asks.append(i)
        else:
            in_text = (in_text or bool(sentence.after)) and i > 0
    if sentences and 0 not in asks and not (last in asks and not _leads(sentences[0])):
        asks = sorted({*asks, *_first_line(sentences)})
    return [sentences[i] for i in asks], [s for i, s in enumerate(sentences) if i not in asks]


def _leads(first: _Sentence) -> bool:
    is_heading = first.mark == ":" and first.first not in LABELS
    is_choice = " or " in first.words and first.size <= MAX_ASIDE_CHARS // 2
    return is_heading or is_choice or _speaks(first) or first.words.startswith(_LEADS.get(first.first, ()))


def _first_line(sentences: Sequence[_Sentence]) -> range:
    """The first sentence, or all of the first line when others follow it."""
    if sentences[0].size > MAX_LINE_CHARS:
        return range(0)
    ends = next((i for i, s in enumerate(sentences[:EDGE]) if i and s.after), 0)
    return range(ends or 1)


def _numbered(words: str) -> str:
    return " ".join(["#" if word.isdecimal() else _SAME.get(word, word) for word in words.split()])


def _present(parts: Sequence[str], ask: str) -> bool:
    at = 0
    for part in parts:
        at = ask.find(part, at)
        if at < 0:
            return False
        at += len(part) - 1
    return True


def _weigh_labels(reading: _Reading, scores: dict[str, float]) -> None:
    """A form that ends in "Sentiment:" says what it wants; lines of names that come again are a dialogue."""
    last, labels = reading.last, reading.labels
    is_form = not LABELS.keys().isdisjoint(labels)
    if last.mark == ":" and last.size <= MAX_ASIDE_CHARS // 2:
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


def _weigh_with_passage(reading: _Reading, scores: dict[str, float]) -> None:
    if reading.choices:
        scores["closed_qa"] += 5
    if reading.question:
        scores["closed_qa"] += 3
    if " or " in reading.ask:
        scores["classification"] += 5 if reading.num_words <= 8 else 3 if reading.question else 1
    if _OPTIONS.search(reading.text):
        scores["classification"] += 3
    if _PLURAL.match(reading.ask):
        scores["extraction"] += 3
    elif reading.question and reading.num_words <= 5 and not (reading.num_tasks or _asks_in_words(reading)):
        scores["extraction"] += 4  # "names?"
    scores["closed_qa"] += 0.6 * scores["open_qa"]
    scores["open_qa"] *= 0.4
    scores["brainstorming"] -= 1.5
    for category in ON_TEXT:
        if scores[category]:
            scores[category] += 1


def _asks_in_words(reading: _Reading) -> bool:
    return not QUESTION_WORDS.isdisjoint(reading.ask.split())


def _weigh_without_passage(reading: _Reading, scores: dict[str, float]) -> None:
    to_you = _TO_YOU.search(reading.ask)
    if reading.question:
        scores["open_qa"] += 3
        if to_you and not scores["brainstorming"]:
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
    if (
        len(reading.text) <= MAX_ASIDE_CHARS
        and 2 * sum(map(str.isalpha, reading.text)) < len(reading.text.replace(" ", ""))
        or first == end
        and "/" in first
    ):
        scores["other"] += 6


def _weigh_without_text(reading: _Reading, scores: dict[str, float]) -> None:
    """Work on a text is asked for, and there is none: nobody can do it, unless the request holds it in itself."""
    best = max(_PRIORITIES, key=scores.__getitem__)
    short = reading.num_words <= SHORT_ASK_WORDS + 1
    if best in ON_TEXT and (reading.num_words < SHORT_ASK_WORDS - 1 or (reading.refers and reading.num_words <= 10)):
        scores["other"] += scores[best]
    elif best == "open_qa" and reading.refers and short:
        scores["other"] += 8
    elif best == "summarization":
        scores["open_qa"] += scores["summarization"] + 1


def _by_shape(reading: _Reading) -> str:
    """What a prompt without a cue most likely is."""
    text, ask = f" {reading.text} ", reading.ask
    if reading.passage or reading.given_chars > MANY_SENTENCES_CHARS:
        if reading.question:
            return "closed_qa"
        if reading.given_chars > MANY_SENTENCES_CHARS:
            return "summarization"
        return "extraction" if _ITEMS.match(ask) else "rewrite"
    if _PERSONAL.search(text) or _YOU.search(text):
        return "chat"
    if len(text) > LONG_REQUEST_CHARS and text[-2] in ".!,":  # the beginning of a story
        return "generation"
    head = _HEAD_NOUN.search(ask)
    if head and reading.num_words > 2:
        noun, link = head[1], head[2]
        if link not in ("of", "in", "on") and noun.endswith("s"):
            return "brainstorming"
        return "generation" if link in ("for", "about", "where") else "open_qa"
    return "other"
