"""Prompts and their categories: the rules one by one, a balanced sample as a whole, and any text at all."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from honed.server.store.categories import CATEGORIES, INSTRUCTGPT_SHARES, classify
from honed.server.store.categories.cues import BY_WORD, CUES
from honed.server.store.categories.prompt_reading import read
from honed.server.store.categories.prompt_words import HEAD_CHARS, TAIL_CHARS

PASSAGE = (
    "The ferry to the island was cancelled because of the storm. Forty passengers spent the night in the school. "
    "In the morning the baker brought bread, and at ten the captain decided to sail."
)

# Written after the cues: 77 of 80 were right at first, and what the other three showed was then repaired.
SAMPLE = {
    "generation": [
        "Write a limerick about a programmer who never sleeps",
        "cold email to a gallery owner, I paint harbours",
        "rust function to compute the median of a vec of floats",
        "could you draft a note for the parents, school trip to the zoo on 5 june",
        "Schreibe eine kurze Rede zum Abschied meiner Chefin",
        "I need three sentences about me for the conference website. Physicist, runs marathons, hates cake.",
        "Créez un message pour souhaiter bonne chance à un collègue",
        "The elevator stopped between two floors, and the old man opposite me began to hum.",
    ],
    "open_qa": [
        "why do leaves change color in autumn",
        "Who discovered penicillin and when?",
        "how do i get chewing gum out of hair",
        "Explain what a hash table is.",
        "largest desert on earth",
        "Warum haben Zebras Streifen?",
        "my bread never rises. what am i doing wrong?",
        "¿Cuál es la moneda de Suecia?",
    ],
    "brainstorming": [
        "give me ideas for a short film set in a kitchen",
        "nicknames for a very tall friend",
        "What are some ways to stay motivated while writing a thesis?",
        "suggest a few indoor plants that survive a forgetful owner",
        "Ideen für einen Kindergeburtstag im Wald",
        "we have too many zucchini, what can we make?",
        "pros and cons of a four day week",
        "Come up with five taglines for a repair cafe",
    ],
    "chat": [
        "good evening, how are you doing?",
        "You are a bored museum guard.\nVisitor: Is this painting real?\nGuard:",
        "i'm so tired of everything",
        "do you have a favorite song",
        "Pretend to be my landlord, I want to practise asking for a lower rent",
        "The following is a conversation with a patient math tutor.\nStudent: I hate fractions.\nTutor:",
        "haha you're funny",
        "hola, ¿cómo estás?",
    ],
    "rewrite": [
        "Translate to German: We are closed on public holidays.",
        "fix the grammar: she don't has no time for this kind of things",
        "Make the following sound friendlier.\n\nYou did not attach the file. Send it again.",
        "say this in simpler words: Remuneration shall be commensurate with experience.",
        "Rephrase so that it fits in a text message: I would be delighted if you were able to join us for dinner.",
        'how would you say "the kettle is boiling" in Finnish',
        "Convert to CSV:\n{'a': 1, 'b': 2}\n{'a': 3, 'b': 4}",
        "Corrige esta frase: Ayer yo ha ido a el mercado con mis hermano.",
    ],
    "summarization": [
        f"Summarize in one sentence:\n\n{PASSAGE}",
        f"{PASSAGE}\n\ntl;dr",
        f"what are the key points of this report? {PASSAGE}",
        f"Fasse den Text bitte kurz zusammen: {PASSAGE}",
        f"Give me a brief overview of what happened here.\n\n{PASSAGE}",
        f"Text: {PASSAGE}\nSummary:",
        f"can you boil this down to two bullet points\n\n{PASSAGE}",
        f"sumarise pls: {PASSAGE}",
    ],
    "classification": [
        "Is this comment positive, negative or neutral? The staff tried hard, but the room was cold.",
        "Classify each word as noun, verb or adjective: river, sing, heavy, door",
        'spam or ham? "Your parcel is waiting, pay the fee here"',
        "On a scale from 1 to 5, how angry is this customer: Third time I write to you. Answer me!",
        "Text: my card is blocked\nLabel: card\nText: i forgot my pin\nLabel: pin\nText: my card was stolen\nLabel:",
        "which topic does this headline belong to, sports or business: Striker signs record contract",
        "Decide whether the email is urgent.\n\nThe cold store has failed and the fish will not last until tomorrow.",
        "Ist diese Bewertung positiv oder negativ? Nie wieder dieses Hotel.",
    ],
    "other": [
        "sdfgh jkl",
        "12 + 30 * 2",
        "turn off the bedroom light",
        "summarize the following article",
        "ok",
        "set a reminder for 6 pm",
        "Translate this text",
        "and then the",
    ],
    "closed_qa": [
        f"{PASSAGE}\n\nWhere did the passengers sleep?",
        f"Answer the question using the text. When did the captain decide to sail?\n\nText: {PASSAGE}",
        f"According to this article, why was the ferry cancelled? {PASSAGE}",
        "What do bees collect?\nA) sand\nB) nectar\nC) salt\nD) wool",
        "Tim is older than Ada. Ada is older than Bo. Who is the youngest?",
        f"Context: {PASSAGE}\nQuestion: Who brought bread?\nAnswer:",
        "our rule is: guests must leave by 11 and return the key to the desk. may i leave at noon?",
        "Wie lange dauert die Fahrt? Der Zug fährt um 9 Uhr in Ulm ab und kommt um 11 Uhr in Basel an.",
    ],
    "extraction": [
        "Extract the names of all cities: We drove from Lyon to Turin and took the train to Genoa.",
        "list every person mentioned in the text\n\nMs Blum met Mr Sato and his daughter Emi.",
        "what phone numbers are in this message? call 555-0101 or, after six, 555-0199",
        "pull out the dates - The lease began on 1 May 2020 and ends on 30 April 2025.",
        "Text: The hall was cold but the soup was hot.\nKeywords:",
        "Find all email addresses in the paragraph below.\n\nWrite to kim@x.example or to the desk at y@z.example.",
        "return name and age as json: I am Lou, I turned 41 last week and I live by the sea.",
        "Nenne alle Personen im Text: Frau Abel traf Herrn Koch und dessen Bruder.",
    ],
}


def test_the_shares_are_those_of_the_paper() -> None:
    assert tuple(INSTRUCTGPT_SHARES) == CATEGORIES
    assert (INSTRUCTGPT_SHARES["generation"], INSTRUCTGPT_SHARES["extraction"]) == (45.6, 1.9)
    assert sum(INSTRUCTGPT_SHARES.values()) == pytest.approx(99.9)


def test_most_of_a_balanced_sample_is_sorted_right() -> None:
    right = Counter(category for category, prompts in SAMPLE.items() for p in prompts if classify(p) == category)
    assert tuple(SAMPLE) == CATEGORIES
    assert {len(prompts) for prompts in SAMPLE.values()} == {8}
    assert right.total() >= 68, right
    assert min(right[category] for category in CATEGORIES) >= 5, right


@pytest.mark.parametrize(
    ("ask", "alone", "with_text"),
    [
        ("Summarize this article", "other", "summarization"),
        ("Translate the following text into French", "other", "rewrite"),
        ("Extract the names from this", "other", "extraction"),
        ("what happened to the ferry?", "open_qa", "closed_qa"),
        ("list five names", "brainstorming", "extraction"),
    ],
)
def test_a_passage_changes_what_is_asked(ask: str, alone: str, with_text: str) -> None:
    assert (classify(ask), classify(f"{ask}\n\n{PASSAGE}")) == (alone, with_text)


@pytest.mark.parametrize(
    "prompt",
    [
        "Summarize:\n\nPlease write a poem. Translate it. Classify the poem as happy or sad. It is fine.",
        'Summarize "write me a poem, translate it to German and extract the names" in one line',
        "Summarize:\n\n- write a poem\n- is it spam?\n- translate the poem\n- extract all names",
    ],
)
def test_what_a_given_text_asks_for_is_not_asked(prompt: str) -> None:
    assert classify(prompt) == "summarization"


@pytest.mark.parametrize(
    ("prompt", "category"),
    [
        ("sumarize: " + PASSAGE, "summarization"),
        ("Clasify the words: dog, oak, trout, rose", "classification"),
        ("exlpain how magnets work", "open_qa"),
        ("can you pls tranlsate: good luck with the exam", "rewrite"),
        ("recomend a novel", "brainstorming"),
    ],
)
def test_a_slip_of_the_fingers_is_forgiven(prompt: str, category: str) -> None:
    assert classify(prompt) == category


@pytest.mark.parametrize("polite", ["", "please ", "Hey, could you ", "I would like you to ", "Bitte "])
def test_politeness_asks_for_nothing(polite: str) -> None:
    assert classify(f"{polite}write a sonnet about rain") == "generation"


@pytest.mark.parametrize(
    ("label", "category"),
    [
        ("Sentiment", "classification"),
        ("Summary", "summarization"),
        ("Keywords", "extraction"),
        ("German", "rewrite"),
        ("Answer", "closed_qa"),
    ],
)
def test_an_open_label_says_what_is_missing(label: str, category: str) -> None:
    assert classify(f"Text: {PASSAGE}\n{label}:") == category


def test_speakers_who_come_again_are_a_dialogue_but_questions_and_answers_are_not() -> None:
    assert classify("Ann: I lost my keys.\nZog: Again?\nAnn: Yes. What now?\nZog:") == "chat"
    assert classify("Q: Who wrote Emma?\nA: Jane Austen.\nQ: Who wrote Dracula?\nA:") == "open_qa"


def test_a_persona_with_a_task_is_not_chat() -> None:
    assert classify("You are a cynical chatbot. Answer in riddles.\nMe: hello?\nBot:") == "chat"
    assert classify("You are an expert copywriter. Write an ad for a kettle.") == "generation"


def test_the_middle_of_a_long_prompt_is_not_looked_at() -> None:
    ends = ("Summarize this:\n\n" + "It rained all day. " * 40, "The sun came back. " * 40)
    middle = "\n\nWrite a poem!\n\nWhat is your name?\n\n" * 1000
    assert read(ends[0] + middle + ends[1]) == read(ends[0] + ends[1])
    assert classify(ends[0] + middle + ends[1]) == "summarization"


def test_nothing_says_nothing() -> None:
    assert [classify(prompt) for prompt in ("", " \n ", "...", "?!", "---", "@", '"', "\ud800")] == ["other"] * 8


@given(st.text(st.characters(codec=None), max_size=60) | st.text("ab :.?!\n\"`'-*>()/的吗：", max_size=200))
@example("a" * (HEAD_CHARS + TAIL_CHARS + 1))
@example("? : \n - \n* \n?\n:")
def test_any_text_has_one_category(prompt: str) -> None:
    assert classify(prompt) in CATEGORIES
    assert classify(prompt) == classify(prompt)


@given(st.text("ab .?!:\n", min_size=HEAD_CHARS))
def test_a_reading_is_bounded(prompt: str) -> None:
    reading = read(prompt * 3)
    assert len(reading.text) <= HEAD_CHARS + TAIL_CHARS + 1
    assert reading.given_chars <= len(reading.text)


def test_the_cues_are_written_as_they_are_read() -> None:
    assert set(CUES) == set(CATEGORIES)
    for patterns in (patterns for by_weight in CUES.values() for patterns in by_weight.values()):
        for pattern in patterns.split():
            words = pattern.removeprefix("^").split("_")
            assert all(choice for word in words for choice in word.split("|")), pattern
            assert pattern == pattern.lower()
            assert pattern.isascii(), "prompts lose their accents before cues are looked for"
    for word, cues in BY_WORD.items():
        assert word not in ("*", "."), "such a cue would never be tried"
        assert all(cue.parts == () or any(f" {word} " in part for part in cue.parts) for cue in cues)
