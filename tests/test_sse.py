"""The parser against bytes written by hand, cut at every place."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.clients.sse import ChunkStream, EventDecoder, StreamError, content, reasoning, usage


def decoded(*pieces: bytes) -> list[str]:
    decoder = EventDecoder()
    return [*itertools.chain(*(decoder.feed(piece) for piece in pieces)), *decoder.close()]


def chunks(*pieces: bytes) -> list[object]:
    stream = ChunkStream()
    return [*itertools.chain(*(stream.feed(piece) for piece in pieces)), *stream.close()]


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b": ping\n\ndata: a\n\n:\n\n", ["a"]),
        (b"data: one\ndata: two\n\n", ["one\ntwo"]),
        (b"data: one\r\ndata: two\r\n\r\n", ["one\ntwo"]),
        (b"event: error\nid: 7\ndata: a\nretry: 3\n\n", ["a"]),
        (b"data:a\n\ndata:  b\n\n", ["a", " b"]),
        (b"data\n\n", [""]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"\n\n\ndata: a\n\n\n\n", ["a"]),
        (b"data: a\n\ndata: [DONE]", ["a", "[DONE]"]),
        ("data: 你好 🦙\n\n".encode(), ["你好 🦙"]),
    ],
)
def test_every_cut_gives_the_same_events(wire: bytes, expected: list[str]) -> None:
    assert decoded(wire) == expected
    assert decoded(*(wire[place : place + 1] for place in range(len(wire)))) == expected
    for place in range(len(wire)):
        assert decoded(wire[:place], wire[place:]) == expected


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_what_was_framed_comes_out(events: list[str], end: str, data: st.DataObject) -> None:
    wire = "".join(f"data: {event}{end}{end}" for event in events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    pieces = [wire[early:late] for early, late in itertools.pairwise([0, *cuts, len(wire)])]
    assert decoded(*pieces) == events


def test_an_event_comes_out_before_the_next_one_arrives() -> None:
    decoder = EventDecoder()
    assert list(decoder.feed(b"data: a\r\n\r\n")) == ["a"]
    assert list(decoder.feed(b"data: b\r\r")) == ["b"]


def test_chunks_end_at_done() -> None:
    wire = b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\ndata: [DONE]\n\n'
    (chunk,) = chunks(wire)
    assert chunk == {"choices": [{"delta": {"content": "hi"}}]}


def test_a_finish_reason_ends_an_answer_without_done() -> None:
    assert len(chunks(b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n')) == 1


def test_a_stream_that_just_stops_is_an_error() -> None:
    stream = ChunkStream()
    wire = b'data: {"choices": [{"delta": {"content": "h"}, "finish_reason": null}]}\n\n'
    assert len(list(stream.feed(wire))) == 1
    with pytest.raises(StreamError, match="ended before"):
        list(stream.close())


def test_an_error_in_mid_stream_comes_after_what_came_before_it() -> None:
    wire = b'data: {"choices": []}\n\ndata: {"error": {"message": "out of memory"}}\n\n'
    came = ChunkStream().feed(wire)
    assert next(came) == {"choices": []}
    with pytest.raises(StreamError, match="out of memory"):
        next(came)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("<html>", "not JSON"),
        ("[]", "no chunk"),
        ('{"choices": 3}', "no chunk"),
        ('{"choices": ["a"]}', "no chunk"),
        ('{"error": "plain words"}', "plain words"),
    ],
)
def test_what_is_no_chunk_is_an_error(data: str, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        chunks(f"data: {data}\n\n".encode())


@pytest.mark.parametrize(
    ("chunk", "text", "thought", "counts"),
    [
        ({"choices": [{"delta": {"content": "a"}}]}, "a", "", {}),
        ({"choices": [{"delta": {"reasoning_content": "b"}}]}, "", "b", {}),
        ({"choices": [{"delta": {"reasoning": "c", "content": None}}]}, "", "c", {}),
        ({"choices": [{"delta": None}]}, "", "", {}),
        ({"choices": [], "usage": {"completion_tokens": 2}}, "", "", {"completion_tokens": 2}),
        ({"choices": None, "usage": None}, "", "", {}),
        ({}, "", "", {}),
    ],
)
def test_what_a_chunk_carries(chunk: dict[str, object], text: str, thought: str, counts: object) -> None:
    assert (content(chunk), reasoning(chunk), usage(chunk)) == (text, thought, counts)
