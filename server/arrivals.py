"""Waiting for completions that are on their way into the tables, so that who was just answered can refer to the
answer.

Rows are written behind the answers (`recording.py`). What this server has in hand it waits for; what another server of
the same store may have, it waits for as long as the id is young.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from fastapi import Request

from honed.server.errors import StoreBehind
from honed.server.recording import Recorder
from honed.server.storage import Storage
from honed.server.store import completions, ids

PATIENCE_S = 5.0
LIST_PATIENCE_S = 1.0  # a list without the newest is of use too
YOUNG_S = 1.0  # other servers need less, unless they are behind
POLL_S = 0.02


async def arrived(http: Request, completion_ids: Iterable[str]) -> None:
    """Returns when the completions are in the tables, or are none. Raises StoreBehind and StoreUnavailable."""
    recorder: Recorder = http.app.state.recorder
    storage: Storage = http.app.state.storage
    deadline_s = time.monotonic() + PATIENCE_S
    for completion_id in set(completion_ids):
        while recorder.is_pending(completion_id):
            if time.monotonic() > deadline_s:
                raise StoreBehind
            await asyncio.sleep(POLL_S)
        if storage.is_shared:
            await _elsewhere(storage, completion_id)


async def caught_up(http: Request) -> None:
    """Waits a little for what this server has in hand now, so that a list has what was answered just before."""
    recorder: Recorder = http.app.state.recorder
    deadline_s = time.monotonic() + LIST_PATIENCE_S
    newest = recorder.newest
    while newest is not None and recorder.is_pending(newest):
        if time.monotonic() > deadline_s:
            return
        await asyncio.sleep(POLL_S)


async def _elsewhere(storage: Storage, completion_id: str) -> None:
    while not await storage.read(completions.exists, completion_id, scope=None):
        age_s = ids.age_s(completion_id)
        if age_s is None or not 0 <= age_s < YOUNG_S:
            return
        await asyncio.sleep(5 * POLL_S)
