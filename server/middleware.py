"""What every response has, whatever route answers: a request id, its time, a bounded body and a line in the
log.

Plain ASGI, so that streams pass through untouched. Owns the last refusal: an exception that no handler took
is answered here in OpenAI's shape, with the same headers as any other response. Invariants: one access-log
line a request, also for a client that went away; no prompt, key or query string is in it.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from honed.server.errors import InvalidValue, RequestTooLarge, ServerError, error_response, unexpected

access_log = logging.getLogger("honed.access")

OPENAI_VERSION: Final = "2020-10-01"
PROBES: Final = ("/health", "/metrics")
CLIENT_CLOSED_REQUEST: Final = 499  # nginx's number for a client that left before it was answered
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,512}")


class EdgeMiddleware:
    """Wraps an ASGI application; puts `request_id` into `scope["state"]` and logs `key_id` and `user_hash`
    from it. `max_body_bytes_of`: the paths that have a limit of their own. `count_error` is called with the code of
    every error that is the answer to a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_body_bytes_of: Mapping[str, int] = {},
        count_error: Callable[[str], None] = lambda _code: None,
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_body_bytes_of = max_body_bytes_of
        self.count_error = count_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.max_body_bytes_of.get(scope["path"], self.max_body_bytes)
        exchange = _Exchange(scope, receive, send, limit)
        try:
            await self._answer(exchange)
        finally:
            exchange.log()
            if (code := scope["state"].get("error_code")) is not None:
                self.count_error(code)

    async def _answer(self, exchange: "_Exchange") -> None:
        try:
            exchange.check_target()
            exchange.check_declared_length()
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return  # nobody is left to be answered; the log says so
        except Exception as exc:
            if exchange.status is not None:
                # Half an answer is out: only the server can still tell the client, by cutting the connection.
                raise
            error = exc if isinstance(exc, ServerError) else unexpected(exc)
            exchange.scope["state"]["error_code"] = error.code
            await error_response(error)(exchange.scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its response, watched on their way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._headers = Headers(scope=scope)
        self._started_s = time.perf_counter()
        self._body_bytes = 0
        self._is_complete = False
        self._is_disconnected = False
        self.status: int | None = None
        self.request_id = _request_id(self._headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = self.request_id

    def check_target(self) -> None:
        """Raises `InvalidValue` for a path or a query with a NUL, which no database would look up."""
        if "\0" in self.scope["path"] or b"%00" in self.scope.get("query_string", b""):
            raise InvalidValue("The path or the query holds the character U+0000.")

    def check_declared_length(self) -> None:
        """Raises `RequestTooLarge` before a byte of the body is read."""
        declared = self._headers.get("content-length", "")
        # A length of that many digits is not parsed: it is too large whatever it says.
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self._max_body_bytes):
            raise RequestTooLarge(self._max_body_bytes)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_disconnected = not self._is_complete
        elif message["type"] == "http.request":
            self._body_bytes += len(message.get("body", b""))
            if self._body_bytes > self._max_body_bytes:
                raise RequestTooLarge(self._max_body_bytes)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-processing-ms"] = str(self._elapsed_ms())
            headers["openai-version"] = OPENAI_VERSION
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)

    def log(self) -> None:
        state = self.scope["state"]
        line = {
            "method": self.scope["method"],
            "path": self.scope["path"],
            "status": self.status if self.status is not None else CLIENT_CLOSED_REQUEST,
            "ms": self._elapsed_ms(),
            "request_id": self.request_id,
            "key_id": state.get("key_id"),
            "user_hash": state.get("user_hash"),
            "disconnected": self._is_disconnected,
        }
        # Probes and scrapes come every few seconds and say nothing about the users.
        level = logging.DEBUG if self.scope["path"] in PROBES else logging.INFO
        access_log.log(level, json.dumps(line))

    def _elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started_s) * 1000)


def _request_id(sent: str | None) -> str:
    """The client's id if it is safe to log and send back, else a new one."""
    if sent is not None and _SANE_REQUEST_ID.fullmatch(sent):
        return sent
    return f"req_{uuid.uuid4().hex}"
