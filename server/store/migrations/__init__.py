"""The steps from one schema to the next, and how they are taken.

On SQLite, which belongs to one machine, the server takes them when it starts; a PostgreSQL is shared, and its operator
decides when (`honed migrate`). Invariant: a process works with the schema that it was written for, or not at all.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from honed.server.store.database import StoreError, reading, writing


def migrate(engine: Engine) -> None:
    """Brings the schema up to date; nothing happens where it is. Raises StoreError and StoreUnavailableError."""
    if _current(engine) == _newest():
        return
    _require_known(engine)
    with writing(engine) as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def require_current(engine: Engine) -> None:
    """Raises StoreError unless the schema is the one that this version works with."""
    if _current(engine) != _newest():
        _require_known(engine)
        raise StoreError("The store's tables are not those of this version: run `honed migrate`.")


def prepare(engine: Engine) -> None:
    """What a server does when it starts: SQLite is brought up to date, PostgreSQL has to be."""
    if engine.dialect.name == "sqlite":
        migrate(engine)
    else:
        require_current(engine)


def _require_known(engine: Engine) -> None:
    revision = _current(engine)
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreError(f"The store was migrated by a newer version ({revision}): update honed.")


def _current(engine: Engine) -> str | None:
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _newest() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
