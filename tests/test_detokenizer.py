"""Token ids to text: against the tokenizer's own decode, and against the whole text cut in one go."""

import pytest
from fakes import SPECIALS, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from honed.models.detokenizer import Detokenizer, TokenBytes

BYTELEVEL = tiny_tokenizer("bytelevel")
METASPACE = tiny_tokenizer("metaspace")
BYTES = {"bytelevel": TokenBytes(BYTELEVEL), "metaspace": TokenBytes(METASPACE)}
TOKENIZERS = {"bytelevel": BYTELEVEL, "metaspace": METASPACE}
KINDS = pytest.mark.parametrize("kind", ["bytelevel", "metaspace"])

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
stops = st.lists(st.text(alphabet="ab世🙂 ", min_size=1, max_size=4), max_size=3)
few_letters = st.text(alphabet="ab世🙂 ", max_size=30)


def run(kind: str, ids: list[int], stop: list[str]) -> tuple[str, bool]:
    detokenizer = Detokenizer(BYTES[kind], stop)
    pieces = [detokenizer.push(i) for i in ids]
    return "".join([*pieces, detokenizer.finish()]), detokenizer.stopped


def cut(text: str, stop: list[str]) -> str:
    """The same, character by character: what stands before the first stop string to be complete."""
    for end in range(len(text) + 1):
        complete = [string for string in stop if text[:end].endswith(string)]
        if complete:
            return text[: end - len(max(complete, key=len))]
    return text


@KINDS
@given(text=texts)
def test_any_text_comes_back_whole(kind: str, text: str) -> None:
    ids = TOKENIZERS[kind].encode(text, add_special_tokens=False)
    expected = text.replace("▁", " ") if kind == "metaspace" else text  # SentencePiece cannot tell them apart
    assert run(kind, ids, [])[0] == expected


@given(ids=st.lists(st.integers(0, len(BYTELEVEL) - 1), max_size=40))
def test_any_bytelevel_tokens_equal_decode_but_for_an_unfinished_end(ids: list[int]) -> None:
    ended = [*ids, BYTELEVEL.convert_tokens_to_ids("a")]  # ends whatever character was unfinished
    expected = BYTELEVEL.decode(ended, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert run("bytelevel", ended, [])[0] == expected


@KINDS
@given(text=few_letters, stop=stops)
def test_pieces_joined_are_the_text_before_the_stop(kind: str, text: str, stop: list[str]) -> None:
    ids = TOKENIZERS[kind].encode(text, add_special_tokens=False)
    expected = cut(text, stop)
    assert run(kind, ids, stop) == (expected, expected != text)


@given(ids=st.lists(st.integers(0, len(BYTELEVEL) + 5), max_size=40), stop=stops)
def test_random_tokens_never_show_a_stop_string_nor_lose_text(ids: list[int], stop: list[str]) -> None:
    whole, _ = run("bytelevel", ids, [])
    text, stopped = run("bytelevel", ids, stop)
    assert text == cut(whole, stop)
    assert stopped == any(string in whole for string in stop)


@given(text=few_letters, stop=stops)
def test_only_what_could_become_a_stop_string_is_held_back(text: str, stop: list[str]) -> None:
    detokenizer = Detokenizer(BYTES["bytelevel"], stop)
    sent = ""
    for i in BYTELEVEL.encode(text, add_special_tokens=False):
        sent += detokenizer.push(i)
        if detokenizer.stopped:
            return
    held = text[len(sent) :]
    assert text.startswith(sent)
    assert held == "" or any(string.startswith(held) for string in stop)


def test_a_character_in_three_tokens_comes_out_once_whole() -> None:
    detokenizer = Detokenizer(BYTES["bytelevel"])
    ids = BYTELEVEL.encode("世", add_special_tokens=False)
    assert [detokenizer.push(i) for i in ids] == ["", "", "世"]
    assert detokenizer.finish() == ""


def test_an_unfinished_character_at_the_end_does_not_come_out() -> None:
    ids = BYTELEVEL.encode("a世", add_special_tokens=False)[:-1]
    assert run("bytelevel", ids, []) == ("a", False)


def test_a_broken_character_in_the_middle_is_one_replacement() -> None:
    ids = BYTELEVEL.encode("a世", add_special_tokens=False)[:-1]
    ids += BYTELEVEL.encode("b", add_special_tokens=False)
    assert run("bytelevel", ids, [])[0] == "a\ufffdb"


def test_a_stop_string_begun_and_not_ended_is_flushed() -> None:
    detokenizer = Detokenizer(BYTES["bytelevel"], ["xyz"])
    ids = BYTELEVEL.encode("wxy", add_special_tokens=False)
    assert [detokenizer.push(i) for i in ids] == ["w", "", ""]
    assert detokenizer.finish() == "xy"
    assert not detokenizer.stopped


def test_nothing_comes_after_the_stop_string() -> None:
    detokenizer = Detokenizer(BYTES["bytelevel"], ["x"])
    ids = BYTELEVEL.encode("axb", add_special_tokens=False)
    assert [detokenizer.push(i) for i in ids] == ["a", "", ""]
    assert (detokenizer.finish(), detokenizer.stopped) == ("", True)


@KINDS
def test_special_tokens_are_no_text_but_can_be_shown(kind: str) -> None:
    for i, literal in enumerate(SPECIALS):
        assert BYTES[kind].token_bytes(i) == b""
        assert BYTES[kind].display_bytes(i) == literal.encode()


@KINDS
def test_ids_beyond_the_vocabulary_are_nothing(kind: str) -> None:
    for i in (-1, len(TOKENIZERS[kind]), 10**6):
        assert BYTES[kind].token_bytes(i) == b""
        assert BYTES[kind].display_bytes(i) == b""


def test_byte_pieces_are_bytes_and_metaspaces_are_spaces() -> None:
    table = BYTES["metaspace"]
    ids = METASPACE.convert_tokens_to_ids(["<0x0A>", "<0xE4>", "▁the"])
    assert [table.token_bytes(i) for i in ids] == [b"\n", b"\xe4", b" the"]


def test_an_added_token_that_is_not_special_is_text() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think> 世"])
    i = tokenizer.convert_tokens_to_ids("<think> 世")
    assert TokenBytes(tokenizer).token_bytes(i) == "<think> 世".encode()


def test_another_kind_of_vocabulary_is_decoded_behind_an_anchor() -> None:
    backend = Tokenizer(WordPiece({"[UNK]": 0, "a": 1, "play": 2, "##ing": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.decoder = decoders.WordPiece()
    table = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
    assert [table.token_bytes(i) for i in (2, 3)] == [b" play", b"ing"]


def test_stop_strings_do_not_count_where_they_may_not() -> None:
    """Neither whole, nor as the beginning of one that is completed later."""
    detokenizer = Detokenizer(BYTES["bytelevel"], ["ab", "bc"])
    ids = BYTELEVEL.encode("abcab", add_special_tokens=False)
    pieces = [detokenizer.push(i, may_stop=count >= 2) for count, i in enumerate(ids)]
    assert "".join([*pieces, detokenizer.finish()]) == "abc"
    assert detokenizer.stopped
