"""Records as token ids: those that the server would compute and sample."""

from __future__ import annotations

import pytest
from fakes import tiny_tokenizer, word_tokenizer

from honed.models.chat import render_chat
from honed.server.store.exchange.records import message, text_prompt
from honed.training.encoding import Encoder
from honed.training.trees import Tree

END = 2  # <|im_end|>
PAD = 3
QUESTION = (message("system", "Be brief."), message("user", "What is the capital of France?"))


def encoder(max_tokens: int = 200, answer_tokens: int = 50) -> Encoder:
    return Encoder(tiny_tokenizer(), max_tokens, answer_tokens)


def test_a_conversation_is_rendered_as_it_is_served() -> None:
    """With the beginning of the answer."""
    tokenizer = tiny_tokenizer()
    ids = encoder().prompt(QUESTION)
    assert list(ids) == render_chat(tokenizer, QUESTION)
    assert tokenizer.decode(list(ids)).endswith("<|im_start|>assistant\n")


def test_a_text_is_taken_as_it_is() -> None:
    ids = encoder().prompt(text_prompt("Once upon a time"))
    assert list(ids) == tiny_tokenizer().encode("Once upon a time")


def test_half_a_surrogate_pair_becomes_a_character_as_in_the_server() -> None:
    broken = {"role": "text", "content": "a\ud83d"}
    assert encoder().prompt((broken,)) == encoder().prompt(text_prompt("a\ufffd"))
    assert encoder().answer("a\ud83d", 50) == encoder().answer("a\ufffd", 50)


def test_rule_2_an_answer_ends_with_the_token_that_ends_it_and_not_with_padding() -> None:
    ids = encoder().answer("Paris.", 50)
    assert ids[-1] == END
    assert tiny_tokenizer().decode(list(ids[:-1])) == "Paris."
    assert PAD not in ids
    assert ids.count(END) == 1


def test_rule_2_an_empty_answer_is_its_end() -> None:
    assert encoder().answer("", 50) == (END,)


def test_rule_2_without_a_chat_template_an_answer_ends_with_eos() -> None:
    assert Encoder(word_tokenizer(8), 20, 20).answer("w5 w6", 20) == (5, 6, 2)


@pytest.mark.parametrize(("room", "answer_tokens"), [(4, 50), (50, 4)])
def test_rule_2_an_answer_that_is_cut_has_no_end(room: int, answer_tokens: int) -> None:
    whole = encoder().answer("Paris.", 50)
    cut = encoder(answer_tokens=answer_tokens).answer("Paris.", room)
    assert cut == whole[:4]
    assert END not in cut


def test_an_answer_that_just_fits_keeps_its_end() -> None:
    whole = encoder().answer("Paris.", 50)
    assert encoder().answer("Paris.", len(whole)) == whole
    assert encoder().answer("Paris.", len(whole) - 1) == whole[:-1]


def test_a_tree_is_a_prompt_and_its_answers_within_the_longest() -> None:
    prompt = encoder().prompt(QUESTION)
    tight = encoder(max_tokens=len(prompt) + 3)
    assert tight.tree(QUESTION, ["Paris.", ""]) == Tree(prompt, (encoder().answer("Paris.", 3), (END,)))


def test_a_prompt_without_room_for_an_answer_gives_no_tree() -> None:
    prompt = encoder().prompt(QUESTION)
    assert encoder(max_tokens=len(prompt)).tree(QUESTION, ["Paris."]) is None
    assert encoder(max_tokens=len(prompt) + 1).tree(QUESTION, ["Paris."]) is not None
