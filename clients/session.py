"""One running chat: where it is at, and the streaming of one answer to the screen.

Owns what the input loop and the /commands share. Invariant: standard output carries answers only; notes and
errors go to standard error, so that a pipe gets the answer and nothing else.
"""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console

from honed.clients.conversation import Conversation
from honed.clients.endpoint import EndpointError, printable, readable_errors, refusal
from honed.clients.sse import Chunk, ChunkStream, content, reasoning, usage


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints a model's or a server's words as they are: no markup, no :emoji:, no wrapping."""
    return Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)


@dataclass
class Session:
    """One run of the chat. `interactive` is False for a pipe, which gets no notes beside its answer."""

    client: httpx.Client
    conversation: Conversation
    interactive: bool = True
    asks_usage: bool = True
    answers: Console = field(default_factory=plain_console)
    notes: Console = field(default_factory=lambda: plain_console(stderr=True))

    def note(self, text: str) -> None:
        self.notes.print(printable(text), style="dim")

    def complain(self, text: str) -> None:
        self.notes.print(printable(text), style="red")

    def show(self, text: str) -> None:
        """Prints a piece of an answer: safe for the eyes on a terminal, as it came into a pipe."""
        if self.answers.is_terminal:
            self.answers.print(printable(text), end="")
        else:
            self.answers.file.write(text)
            self.answers.file.flush()


@dataclass
class Incoming:
    """One answer while it comes. Times are monotonic seconds."""

    asked_s: float
    first_s: float | None = None
    last_s: float | None = None
    text: str = ""
    is_thinking: bool = False
    tokens: int | None = None

    def take(self, session: Session, chunk: Chunk, now_s: float) -> None:
        """Adds a chunk and shows what it carries."""
        self.tokens = usage(chunk).get("completion_tokens", self.tokens)
        thinking, text = reasoning(chunk), content(chunk)
        if thinking or text:
            self.first_s = now_s if self.first_s is None else self.first_s
            self.last_s = now_s
        if thinking and session.interactive:
            session.notes.print(printable(thinking), style="dim italic", end="")
            self.is_thinking = True
        if text:
            if self.is_thinking:
                session.notes.print()
                self.is_thinking = False
            # Kept before it is shown: Ctrl-C may come between the two.
            self.text += text
            session.show(text)

    def pace(self) -> str:
        """Tokens, and tokens per second after the first one, whose own wait is given apart."""
        if self.first_s is None or self.last_s is None or self.tokens is None:
            return f"{self.tokens or 0} tokens"
        streaming_s = self.last_s - self.first_s
        has_rate = self.tokens > 1 and streaming_s > 0
        rate = f", {(self.tokens - 1) / streaming_s:.1f} tokens/s" if has_rate else ""
        return f"{self.tokens} tokens{rate}, the first after {self.first_s - self.asked_s:.2f} s"


def answer(session: Session) -> bool:
    """Streams the answer to the last question; False where Ctrl-C ended it, which keeps what came.

    Raises EndpointError; the question then stands unanswered, for /retry.
    """
    incoming = Incoming(asked_s=time.monotonic())
    complete = True
    try:
        with closing(_chunks(session)) as chunks:
            for chunk in chunks:
                incoming.take(session, chunk, time.monotonic())
    except KeyboardInterrupt:
        complete = False
    except EndpointError:
        if incoming.text:
            session.answers.print()
        raise
    if incoming.text or complete:
        session.conversation = session.conversation.answered(incoming.text)
    if not incoming.text.endswith("\n"):
        session.answers.print()
    if session.interactive and not complete:
        session.note("stopped")
    elif session.interactive and incoming.tokens is not None:
        session.note(incoming.pace())
    return complete


def _chunks(session: Session) -> Generator[Chunk, None, None]:
    body: dict[str, Any] = session.conversation.request()
    if session.asks_usage:
        body["stream_options"] = {"include_usage": True}
    try:
        yield from _streamed(session.client, body)
    except EndpointError as error:
        # Refused, so nothing has been shown yet; peers that do not know the option name it.
        if not (session.asks_usage and error.status_code and "stream_options" in str(error)):
            raise
        session.asks_usage = False
        yield from _chunks(session)


def _streamed(client: httpx.Client, body: dict[str, Any]) -> Generator[Chunk, None, None]:
    stream = ChunkStream()
    with readable_errors(client.base_url), client.stream("POST", "chat/completions", json=body) as response:
        if response.status_code != 200:
            raise refusal(response.status_code, response.read(), response.headers)
        for piece in response.iter_bytes():
            yield from stream.feed(piece)
        yield from stream.close()
