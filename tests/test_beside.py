"""The worker beside a server: started again when it dies, left alone when it was told to end, gone with the server."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import psutil
import pytest
from conftest import eventually

from honed.cli import jobs
from honed.server.store import jobs as queue
from honed.server.store.database import database_url, open_database, reading, writing
from honed.server.store.jobs import StoredJob
from honed.server.store.migrations import migrate


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_a_worker_that_dies_is_started_again_and_one_that_was_told_to_end_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "FIRST_DELAY_S", 0.01)
    caplog.set_level(logging.INFO, "honed.cli.jobs")
    engine = open_database(database_url(None, tmp_path))
    migrate(engine)
    with writing(engine) as connection:
        order = {"model": "tiny", "method": "supervised", "training_file": "store:", "settings": {"nonsense": 1}}
        job_id = queue.enqueue(connection, "fine_tuning", payload=order)

    def job() -> StoredJob:
        with reading(engine) as connection:
            found = queue.load(connection, job_id)
        assert found is not None
        return found

    with jobs.beside(os.environ | {"HONED_HOME": str(tmp_path)}, "cpu"):
        eventually(lambda: len(workers()) == 1)
        (first,) = workers()
        first.kill()
        eventually(lambda: job().state == "failed")  # by another
        (second,) = workers()
        assert second.pid != first.pid
        assert "the worker died with status -9: another starts in 0.0 s" in caplog.text
        second.terminate()
        eventually(lambda: "the worker was told to end" in caplog.text)
        assert workers() == []
    engine.dispose()


def test_a_worker_ends_with_the_block(tmp_path: Path) -> None:
    def fail() -> None:
        with jobs.beside(os.environ | {"HONED_HOME": str(tmp_path)}, "cpu"):
            eventually(lambda: len(workers()) == 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert workers() == []


def test_the_delay_grows_to_a_minute_and_starts_over() -> None:
    delays = [jobs.FIRST_DELAY_S]
    while len(delays) < 8:
        delays.append(jobs.delay_s(delays[-1], 5.0))
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert jobs.delay_s(60.0, 3600.0) == 1
