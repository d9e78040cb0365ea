"""When the Python client sends again, how long it waits, and what it says when nothing helps: without a server, by the
book of what one may answer."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from openai_peer import free_port

from honed.clients.python import Honed, HonedError

FEEDBACK = {
    "id": "fb-1", "object": "feedback", "created": 1_700_000_000, "completion_id": "chatcmpl-1", "choice": 0,
    "kind": "thumb", "value": "up", "labeler": None, "source": "user", "policy": "ckpt", "metadata": {},
}  # fmt: skip
TASKS = {"data": [], "passed_over": {}, "stopped": "no_prompts"}

Outcome = httpx.Response | httpx.TransportError


@pytest.fixture
def waits_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have waited before each further try."""
    waits: list[float] = []
    monkeypatch.setattr("honed.clients.retries.sleep", waits.append)
    return waits


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[httpx.Request]]:
    """What the server answers, in its place; the requests that come."""

    def answer_with(*outcomes: Outcome) -> list[httpx.Request]:
        requests: list[httpx.Request] = []

        def handle(_self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
            requests.append(request)
            outcome = outcomes[len(requests) - 1]
            if isinstance(outcome, httpx.Response):
                return outcome
            raise outcome

        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
        return requests

    return answer_with


def refused(call: Callable[[], object]) -> HonedError:
    with pytest.raises(HonedError) as caught:
        call()
    return caught.value


def refusal(status: int, **headers: str) -> httpx.Response:
    error = {"message": "Not now.", "type": "server_error", "param": None, "code": "overloaded"}
    return httpx.Response(
        status, json={"error": error}, headers={name.replace("_", "-"): headers[name] for name in headers}
    )


@pytest.mark.parametrize("failure", [
    httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.ReadTimeout("slow"), httpx.ReadError("cut"),
    httpx.WriteError("cut"), httpx.RemoteProtocolError("cut"),
    refusal(408), refusal(409), refusal(429), refusal(500), refusal(503), refusal(400, x_should_retry="true"),
], ids=repr)  # fmt: skip
def test_it_tries_again(failure: Outcome, wire: Callable[..., list[httpx.Request]], waits_s: list[float]) -> None:
    requests = wire(failure, httpx.Response(200, json=FEEDBACK))
    assert Honed().thumb("chatcmpl-1", up=True).id == "fb-1"
    assert len(requests) == 2
    assert len(waits_s) == 1
    assert 0.25 <= waits_s[0] <= 0.5


@pytest.mark.parametrize("failure", [
    refusal(400), refusal(401), refusal(404), refusal(500, x_should_retry="false"), refusal(429, retry_after="61"),
    httpx.Response(307, headers={"location": "http://elsewhere/"}), httpx.LocalProtocolError("a header is wrong"),
], ids=repr)  # fmt: skip
def test_it_does_not_try_again(
    failure: Outcome, wire: Callable[..., list[httpx.Request]], waits_s: list[float]
) -> None:
    requests = wire(failure)
    error = refused(lambda: Honed().thumb("chatcmpl-1", up=True))
    assert error.status == (failure.status_code if isinstance(failure, httpx.Response) else None)
    assert len(requests) == 1
    assert not waits_s


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [("7", 7, 7), ("0", 0, 0), ("60", 60, 60), ("1.5", 1.5, 1.5), ("soon", 0.25, 0.5), ("-1", 0.25, 0.5),
     ("nan", 0.25, 0.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.25, 0.5)],
)  # fmt: skip
def test_it_waits_as_long_as_it_is_told(
    said: str, low: float, high: float, wire: Callable[..., list[httpx.Request]], waits_s: list[float]
) -> None:
    wire(refusal(503, retry_after=said), httpx.Response(200, json=FEEDBACK))
    Honed().thumb("chatcmpl-1", up=True)
    assert len(waits_s) == 1
    assert low <= waits_s[0] <= high


def test_it_gives_up_and_waits_longer_each_time(wire: Callable[..., list[httpx.Request]], waits_s: list[float]) -> None:
    requests = wire(*[refusal(503)] * 7)
    error = refused(lambda: Honed(max_retries=6).comment("chatcmpl-1", "Good."))
    assert (error.status, error.code, error.message) == (503, "overloaded", "Not now.")
    assert len({request.content for request in requests}) == 1
    assert len(requests) == 7
    for wait_s, longest_s in zip(waits_s, (0.5, 1, 2, 4, 8, 8), strict=True):
        assert longest_s / 2 <= wait_s <= longest_s


def test_it_tries_once_where_it_is_told_to(wire: Callable[..., list[httpx.Request]], waits_s: list[float]) -> None:
    requests = wire(refusal(503))
    assert refused(Honed(max_retries=0).progress).status == 503
    assert len(requests) == 1
    assert not waits_s


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (httpx.ConnectError("refused"), 2), (refusal(503), 2), (refusal(429), 2),
        (refusal(500, x_should_retry="true"), 2), (httpx.ReadTimeout("slow"), 1), (httpx.RemoteProtocolError("cut"), 1),
        (refusal(408), 1), (refusal(502), 1),
    ],
    ids=repr,
)  # fmt: skip
def test_tasks_are_ordered_again_only_where_none_were_made(
    failure: Outcome, tries: int, wire: Callable[..., list[httpx.Request]], waits_s: list[float]
) -> None:
    requests = wire(failure, httpx.Response(200, json=TASKS))
    if tries == 1:
        refused(lambda: Honed().create_tasks(3))
    else:
        assert Honed().create_tasks(3).stopped == "no_prompts"
    assert len(requests) == tries


def test_nobody_is_there(waits_s: list[float]) -> None:
    error = refused(Honed(f"127.0.0.1:{free_port()}").agreement)
    assert error.status is None
    assert "is the server running?" in error.message
    assert isinstance(error.__cause__, httpx.ConnectError)
    assert len(waits_s) == 2


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1", "http://", "http://127.0.0.1:0"])
def test_an_address_that_is_none(url: str) -> None:
    assert "is no HTTP address" in refused(lambda: Honed(url)).message


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"id": 7}', b"\xff", b""])
def test_an_answer_that_is_not_honeds(body: bytes, wire: Callable[..., list[httpx.Request]]) -> None:
    wire(httpx.Response(200, content=body))
    error = refused(lambda: Honed().thumb("chatcmpl-1", up=True))
    assert "did not answer as honed does" in error.message


def test_an_empty_answer_where_there_must_be_one(wire: Callable[..., list[httpx.Request]]) -> None:
    wire(httpx.Response(204))
    assert "is empty" in refused(Honed().progress).message


@pytest.mark.parametrize(
    "body",
    [b"<html>Bad \x1b[31mgateway</html>", b'{"detail": "Bad gateway"}', b'{"error": "Bad gateway"}', b'["x"]', b""],
)
def test_a_refusal_in_another_shape(
    body: bytes, wire: Callable[..., list[httpx.Request]], waits_s: list[float]
) -> None:
    wire(*[httpx.Response(502, content=body)] * 3)
    error = refused(Honed().progress)
    assert (error.status, error.code, error.param) == (502, None, None)
    assert "502" in error.message
    assert "\x1b" not in error.message


def test_keys_that_a_newer_server_adds_are_no_matter(wire: Callable[..., list[httpx.Request]]) -> None:
    wire(httpx.Response(200, json={**FEEDBACK, "mood": "good", "kind": "gesture", "value": "wave"}))
    assert Honed().thumb("chatcmpl-1", up=True).kind == "gesture"
