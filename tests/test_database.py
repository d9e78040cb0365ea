"""URLs, transactions, and what becomes of a database that cannot be used."""

import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from completions import add, count
from databases import Postgres
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from honed.server.store import jobs
from honed.server.store.database import (
    StoreError,
    StoreUnavailableError,
    database_url,
    open_database,
    reading,
    writing,
)
from honed.server.store.ids import age_s, new_id
from honed.server.store.migrations import migrate, prepare, require_current
from honed.server.store.tables import Base, Completion, Job, Setting


def test_without_a_url_it_is_a_file_at_home(tmp_path: Path) -> None:
    assert database_url(None, tmp_path) == URL.create("sqlite", database=str(tmp_path / "honed.db"))
    assert database_url("", tmp_path) == database_url(None, tmp_path)


def test_postgresql_is_spoken_to_with_psycopg(tmp_path: Path) -> None:
    assert database_url("postgresql://ann@db/honed", tmp_path).drivername == "postgresql+psycopg"
    assert database_url("postgresql+psycopg://ann@db/honed", tmp_path).drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "sqlite://", "postgresql+asyncpg://x/y"])
def test_other_urls_are_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as refused:
        database_url(url, tmp_path)
    assert "secret" not in str(refused.value)


def test_a_failure_undoes_the_transaction(store: Engine) -> None:
    def fail() -> None:
        with writing(store) as connection:
            connection.execute(insert(Setting).values(name="a", value="b"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(store, Setting) == 0


def test_a_reader_sees_one_state(store: Engine) -> None:
    add(store)
    with reading(store) as connection:
        if store.dialect.name == "postgresql":
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        before = connection.execute(select(Completion.id)).scalars().all()
        add(store)
        assert connection.execute(select(Completion.id)).scalars().all() == before
    assert count(store, Completion) == 2


def test_writers_wait_for_each_other(store: Engine) -> None:
    """On SQLite a transaction that reads first and writes later would fail instead."""

    def work() -> None:
        for _ in range(10):
            with writing(store) as connection:
                value = connection.execute(
                    select(Setting.value).where(Setting.name == "n").with_for_update()
                ).scalar_one()
                time.sleep(0.001)
                connection.execute(text("UPDATE settings SET value = :value"), {"value": str(int(value) + 1)})

    with writing(store) as connection:
        connection.execute(insert(Setting).values(name="n", value="0"))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(store) as connection:
        assert connection.execute(select(Setting.value)).scalar_one() == "40"


def test_foreign_keys_hold(store: Engine) -> None:
    with pytest.raises(IntegrityError), writing(store) as connection:
        connection.execute(text("INSERT INTO tags (key, value, completion_id) VALUES ('a', 'b', 'unknown')"))


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    engine = open_database(database_url(f"postgresql://x@/y?host={tmp_path}", tmp_path))
    with pytest.raises(StoreUnavailableError, match="cannot be reached"), reading(engine):
        pass
    engine.dispose()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "honed.db").write_bytes(b"not a database, and long enough to be read as one" * 100)
    engine = open_database(database_url(None, tmp_path))
    with pytest.raises(StoreError), writing(engine):
        pass
    engine.dispose()


def test_times_are_aware_and_utc(store: Engine) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    with writing(store) as connection:
        jobs.enqueue(connection, "test")
        connection.execute(Job.__table__.update().values(created=moment))  # type: ignore[attr-defined]  # of a table
        stored = connection.execute(select(Job.created)).scalar_one()
        assert connection.execute(select(Job.id).where(Job.created < moment + timedelta(seconds=1))).all()
        assert not connection.execute(select(Job.id).where(Job.created < moment - timedelta(seconds=1))).all()
    assert (stored, stored.tzinfo) == (moment, UTC)


def test_the_migrations_make_the_tables(store: Engine) -> None:
    with reading(store) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    require_current(store)
    migrate(store)


def test_sqlite_is_migrated_by_itself_and_postgresql_is_not(tmp_path: Path, postgres: Postgres) -> None:
    own = open_database(database_url(None, tmp_path))
    prepare(own)
    require_current(own)
    shared = open_database(postgres.new_database())
    with pytest.raises(StoreError, match="honed migrate"):
        prepare(shared)
    migrate(shared)
    prepare(shared)
    for engine in (own, shared):
        engine.dispose()


def test_a_newer_store_is_left_alone(store: Engine) -> None:
    with writing(store) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'm9999'"))
    for work in (migrate, require_current, prepare):
        with pytest.raises(StoreError, match="newer version"):
            work(store)


def test_the_file_overwrites_what_is_deleted(tmp_path: Path) -> None:
    url = database_url(None, tmp_path)
    engine = open_database(url)
    with reading(engine) as connection:
        for pragma, value in (("secure_delete", 1), ("foreign_keys", 1), ("journal_mode", "wal")):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value
    engine.dispose()
    assert sqlite3.connect(str(url.database)).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_ids_go_by_time() -> None:
    ids = [new_id("chatcmpl", at_s=at_s) for at_s in (0, 1, 1000.5, 1_700_000_000, 2_000_000_000)]
    assert ids == sorted(ids)
    assert len({new_id("x", at_s=5) for _ in range(1000)}) == 1000
    assert age_s(new_id("x")) == pytest.approx(0, abs=1)
    assert age_s(f"{new_id('cmpl')}.3") == pytest.approx(0, abs=1)
    assert [age_s(text) for text in ("", "chatcmpl-1", "x-" + "g" * 32)] == [None, None, None]
