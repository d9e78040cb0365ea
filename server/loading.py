"""From settings to a policy that is ready to serve. Slow, and blocking: it runs in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import psutil

from honed.models.checkpoint import Lineage, read_lineage
from honed.models.detokenizer import TokenBytes
from honed.models.engine.engine import Engine, EngineConfig, cache_blocks
from honed.models.engine.packing import can_pack, packed_bytes
from honed.models.policy import Policy, PolicyError, load_policy
from honed.models.sources import honed_home, hub_name, pull
from honed.server.memory import GIB, first_cache_bytes
from honed.server.settings import Settings

logger = logging.getLogger(__name__)

BLOCK_SIZE = 16  # tokens
THREAD_NAME: Final = "loading"

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A policy with what serves it. `context_length`: tokens of a prompt and its answer. `cache_bytes`: what its keys
    and values may take."""

    policy: Policy
    engine: Engine
    token_bytes: TokenBytes
    context_length: int
    cache_bytes: int
    folder: Path
    lineage: Lineage | None


def load(settings: Settings) -> Loaded:
    """The policy that the settings name. Raises SourceError, PolicyError and UnsupportedArchitectureError."""
    folder = pull(settings.model, settings.home or honed_home())
    return load_folder(settings, folder, name=hub_name(settings.model))


def load_folder(settings: Settings, folder: Path, *, name: str | None = None, cache_bytes: int | None = None) -> Loaded:
    """A checkpoint's folder; `name` is its own unless it is given. `cache_bytes`: None for the first policy of a
    server, whose cache is as large as the settings say. Raises PolicyError and UnsupportedArchitectureError."""
    started_s = time.perf_counter()
    policy = load_policy(folder, dtype=settings.dtype, device=settings.device, name=name)
    if cache_bytes is None:
        cache_bytes = int(settings.kv_cache_gib * GIB) or _default_cache_bytes(policy, settings)
    config = _engine_config(policy, settings, cache_bytes)
    context_length = _context_length(policy, settings, config.num_blocks * config.block_size)
    engine = Engine(policy.model, config)
    logger.info(
        "loaded %s (%s, %s, %s) in %.1f s; the cache holds %d tokens",
        policy.name,
        policy.id,
        policy.model.dtype,
        policy.model.device,
        time.perf_counter() - started_s,
        engine.cache.capacity,
    )
    return Loaded(
        policy=policy,
        engine=engine,
        token_bytes=TokenBytes(policy.tokenizer),
        context_length=context_length,
        cache_bytes=cache_bytes,
        folder=folder,
        lineage=read_lineage(folder),
    )


async def in_daemon_thread(work: Callable[[], ResultT]) -> ResultT:
    """Like asyncio.to_thread, but nobody waits for the thread when the program ends before it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ResultT] = loop.create_future()

    def settle(result: ResultT | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it is the result where there is no error

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as raised:  # raised again where it is awaited
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    return await future


def is_loading() -> bool:
    """Whether a thread is in the middle of loading, which cannot be told to stop."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


def _context_length(policy: Policy, settings: Settings, capacity: int) -> int:
    """What the settings ask for, or else the model's limit, or what the cache holds where that is less."""
    wanted = settings.max_model_len
    if wanted > policy.context_length:
        raise PolicyError(
            f"HONED_MAX_MODEL_LEN is {wanted}, but the model's context has {policy.context_length} tokens: lower it."
        )
    if wanted > capacity:
        raise PolicyError(
            f"The key/value cache holds {capacity} tokens, fewer than HONED_MAX_MODEL_LEN, which is {wanted}: lower "
            "it, or give the cache more memory (HONED_KV_CACHE_GIB)."
        )
    if not wanted and policy.context_length > capacity:
        logger.warning(
            "the context is shortened from %d to the %d tokens that the key/value cache holds: HONED_KV_CACHE_GIB "
            "gives it more memory",
            policy.context_length,
            capacity,
        )
    return wanted or min(policy.context_length, capacity)


def _engine_config(policy: Policy, settings: Settings, num_bytes: int) -> EngineConfig:
    on_gpu = policy.model.device.type == "cuda"
    num_blocks = cache_blocks(policy.model, num_bytes, BLOCK_SIZE)
    if num_blocks < 1:
        raise PolicyError(
            f"A key/value cache of {num_bytes / GIB:.2g} GiB holds no token: give it more memory (HONED_KV_CACHE_GIB)."
        )
    max_sequences = settings.max_sequences or (256 if on_gpu else 64)
    return EngineConfig(
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_batch_tokens=max(settings.max_batch_tokens or (4096 if on_gpu else 256), max_sequences),
        max_sequences=max_sequences,
        pack_weights=can_pack(policy.model) and packed_bytes(policy.model) < psutil.virtual_memory().available // 4,
    )


def _default_cache_bytes(policy: Policy, settings: Settings) -> int:
    weights = sum(weight.nbytes for weight in policy.model.parameters())
    return first_cache_bytes(policy.model.device, weights, settings.max_policies)
