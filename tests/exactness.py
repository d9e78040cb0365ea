"""Does an answer depend on its company? Asks a server N different requests one by one, then all at once, and compares.

    .venv/bin/python tests/exactness.py http://127.0.0.1:8000 --clients 64

Every request has its own length, temperature and seed. In float32 no answer may differ. In bfloat16, kernels for
batches of different sizes round differently: where two candidates are as near as that, the better one can change. The
report tells rounding from a mistake: how far the log-probabilities of the same token moved before answers part (a
logit between 16 and 32 is rounded to a multiple of 0.125 in bfloat16, and a temperature of 0.5 doubles that), and how
near the two best candidates were where an answer parted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

WORDS = ["river", "stone", "cloud", "lantern", "harbour", "engine", "violin", "garden", "winter", "copper", "letter"]


@dataclass(frozen=True)
class Answer:
    tokens: list[str]
    logprobs: list[float]
    margins: list[float]  # between the two best candidates


@dataclass(frozen=True)
class Parting:
    """Where one request's two answers are no longer the same."""

    request: int
    position: int
    is_greedy: bool
    margin: float


@dataclass(frozen=True)
class Comparison:
    answers: int
    tokens: int
    partings: list[Parting]
    largest_move: float  # of a log-probability, up to where answers part

    def __str__(self) -> str:
        lines = [
            f"{self.answers} answers, {self.tokens} tokens: {len(self.partings)} answers differ; "
            f"log-probabilities moved by at most {self.largest_move:.2g}"
        ]
        for p in self.partings:
            kind = "greedy" if p.is_greedy else "sampled"
            lines.append(f"  request {p.request} ({kind}) parts at token {p.position}, margin there {p.margin:.2g}")
        return "\n".join(lines)


def make_request(index: int, model: str) -> dict[str, Any]:
    r = random.Random(index)
    words = " ".join(r.choices(WORDS, k=r.randrange(3, 40)))
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me something about: {words}"}],
        "max_tokens": r.randrange(8, 33),
        "temperature": r.choice([0.0, 0.0, 0.5, 0.8, 1.0]),
        "top_p": r.choice([1.0, 0.9]),
        "seed": index,
        "logprobs": True,
        "top_logprobs": 2,
    }


async def ask(client: AsyncOpenAI, request: dict[str, Any]) -> Answer:
    completion = await client.chat.completions.create(**request)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    entries = logprobs.content or []
    return Answer(
        tokens=[entry.token for entry in entries],
        logprobs=[entry.logprob for entry in entries],
        margins=[entry.top_logprobs[0].logprob - entry.top_logprobs[1].logprob for entry in entries],
    )


def compare(requests: list[dict[str, Any]], alone: list[Answer], together: list[Answer]) -> Comparison:
    partings = []
    move = 0.0
    for index, (request, a, b) in enumerate(zip(requests, alone, together, strict=True)):
        same = next((i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)) if x != y), None)
        if same is None and len(a.tokens) != len(b.tokens):
            same = min(len(a.tokens), len(b.tokens)) - 1
        pairs = list(zip(a.logprobs, b.logprobs, strict=False))[:same]
        move = max([move, *(abs(x - y) for x, y in pairs)])
        if same is not None:
            partings.append(Parting(index, same, request["temperature"] == 0, a.margins[same]))
    return Comparison(len(alone), sum(len(answer.tokens) for answer in alone), partings, move)


async def run(url: str, clients: int, model: str = "honed", api_key: str = "unused") -> Comparison:
    requests = [make_request(index, model) for index in range(clients)]
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=600) as client:
        alone = [await ask(client, request) for request in requests]
        together = await asyncio.gather(*(ask(client, request) for request in requests))
    return compare(requests, alone, together)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=64)
    given = parser.parse_args()
    print(asyncio.run(run(given.url, given.clients)))
