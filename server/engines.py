"""The policies that are loaded, each with an engine of its own: how one comes, who holds it, and which has to go.

A policy is loaded when a request or a promotion asks for it, once however many ask, and goes when another needs its
place or its memory: of those that nobody uses, the one that was used longest ago. The candidate that is tried out never
goes, and the current one only for its successor (`displacement.py`), where there is no other way; it comes back where
that cannot be loaded.
Invariants: one is loaded at a time, so that what is measured as free is free; who waits for a policy and who holds a
lease on it are both counted, so that it is not taken from under them; a failure to load one touches no other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.policy import PolicyError, choose_device, choose_dtype
from honed.server.errors import Draining, NoRoomForPolicy, PolicyUnloadable, ServerError
from honed.server.loading import Loaded, in_daemon_thread, load_folder
from honed.server.memory import further_cache_bytes, give_back, weight_bytes
from honed.server.metrics import Metrics
from honed.server.registry import KnownPolicy
from honed.server.served import ServedPolicy
from honed.server.settings import Settings

logger = logging.getLogger(__name__)

AGAIN_S: Final = 0.2  # between two tries to bring back what went
UNLOADABLE_S: Final = 30.0  # how long one that could not be loaded is not tried again

State = Literal["current", "candidate", "loaded", "idle", "loading", "unloaded"]


@dataclass(eq=False)
class _Place:
    """A policy that is loaded or about to be. `waiting`: requests for it that hold no lease yet."""

    known: KnownPolicy
    ready: asyncio.Future[ServedPolicy]
    waiting: int = 0

    @property
    def served(self) -> ServedPolicy | None:
        """None until it is loaded. Its engine may have died since."""
        return self.ready.result() if self.ready.done() and self.ready.exception() is None else None

    @property
    def is_dead(self) -> bool:
        return self.served is not None and not self.served.is_alive

    @property
    def is_used(self) -> bool:
        return self.waiting > 0 or self.served is None or not self.served.is_idle


class Engines:
    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.current: ServedPolicy | None = None
        self.candidate: ServedPolicy | None = None  # its engine may have died
        self.lost: str | None = None  # why there is no current policy any more
        self.first_cache_bytes = 0  # what each has, where there is memory for it
        self._settings = settings
        self._metrics = metrics
        self._places: dict[str, _Place] = {}  # by the policy's id
        self._loading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unloadable: dict[str, tuple[float, str]] = {}  # by id: until when, and why
        self._closed = False

    def adopt(self, known: KnownPolicy, loaded: Loaded) -> None:
        """Takes in the first policy, which is the current one from here on."""
        place = self._new_place(known)
        place.ready.set_result(self._serve(loaded))
        self.current = place.ready.result()
        self.first_cache_bytes = loaded.cache_bytes

    @property
    def known(self) -> list[KnownPolicy]:
        """Those that are loaded or about to be, the current one first."""
        places = sorted(self._places.values(), key=lambda place: not self._is_current(place))
        return [place.known for place in places]

    def has(self, known: KnownPolicy) -> bool:
        return known.id in self._places

    def state(self, known: KnownPolicy) -> tuple[State, int]:
        """And how many leases there are on it, those of who still waits included."""
        place = self._places.get(known.id)
        if place is None or place.is_dead:
            return "unloaded", 0
        if place.served is None:
            return "loading", place.waiting
        leases = place.served.num_leases + place.waiting
        if self._is_current(place):
            return "current", leases
        if place.served is self.candidate:
            return "candidate", leases
        return "loaded" if place.is_used else "idle", leases

    @asynccontextmanager
    async def leased(self, known: KnownPolicy, *, displaces: bool = False) -> AsyncIterator[ServedPolicy]:
        """The policy, loaded where it is not, and not freed until the block ends. Where nothing else makes room and it
        `displaces`, the current one goes, unless it is used. Raises PolicyUnloadable, NoRoomForPolicy and Draining."""
        if self._closed:
            raise Draining
        place = self._places.get(known.id)
        if place is not None and place.is_dead and not self._is_current(place):
            await self._free(place)
        place = self._places.get(known.id) or self._begin(known, displaces=displaces)
        with ExitStack() as lease:
            place.waiting += 1
            try:
                served = await asyncio.shield(place.ready)
                lease.enter_context(served.leased())
            finally:
                place.waiting -= 1
            yield served

    async def drain(self, timeout_s: float) -> None:
        """Loads nothing any more, and waits until all sequences have ended, but no longer than that."""
        self._closed = True
        for place in self._places.values():
            if not place.ready.done():
                place.ready.set_exception(Draining())
        all_served = self._all_served()
        try:
            async with asyncio.timeout(timeout_s):
                for served in all_served:
                    await served.ended()
        except TimeoutError:
            if num_live := sum(served.num_live for served in all_served):
                logger.warning("drained for %g s; %d sequences are cut", timeout_s, num_live)

    async def close(self) -> None:
        """Stops all engines; whatever still runs ends as aborted."""
        self._closed = True
        await asyncio.gather(*(served.close() for served in self._all_served()))

    async def bring_back(self, known: KnownPolicy) -> None:
        """Makes a policy that went the current one again, when there is room; else says that it is lost."""
        while self.current is None and not self._closed:
            try:
                async with self.leased(known) as served:
                    self.current = served
            except NoRoomForPolicy:  # somebody took its place: nobody keeps it for long
                await asyncio.sleep(AGAIN_S)
            except PolicyUnloadable as error:
                self._lose(known, error.message)
                return

    def _begin(self, known: KnownPolicy, *, displaces: bool) -> _Place:
        place = self._new_place(known)
        task = asyncio.create_task(self._bring(place, displaces=displaces))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return place

    def _new_place(self, known: KnownPolicy) -> _Place:
        place = _Place(known, asyncio.get_running_loop().create_future())
        place.ready.add_done_callback(lambda ready: ready.exception())  # looked at, also where all who waited have gone
        self._places[known.id] = place
        return place

    def _serve(self, loaded: Loaded) -> ServedPolicy:
        return ServedPolicy(loaded, self._metrics, max_queue=self._settings.max_queue)

    async def _bring(self, place: _Place, *, displaces: bool) -> None:
        """Ends with the place filled, or gone."""
        try:
            loaded = await self._load(place.known, displaces=displaces)
            if not place.ready.done():
                place.ready.set_result(self._serve(loaded))
        except ServerError as error:
            self._give_up(place, error)
        except (PolicyError, UnsupportedArchitectureError) as error:
            logger.error("cannot load %s: %s", place.known.name, error)
            self._give_up(place, self._refusal(place.known, _public(str(error), place.known)))
        except Exception:  # the edge of loading: what nobody foresaw fails those who asked for this policy
            logger.exception("cannot load %s", place.known.name)
            self._give_up(place, self._refusal(place.known, "The log says why."))

    def _give_up(self, place: _Place, error: ServerError) -> None:
        del self._places[place.known.id]
        if not place.ready.done():
            place.ready.set_exception(error)

    def _refusal(self, known: KnownPolicy, reason: str) -> PolicyUnloadable:
        self._unloadable[known.id] = (time.monotonic() + UNLOADABLE_S, reason)
        return PolicyUnloadable(known.name, reason)

    async def _load(self, known: KnownPolicy, *, displaces: bool) -> Loaded:
        until_s, reason = self._unloadable.get(known.id, (0.0, ""))
        if time.monotonic() < until_s:
            raise PolicyUnloadable(known.name, reason)
        async with self._loading:
            if self._closed:
                raise Draining
            gone = None
            try:
                try:
                    cache_bytes = await self._make_room(known)
                except NoRoomForPolicy:
                    gone = await self._take_out_current() if displaces else None
                    if gone is None:
                        raise
                    cache_bytes = await self._make_room(known)
                return await self._read(known, cache_bytes)
            except Exception:  # whatever it is, what went comes back before it is told
                if gone is not None:
                    await self._put_back(gone)
                raise

    async def _read(self, known: KnownPolicy, cache_bytes: int) -> Loaded:
        return await in_daemon_thread(
            lambda: load_folder(self._settings, known.folder, name=known.name, cache_bytes=cache_bytes)
        )

    async def _take_out_current(self) -> KnownPolicy | None:
        """Frees the current policy; None where it is used."""
        place = next((place for place in self._places.values() if self._is_current(place)), None)
        if place is None or place.is_used:
            return None
        self.current = None
        await self._free(place)
        return place.known

    async def _put_back(self, known: KnownPolicy) -> None:
        """The same, taken back, under the same lock: nobody can take its place."""
        try:
            loaded = await self._read(known, self.first_cache_bytes)
        except Exception as error:  # whatever it is, this server has nothing to serve any more
            self._lose(known, str(error))
        else:
            self.adopt(known, loaded)

    def _lose(self, known: KnownPolicy, reason: str) -> None:
        self.lost = f"{known.name} went to make room, and does not come back: {_public(reason, known)}"
        logger.error("%s", self.lost)

    async def _make_room(self, known: KnownPolicy) -> int:
        """Lets idle policies go until there is a place, and memory for a whole cache; bytes for the cache that there
        is. Raises NoRoomForPolicy and PolicyError."""
        device = choose_device(self._settings.device)
        dtype = choose_dtype(self._settings.dtype, device)
        weights = await asyncio.to_thread(weight_bytes, known.folder, dtype)
        await asyncio.to_thread(give_back)  # what the last loading left
        while True:
            caches = [served.cache_bytes for served in self._all_served()]
            cache_bytes = 0
            if len(caches) < self._settings.max_policies:
                cache_bytes = further_cache_bytes(device, weights, promised=sum(caches), first=self.first_cache_bytes)
            if cache_bytes == self.first_cache_bytes or not await self._free_one():
                break
        if not cache_bytes:
            raise NoRoomForPolicy(known.name)
        return cache_bytes

    async def _free_one(self) -> bool:
        """Frees a policy whose engine died, or else the one that is idle for longest; False where there is none."""
        others = [place for place in self._places.values() if not self._is_kept(place)]
        idle = [place for place in others if place.is_dead or not place.is_used]
        if not idle:
            return False
        await self._free(min(idle, key=lambda place: (not place.is_dead, place.ready.result().used_s)))
        return True

    async def _free(self, place: _Place) -> None:
        del self._places[place.known.id]  # from here on, who asks for it has it loaded anew
        await place.ready.result().free()
        await asyncio.to_thread(give_back)
        logger.info("freed %s", place.known.name)

    def _all_served(self) -> list[ServedPolicy]:
        return [served for place in self._places.values() if (served := place.served) is not None]

    def _is_current(self, place: _Place) -> bool:
        return self.current is not None and place.served is self.current

    def _is_kept(self, place: _Place) -> bool:
        is_candidate = self.candidate is not None and place.served is self.candidate
        return self._is_current(place) or (is_candidate and not place.is_dead)


def _public(message: str, known: KnownPolicy) -> str:
    """What may be told to everybody: the policy's name in the place of its folder."""
    for folder in (known.folder, known.folder.resolve()):
        message = message.replace(str(folder), f"'{known.name}'")
    return message
