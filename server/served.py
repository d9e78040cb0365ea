"""A loaded policy with a running engine, and who may still use it.

Sequences go in; their tokens come out of a queue that each request owns. Touched by the event loop only: the engine's
thread hands its reports over through `call_soon_threadsafe`. Invariant: who holds a lease finds the policy whole; it is
for the server to close only what nobody leases, unless its time is up (`engines.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from honed.models.engine.engine import Token
from honed.models.engine.sequence import Sequence
from honed.models.engine.thread import EngineDeadError, EngineThread, Report
from honed.server.errors import Draining, EngineDead, Overloaded
from honed.server.loading import Loaded
from honed.server.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of requests for `honed`: those that were answered to the end, and those that failed by our fault. What was
    refused, cut off or too slow is neither."""

    answered: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return self.answered + self.failed

    def __sub__(self, before: Outcomes) -> Outcomes:
        return Outcomes(self.answered - before.answered, self.failed - before.failed)


class ServedPolicy:
    def __init__(self, loaded: Loaded, metrics: Metrics, *, max_queue: int) -> None:
        self.policy = loaded.policy
        self.token_bytes = loaded.token_bytes
        self.context_length = loaded.context_length
        self.cache_bytes = loaded.cache_bytes
        self.max_running = loaded.engine.config.max_sequences  # in a batch
        self.max_live = self.max_running + max_queue  # choices that may run and wait at once
        self.num_leases = 0
        self.outcomes = Outcomes()
        self.used_s = time.monotonic()  # when a lease was last begun or ended
        # One thread: tokenizers keep padding and truncation settings that two threads would fight over.
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._engine = loaded.engine
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[Sequence, asyncio.Queue[Token]] = {}
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._closed = False
        self._thread = EngineThread(loaded.engine, self._hand_over)
        metrics.observe(self.policy.name, loaded.engine.stats())

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive

    @property
    def is_idle(self) -> bool:
        return self.num_leases == 0 and self.num_live == 0

    @property
    def num_live(self) -> int:
        """Sequences that were submitted and have not ended."""
        return len(self._listeners)

    @contextmanager
    def leased(self) -> Iterator[ServedPolicy]:
        """Nobody frees it until the block ends."""
        self.num_leases += 1
        self._note_use()
        try:
            yield self
        finally:
            self.num_leases -= 1
            self._note_use()

    def count_answer(self) -> None:
        self.outcomes = replace(self.outcomes, answered=self.outcomes.answered + 1)

    def count_failure(self) -> None:
        self.outcomes = replace(self.outcomes, failed=self.outcomes.failed + 1)

    def require_room(self, count: int) -> None:
        """Raises Overloaded unless so many more sequences may be submitted."""
        if self.num_live + count > self.max_live:
            raise Overloaded(retry_after_s=1)

    def submit(self, sequences: list[Sequence]) -> asyncio.Queue[Token]:
        """Starts the sequences; their tokens come in order. Raises Overloaded, Draining and EngineDead."""
        self.require_room(len(sequences))
        queue: asyncio.Queue[Token] = asyncio.Queue()
        try:
            self._thread.submit(sequences)
        except EngineDeadError:
            raise (Draining() if self._closed else EngineDead()) from None
        for sequence in sequences:
            self._listeners[sequence] = queue
        self._all_ended.clear()
        self._note_idleness()
        return queue

    def abort(self, sequences: list[Sequence]) -> None:
        living = [sequence for sequence in sequences if sequence in self._listeners]
        if living:
            self._thread.abort(living)

    async def ended(self) -> None:
        """Returns when no sequence lives."""
        await self._all_ended.wait()

    async def unused(self) -> None:
        """Returns when nobody leases it and no sequence lives."""
        while not self.is_idle:
            await self._is_idle.wait()

    async def close(self) -> None:
        """Stops the engine; whatever still runs ends as aborted."""
        self._closed = True
        await asyncio.to_thread(self._thread.stop)
        await asyncio.sleep(0)  # lets the last report, which is already scheduled, reach its listeners
        self.tokenizing.shutdown(wait=False)

    async def free(self) -> None:
        """The same, and gives back the memory of its weights and its cache."""
        await self.close()
        await asyncio.to_thread(self._engine.release)
        self._metrics.forget(self.policy.name)

    def _note_use(self) -> None:
        self.used_s = time.monotonic()
        self._note_idleness()

    def _note_idleness(self) -> None:
        if self.is_idle:
            self._is_idle.set()
        else:
            self._is_idle.clear()

    def _hand_over(self, report: Report) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._dispatch, report)

    def _dispatch(self, report: Report) -> None:
        self._metrics.observe(self.policy.name, report.stats)
        for token in report.tokens:
            self._listeners[token.sequence].put_nowait(token)
            self._metrics.generation_tokens.labels(self.policy.name).inc(token.sample is not None)
            if token.finish_reason is not None:
                del self._listeners[token.sequence]
        if not self._listeners:
            self._all_ended.set()
            self._note_idleness()
