"""A policy in the place of the current one, where there is no room for both.

The current one ends what it has begun and goes, then the other one comes; whatever is asked meanwhile waits at the gate
and is answered by the new one. Owns that gate; what is freed and loaded, and what comes back where loading fails, is
the engines' business. Invariants: no answer is cut; the current policy goes only while nobody uses it and nobody can
begin to; at most as many wait as may wait for an engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from honed.server.engines import Engines
from honed.server.errors import Loading, NoRoomForPolicy, Overloaded, ServerError
from honed.server.registry import KnownPolicy
from honed.server.served import ServedPolicy
from honed.server.settings import Settings

logger = logging.getLogger(__name__)

POLITE_S: Final = 5.0  # how long others that are loaded may take to end, before the current one has to go
LOOK_S: Final = 0.25  # between two looks at whether they have
AGAIN_S: Final = 60.0  # how long a follower leaves what did not come about alone, doubled each time
LONGEST_S: Final = 3600.0


class Displacement:
    def __init__(self, settings: Settings, engines: Engines) -> None:
        self._settings = settings
        self._engines = engines
        self._gate = asyncio.Event()
        self._gate.set()
        self._waiting = 0
        self._displacing = asyncio.Lock()
        self._put_off_s = AGAIN_S
        self._not_before_s = 0.0

    @property
    def is_going_on(self) -> bool:
        return not self._gate.is_set()

    async def admitted(self) -> None:
        """Returns when a request may begin: at once, but while the current policy is displaced. Raises Loading where
        that takes longer than a request may, and Overloaded where too many wait."""
        if self._gate.is_set():
            return
        if self._waiting >= self._settings.max_queue:
            raise Overloaded(retry_after_s=1)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                while not self._gate.is_set():
                    await self._gate.wait()
        except TimeoutError:
            raise Loading from None
        finally:
            self._waiting -= 1

    def end(self) -> None:
        """Who waits goes on, to be told that the server goes down."""
        self._gate.set()

    @asynccontextmanager
    async def leased(self, known: KnownPolicy, *, follows: bool = False) -> AsyncIterator[ServedPolicy]:
        """The policy, as the engines lend it, to be made the current one in the block. One that does not fit beside the
        current one is loaded in its place; where that fails, the current one comes back. `follows`: nobody asked for it
        now, so what failed is left alone for a while. Raises what the engines raise."""
        async with AsyncExitStack() as lease:
            try:
                served = await lease.enter_async_context(self._engines.leased(known))
            except NoRoomForPolicy:
                served = await lease.enter_async_context(self._in_place(known, follows=follows))
            yield served

    @asynccontextmanager
    async def _in_place(self, known: KnownPolicy, *, follows: bool) -> AsyncIterator[ServedPolicy]:
        async with self._displacing, AsyncExitStack() as lease:
            served = await self._politely(known, lease)
            if served is None:
                remaining_s = self._not_before_s - time.monotonic()
                if follows and remaining_s > 0:
                    raise NoRoomForPolicy(known.name, retry_after_s=remaining_s)
                served = await lease.enter_async_context(self._behind_the_gate(known))
            yield served

    async def _politely(self, known: KnownPolicy, lease: AsyncExitStack) -> ServedPolicy | None:
        """The policy without a displacement, where room comes by itself: who had the lock may have brought it, and
        others than the current one may end soon."""
        until_s = time.monotonic() + POLITE_S
        while True:
            try:
                return await lease.enter_async_context(self._engines.leased(known))
            except NoRoomForPolicy:
                if time.monotonic() > until_s or len(self._engines.known) < 2:
                    return None
            await asyncio.sleep(LOOK_S)

    @asynccontextmanager
    async def _behind_the_gate(self, known: KnownPolicy) -> AsyncIterator[ServedPolicy]:
        self._gate.clear()
        old: KnownPolicy | None = None
        try:
            async with AsyncExitStack() as lease:
                try:
                    await self._until_unused(known)
                    old = self._engines.known[0]
                    logger.info("%s goes to make room for %s", old.name, known.name)
                    served = await lease.enter_async_context(self._engines.leased(known, displaces=True))
                except ServerError:
                    self._not_before_s = time.monotonic() + self._put_off_s
                    self._put_off_s = min(2 * self._put_off_s, LONGEST_S)
                    raise
                self._put_off_s = AGAIN_S
                yield served
        finally:
            if old is not None and self._engines.current is None and self._engines.lost is None:
                await self._engines.bring_back(old)  # it was loaded, and not made current
            self._gate.set()

    async def _until_unused(self, known: KnownPolicy) -> None:
        """Waits until nobody uses the current policy. Raises NoRoomForPolicy where its answers take too long."""
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                while (current := self._engines.current) is not None and not current.is_idle:
                    await current.unused()
        except TimeoutError:
            raise NoRoomForPolicy(known.name) from None
