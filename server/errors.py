"""Every refusal and failure that a client can see, and OpenAI's body for it.

Owns the tree of `ServerError`s and the handlers that turn whatever a route raises into `{"error": {"message",
"type", "param", "code"}}`. Knows nothing of requests' contents: `server/validation.py` finds the problems.
Invariants: `code` is a string or null; a message is valid Unicode of at most `MAX_MESSAGE_BYTES` bytes;
a traceback goes to the log and never to the client.

    ServerError
    ├── InvalidRequest (400, unless it says otherwise)
    │   ├── InvalidJson  InvalidType  MissingParameter  UnknownParameter
    │   ├── InvalidValue
    │   │   └── OutOfRange
    │   ├── UnsupportedParameter  UnsupportedValue  InvalidFile
    │   ├── ContextLengthExceeded
    │   ├── InvalidApiKey (401)  Forbidden (403)  ForeignPage (403)
    │   ├── ModelNotFound (404)  NotFound (404)  MethodNotAllowed (405)
    │   └── RequestTimeout (408)  RequestTooLarge (413)
    ├── InternalError (500)
    │   └── PolicyUnloadable
    └── Unavailable (503)
        ├── Overloaded  Loading  Draining  EngineDead  StoreUnavailable  StoreBehind
        └── NoRoomForPolicy

Source: OpenAI's `ErrorResponse` schema and https://platform.openai.com/docs/guides/error-codes. The official
client retries 408, 409, 429 and 5xx twice; `x-should-retry` and `retry-after` overrule it.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

logger = logging.getLogger(__name__)

MAX_PROBLEMS = 10
MAX_PROBLEM_CHARS = 200
MAX_MESSAGE_BYTES = 3000
MAX_PARAM_BYTES = 200

NO_RETRY: Final = {"x-should-retry": "false"}


class ServerError(Exception):
    """An answer that is not the one asked for: an HTTP status and the four keys of OpenAI's error object.

    Subclasses say what they are by `status`, `type` and `code`; an instance is not to be changed once it is
    made.
    """

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message: Final = _bounded(message, MAX_MESSAGE_BYTES)
        self.param: Final = None if param is None else _bounded(param, MAX_PARAM_BYTES)
        self.headers: Final = dict(headers or {})
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status
        super().__init__(self.message)


class InvalidRequest(ServerError):  # noqa: N818 - named for what it says, as HTTP names it
    """The client asked for something that it has to change before it asks again."""

    status = 400
    type = "invalid_request_error"


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class InvalidType(InvalidRequest):
    code = "invalid_type"


class MissingParameter(InvalidRequest):
    code = "missing_required_parameter"


class UnknownParameter(InvalidRequest):
    code = "unknown_parameter"


class InvalidValue(InvalidRequest):
    code = "invalid_value"


class OutOfRange(InvalidValue):
    """A number, length or count outside its bounds; `code` names the bound, such as
    `integer_above_max_value`.
    """


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class UnsupportedValue(InvalidRequest):
    code = "unsupported_value"


class InvalidFile(InvalidRequest):
    """An uploaded file that cannot be trained on, or none of the caller's."""

    code = "invalid_file"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"

    def __init__(self, *, prompt_tokens: int, max_tokens: int, param: str) -> None:
        """`max_tokens` is what the model's context holds, the answer's first token included."""
        super().__init__(
            f"This model's maximum context length is {max_tokens} tokens, but your prompt has "
            f"{prompt_tokens} tokens. Please shorten it.",
            param=param,
        )


class InvalidApiKey(InvalidRequest):
    status = 401
    code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class Forbidden(InvalidRequest):
    """A valid key whose role does not reach this far."""

    status = 403
    code = "insufficient_permissions"

    def __init__(self, role: str) -> None:
        super().__init__(f"This needs a key of the role '{role}'.")


class ForeignPage(InvalidRequest):
    """A server without keys was asked in the name of another host, or by a page of one."""

    status = 403
    code = "foreign_page"

    def __init__(self) -> None:
        super().__init__("This server has no API keys, and so answers only to this machine's own names and pages.")


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"

    def __init__(self, model: str, available: Sequence[str] = ()) -> None:
        choices = ", ".join(f"'{name}'" for name in available[:MAX_PROBLEMS])
        hint = f" This server has {choices}." if choices else ""
        super().__init__(f"The model '{_bounded(model, MAX_PARAM_BYTES)}' does not exist.{hint}", param="model")


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(InvalidRequest):
    """The answer was not finished in the time that the server allows; a second try would take as long."""

    status = 408
    code = "request_timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The answer was not ready within {timeout_s:g} seconds. Please ask for fewer tokens.",
            headers=NO_RETRY,
        )


class RequestTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(f"The request body is larger than this server's limit of {max_body_bytes} bytes.")


class InternalError(ServerError):
    """Our own fault. `retry` is False where the same request would fail again."""

    status = 500
    code = "internal_error"

    def __init__(
        self, message: str = "The server had an error while processing your request.", *, retry: bool = False
    ) -> None:
        super().__init__(message, headers={} if retry else NO_RETRY)


