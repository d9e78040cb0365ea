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

import psutil
import torch

from honed.models.detokenizer import TokenBytes
from honed.models.engine.engine import Engine, EngineConfig, Token, cache_blocks
from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.engine.sequence import Sequence
from honed.models.engine.thread import EngineDeadError, EngineThread, Report
from honed.models.policy import Policy, PolicyError, load_policy
from honed.models.sources import SourceError, honed_home, pull
from honed.server.errors import Draining, EngineDead, Loading, ModelNotFound, Overloaded
from honed.server.metrics import Metrics
from honed.server.settings import Settings

logger = logging.getLogger(__name__)

CURRENT = "honed"  # the name under which clients ask for whatever is in service
BLOCK_SIZE = 16  # tokens
GIB = 2**30


class Status(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class ServedPolicy:
    """A loaded policy with a running engine. Sequences go in; their tokens come out of a queue each request owns."""

    def __init__(self, policy: Policy, engine: Engine, metrics: Metrics, *, max_live: int, context_length: int) -> None:
        """`max_live`: choices that may run and wait at once; `context_length`: a prompt and its answer, in tokens."""
        self.policy = policy
        self.created = int(time.time())
        self.token_bytes = TokenBytes(policy.tokenizer)
        self.max_live = max_live
        self.context_length = context_length
        # One thread: tokenizers keep padding and truncation settings that two threads would fight over.
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[Sequence, asyncio.Queue[Token]] = {}
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._thread = EngineThread(engine, self._hand_over)
        metrics.observe(policy.name, engine.stats())

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive

    @property
    def num_live(self) -> int:
        """Sequences that were submitted and have not ended."""
        return len(self._listeners)

    def submit(self, sequences: list[Sequence]) -> asyncio.Queue[Token]:
        """Starts the sequences; their tokens come in order. Raises Overloaded and EngineDead."""
        if self.num_live + len(sequences) > self.max_live:
            raise Overloaded(retry_after_s=1)
        queue: asyncio.Queue[Token] = asyncio.Queue()
        try:
            self._thread.submit(sequences)
        except EngineDeadError:
            raise EngineDead from None
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
            policy, engine = await asyncio.to_thread(load_engine, self.settings)
        except (SourceError, PolicyError, UnsupportedArchitectureError) as error:
            self._failure = str(error)
            logger.error("cannot serve %s: %s", self.settings.model, error)
            return
        except Exception as error:  # what nobody foresaw must not leave the server loading for ever
            self._failure = f"{type(error).__name__}: {error}"
            logger.exception("cannot serve %s", self.settings.model)
            return
        max_live = engine.config.max_sequences + self.settings.max_queue
        context_length = _context_length(policy, self.settings)
        self._served = ServedPolicy(policy, engine, self.metrics, max_live=max_live, context_length=context_length)

    def health(self) -> Health:
        name = self._served.policy.name if self._served else None
        if self._failure is not None:
            return Health(Status.FAILED, name, self._failure)
        if self._served is None:
            return Health(Status.LOADING, name, None)
        if not self._served.is_alive and not self._draining:
            return Health(Status.FAILED, name, "the engine has stopped; the log says why")
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


def load_engine(settings: Settings) -> tuple[Policy, Engine]:
    """Weights to a ready engine. Raises SourceError, PolicyError and UnsupportedArchitectureError."""
    started_s = time.perf_counter()
    folder = pull(settings.model, settings.home or honed_home())
    policy = load_policy(folder, dtype=settings.dtype, device=settings.device)
    engine = Engine(policy.model, _engine_config(policy, settings))
    logger.info(
        "loaded %s (%s, %s, %s) in %.1f s; the cache holds %d tokens",
        policy.name,
        policy.id,
        policy.model.dtype,
        policy.model.device,
        time.perf_counter() - started_s,
        engine.cache.capacity,
    )
    return policy, engine


def _engine_config(policy: Policy, settings: Settings) -> EngineConfig:
    on_gpu = policy.model.device.type == "cuda"
    wanted = _context_length(policy, settings)
    num_bytes = int(settings.kv_cache_gib * GIB) or _default_cache_bytes(on_gpu=on_gpu)
    num_blocks = cache_blocks(policy.model, num_bytes, BLOCK_SIZE)
    if num_blocks * BLOCK_SIZE < wanted:
        raise PolicyError(
            f"The key/value cache of {num_bytes / GIB:.2g} GiB holds {num_blocks * BLOCK_SIZE} tokens, fewer than one "
            f"context of {wanted}: give it more (HONED_KV_CACHE_GIB) or shorten the context (HONED_MAX_MODEL_LEN)."
        )
    max_sequences = settings.max_sequences or (256 if on_gpu else 64)
    return EngineConfig(
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_batch_tokens=max(settings.max_batch_tokens or (4096 if on_gpu else 256), max_sequences),
        max_sequences=max_sequences,
    )


def _context_length(policy: Policy, settings: Settings) -> int:
    """Tokens that a prompt and its answer may have together: the model's limit, or a shorter one that is set."""
    return min(settings.max_model_len or policy.context_length, policy.context_length)


def _default_cache_bytes(*, on_gpu: bool) -> int:
    """Most of a GPU's free memory; of a computer's, which has other uses, a quarter and at most 4 GiB."""
    if on_gpu:
        return int(torch.cuda.mem_get_info()[0] * 0.85)
    return min(4 * GIB, int(psutil.virtual_memory().available) // 4)
