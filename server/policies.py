"""The policy in service: its engine, its way from loading to death, and who may still use it.

`Service` is what routes see of it. It is `loading` until the weights are in memory, then `ready`, then `draining`
after SIGTERM; `failed` when loading failed or the engine died. Touched by the event loop only: the engine's thread
hands its reports over through `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from honed.models.engine.engine import Token
from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.engine.sequence import Sequence
from honed.models.engine.thread import EngineDeadError, EngineThread, Report
from honed.models.policy import PolicyError
from honed.models.sources import SourceError
from honed.server.errors import Draining, EngineDead, Loading, ModelNotFound, Overloaded
from honed.server.loading import Loaded, in_daemon_thread, load
from honed.server.metrics import Metrics
from honed.server.settings import Settings

logger = logging.getLogger(__name__)

ENGINE_DIED = "the engine has stopped; the log says why"
CURRENT = "honed"  # the name under which clients ask for whatever is in service


class Status(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class ServedPolicy:
    """A loaded policy with a running engine. Sequences go in; their tokens come out of a queue each request owns."""

    def __init__(self, loaded: Loaded, metrics: Metrics, *, max_queue: int) -> None:
        self.policy = loaded.policy
        self.created = int(time.time())
        self.token_bytes = loaded.token_bytes
        self.context_length = loaded.context_length
        self.max_live = loaded.engine.config.max_sequences + max_queue  # choices that may run and wait at once
        # One thread: tokenizers keep padding and truncation settings that two threads would fight over.
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[Sequence, asyncio.Queue[Token]] = {}
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._closed = False
        self._thread = EngineThread(loaded.engine, self._hand_over)
        metrics.observe(self.policy.name, loaded.engine.stats())

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive

    @property
    def num_live(self) -> int:
        """Sequences that were submitted and have not ended."""
        return len(self._listeners)

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
        return queue

    def abort(self, sequences: list[Sequence]) -> None:
        living = [sequence for sequence in sequences if sequence in self._listeners]
        if living:
            self._thread.abort(living)

    async def ended(self) -> None:
        """Returns when no sequence lives."""
        await self._all_ended.wait()

    async def close(self) -> None:
        """Stops the engine; whatever still runs ends as aborted."""
        self._closed = True
        await asyncio.to_thread(self._thread.stop)
        await asyncio.sleep(0)  # lets the last report, which is already scheduled, reach its listeners
        self.tokenizing.shutdown(wait=False)

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


@dataclass(frozen=True, slots=True)
class Health:
    status: Status
    model: str | None
    detail: str | None


class Service:
    """Loads the policy that the settings name, lends it to requests, and takes it out of service."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self._served: ServedPolicy | None = None
        self._draining = False
        self._failure: str | None = None

    async def load(self) -> None:
        """Ends in `ready` or in `failed`, with the reason in the log and in `/health`; never raises."""
        try:
            loaded = await in_daemon_thread(lambda: load(self.settings))
            self._served = ServedPolicy(loaded, self.metrics, max_queue=self.settings.max_queue)
        except (SourceError, PolicyError, UnsupportedArchitectureError) as error:
            self._failure = str(error)
            logger.error("cannot serve %s: %s", self.settings.model, error)
        except Exception as error:  # what nobody foresaw must not leave the server loading for ever
            self._failure = f"{type(error).__name__}: {error}"
            logger.exception("cannot serve %s", self.settings.model)

    def health(self) -> Health:
        name = self._served.policy.name if self._served else None
        if self._failure is not None:
            return Health(Status.FAILED, name, self._failure)
        if self._served is None:
            return Health(Status.LOADING, name, None)
        if not self._served.is_alive and not self._draining:
            return Health(Status.FAILED, name, ENGINE_DIED)
        return Health(Status.DRAINING if self._draining else Status.READY, name, None)

    def current(self) -> ServedPolicy:
        """The policy in service, for a new request. Raises Loading, Draining and EngineDead."""
        if self._draining:
            raise Draining
        if self._served is None:
            raise Loading if self._failure is None else EngineDead
        if not self._served.is_alive:
            raise EngineDead
        return self._served

    def named(self, model: str) -> ServedPolicy:
        """The policy that a request's `model` means. Raises ModelNotFound, and what `current` raises."""
        served = self.current()
        names = (CURRENT, served.policy.name)
        if model not in names:
            raise ModelNotFound(model, names)
        return served

    async def drain(self, timeout_s: float) -> None:
        """Takes no new requests, waits until the running ones have ended, and cuts them when the time is up."""
        if self._served is not None and not self._served.is_alive and not self._draining:
            self._failure = ENGINE_DIED
        self._draining = True
        if self._served is None:
            return
        try:
            await asyncio.wait_for(self._served.ended(), timeout_s)
        except TimeoutError:
            if self._served.num_live:
                logger.warning("drained for %g s; %d sequences are cut", timeout_s, self._served.num_live)
        await self._served.close()

    async def close(self) -> None:
        if self._served is not None:
            await self._served.close()
