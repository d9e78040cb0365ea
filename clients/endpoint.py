"""An OpenAI-compatible endpoint as a client sees it: its address, its key, its models, its refusals.

Owns what the terminal chat and the load test share. It does not retry and does not wait on purpose: one
client shows the error to a person, the other counts it. Invariant: whatever goes wrong on the way leaves as
one EndpointError, whose message is one readable line that says what to do.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from honed.clients.sse import StreamError

DEFAULT_URL = "http://127.0.0.1:8000"

# Long, because a busy server may queue a request before its first token; it pings when it can.
_TIMEOUT = httpx.Timeout(30.0, read=600.0)
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class EndpointError(Exception):
    """A request that failed. `status_code` is the HTTP status where the server refused it, else None."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(printable(message))
        self.status_code = status_code


def printable(text: str) -> str:
    """`text` without control characters: a server's words must not move the cursor, retitle the window or write the
    clipboard of whoever reads them in a terminal."""
    return "".join(character for character in text if character in "\n\t" or not _is_control(character))


def api_root(url: str) -> str:
    """The address that paths such as `chat/completions` are added to; `url` comes with or without /v1.

    Raises EndpointError where `url` is no HTTP address.
    """
    root = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(root)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        httpx.URL(root)
    except (ValueError, httpx.InvalidURL):
        known = False
    if not known:
        raise EndpointError(f"{url!r} is no HTTP address: give one such as {DEFAULT_URL}")
    return root if root.endswith("/v1") else f"{root}/v1"


def open_client(url: str, api_key: str | None) -> httpx.Client:
    """A client for one conversation. Raises EndpointError where `url` is no HTTP address."""
    root = api_root(url)
    return httpx.Client(base_url=root, headers=_headers(api_key), timeout=_TIMEOUT, trust_env=not _is_loopback(root))


def open_async_client(url: str, api_key: str | None, connections: int) -> httpx.AsyncClient:
    """A client that keeps up to `connections` requests in flight."""
    root = api_root(url)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(
        base_url=root,
        headers=_headers(api_key),
        timeout=_TIMEOUT,
        limits=limits,
        trust_env=not _is_loopback(root),
    )


def list_models(client: httpx.Client) -> list[str]:
    """The ids that `/v1/models` lists, in its order. Raises EndpointError where there is none."""
    with readable_errors(client.base_url):
        response = client.get("models")
    if response.status_code != 200:
        raise refusal(response.status_code, response.content, response.headers)
    try:
        ids = [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, TypeError, LookupError):
        ids = []
    if not ids:
        raise EndpointError(f"{client.base_url}models lists no model: name one with --model")
    return ids


@contextmanager
def readable_errors(root: httpx.URL) -> Iterator[None]:
    """Turns whatever httpx and the stream raise into an EndpointError."""
    try:
        yield
    except StreamError as error:
        raise EndpointError(str(error)) from error
    except httpx.HTTPError as error:
        raise EndpointError(_explained(error, str(root).rstrip("/"))) from error


def refusal(status_code: int, body: bytes, headers: httpx.Headers) -> EndpointError:
    """The error for an answer that is not a 200, from its body in OpenAI's shape or any other."""
    advice = {
        401: "give a key with --api-key or HONED_API_KEY",
        403: "give a key that may do this with --api-key or HONED_API_KEY",
        404: "see which models there are with /v1/models, and that this is an OpenAI-compatible address",
        429: f"wait {headers.get('retry-after', 'a few')} seconds and try again",
        503: f"wait {headers.get('retry-after', 'a few')} seconds and try again",
    }.get(status_code, "see the server's log" if status_code >= 500 else "change the request")
    return EndpointError(f"the server answered {status_code}, {_message(body)}: {advice}", status_code)


def _message(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        parsed: Any = json.loads(text)
        error = parsed.get("error", parsed)
        text = str(error.get("message") or error.get("detail") or error)
    except (ValueError, AttributeError):
        pass  # not OpenAI's shape: the text itself says more than a complaint about it
    return " ".join(text.split())[:300].rstrip(".: ") or "with an empty body"


def _explained(error: httpx.HTTPError, root: str) -> str:
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return f"cannot connect to {root} ({error}): is the server running? make serve"
        case httpx.TimeoutException():
            return f"{root} did not answer in time: it may be overloaded; try again later"
        case httpx.ReadError() | httpx.WriteError() | httpx.RemoteProtocolError():
            return f"the connection to {root} broke off: see the server's log, then try again"
        case _:
            return f"the request to {root} failed ({type(error).__name__}: {error}): check the address"


def _is_control(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0


def _headers(api_key: str | None) -> dict[str, str]:
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise EndpointError("an API key has printable ASCII characters only: check --api-key or HONED_API_KEY")
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _is_loopback(root: str) -> bool:
    # A proxy from the environment cannot reach this machine's own loopback.
    return urlsplit(root).hostname in _LOOPBACK
