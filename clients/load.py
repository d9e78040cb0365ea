"""Closed-loop load on an OpenAI-compatible endpoint: what one level of concurrency gave.

Owns the requests and the arithmetic; bench.py owns the options, the table and the files. Closed loop:
`concurrency` workers each send their next request when their last one ended, so a slow server is asked less,
never more. Invariant: the warm-up requests of a level are in no number.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from honed.clients.endpoint import EndpointError, open_async_client, readable_errors, refusal
from honed.clients.sse import ChunkStream, content, reasoning, usage

_WORDS = ["river", "stone", "lamp", "garden", "winter", "letter", "bridge", "music", "orange", "window"]
_WORDS += ["captain", "market", "silver", "forest", "morning", "kitchen", "engine", "island", "paper"]
_WORDS += ["shadow", "teacher", "valley", "ocean", "pocket", "ladder", "candle", "harbor", "mirror"]


@dataclass(frozen=True)
class Load:
    """What to send. `ignore_eos` is sent only where True: peers that do not know it may refuse it."""

    url: str
    model: str
    api_key: str | None = None
    requests: int = 32
    warmup: int = 1
    max_tokens: int = 64
    prompt_words: int = 40
    shared_prefix_words: int = 0
    temperature: float = 0.0
    ignore_eos: bool = False
    seed: int = 0

    def prompt(self, name: str) -> str:
        """The prompt of the request `name`; of the same seed and name it is the same, of others another."""
        shared = " ".join(_words(f"{self.seed} shared", self.shared_prefix_words))
        own = " ".join(_words(f"{self.seed} {name}", self.prompt_words))
        return f"{shared}\nRequest {name}: tell a long story with these words: {own}".lstrip()

    def body(self, name: str, *, with_usage: bool) -> dict[str, Any]:
        """The chat completion that the request `name` sends."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt(name)}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
        }
        if with_usage:
            body["stream_options"] = {"include_usage": True}
        if self.ignore_eos:
            body["ignore_eos"] = True
        return body


@dataclass(frozen=True)
class Outcome:
    """One request. `arrivals_s`: seconds from sending it to each chunk that carried text, rising.

    `output_tokens` and `prompt_tokens` are the server's own count, None where it gives none; `error` is None
    where the answer came to its end, and `status_code` is that of a refusal.
    """

    arrivals_s: tuple[float, ...] = ()
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    error: str | None = None
    status_code: int | None = None

    def tokens(self) -> int:
        """Tokens of the answer: as the server counts them, else one a chunk."""
        return len(self.arrivals_s) if self.output_tokens is None else self.output_tokens

    def gaps_s(self) -> list[float]:
        """Seconds a token between chunks: where a chunk holds several tokens, its gap is shared out."""
        chunks = len(self.arrivals_s)
        tokens_per_chunk = max(1.0, self.tokens() / chunks) if chunks else 1.0
        return [
            (late - early) / tokens_per_chunk for early, late in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)
        ]


@dataclass(frozen=True)
class Report:
    """The numbers of one level. None: nothing was there to measure it by."""

    model: str
    concurrency: int
    requests: int
    errors: int
    first_error: str | None
    elapsed_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float | None
    requests_per_s: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    itl_p50_ms: float | None
    itl_p99_ms: float | None
    mean_output_tokens: float | None


