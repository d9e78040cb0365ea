"""The store as the server uses it: what runs when it is closed still ends, with its connection."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from sqlalchemy import Connection, text

from honed.server.settings import Settings
from honed.server.storage import Storage


def test_a_transaction_that_runs_ends_before_the_store_is_closed(tmp_path: Path) -> None:
    storage = Storage(Settings(home=tmp_path))
    begun, going_on = threading.Event(), threading.Event()
    order: list[str] = []

    def slow(connection: Connection) -> int:
        begun.set()
        going_on.wait(60)
        found: int = connection.execute(text("SELECT 1")).scalar_one()
        order.append("read")
        return found

    def close() -> None:
        storage.close()
        order.append("closed")

    async def scenario() -> None:
        reading = asyncio.create_task(storage.read(slow))
        await asyncio.to_thread(begun.wait, 60)
        closing = asyncio.create_task(asyncio.to_thread(close))
        await asyncio.sleep(0.1)  # it has nothing to wait for where it does not wait
        going_on.set()
        assert await reading == 1
        await closing

    asyncio.run(scenario())
    assert order == ["read", "closed"]
