"""Requests that are sent again where that may help: the Python client's way to the server.

Owns when to try again and how long to wait, as OpenAI's clients do: after a connection that failed, 408, 409, 429 and
5xx, unless `x-should-retry` says otherwise, for as long as `retry-after` says. Invariants: every try sends the same
bytes, so that an idempotency key in them makes them one; a request that may not be sent twice is only sent again where
the server cannot have acted on it; whatever goes wrong in the end leaves as one HonedError.

Source: openai-python, `_base_client.py`, and its `max_retries`.
"""

from __future__ import annotations

import math
import random
from itertools import count
from time import sleep
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from honed.clients.endpoint import EndpointError, open_client, printable, readable_errors, refusal

MAX_RETRY_AFTER_S = 60.0  # whoever says longer is told to the caller at once

_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 8.0
_REFUSED = (429, 503)  # the server has done nothing
_RETRIED = (408, 409, *_REFUSED)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BROKEN = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)

ResultT = TypeVar("ResultT")


class HonedError(Exception):
    """A call that failed. `status` is the HTTP status where the server refused it, else None; `code` and `param` are
    the server's, where it gives them: `completion_id`, `idempotency_key_reused` and the like."""

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, param: str | None = None
    ) -> None:
        self.message = printable(message)
        self.status = status
        self.code = code
        self.param = param
        super().__init__(self.message)


class Retrying:
    """Sends requests to one server; may be used by many threads."""

    def __init__(self, base_url: str, api_key: str | None, *, timeout_s: float, max_retries: int) -> None:
        """Raises HonedError where `base_url` is no HTTP address."""
        try:
            self._http = open_client(base_url, api_key)
        except EndpointError as error:
            raise HonedError(str(error)) from None
        self._http.timeout = httpx.Timeout(timeout_s)
        self._max_retries = max_retries

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        result: TypeAdapter[ResultT],
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        idempotent: bool = True,
        timeout_s: float | None = None,
    ) -> ResultT | None:
        """The answer as a `result`; None for one without a body. Values that are None are not sent."""
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        request = self._http.build_request(method, path, json=_given(body), params=_given(params), timeout=timeout)
        response = self._answer(request, idempotent=idempotent)
        if response.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            return result.validate_json(response.content)
        except ValidationError as error:
            message = f"{request.url} did not answer as honed does: see that the address is a honed server's"
            raise HonedError(message, status=response.status_code) from error

    def _answer(self, request: httpx.Request, *, idempotent: bool) -> httpx.Response:
        for tried in count():
            outcome = self._try(request)
            if isinstance(outcome, httpx.Response) and outcome.is_success:
                return outcome
            wait_s = _wait_s(outcome, _backoff_s(tried), idempotent=idempotent)
            if tried >= self._max_retries or wait_s is None:
                raise _error(outcome)
            sleep(wait_s)
        raise AssertionError("tries are counted for ever")

    def _try(self, request: httpx.Request) -> httpx.Response | EndpointError:
        try:
            with readable_errors(self._http.base_url):
                return self._http.send(request)
        except EndpointError as error:
            return error


def _wait_s(outcome: httpx.Response | EndpointError, backoff_s: float, *, idempotent: bool) -> float | None:
    """How long to wait before the next try; None where there is to be none."""
    if isinstance(outcome, EndpointError):
        return backoff_s if isinstance(outcome.__cause__, _BROKEN if idempotent else _NEVER_SENT) else None
    status, advice = outcome.status_code, outcome.headers.get("x-should-retry")
    may_help = status in _RETRIED or status >= 500 if idempotent else status in _REFUSED
    if advice == "false" or not (may_help or advice == "true"):
        return None
    asked_s = _seconds(outcome.headers.get("retry-after", ""))
    if asked_s is None:
        return backoff_s
    return asked_s if asked_s <= MAX_RETRY_AFTER_S else None


def _seconds(text: str) -> float | None:
    """None for a date, which proxies may send, and for nonsense."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _backoff_s(tried: int) -> float:
    """Longer each time, and never the same for two clients that failed together."""
    return min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**tried) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _error(outcome: httpx.Response | EndpointError) -> HonedError:
    """Of a refusal, from OpenAI's error body; of another's body, what can be read of it."""
    if isinstance(outcome, EndpointError):
        broken = HonedError(str(outcome))
        broken.__cause__ = outcome.__cause__
        return broken
    status = outcome.status_code
    try:
        error = outcome.json()["error"]
        return HonedError(str(error["message"]), status=status, code=error["code"], param=error["param"])
    except (ValueError, TypeError, LookupError):
        return HonedError(str(refusal(status, outcome.content, outcome.headers)), status=status)


def _given(values: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else {name: value for name, value in values.items() if value is not None}
