"""The store as the server uses it: transactions in threads of their own, failures as answers.

The store's functions block, and must not run on the event loop. Owns the database's connections and the threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine

from honed.models.sources import honed_home
from honed.server.errors import StoreUnavailable
from honed.server.settings import Settings
from honed.server.store.database import (
    StoreUnavailableError,
    database_url,
    open_database,
    reading,
    writing,
)
from honed.server.store.migrations import prepare
from honed.server.store.originals import Sealer

THREADS = 8

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class Storage:
    def __init__(self, settings: Settings) -> None:
        """Opens the database, and brings SQLite's tables up to date. A PostgreSQL that does not answer now may answer
        later. Raises StoreError where the settings are of no use, or the tables are another version's."""
        given = settings.database_url.get_secret_value() if settings.database_url else None
        key = settings.originals_key.get_secret_value() if settings.originals_key else None
        self.home = settings.home or honed_home()
        self.url = database_url(given, self.home)
        self.engine = open_database(self.url)
        self.sealer = Sealer(key) if key else None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        try:
            prepare(self.engine)
        except StoreUnavailableError:
            if self.url.drivername == "sqlite":
                raise

    @property
    def is_shared(self) -> bool:
        """Whether other servers may write to the same store."""
        return self.url.drivername != "sqlite"

    async def read(
        self, query: Callable[Concatenate[Connection, P], ResultT], *args: P.args, **kwargs: P.kwargs
    ) -> ResultT:
        """Raises StoreUnavailable."""
        return await self.run(_within, reading, self.engine, lambda c: query(c, *args, **kwargs))

    async def write(
        self, change: Callable[Concatenate[Connection, P], ResultT], *args: P.args, **kwargs: P.kwargs
    ) -> ResultT:
        """Committed when it returns. Raises StoreUnavailable."""
        return await self.run(_within, writing, self.engine, lambda c: change(c, *args, **kwargs))

    async def run(self, work: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs) -> ResultT:
        """Anything that blocks on the store. Raises StoreUnavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
        except StoreUnavailableError as error:
            raise StoreUnavailable from error

    def close(self) -> None:
        """Waits for the transactions that run: a connection that comes back later would never be closed."""
        self._threads.shutdown(cancel_futures=True)
        self.engine.dispose()


def _within(
    transaction: Callable[[Engine], AbstractContextManager[Connection]],
    engine: Engine,
    work: Callable[[Connection], ResultT],
) -> ResultT:
    with transaction(engine) as connection:
        return work(connection)
