"""From prompts to deltas of text: starts the sequences of one request, turns their tokens into text, ends them.

Both the streamed and the unstreamed answer are made of the same deltas, so they cannot differ. Knows nothing of HTTP
or of OpenAI's shapes (the routes have those).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b

from honed.models.detokenizer import Detokenizer
from honed.models.engine.engine import Token
from honed.models.engine.sampler import Sample
from honed.models.engine.sequence import FinishReason, SamplingParams, Sequence
from honed.server.errors import Draining, InternalError, RequestTimeout
from honed.server.metrics import Metrics
from honed.server.served import ServedPolicy
from honed.server.transcript import Delta, Ending, Transcript


class _Choice:
    """One answer while it grows: holds back what may not be sent yet."""

    def __init__(self, index: int, sequence: Sequence, detokenizer: Detokenizer) -> None:
        self.index = index
        self.sequence = sequence
        self._detokenizer = detokenizer
        self._held: list[Sample] = []
        self._count = 0  # tokens
        self._last_s: float | None = None

    def push(self, sample: Sample, end: Ending | None) -> Delta | None:
        self._held.append(sample)
        # As vLLM has it, stop strings are looked for in what comes after `min_tokens` only.
        self._count += 1
        may_stop = self._count > self.sequence.params.min_tokens
        text = self._detokenizer.push(sample.token_id, may_stop=may_stop)
        if self._detokenizer.stopped:
            end = "stop"
        elif end is not None:
            text += self._detokenizer.finish()
        if not text and end is None:
            return None
        tokens, self._held = tuple(self._held), []
        return Delta(self.index, text, tokens, end)

    def seconds_since_last(self, now_s: float) -> float | None:
        before, self._last_s = self._last_s, now_s
        return None if before is None else now_s - before


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and how they are to be continued. `params.max_tokens` may be 0: then nothing is sampled."""

    ids: list[int]
    params: SamplingParams


class Generation:
    """The answers to one request. `deltas` may be iterated once; `close` must be called, however it went. In between it
    holds a lease on the policy."""

    def __init__(
        self,
        served: ServedPolicy,
        metrics: Metrics,
        prompts: list[Prompt],
        *,
        n: int,
        seed: int | None,
        stop: tuple[str, ...],
        timeout_s: float,
    ) -> None:
        """Starts at once. Choice `i * n + j` is the j-th answer to prompt i. Raises Overloaded and EngineDead."""
        self._served = served
        self._metrics = metrics
        self._started_s = time.perf_counter()
        self._timeout_s = timeout_s
        groups = [_sequences(prompt, n, seed) for prompt in prompts]
        self._leaders = [group[0] for group in groups]
        sequences = [sequence for group in groups for sequence in group]
        self.num_choices = len(sequences)
        self._choices = {
            sequence: _Choice(index, sequence, Detokenizer(served.token_bytes, stop))
            for index, sequence in enumerate(sequences)
        }
        self._open = {sequence for sequence in sequences if sequence.params.max_tokens > 0}
        self._queue = served.submit([sequence for sequence in sequences if sequence in self._open])
        self._lease = ExitStack()
        self._lease.enter_context(served.leased())
        self.prompt_lengths = [len(prompt.ids) for prompt in prompts]  # tokens
        self.prompt_tokens = sum(self.prompt_lengths)
        self.completion_tokens = 0
        self.transcript = Transcript()
        self.first_token_s: float | None = None
        metrics.prompt_tokens.labels(served.policy.name).inc(self.prompt_tokens)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were not computed again; known once the first token has come."""
        return sum(self.cached_lengths)

    @property
    def cached_lengths(self) -> list[int]:
        """The same for each prompt."""
        return [leader.num_cached or 0 for leader in self._leaders]

    async def deltas(self) -> AsyncIterator[Delta]:
        """Raises RequestTimeout, InternalError and Draining; then nothing more comes."""
        for sequence, choice in self._choices.items():
            if sequence not in self._open:
                delta = Delta(choice.index, "", (), "length")
                yield delta
                self.transcript.add(delta)
        while self._open:
            taken = self._take(await self._next())
            if taken is not None:
                yield taken
                self.transcript.add(taken)  # when more is asked for, it has been sent
        self._metrics.request_s.labels(self._served.policy.name).observe(self.elapsed_s)

    async def by_choice(self) -> list[list[Delta]]:
        """All deltas of each choice, once it has ended. Raises what `deltas` raises."""
        parts: list[list[Delta]] = [[] for _ in range(self.num_choices)]
        async for delta in self.deltas():
            parts[delta.choice].append(delta)
        return parts

    def close(self) -> None:
        """Takes back what has not ended, so that nobody computes for a client that has gone."""
        self._served.abort(list(self._open))
        model = self._served.policy.name
        self._metrics.finished.labels(model, FinishReason.ABORT).inc(len(self._open))
        self._open.clear()
        looked_up = sum(len(leader.prompt_ids) for leader in self._leaders if leader.num_cached is not None)
        self._metrics.prefix_queries.labels(model).inc(looked_up)
        self._metrics.prefix_hits.labels(model).inc(self.cached_tokens)
        self._lease.close()

    async def _next(self) -> Token:
        try:
            async with asyncio.timeout(self._timeout_s - self.elapsed_s):
                return await self._queue.get()
        except TimeoutError:
            raise RequestTimeout(self._timeout_s) from None

    def _take(self, token: Token) -> Delta | None:
        if token.sequence not in self._open:
            return None  # the engine was a step ahead of a stop string
        if token.finish_reason is FinishReason.ERROR:
            self._end(token.sequence, FinishReason.ERROR)
            raise InternalError("The model failed while it answered.")
        if token.sample is None:
            raise Draining  # nobody but the engine's end aborts an open sequence
        self._count(token)
        end: Ending | None = None
        if token.finish_reason is not None:
            end = "stop" if token.finish_reason is FinishReason.STOP else "length"
        delta = self._choices[token.sequence].push(token.sample, end)
        if delta is not None and delta.finish_reason is not None:
            self._end(token.sequence, delta.finish_reason)
            if token.finish_reason is None:
                self._served.abort([token.sequence])
        return delta

    def _end(self, sequence: Sequence, reason: str) -> None:
        self._open.remove(sequence)
        self._metrics.finished.labels(self._served.policy.name, reason).inc()

    def _count(self, token: Token) -> None:
        now_s, model = time.perf_counter(), self._served.policy.name
        self.completion_tokens += 1
        gap_s = self._choices[token.sequence].seconds_since_last(now_s)
        if self.first_token_s is None:
            self.first_token_s = now_s - self._started_s
        if gap_s is None:
            self._metrics.first_token_s.labels(model).observe(now_s - self._started_s)
        else:
            self._metrics.next_token_s.labels(model).observe(gap_s)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started_s


def _sequences(prompt: Prompt, n: int, seed: int | None) -> list[Sequence]:
    """n answers to one prompt: the first computes it, the others share it."""
    ids = tuple(prompt.ids)
    leader = Sequence(ids, prompt.params, _choice_seed(seed, 0))
    return [leader] + [Sequence(ids, prompt.params, _choice_seed(seed, j), leader) for j in range(1, n)]


def _choice_seed(seed: int | None, choice: int) -> int:
    """64 bits: the j-th answer of a seeded request is the same every time, and differs from the others."""
    if seed is None:
        return secrets.randbits(64)
    digest = blake2b(seed.to_bytes(8, "little", signed=True) + choice.to_bytes(4, "little"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
