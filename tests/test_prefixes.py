"""The key by which prompts are one: what it unites, what it keeps apart, and that it never changes."""

from __future__ import annotations

import unicodedata
from hashlib import blake2b

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from honed.server.store.prefixes import PREFIX_CHARS, prefix_key

# Where normalising has work to do: whitespace, cases, compositions (Hangul's too), ligatures, spacing accents.
TRICKY = "aAbß ſ\t\n\u00a0\u3000\u00b4\u0301\u0323\u0344éÉﬁ½ﷺＡ가각\u1100\u1161\u11a8ᾂαΣς\x1e\x1f\u200b\ud800😀中"
texts = st.text(st.sampled_from(TRICKY), max_size=12) | st.text(max_size=12)
roles = st.sampled_from(["user", "assistant", "tool"])
conversations = st.lists(st.tuples(roles, texts), max_size=4)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def chat(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@pytest.mark.parametrize(
    ("messages", "key"),
    [
        ([], -1_970_711_489_451_281_740),
        (user("Why is the sky blue?"), -5_325_237_748_547_438_344),
        (
            chat(("system", "Be brief."), ("user", "Straße\u00a0nach  KÖLN"), ("assistant", "ﬁn")),
            4_827_788_266_311_597_959,
        ),
        (chat(("developer", "Only this.")), 629_598_178_105_499_467),
        (user("天空为什么是蓝色的?" * 40), -7_252_376_068_486_971_742),
    ],
)
def test_keys_that_are_stored_stay(messages: list[dict[str, str]], key: int) -> None:
    """Numbers computed once. If one has to change, so do the keys in every store: that takes a migration."""
    assert prefix_key(messages) == key


@given(texts, texts)
@example("a\u0301", "á")
@example("a \u00b4", "a  \u0301")
@example("STRASSE", "straße")
@example("", " \t\n")
@example("\ud800", "?")
def test_short_prompts_are_one_iff_they_are_equal(one: str, other: str) -> None:
    assert (prefix_key(user(one)) == prefix_key(user(other))) == (normalised(one) == normalised(other))


@given(texts, st.sampled_from(["a", " a", "e\u0301", "Ａ", "\u1100\u1161\u11a8"]), st.integers(-14, 2), texts)
def test_long_prompts_are_one_iff_they_share_the_prefix(head: str, filler: str, more: int, tail: str) -> None:
    one = head + filler * ((PREFIX_CHARS + more) // (2 if filler == " a" else 1))
    same = normalised(one)[:PREFIX_CHARS] == normalised(one + tail)[:PREFIX_CHARS]
    assert (prefix_key(user(one)) == prefix_key(user(one + tail))) == same


@given(st.text(st.sampled_from(TRICKY)), st.integers(1, 2 * PREFIX_CHARS), st.text(st.sampled_from(TRICKY)))
@example("\u1100\u1161\u11a8", PREFIX_CHARS - 1, "bc")
@example("\n" * 5000 + "a", PREFIX_CHARS - 1, "bc")
def test_a_key_is_the_hash_of_the_normalised_prefix(block: str, times: int, tail: str) -> None:
    """However much of the raw text the prefix takes: four characters may become one, and whitespace none."""
    text = block * times + tail
    hashed = "\x1euser\x1f" + normalised(text)[:PREFIX_CHARS]
    digest = blake2b(hashed.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    assert prefix_key(user(text)) == int.from_bytes(digest, "big", signed=True)


def test_the_200th_character_counts_and_the_201st_does_not() -> None:
    head = "x" * (PREFIX_CHARS - 1)
    assert prefix_key(user(head + "a")) != prefix_key(user(head + "b"))
    assert prefix_key(user(head + "ya")) == prefix_key(user(head + "yb")) == prefix_key(user(head + "y"))


def test_words_of_one_letter_reach_the_end_of_the_prefix() -> None:
    head = "a " * (PREFIX_CHARS // 2 - 1)
    assert prefix_key(user(head + "bc")) != prefix_key(user(head + "bd"))
    assert prefix_key(user(head + "b c")) == prefix_key(user(head + "b d"))


@given(conversations, conversations)
@example([("user", "ab")], [("user", "a"), ("assistant", "b")])
@example([("user", "ab")], [("user", "a"), ("user", "b")])
@example([("user", "a")], [("assistant", "a")])
@example([("user", "a")], [("user", "a"), ("assistant", "")])
@example([("user", "a\x1eassistant\x1fb")], [("user", "a"), ("assistant", "b")])
def test_conversations_are_one_iff_all_messages_are(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    same = [(role, normalised(text)) for role, text in one] == [(role, normalised(text)) for role, text in other]
    assert (prefix_key(chat(*one)) == prefix_key(chat(*other))) == same


def test_the_prefix_runs_through_the_messages() -> None:
    half = "x" * (PREFIX_CHARS // 2)
    start = [("user", half), ("assistant", half[1:])]
    assert prefix_key(chat(*start, ("user", "ab"))) == prefix_key(chat(*start, ("user", "ac"), ("assistant", "d")))
    assert prefix_key(chat(*start, ("user", "ab"))) != prefix_key(chat(*start, ("user", "bb")))


@given(conversations.filter(bool), texts, st.sampled_from(["system", "developer"]), st.integers(0, 4))
def test_system_messages_do_not_count(messages: list[tuple[str, str]], text: str, role: str, place: int) -> None:
    with_system = [*messages[:place], (role, text), *messages[place:]]
    assert prefix_key(chat(*with_system)) == prefix_key(chat(*messages))


def test_system_messages_alone_are_the_prompt() -> None:
    one, other = prefix_key(chat(("system", "a"))), prefix_key(chat(("system", "b")))
    assert len({one, other, prefix_key([]), prefix_key(user("a"))}) == 4
    assert prefix_key(chat(("developer", "a"))) == one  # OpenAI's newer name for the same


def test_keys_are_uniform_over_int64() -> None:
    """Each bit of 4096 keys is set in half of them, within five standard deviations of sqrt(4096) / 2 = 32."""
    keys = [prefix_key(user(f"prompt {i}")) for i in range(4096)]
    assert all(-(2**63) <= key < 2**63 for key in keys)
    for bit in range(64):
        assert abs(sum(key >> bit & 1 for key in keys) - 2048) < 160


def test_what_is_normalised_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting combining marks takes time that is quadratic in their number: 100,000 of them would stop the server."""
    normalize = unicodedata.normalize
    seen: list[int] = []
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: seen.append(len(text)) or normalize(form, text))
    prefix_key(user("a" + "\u0301\u0323" * 50_000))
    prefix_key(user("word " * 50_000))
    assert len(seen) == 2
    assert max(seen) <= 5 * PREFIX_CHARS