@dataclass
class Level:
    """One level while it runs: what is there can be reported at any time, after Ctrl-C too."""

    concurrency: int
    on_outcome: Callable[[], object] = lambda: None
    outcomes: list[Outcome] = field(default_factory=list)
    started_s: float | None = None
    elapsed_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self.started_s is not None:
            self.elapsed_s = time.perf_counter() - self.started_s
        self.on_outcome()


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` of all do not exceed (nearest rank); None of no values."""
    if not values:
        return None
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def report(model: str, level: Level) -> Report:
    """The numbers of what has ended so far. Tokens count where the answer came to its end."""
    ended = [outcome for outcome in level.outcomes if outcome.error is None]
    errors = [outcome.error for outcome in level.outcomes if outcome.error is not None]
    output_tokens = sum(outcome.tokens() for outcome in ended)
    prompts = [outcome.prompt_tokens for outcome in ended]
    prompt_tokens = sum(count or 0 for count in prompts)
    first_ms = [1e3 * outcome.arrivals_s[0] for outcome in ended if outcome.arrivals_s]
    gaps_ms = [1e3 * gap_s for outcome in ended for gap_s in outcome.gaps_s()]
    elapsed_s = level.elapsed_s or math.inf
    return Report(
        model=model,
        concurrency=level.concurrency,
        requests=len(level.outcomes),
        errors=len(errors),
        first_error=errors[0] if errors else None,
        elapsed_s=round(level.elapsed_s, 3),
        output_tokens_per_s=round(output_tokens / elapsed_s, 1),
        total_tokens_per_s=None if None in prompts else round((output_tokens + prompt_tokens) / elapsed_s, 1),
        requests_per_s=round(len(ended) / elapsed_s, 2),
        ttft_p50_ms=_rounded(percentile(first_ms, 50)),
        ttft_p99_ms=_rounded(percentile(first_ms, 99)),
        itl_p50_ms=_rounded(percentile(gaps_ms, 50)),
        itl_p99_ms=_rounded(percentile(gaps_ms, 99)),
        mean_output_tokens=round(output_tokens / len(ended), 1) if ended else None,
    )


async def run(load: Load, level: Level) -> None:
    """Warms up, then sends the level's requests; every one that ends, well or not, is in `level.outcomes`."""
    async with open_async_client(load.url, load.api_key, level.concurrency) as client:
        with_usage = await _warm_up(client, load, level.concurrency)
        names = iter(f"{level.concurrency}-{number}" for number in range(max(load.requests, level.concurrency)))
        level.started_s = time.perf_counter()
        await asyncio.gather(*(_work(client, load, level, names, with_usage) for _ in range(level.concurrency)))


async def _warm_up(client: httpx.AsyncClient, load: Load, concurrency: int) -> bool:
    """Sends what is not counted; says whether the peer takes `stream_options`, which bring its usage."""
    with_usage = True
    for number in range(load.warmup):
        name = f"{concurrency}-warm-{number}"
        outcome = await _ask(client, load.body(name, with_usage=with_usage))
        if number == 0 and outcome.status_code in (400, 422):
            plain = await _ask(client, load.body(name, with_usage=False))
            with_usage = plain.error is not None
    return with_usage


async def _work(client: httpx.AsyncClient, load: Load, level: Level, names: Iterator[str], with_usage: bool) -> None:
    for name in names:
        level.add(await _ask(client, load.body(name, with_usage=with_usage)))


async def _ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Outcome:
    arrivals_s: list[float] = []
    counts: dict[str, Any] = {}
    stream = ChunkStream()
    sent_s = time.perf_counter()
    try:
        with readable_errors(client.base_url):
            async with client.stream("POST", "chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise refusal(response.status_code, await response.aread(), response.headers)
                async for piece in response.aiter_bytes():
                    now_s = time.perf_counter() - sent_s
                    for chunk in stream.feed(piece):
                        counts = usage(chunk) or counts
                        if content(chunk) or reasoning(chunk):
                            arrivals_s.append(now_s)
                for chunk in stream.close():
                    counts = usage(chunk) or counts
    except EndpointError as error:
        return Outcome(tuple(arrivals_s), error=str(error), status_code=error.status_code)
    return Outcome(tuple(arrivals_s), counts.get("completion_tokens"), counts.get("prompt_tokens"))


def _words(seed: str, count: int) -> list[str]:
    return random.Random(seed).choices(_WORDS, k=count)  # noqa: S311 - words of a prompt, no secret


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