class PolicyUnloadable(InternalError):  # noqa: N818 - as above
    """A checkpoint that is there and cannot be served; `reason` is a sentence without a path in it."""

    code = "policy_unloadable"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The policy '{_bounded(name, MAX_PARAM_BYTES)}' cannot be loaded. {reason}")


class Unavailable(ServerError):  # noqa: N818 - as above
    """Not now: another time, or another server, may answer. `retry_after_s` is sent in whole seconds."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, headers={"retry-after": str(max(1, round(retry_after_s)))})


class Overloaded(Unavailable):
    code = "overloaded"

    def __init__(self, *, retry_after_s: float) -> None:
        super().__init__("The server's queue is full. Please try again later.", retry_after_s=retry_after_s)


class Loading(Unavailable):
    code = "model_loading"

    def __init__(self, *, retry_after_s: float = 5) -> None:
        super().__init__("The model is still loading.", retry_after_s=retry_after_s)


class Draining(Unavailable):
    code = "shutting_down"

    def __init__(self, *, retry_after_s: float = 5) -> None:
        super().__init__("The server is shutting down.", retry_after_s=retry_after_s)


class EngineDead(Unavailable):
    code = "engine_dead"

    def __init__(self, *, retry_after_s: float = 30) -> None:
        super().__init__(
            "The engine has stopped; the server's log says why. It has to be restarted.",
            retry_after_s=retry_after_s,
        )


class NoRoomForPolicy(Unavailable):
    """It is not loaded, and nothing that is loaded may go: all of it answers, or is in service."""

    code = "no_room_for_policy"

    def __init__(self, name: str, *, retry_after_s: float = 5) -> None:
        super().__init__(
            f"The policy '{_bounded(name, MAX_PARAM_BYTES)}' is not loaded, and there is no room for it beside those "
            "that are in use. Please try again later.",
            retry_after_s=retry_after_s,
        )


class StoreUnavailable(Unavailable):
    code = "store_unavailable"

    def __init__(self, *, retry_after_s: float = 5) -> None:
        super().__init__("The store does not answer. Please try again later.", retry_after_s=retry_after_s)


class StoreBehind(Unavailable):
    """The completion is there, but not in the tables yet."""

    code = "store_behind"

    def __init__(self, *, retry_after_s: float = 2) -> None:
        super().__init__("The completion is not stored yet. Please try again.", retry_after_s=retry_after_s)


def error_body(error: ServerError) -> dict[str, dict[str, str | None]]:
    """OpenAI's error object, for a response body or for a frame in mid-stream."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: ServerError) -> JSONResponse:
    return JSONResponse(error_body(error), status_code=error.status, headers=error.headers)


def is_fault(error: Exception) -> bool:
    """Whether it is our own fault: neither a refusal, nor one of those that another time will not be there, nor a
    client that has gone."""
    return isinstance(error, InternalError) or not isinstance(error, ServerError | ClientDisconnect)


def unexpected(exc: BaseException) -> InternalError:
    """What the client is told of an exception that nobody foresaw; the log gets the traceback."""
    logger.error("unexpected error", exc_info=exc)
    return InternalError()


def install_error_handlers(app: FastAPI) -> None:
    """Make every exception that leaves a route of `app` an answer in OpenAI's shape."""
    for kind in (ServerError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, exc: Exception) -> JSONResponse:
    error = _server_error(request, exc)
    request.state.error_code = error.code or str(error.status)  # for whoever counts errors
    return error_response(error)


def _server_error(request: Request, exc: Exception) -> ServerError:
    if isinstance(exc, ServerError):
        return exc
    if isinstance(exc, HTTPException):
        return _from_http_exception(request, exc)
    if isinstance(exc, RequestValidationError):
        return _from_validation_error(exc)
    return unexpected(exc)


def _from_http_exception(request: Request, exc: HTTPException) -> ServerError:
    """Starlette's own refusals."""
    target = f"{request.method} {_bounded(request.url.path, MAX_PARAM_BYTES)}"
    if exc.status_code == 404:
        return NotFound(f"Unknown path: {target}.")
    if exc.status_code == 405:
        return MethodNotAllowed(f"The method is not allowed here: {target}.", headers=exc.headers)
    if exc.status_code < 500:
        return InvalidRequest(exc.detail, status=exc.status_code, headers=exc.headers)
    return InternalError()


def _from_validation_error(exc: RequestValidationError) -> InvalidValue:
    """FastAPI checks only path and query parameters; bodies are parsed by server/validation.py."""
    first = exc.errors()[0]
    param = str(first["loc"][-1])
    return InvalidValue(f"Invalid '{param}': {first['msg']}.", param=param)


def _bounded(text: str, max_bytes: int) -> str:
    """At most `max_bytes` of UTF-8. What cannot be printed or encoded (half surrogates) becomes `?`."""
    printable = "".join(char if char.isprintable() else "?" for char in text[:max_bytes])
    if len(text) <= max_bytes and len(printable.encode()) <= max_bytes:
        return printable
    return printable.encode()[: max_bytes - 3].decode("utf-8", "ignore") + "…"
