"""What remembering costs: requests per second with logging off, on SQLite and on PostgreSQL, in turn, in one run.

    .venv/bin/python benchmarks/remembering.py [--requests 10000] [--clients 32] [--rounds 3] [--stream]

The engine is the tests' fake one, which answers at once, so that what is measured is the server. The load comes from
this process, by hand-written HTTP, since a client library would be slower than the server. After each round every
completion has to be in the store, once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
from sqlalchemy import func, make_url, select

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from databases import Postgres
from fakes import save_tiny_policy

from honed.server.store.database import open_database, reading
from honed.server.store.tables import Choice, Completion

SERVE = """
import sys
from fakes import fake_load
from honed.server import policies
from honed.server.serve import serve
from honed.server.settings import Settings
policies.load = fake_load
settings = Settings(port=0, model=sys.argv[1], log_level="warning")
sys.exit(serve(settings, on_ready=lambda url, _: print(url, flush=True)))
"""
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")


async def load(url: str, *, requests: int, clients: int, stream: bool) -> float:
    """Requests per second. Raises where an answer is not 200."""
    host, port = url.removeprefix("http://").split(":")
    numbers = iter(range(requests))
    started_s = time.perf_counter()
    await asyncio.gather(*(client(host, int(port), numbers, stream=stream) for _ in range(clients)))
    return requests / (time.perf_counter() - started_s)


async def client(host: str, port: int, numbers: Iterator[int], *, stream: bool) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    for number in numbers:
        words = " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 40))
        messages = [{"role": "user", "content": f"Question {number}. Write a story that uses these words: {words}"}]
        body = json.dumps({"model": "honed", "messages": messages, "user": f"user-{number % 1000}", "stream": stream})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert answer.startswith(b"http/1.1 200"), answer
        if b"chunked" in answer:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        else:
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            await reader.readexactly(int(length[1]))
    writer.close()


class Server:
    """With logging on a fresh store, or without."""

    def __init__(self, kind: str, postgres: Postgres, model: Path) -> None:
        self._home = tempfile.TemporaryDirectory()
        home = Path(self._home.name)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HONED_")}
        environment |= {"HONED_HOME": str(home), "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
        environment["HONED_LOGGING"] = "off" if kind == "off" else "all"
        if kind == "postgresql":
            environment["HONED_DATABASE_URL"] = postgres.new_store().render_as_string(hide_password=False)
        self.database_url = environment.get("HONED_DATABASE_URL", f"sqlite:///{home / 'honed.db'}")
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVE, str(model)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._popen.stdout is not None
        self.url = self._popen.stdout.readline().strip()
        if kind != "off":
            while httpx.get(f"{self.url}/health").json()["store"]["state"] != "up":
                time.sleep(0.05)

    def cpu_s(self) -> float:
        """Of the server's own process: its writer and the database are others."""
        times = psutil.Process(self._popen.pid).cpu_times()
        return float(times.user + times.system)

    def lag_s(self) -> float:
        """How long the store needs to catch up."""
        started_s = time.perf_counter()
        while httpx.get(f"{self.url}/health").json()["store"]["pending"]:
            time.sleep(0.1)
        return time.perf_counter() - started_s

    def stored(self) -> tuple[int, int]:
        """Completions and answers in the store."""
        engine = open_database(make_url(self.database_url))
        with reading(engine) as connection:
            completions = connection.execute(select(func.count()).select_from(Completion)).scalar_one()
            choices = connection.execute(select(func.count()).select_from(Choice)).scalar_one()
        engine.dispose()
        return completions, choices

    def stop(self) -> None:
        self._popen.terminate()
        self._popen.communicate()
        self._home.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", action="store_true")
    given = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    model = save_tiny_policy(Path(folder.name) / "tiny")
    postgres = Postgres()
    rates: dict[str, list[float]] = {"off": [], "sqlite": [], "postgresql": []}
    for number in range(given.rounds):
        kinds = list(rates)
        for kind in kinds[number % 3 :] + kinds[: number % 3]:  # each is first, once in three rounds
            measured = rates[kind]
            server = Server(kind, postgres, model)
            options = {"clients": given.clients, "stream": given.stream}
            asyncio.run(load(server.url, requests=500, **options))  # warm
            before_s = server.cpu_s()
            measured.append(asyncio.run(load(server.url, requests=given.requests, **options)))
            cpu_ms = 1000 * (server.cpu_s() - before_s) / given.requests
            line = f"round {number + 1}: {kind:10} {measured[-1]:7.1f} requests/s, {cpu_ms:.2f} ms of CPU each"
            if kind != "off":
                lag_s = server.lag_s()
                assert server.stored() == (given.requests + 500,) * 2, "every completion is there once"
                line += f", all stored {lag_s:.1f} s later"
            print(line, flush=True)
            server.stop()
    postgres.cleanup()
    folder.cleanup()
    for kind in ("sqlite", "postgresql"):
        ratios = [on / off for on, off in zip(rates[kind], rates["off"], strict=True)]
        rounds = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{kind}: {statistics.median(ratios):.3f} of logging off (rounds: {rounds})")


if __name__ == "__main__":
    main()
