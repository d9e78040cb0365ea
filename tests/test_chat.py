"""Messages to token ids, with the template of the tokenizer."""

import pytest
from fakes import tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from honed.models.chat import ChatTemplateError, render_chat, replace_lone_surrogates


def test_the_prompt_is_the_template_s_text_and_its_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    ids = render_chat(tokenizer, [{"role": "user", "content": "the 世"}])
    assert tokenizer.decode(ids) == "<|im_start|>user\nthe 世<|im_end|>\n<|im_start|>assistant\n"
    assert (ids[0], ids.count(1), ids.count(2)) == (1, 2, 1)


def test_without_a_generation_prompt_it_ends_with_the_last_message() -> None:
    tokenizer = tiny_tokenizer()
    ids = render_chat(tokenizer, [{"role": "user", "content": "a"}], add_generation_prompt=False)
    assert tokenizer.decode(ids) == "<|im_start|>user\na<|im_end|>\n"


def test_no_second_bos_is_added() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    assert render_chat(tokenizer, [{"role": "user", "content": "a"}]).count(tokenizer.bos_token_id) == 1


def test_developer_is_system() -> None:
    tokenizer = tiny_tokenizer()
    rendered = [render_chat(tokenizer, [{"role": role, "content": "a"}]) for role in ("developer", "system")]
    assert rendered[0] == rendered[1]


def test_no_template_says_what_to_do() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ChatTemplateError, match=r"no chat template: send a prompt to /v1/completions"):
        render_chat(tokenizer, [{"role": "user", "content": "a"}])


def test_a_template_that_refuses_says_why() -> None:
    with pytest.raises(ChatTemplateError, match="unknown role pirate"):
        render_chat(tiny_tokenizer(), [{"role": "pirate", "content": "a"}])


def test_a_template_that_fails_is_refused_too() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] + 1 }}"
    with pytest.raises(ChatTemplateError, match="refuses these messages"):
        render_chat(tokenizer, [{"role": "user", "content": "a"}])


def test_a_lone_surrogate_becomes_a_replacement_character() -> None:
    tokenizer = tiny_tokenizer()
    ids = render_chat(tokenizer, [{"role": "user", "content": "a\ud800b"}])
    assert "a\ufffdb" in tokenizer.decode(ids)


def test_surrogates_in_pairs_are_their_character() -> None:
    assert replace_lone_surrogates("\ud83d\ude42\ude42x\ud83d") == "🙂\ufffdx\ufffd"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_without_surrogates_is_kept(text: str) -> None:
    assert replace_lone_surrogates(text) == text
