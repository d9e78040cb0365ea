"""What people think of the policies: users' thumbs, and labelers' rankings of what was answered in the shadow. Counted
now and then, so that neither a list nor a scrape has to.

Invariant: however many there are, counting takes at most a hundredth of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from honed.server.metrics import Metrics
from honed.server.registry import Registry
from honed.server.storage import Storage
from honed.server.store import pairs, thumbs
from honed.server.store.pairs import Verdicts
from honed.server.store.thumbs import Thumbs

COUNT_S: Final = 5.0  # from a count to the next, at least
REST: Final = 100  # and so many times as long as it took


class Opinions:
    def __init__(self, storage: Storage, registry: Registry, metrics: Metrics) -> None:
        self.thumbs: Mapping[str, Thumbs] = {}  # by policy's id, as of the last count
        self.verdicts: Mapping[tuple[str, str], Verdicts] = {}  # by the ids of a policy and its rival
        self._storage = storage
        self._registry = registry
        self._metrics = metrics
        self._counting = asyncio.Lock()
        self._due_s = 0.0

    async def refresh(self) -> None:
        """Counts anew where that is due; together with whoever asks at the same time. Raises StoreUnavailable."""
        async with self._counting:
            began_s = time.monotonic()
            if began_s < self._due_s:
                return
            self.thumbs = await self._storage.read(thumbs.count)
            self.verdicts = await self._storage.read(pairs.count)
            names = {known.id: known.name for known in self._registry.all}
            self._metrics.observe_thumbs({names[each]: self.thumbs[each] for each in self.thumbs if each in names})
            named = {of: each for of, each in self.verdicts.items() if names.keys() >= set(of)}
            self._metrics.observe_verdicts({(names[own], names[rival]): each for (own, rival), each in named.items()})
            ended_s = time.monotonic()
            self._due_s = ended_s + max(COUNT_S, REST * (ended_s - began_s))
