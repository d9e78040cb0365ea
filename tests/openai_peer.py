"""A real HTTP server that speaks OpenAI's endpoints as a test tells it to, odd ones included.

A test gives the reply to each request as bytes, cut where it wants. The peer keeps what it was asked, and
says when a client left an answer before its end.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Frame = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What one request gets. `hangs`: after the last piece the answer stays open, until the client leaves."""

    pieces: Sequence[bytes]
    status: int = 200
    hangs: bool = False


@dataclass
class Peer:
    """The server while it runs. `requests` are the bodies and `keys` the Authorization headers that came."""

    reply: Callable[[Frame], Reply]
    models: list[str] = field(default_factory=lambda: ["tiny", "large"])
    requests: list[Frame] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    async def list_models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("authorization"))
        reply = self.reply(body)
        media_type = "text/event-stream" if reply.status == 200 else "application/json"
        return StreamingResponse(self._pieces(reply), reply.status, media_type=media_type)

    async def _pieces(self, reply: Reply) -> AsyncIterator[bytes]:
        for piece in reply.pieces:
            yield piece
            await asyncio.sleep(0)
        if reply.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()


def chunk(text: str | None = None, finish_reason: str | None = None, **more: Any) -> Frame:
    """One chat completion chunk; without text its delta is empty."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **more}


def frame(data: Frame) -> bytes:
    """A chunk as it stands on the wire."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def answer(
    *texts: str, completion_tokens: int | None = None, prompt_tokens: int = 5, every_bytes: int | None = None
) -> Reply:
    """A whole stream of those deltas; with usage where a count is given; cut every so many bytes."""
    frames = [chunk(""), *(chunk(text) for text in texts), chunk(finish_reason="stop")]
    if completion_tokens is not None:
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        frames.append({"id": "chatcmpl-1", "choices": [], "usage": usage})
    wire = [b": ping\n\n", *(frame(one) for one in frames), b"data: [DONE]\n\n"]
    if every_bytes is None:
        return Reply(wire)
    whole = b"".join(wire)
    return Reply([whole[start : start + every_bytes] for start in range(0, len(whole), every_bytes)])


def refusal(status: int, message: str) -> Reply:
    """OpenAI's error body."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return Reply([json.dumps({"error": error}).encode()], status)


@contextmanager
def serve(reply: Callable[[Frame], Reply]) -> Iterator[Peer]:
    """Runs a peer on a free port of this machine while the block runs."""
    peer = Peer(reply)
    app = Starlette(
        routes=[
            Route("/v1/models", peer.list_models),
            Route("/v1/chat/completions", peer.complete, methods=["POST"]),
        ]
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield peer
        finally:
            server.should_exit = True
            thread.join()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
