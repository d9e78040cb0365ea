"""JSON lines -> server-sent events, as OpenAI frames them. The only import of sse_starlette, which at import replaces
uvicorn's exit handler so that streams are cut at SIGTERM; here they are drained instead (`serve.py`)."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.types import Receive, Scope, Send

from honed.server.errors import ServerError, error_body, unexpected

logger = logging.getLogger(__name__)

AppStatus.disable_automatic_graceful_drain()

PING_S = 15  # proxies close connections that are silent for a minute or so
PADDED_CHARS = 16
GRACE_S = 2  # for the error event of a request that took too long, before its stream is cut


class EventStream(EventSourceResponse):
    """Sends each line of `lines` as one event and `[DONE]` after the last.

    An error in mid-stream is sent as an event `{"error": ...}`, and ends the stream without `[DONE]`. `on_end` is
    called however the stream ends, also when it never began because the client had gone.
    """

    def __init__(
        self, lines: AsyncIterator[str], *, headers: dict[str, str], timeout_s: float, on_end: Callable[[], None]
    ) -> None:
        super().__init__(
            _events(lines),
            headers=headers,
            ping=PING_S,
            sep="\n",
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
        )
        self._timeout_s = timeout_s
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._timeout_s + GRACE_S):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            logger.warning("cut a stream whose client did not read it for %g s", self._timeout_s)
        finally:
            self._on_end()


def padding(text: str) -> str:
    """OpenAI's `obfuscation`: random characters that hide a delta's length from who watches the encrypted stream."""
    return secrets.token_urlsafe(PADDED_CHARS)[: PADDED_CHARS - len(text) % PADDED_CHARS]


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[bytes]:
    try:
        async for line in lines:
            yield f"data: {line}\n\n".encode()
    except ServerError as error:
        yield _error_event(error)
    except Exception as error:
        yield _error_event(unexpected(error))
    else:
        yield b"data: [DONE]\n\n"


def _error_event(error: ServerError) -> bytes:
    return f"data: {json.dumps(error_body(error), ensure_ascii=False)}\n\n".encode()
