"""The policies in service: which one is current, which is tried out beside it, what a request's `model` means, and the
way from loading to death.

`Service` is what routes see of it. It is `loading` until the first policy's weights are in memory, then `ready`, then
`draining` after SIGTERM; `failed` when that loading failed or the current engine died. What exists is the registry's
business (`registry.py`), what is loaded that of the engines (`engines.py`), what is to become of a candidate that of
the canary (`canary.py`). Invariants: the store's newest promotion says which policy is current and which a candidate,
and this server follows it as soon as it can; a new one is current only once it is loaded, so that no request for the
current policy waits, and no change waits for the loading of another, but where there is no room for both
(`displacement.py`); what a candidate cannot answer, the current one does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.policy import PolicyError
from honed.models.sources import SourceError
from honed.server.canary import Step, Watch
from honed.server.displacement import Displacement
from honed.server.engines import Engines
from honed.server.errors import (
    Draining,
    EngineDead,
    InvalidRequest,
    Loading,
    ModelNotFound,
    NoRoomForPolicy,
    PolicyUnloadable,
    ServerError,
    StoreUnavailable,
    is_fault,
)
from honed.server.health import Health, Status
from honed.server.loading import in_daemon_thread, load, load_folder
from honed.server.metrics import Metrics
from honed.server.opinions import Opinions
from honed.server.registry import KnownPolicy, Registry, find_own, known_by
from honed.server.served import ServedPolicy
from honed.server.settings import WHOLE_SHARE, Settings
from honed.server.storage import Storage
from honed.server.store import promotions
from honed.server.store.promotions import InServiceError, StoredPromotion
from honed.server.store.thumbs import Thumbs

logger = logging.getLogger(__name__)

ENGINE_DIED = "the engine has stopped; the log says why"
CURRENT = "honed"  # the name under which clients ask for whatever is in service
FOLLOW_S: Final = 2.0  # between two looks at what other servers of the store have promoted
PATIENCE: Final = timedelta(minutes=1)  # for a candidate that one of the servers cannot load, before it is taken out


class Service:
    """Loads the first policy, lends policies to requests, and changes which one is current."""

    def __init__(self, settings: Settings, metrics: Metrics, storage: Storage) -> None:
        self.settings = settings
        self.metrics = metrics
        self.registry = Registry(storage)
        self.engines = Engines(settings, metrics)
        self.opinions = Opinions(storage, self.registry, metrics)
        self._displacement = Displacement(settings, self.engines)
        self._storage = storage
        # Which policy is current: one change after the other. Nothing is loaded under it: a rollback must not wait.
        self._changing = asyncio.Lock()
        self._watch = Watch(settings, storage, self.engines)
        self._followed: StoredPromotion | None = None  # the promotion that holds here
        self._behind: str | None = None  # why the newest one does not
        self._following: asyncio.Task[None] | None = None
        self._draining = False
        self._failure: str | None = None

    async def load(self) -> None:
        """Ends in `ready` or in `failed`, with the reason in the log and in `/health`; never raises."""
        try:
            await self._load_promoted()
            if self.engines.current is None:
                loaded = await in_daemon_thread(lambda: load(self.settings))
                self.registry.own = known_by(loaded)
                self.engines.adopt(self.registry.own, loaded)
            self._following = asyncio.create_task(self._follow())
        except (SourceError, PolicyError, UnsupportedArchitectureError) as error:
            self._failure = str(error)
            logger.error("cannot serve %s: %s", self.settings.model, error)
        except Exception as error:  # what nobody foresaw must not leave the server loading for ever
            self._failure = f"{type(error).__name__}: {error}"
            logger.exception("cannot serve %s", self.settings.model)

    def health(self) -> Health:
        current = self.engines.current
        name = current.policy.name if current else None
        if failure := self._failure or self.engines.lost:
            return Health(Status.FAILED, name, failure)
        if not self._draining and (current is None or self._displacement.is_going_on):
            return Health(Status.LOADING, name, None)
        if current is not None and not current.is_alive and not self._draining:
            return Health(Status.FAILED, name, ENGINE_DIED)
        return Health(Status.DRAINING, name, None) if self._draining else Health(Status.READY, name, self._behind)

    def current(self) -> ServedPolicy:
        """The policy in service. Raises Loading, Draining and EngineDead."""
        if self._draining:
            raise Draining
        if self.engines.current is None:
            raise EngineDead if self._failure or self.engines.lost else Loading
        if not self.engines.current.is_alive:
            raise EngineDead
        return self.engines.current

    async def find(self, model: str) -> KnownPolicy:
        """What a request's `model` means. Raises ModelNotFound, StoreUnavailable, and what `current` raises."""
        await self._displacement.admitted()
        self.current()
        known = self._known(model)
        if known is None or not self.engines.has(known):
            try:
                await self.registry.refresh()
            except StoreUnavailable:
                if known is None:
                    raise  # it may be there
            known = self._known(model)
        if known is None:
            raise ModelNotFound(model, self._names())
        return known

    async def policies(self) -> list[KnownPolicy]:
        """All that a request may name, the current one first; as far as is known while the store is away. Raises what
        `current` raises."""
        await self._displacement.admitted()
        self.current()
        with suppress(StoreUnavailable):
            await self.registry.refresh()
        known = {each.id: each for each in (*self.engines.known, *self.registry.all)}
        return list(known.values())

    @asynccontextmanager
    async def leased(self, model: str) -> AsyncIterator[ServedPolicy]:
        """The policy that a request's `model` means, which nobody frees until the block ends. One that is not loaded is
        waited for. Raises what `find` raises, PolicyUnloadable, NoRoomForPolicy and Loading."""
        known = await self.find(model)
        async with AsyncExitStack() as lease:
            try:
                async with asyncio.timeout(self.settings.request_timeout_s):
                    served = await lease.enter_async_context(self.engines.leased(known))
            except TimeoutError:
                raise Loading from None
            yield served

    @asynccontextmanager
    async def answering(self, model: str, end_user: str | None) -> AsyncIterator[ServedPolicy]:
        """The same for a user's request: `honed` is the candidate for those users who try it out. Counts its failures.
        Raises what `leased` raises."""
        async with AsyncExitStack() as lease:
            await self._displacement.admitted()
            self.current()
            candidate = None
            if model == CURRENT and self._followed is not None:
                candidate = self._watch.candidate_for(self._followed, end_user)
            if candidate is None:
                served = await lease.enter_async_context(self.leased(model))
            else:
                served = lease.enter_context(candidate.leased())
            try:
                yield served
            except Exception as error:  # whatever it is, it is only counted here
                if model == CURRENT and is_fault(error):
                    served.count_failure()
                raise

    @property
    def followed(self) -> StoredPromotion | None:
        """The promotion that holds here."""
        return self._followed

    def share_of(self, known: KnownPolicy) -> int:
        """Per cent of the users who get this policy as `honed`."""
        followed = self._followed
        share = followed.seen_share if followed is not None else 0
        if followed is not None and known.id == followed.candidate_id:
            return share
        is_current = self.engines.current is not None and known.id == self.engines.current.policy.id
        return WHOLE_SHARE - share if is_current else 0

    def thumbs_of(self, known: KnownPolicy) -> Thumbs:
        """As of the last count. Of a candidate, and of the current policy beside it, those since it is tried out."""
        return self._watch.thumbs.get(known.id) or self.opinions.thumbs.get(known.id, Thumbs())

    async def promote(self, name: str, *, key_id: str | None) -> KnownPolicy:
        """Puts a policy into service, here at once and on the store's other servers within seconds. It is loaded first,
        so where that fails the old one is in service. Raises what `leased` raises, and StoreUnavailable."""
        known = await self._registered(name)
        policy_id = known.id if known.is_registered else None
        async with self._displacement.leased(known) as served, self._changing:
            self._serve(served, await self._storage.write(promotions.promote, policy_id, key_id=key_id))
        return known

    async def try_out(
        self, name: str, *, share: int, advances: bool = False, is_shadow: bool = False, key_id: str | None
    ) -> KnownPolicy:
        """Gives a policy a share of the users, here at once and on the store's other servers within seconds. It is
        loaded first. Raises what `promote` raises, InvalidRequest for one that the store does not know, and the store's
        InServiceError."""
        known = await self._registered(name)
        if not known.is_registered and known.id == self.current().policy.id:
            raise InServiceError
        if not known.is_registered:
            message = f"'{known.name}' is no checkpoint of the store, so its other servers would not find it."
            raise InvalidRequest(message, code="not_registered")
        async with self.engines.leased(known) as served, self._changing:
            made = await self._storage.write(
                promotions.try_out, known.id, share=share, advances=advances, is_shadow=is_shadow, key_id=key_id
            )
            if self._followed is not None and self._followed.policy_id == made.policy_id:
                self._watch.begin(served, made)  # else it is when what is in service is followed
                self._followed = made
        return known

    async def roll_back(self, *, key_id: str | None) -> KnownPolicy:
        """Takes the candidate out; without one, puts the policy into service that was before the newest promotion. What
        is current then. Raises what `promote` raises, and the store's NothingBeforeError and PromotedMeanwhileError."""
        self.current()
        newest = await self._storage.read(promotions.newest)
        known = await self._promoted(await self._storage.read(promotions.before, newest))
        async with self._displacement.leased(known) as served, self._changing:
            self._serve(served, await self._storage.write(promotions.roll_back, newest, key_id=key_id))
        return known

    async def drain(self, timeout_s: float) -> None:
        """Takes no new requests, waits until the running ones have ended, and cuts them when the time is up."""
        current = self.engines.current
        if current is not None and not current.is_alive and not self._draining:
            self._failure = ENGINE_DIED
        self._draining = True
        self._displacement.end()
        self._stop_following()
        await self.engines.drain(timeout_s)
        await self.engines.close()

    async def close(self) -> None:
        self._stop_following()
        await self.engines.close()

    async def _load_promoted(self) -> None:
        """Where a promotion says that it is not the settings' own policy: loads it as the first. Where that cannot be
        done, or the store does not say, there is none afterwards, and the promotion is followed when it can be."""
        try:
            promotion = await self._storage.read(promotions.newest)
            if promotion.policy_id is None:
                self._followed = promotion
                return
            known = await self._promoted(promotion)
            with suppress(SourceError):  # without it there is one name less
                self.registry.own = await in_daemon_thread(lambda: find_own(self.settings))
            loaded = await in_daemon_thread(lambda: load_folder(self.settings, known.folder, name=known.name))
        except StoreUnavailable:
            logger.warning("the store does not say what was promoted: loading %s", self.settings.model)
        except Exception as error:  # whatever it was, another policy can be served
            foreseen = isinstance(error, PolicyError | UnsupportedArchitectureError | ServerError)
            logger.error("cannot serve what was promoted: %s", error, exc_info=not foreseen)
        else:
            self.engines.adopt(known, loaded)
            self._followed = promotion

    async def _follow(self) -> None:
        """Serves what other servers of the store promote, and watches over the candidate, until it is cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                await self._displacement.admitted()
                self.current()
                await self._catch_up()
                await self.opinions.refresh()
            except StoreUnavailable:
                continue  # what writes to it says so
            except ServerError as error:
                self._fall_behind(error.message)
            except Exception as error:  # what nobody foresaw must not end it
                self._fall_behind(f"{type(error).__name__}: {error}")

    async def _catch_up(self) -> None:
        async with self._changing:
            promotion, followed = await self._storage.read(promotions.newest), self._followed
            is_followed = followed is not None and promotion.number == followed.number
            if not is_followed:
                self._watch.let_go(promotion)
        if not is_followed:
            new = await self._promoted(promotion)
            async with self._displacement.leased(new, follows=True) as served, self._changing:
                if self._followed is not followed:
                    return  # another change was made here meanwhile: what is the newest now?
                self._serve(served, promotion)
        if promotion.candidate_id is not None:
            await self._try_out(promotion, promotion.candidate_id)
        self._behind = None

    async def _try_out(self, promotion: StoredPromotion, candidate_id: str) -> None:
        """Goes on with the candidate of the promotion, unless another is followed meanwhile. Raises NoRoomForPolicy,
        PolicyUnloadable and StoreUnavailable."""
        if self.engines.candidate is None:
            await self._load_candidate(promotion, candidate_id)
        async with self._changing:
            candidate = self.engines.candidate
            if candidate is not None and self._follows(promotion):
                step = await self._watch.look(promotion, candidate, self.current())
                if step is not None:
                    await self._carry_out(step, promotion, candidate_id)

    async def _load_candidate(self, promotion: StoredPromotion, candidate_id: str) -> None:
        """Where it cannot be had: raises as long as its checkpoint or the room may still come, then takes it out."""
        try:
            async with self.engines.leased(await self._with_id(candidate_id)) as served, self._changing:
                if self._follows(promotion):
                    self._watch.begin(served, promotion)
        except (NoRoomForPolicy, PolicyUnloadable) as error:
            if promotion.created is not None and datetime.now(UTC) - promotion.created < PATIENCE:
                raise
            async with self._changing:
                if self._follows(promotion):
                    await self._carry_out(Step(0, error.message), promotion, candidate_id)

    async def _carry_out(self, step: Step, promotion: StoredPromotion, candidate_id: str) -> None:
        made = await self._watch.carry_out(step, promotion, candidate_id)
        if made is not None:
            promoted = self.engines.candidate if made.policy_id == candidate_id else None
            self._serve(promoted or self.current(), made)

    def _follows(self, promotion: StoredPromotion) -> bool:
        return self._followed is not None and self._followed.number == promotion.number

    async def _registered(self, name: str) -> KnownPolicy:
        """Raises ModelNotFound, StoreUnavailable, and what `current` raises."""
        self.current()
        await self.registry.refresh()
        known = self._known(name)
        if known is None:
            raise ModelNotFound(name, self._names())
        return self.registry.with_id(known.id) or known

    async def _promoted(self, promotion: StoredPromotion) -> KnownPolicy:
        return await self._with_id(promotion.policy_id)

    async def _with_id(self, policy_id: str | None) -> KnownPolicy:
        """Raises PolicyUnloadable where its checkpoint is not here, and StoreUnavailable."""
        await self.registry.refresh()
        known = self.registry.with_id(policy_id)
        if known is None:
            raise PolicyUnloadable(policy_id or self.settings.model, "Its checkpoint is not on this server.")
        return known

    def _serve(self, served: ServedPolicy, promotion: StoredPromotion) -> None:
        """From here on new requests for the current policy get this one; the old one ends what it has begun."""
        if served is not self.engines.current:
            logger.info("%s (%s) is in service by promotion %d", served.policy.name, served.policy.id, promotion.number)
            if served.cache_bytes < self.engines.first_cache_bytes:
                logger.warning("%s has a smaller cache: memory was short when it was loaded", served.policy.name)
        self.engines.current = served
        self._followed, self._behind = promotion, None
        self._watch.let_go(promotion)
        if served is self.engines.candidate:
            self.engines.candidate = None

    def _fall_behind(self, reason: str) -> None:
        if reason != self._behind:
            logger.error("the newest promotion is not followed: %s", reason)
        self._behind = reason

    def _stop_following(self) -> None:
        if self._following is not None:
            self._following.cancel()

    def _known(self, model: str) -> KnownPolicy | None:
        loaded = self.engines.known
        if model == CURRENT:
            return loaded[0]
        return self.registry.named(model) or next((known for known in loaded if known.name == model), None)

    def _names(self) -> list[str]:
        current, *others = dict.fromkeys(known.name for known in (*self.engines.known, *self.registry.all))
        return [current, CURRENT, *others]
