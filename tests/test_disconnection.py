"""Clients that go away, in mid-stream or while they wait: nothing is computed for them any longer."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually, running

from honed.models.engine.sequence import FinishReason, Sequence
from honed.server.settings import Settings

MESSAGES = [{"role": "user", "content": "Tell me everything"}]
ENDLESS: dict[str, Any] = {"model": "honed", "messages": MESSAGES, "ignore_eos": True, "max_tokens": 8000}


@pytest.fixture(scope="module")
def long_server(long_checkpoint: Path) -> Iterator[LiveServer]:
    """Its answers take longer than any client here waits."""
    with running(Settings(model=str(long_checkpoint), dtype="float32", kv_cache_gib=0.02)) as server:
        yield server


def answered(http: httpx.Client, **fields: Any) -> httpx.Response:
    response = http.post("/v1/chat/completions", json=ENDLESS | fields)
    assert response.status_code == 200
    return response


def ends(sequences: list[Sequence]) -> set[FinishReason | None]:
    return {sequence.finish_reason for sequence in sequences}


def living(server: LiveServer) -> list[Sequence]:
    return list(server.served._listeners)


def drop_streams(server: LiveServer, count: int) -> list[Sequence]:
    """Opens streams and leaves when all have begun; the sequences that they were answered by."""

    async def drop() -> list[Sequence]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http, contextlib.AsyncExitStack() as streams:

            async def begin() -> None:
                body = ENDLESS | {"stream": True}
                response = await streams.enter_async_context(http.stream("POST", "/v1/chat/completions", json=body))
                assert response.status_code == 200

            await asyncio.gather(*(begin() for _ in range(count)))
            return living(server)

    return asyncio.run(drop())


def drop_unstreamed(server: LiveServer, count: int) -> list[Sequence]:
    """The same without streams."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(ENDLESS).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with contextlib.ExitStack() as sockets:
        for _ in range(count):
            connection = sockets.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(head + body)
        eventually(lambda: server.served.num_live == count)
        return living(server)


def tasks(server: LiveServer) -> int:
    return len(asyncio.all_tasks(server.served._loop))


@pytest.mark.parametrize(("drop", "count"), [(drop_streams, 50), (drop_unstreamed, 20)])
def test_clients_that_go_away_leave_nothing_behind(
    long_server: LiveServer, drop: Callable[[LiveServer, int], list[Sequence]], count: int
) -> None:
    with long_server.http() as http:
        answered(http, stream=True, max_tokens=1)
        eventually(lambda: long_server.served.num_live == 0)
        before = tasks(long_server)
        dropped = drop(long_server, count)
        assert len(dropped) == count
        eventually(lambda: long_server.served.num_live == 0)
        assert ends(dropped) == {FinishReason.ABORT}
        eventually(lambda: tasks(long_server) <= before)
        assert long_server.gauge("vllm:num_requests_running") == 0
        assert long_server.gauge("vllm:num_requests_waiting") == 0
        assert long_server.gauge("vllm:kv_cache_usage_perc") == 0
        assert answered(http, max_tokens=3).json()["usage"]["completion_tokens"] == 3


def test_a_client_that_hangs_up_is_no_error(long_server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        drop_unstreamed(long_server, 1)
        eventually(lambda: any(record.name == "honed.access" for record in caplog.records))
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "honed.access"]
    assert (line["status"], line["disconnected"]) == (499, True)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_client_that_does_not_read_is_cut(long_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its stream stands still in the socket's buffers, where no timeout of the generation is looked at."""
    settings = Settings(model=str(long_checkpoint), dtype="float32", kv_cache_gib=0.02, request_timeout_s=4)
    body = json.dumps(ENDLESS | {"stream": True, "n": 16, "logprobs": True, "top_logprobs": 20}).encode()
    with running(settings) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        eventually(lambda: server.served.num_live == 16)
        eventually(lambda: "did not read it" in caplog.text)
        eventually(lambda: server.served.num_live == 0)
