"""What words alone tell of an answer: refusals, repetition, and whether an instruction was followed."""

from __future__ import annotations

import pytest

from honed.training.evaluation.instructions import INSTRUCTIONS, Instruction
from honed.training.evaluation.wording import is_refusal, repetition

THIRTY = " ".join(["bread is good and warm"] * 6)
# name -> answers that follow it, and answers that do not.
ANSWERS: dict[str, tuple[list[str], list[str]]] = {
    "three words": (["Deep, blue, cold.", "It's well-known water"], ["Deep and", "It is very deep"]),
    "one word": (["Cat.", "**Cats**"], ["A cat.", "..."]),
    "five words": (["Snow falls, wind blows, night."], ["Snow.", "Snow falls and the wind blows"]),
    "at most ten words": (["Two wheels and a frame."], ["one two three four five six seven eight nine ten eleven"]),
    "at least thirty words": ([THIRTY], [THIRTY.removesuffix(" warm"), "Bread."]),
    "lower case": (["paris, for its bridges."], ["Paris, for its bridges.", "12."]),
    "upper case": (["GOOD MORNING!"], ["Good morning!", "!!!"]),
    "include a word": (["The River runs past roses."], ["Rivers run past roses.", "The garden is green."]),
    "include two words": (["A candle in the window."], ["A candle in the wind.", "A window.", "Candles in windows."]),
    "a word twice": (["The moon rose. Moon and stars."], ["The moon rose.", "The moonlight of the moon."]),
    "avoid a word": (["Wax, and something sweet."], ["They make honey.", "Honey!"]),
    "avoid a letter": (["You are kind."], ["You amaze me.", "You are quite kind.", "QUITE"]),
    "end with a question": (["I like jazz. Do you?"], ["Do you like jazz? I do.", "Jazz."]),
    "end with an exclamation mark": (["Well done!"], ["Well done! Really.", "Well done"]),
    "end with a phrase": (["Home, safe and sound.", "Home, safe and sound"], ["safe and sound I go home", "Home."]),
    "begin with a word": (["First, sleep.", "First sleep"], ["Firstly, sleep.", "Sleep first.", "first, sleep"]),
    "no comma": (["It is loud and full."], ["It is loud, and full."]),
    "one sentence": (["Water falls from clouds."], ["Water falls. It is wet.", "Clouds cry! Really."]),
    "two sentences": (["It purrs. It sleeps!", 'It says "meow." It sleeps.'], ["It purrs.", "One. Two. Three."]),
    "two paragraphs": (["Tea is hot.\n\nTea is green.", "a\n \nb\nc"], ["Tea is hot.\nTea is green.", "a\n\nb\n\nc"]),
    "three bullets": (["- apple\n- pear\n- plum"], ["- apple\n- pear", "Fruits:\n- a\n- b\n- c", "* a\n* b\n* c"]),
    "numbered list": (
        ["1. Spring\n2. Summer\n3. Autumn\n4. Winter"],
        ["1. Spring\n2. Summer\n3. Autumn", "1. a\n1. b\n1. c\n1. d", "Spring\nSummer\nAutumn\nWinter"],
    ),
    "JSON object": (
        ['{"color": "red"}', '```json\n{"color": null}\n```'],
        ['{"colour": "red"}', '["color"]', 'Here: {"color": "red"}', '{"color": "red"', '"color"', "[" * 9999],
    ),
    "JSON array": (["[1, 2, 3]", "[1.5, -2, 0]"], ["[1, 2]", "{}", "1, 2, 3", '["a", "b", "c"]', "[true, 1, 2]"]),
    "quoted": (['"Time flies."', "“Time flies.”"], ["Time flies.", '"Time" flies.', '""', '"']),
    "digits only": (["42", "42\n"], ["42.", "forty-two", "12 + 30 = 42", "٤٢"]),
    "repeat first": (
        ["Green door\nA cat.", '"green door."\n\nNothing.'],
        ["green door", "A cat.\ngreen door", "green door, and a cat."],
    ),
}  # fmt: skip


def test_there_are_some_and_each_has_a_name_of_its_own() -> None:
    assert len(INSTRUCTIONS) >= 25
    assert len({each.name for each in INSTRUCTIONS}) == len({each.prompt for each in INSTRUCTIONS}) == len(INSTRUCTIONS)
    assert ANSWERS.keys() == {each.name for each in INSTRUCTIONS}


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda each: each.name)
def test_a_check_tells_right_answers_from_wrong_ones(instruction: Instruction) -> None:
    right, wrong = ANSWERS[instruction.name]
    assert [text for text in right if not instruction.is_followed(text)] == []
    assert [text for text in wrong if instruction.is_followed(text)] == []


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda each: each.name)
@pytest.mark.parametrize("text", ["", " \n"])
def test_who_says_nothing_follows_nothing(instruction: Instruction, text: str) -> None:
    assert not instruction.is_followed(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t do that.",
        "I cannot answer this.",
        "As an AI language model, I have no opinion.",
        "Unfortunately, I am unable to browse the web.",
        "I must decline.",
        "I won't write that.",
        "I don't feel comfortable with this.",
        "Sorry, that is something I'm not able to do.",
    ],
)
def test_a_refusal_is_known_by_how_it_begins(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris is the capital of France.",
        "Sorry for the delay! The answer is 4.",
        "You cannot divide by zero.",
        "I can't wait to hear more. Here is a plan.",
        f"{'A story. ' * 20}He said: I cannot go on.",
        "An AI is a program.",
    ],
)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([], 0.0),
        ([1, 1, 1], 0.0),  # shorter than a phrase
        ([1, 1, 1, 1], 0.0),  # one phrase
        ([1, 1, 1, 1, 1], 0.5),  # twice the same
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.2),  # 5 phrases, of which the first is there again
        (list(range(50)), 0.0),
        ([7] * 103, 0.99),
    ],
)
def test_repetition_is_the_share_of_phrases_that_were_there_before(tokens: list[int], share: float) -> None:
    assert repetition(tokens) == pytest.approx(share)
