"""A policy in the place of the current one, where there is no room for both.

The current one ends what it has begun and goes, then the other one comes; whatever is asked meanwhile waits and is
answered by the new one. Owns that wait. Invariants: no answer is cut, and no request fails for it that waits no longer
than it may; where the other cannot be had, the one that went comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from honed.server.engines import Engines
from honed.server.errors import Draining, Loading, NoRoomForPolicy, ServerError
from honed.server.registry import KnownPolicy
from honed.server.served import ServedPolicy
from honed.server.settings import Settings

logger = logging.getLogger(__name__)

AGAIN_S: Final = 60.0  # how long nobody has to wait again for what did not come about


class Displacement:
    def __init__(self, settings: Settings, engines: Engines) -> None:
        self.failure: str | None = None  # why there is no current policy any more
        self._settings = settings
        self._engines = engines
        self._open = asyncio.Event()
        self._open.set()
        self._one = asyncio.Lock()
        self._not_before_s = 0.0

    async def passed(self) -> None:
        """Returns when requests may begin: at once, but while the current policy is displaced. Raises Loading."""
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                while not self._open.is_set():
                    await self._open.wait()
        except TimeoutError:
            raise Loading from None

    def end(self) -> None:
        """Who waits goes on, to be told that the server goes down."""
        self._open.set()

    @asynccontextmanager
    async def leased(self, known: KnownPolicy) -> AsyncIterator[ServedPolicy]:
        """The policy, as the engines lend it, to be made the current one in the block. One that does not fit beside the
        current one is loaded in its place. Raises what the engines raise; then the current one is what it was."""
        async with AsyncExitStack() as lease:
            try:
                served = await lease.enter_async_context(self._engines.leased(known))
            except NoRoomForPolicy:
                served = await lease.enter_async_context(self._in_place(known))
            yield served

    @asynccontextmanager
    async def _in_place(self, known: KnownPolicy) -> AsyncIterator[ServedPolicy]:
        async with self._one:
            if time.monotonic() < self._not_before_s:
                raise NoRoomForPolicy(known.name, retry_after_s=self._not_before_s - time.monotonic())
            self._open.clear()
            try:
                old = await self._take_out(known)
                try:
                    async with self._engines.leased(known) as served:
                        yield served
                finally:
                    if self._engines.current is None:
                        await self._bring_back(old)
            except BaseException:
                self._not_before_s = time.monotonic() + AGAIN_S
                raise
            finally:
                self._open.set()

    async def _take_out(self, known: KnownPolicy) -> KnownPolicy:
        """Waits until nobody uses the current policy, and lets it go where its place is needed. Raises NoRoomForPolicy
        where its answers take too long."""
        current, old = self._engines.current, self._engines.known[0]
        if current is None:
            raise NoRoomForPolicy(known.name)
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await current.unused()
        except TimeoutError:
            raise NoRoomForPolicy(known.name, retry_after_s=AGAIN_S) from None
        self._engines.current = None
        logger.info("%s goes to make room for %s", old.name, known.name)
        return old

    async def _bring_back(self, old: KnownPolicy) -> None:
        try:
            async with self._engines.leased(old) as served:
                self._engines.current = served
        except Draining:
            return
        except ServerError as error:
            self.failure = f"{old.name} went to make room, and does not come back: {error.message}"
            logger.error("%s", self.failure)
