"""Server-sent events as OpenAI's endpoints frame them: bytes in, chunks out.

Owns the parsing, and nothing of HTTP: whoever reads the socket feeds what arrives. On purpose it knows only
the `data` field; event names, ids and retry times say nothing in this protocol. Invariant: where the bytes
are cut, inside a character, a line end or a frame, changes nothing in what comes out.

Sources: WHATWG HTML, "Server-sent events", section "Parsing an event stream"; OpenAI's chat completion
chunks.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

Chunk = dict[str, Any]

_LINE_END = re.compile(rb"\r\n|\n|\r")


class StreamError(Exception):
    """The stream carried an error, something that is no chunk, or ended before the answer did."""


class EventDecoder:
    """Turns pieces of a byte stream into the data of its events."""

    def __init__(self) -> None:
        self._unfinished = b""
        self._data: list[str] = []
        self._after_cr = False
        self._at_start = True

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yields the data of every event that `piece` completes."""
        if not piece:
            return
        # A CR ended its line already; the LF that follows it, in this piece, belongs to it.
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._after_cr = piece.endswith(b"\r")
        *lines, self._unfinished = _LINE_END.split(self._unfinished + piece)
        for line in lines:
            yield from self._line(line)

    def close(self) -> Iterator[str]:
        """Yields what is left: some peers do not end their last frame with an empty line."""
        yield from self._line(self._unfinished)
        self._unfinished = b""
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[str]:
        text = line.decode(errors="replace")
        if self._at_start:
            text = text.removeprefix("\ufeff")
            self._at_start = False
        if not text and self._data:
            yield "\n".join(self._data)
            self._data = []
        field, _, value = text.partition(":")
        if field == "data":
            self._data.append(value.removeprefix(" "))


class ChunkStream:
    """Turns pieces of one streamed answer into its chunks.

    A chunk that comes out is an object whose `choices`, where it has them, are objects.
    """

    def __init__(self) -> None:
        self._events = EventDecoder()
        self._ended = False

    def feed(self, piece: bytes) -> Iterator[Chunk]:
        """Yields the chunks that `piece` completes. Raises StreamError where one is an error or no chunk."""
        for data in self._events.feed(piece):
            yield from self._chunk(data)

    def close(self) -> Iterator[Chunk]:
        """Yields what is left. Raises StreamError where neither `[DONE]` nor a finish reason has come."""
        for data in self._events.close():
            yield from self._chunk(data)
        if not self._ended:
            raise StreamError("the stream ended before the answer did: see the server's log, then try again")

    def _chunk(self, data: str) -> Iterator[Chunk]:
        if data.strip() == "[DONE]":
            self._ended = True
            return
        chunk = _parsed(data)
        self._ended = self._ended or any(choice.get("finish_reason") for choice in chunk.get("choices") or [])
        yield chunk


def content(chunk: Chunk) -> str:
    """The text that a chunk adds to the answer of its first choice; empty where it adds none."""
    return _text(chunk, "content")


def reasoning(chunk: Chunk) -> str:
    """The text of a model's thinking before its answer, which peers send beside `content` under two names."""
    return _text(chunk, "reasoning_content") or _text(chunk, "reasoning")


def usage(chunk: Chunk) -> dict[str, Any]:
    """The token counts that a chunk carries; empty in most chunks, and always in those of some peers."""
    counts = chunk.get("usage")
    return counts if isinstance(counts, dict) else {}


def _text(chunk: Chunk, name: str) -> str:
    choices = chunk.get("choices") or [{}]
    delta = choices[0].get("delta")
    text = delta.get(name) if isinstance(delta, dict) else None
    return text if isinstance(text, str) else ""


def _parsed(data: str) -> Chunk:
    try:
        chunk = json.loads(data)
    except ValueError:
        raise StreamError(f"the stream carried something that is not JSON: {data[:200]}") from None
    if not isinstance(chunk, dict):
        raise StreamError(f"the stream carried something that is no chunk: {data[:200]}")
    if error := chunk.get("error"):
        message = error.get("message") if isinstance(error, dict) else error
        raise StreamError(f"the server broke the answer off: {message}")
    choices = chunk.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise StreamError(f"the stream carried something that is no chunk: {data[:200]}")
    return chunk
