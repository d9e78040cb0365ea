"""The writer: segments into tables, each line once, whoever reads it and however often it fails."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from completions import count, logged
from conftest import eventually
from sqlalchemy import Engine, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, IntegrityError

from honed.server.store import journal
from honed.server.store.database import StoreError, StoreUnavailableError, open_database, reading, writing
from honed.server.store.ingest import Ingest
from honed.server.store.journal import Journal
from honed.server.store.tables import Completion, Segment
from honed.server.store.writer import BATCH_LINES, Report, Writer, WriterConfig, run


@pytest.fixture
def log(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def append(log: Journal, *prompts: str) -> list[str]:
    """The ids of the completions."""
    completions = [logged(prompt) for prompt in prompts]
    log.append([completion.to_line() for completion in completions])
    return [completion.id for completion in completions]


def stored(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.execute(select(Completion.id).order_by(Completion.id)).scalars())


def drained(writer: Writer) -> None:
    while writer.step():
        pass


def test_a_server_is_followed_while_it_writes(store: Engine, log: Journal) -> None:
    writer = Writer(store, log.folder, log.owner)
    assert not writer.step()
    ids = append(log, "One", "Two")
    assert writer.step()
    assert not writer.step()
    ids += append(log, "Three")
    drained(writer)
    assert stored(store) == sorted(ids)
    assert (writer.segment, writer.position) == (
        log.append([b""])[0],
        journal.segments(log.folder)[0].stat().st_size - 1,
    )
    done, rejected = writer.take_counts()
    assert (done.completions, rejected) == (3, 0)
    assert writer.take_counts()[0].completions == 0


def test_another_writer_goes_on_where_the_first_one_stopped(store: Engine, log: Journal) -> None:
    ids = append(log, "One")
    drained(Writer(store, log.folder, log.owner))
    ids += append(log, "Two")
    second = Writer(store, log.folder, log.owner)
    drained(second)
    assert stored(store) == sorted(ids)
    assert second.take_counts()[0].completions == 1


def test_segments_that_are_done_are_deleted(store: Engine, tmp_path: Path) -> None:
    log = Journal(tmp_path / "journal", segment_bytes=10)
    ids = [*append(log, "One"), *append(log, "Two")]
    assert len(journal.segments(log.folder)) == 2
    drained(Writer(store, log.folder, log.owner))
    assert stored(store) == sorted(ids)
    assert journal.segments(log.folder) == []


def test_a_segment_in_use_is_left_to_its_own_writer(store: Engine, log: Journal) -> None:
    append(log, "One")
    other = Writer(store, log.folder, "another-server")
    assert not other.step()
    assert stored(store) == []
    log.close()
    drained(other)
    assert count(store, Completion) == 1
    assert journal.segments(log.folder) == []


def test_two_writers_on_one_segment_store_each_line_once(store_url: URL, log: Journal) -> None:
    """As after a quick restart, when the old writer is still at it."""
    ids = [completion_id for turn in range(20) for completion_id in append(log, f"{turn} a", f"{turn} b")]
    log.close()
    engines = [open_database(store_url) for _ in range(2)]
    writers = [Writer(engine, log.folder, log.owner) for engine in engines]
    failures: list[BaseException] = []

    def work(writer: Writer) -> None:
        try:
            drained(writer)
        except FileNotFoundError:
            pass  # the other one was done with it
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored(engines[0]) == sorted(ids)
    for engine in engines:
        engine.dispose()


def test_a_batch_is_bounded(store: Engine, log: Journal) -> None:
    append(log, *(f"Question {number}" for number in range(BATCH_LINES + 3)))
    writer = Writer(store, log.folder, log.owner)
    assert writer.step()
    assert count(store, Completion) == BATCH_LINES
    drained(writer)
    assert count(store, Completion) == BATCH_LINES + 3


def test_damaged_lines_hold_up_nobody(store: Engine, log: Journal, caplog: pytest.LogCaptureFixture) -> None:
    first = append(log, "Before")
    log.append([b"{", b"", b"\xff\xfe", json.dumps({"choices": [], "id": "x"}).encode()])
    last = append(log, "After")
    writer = Writer(store, log.folder, log.owner)
    drained(writer)
    assert stored(store) == sorted([*first, *last])
    assert writer.take_counts()[1] == 4
    assert caplog.text.count("damaged") == 4
    assert "Before" not in caplog.text, "what users wrote is not logged"


class Refusing(Ingest):
    """Takes everything but one completion."""

    refused = ""
    error: type[DataError | IntegrityError] = DataError

    def insert(self, connection: Any, completions: Any) -> Any:
        if any(completion.id == self.refused for completion in completions):
            raise self.error("INSERT", {}, Exception("it cannot be stored"))
        return super().insert(connection, completions)


def test_what_the_database_refuses_is_put_aside(
    store: Engine, log: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = append(log, "One", "Refused", "Three")
    monkeypatch.setattr(Refusing, "refused", ids[1])
    writer = Writer(store, log.folder, log.owner)
    writer._ingest = Refusing("salt")
    with caplog.at_level(logging.WARNING):
        drained(writer)
    assert stored(store) == sorted([ids[0], ids[2]])
    assert (writer.take_counts()[1], ids[1] in caplog.text) == (1, True)
    assert not writer.step(), "it is not tried for ever"


class Conflicting(Ingest):
    """Fails once, as when a message of the batch is pruned between two statements."""

    conflicts = 1

    def insert(self, connection: Any, completions: Any) -> Any:
        if self.conflicts:
            self.conflicts -= 1
            raise IntegrityError("INSERT", {}, Exception("FOREIGN KEY constraint failed"))
        return super().insert(connection, completions)


def test_a_conflict_with_an_erasure_is_tried_again(store: Engine, log: Journal) -> None:
    ids = append(log, "One", "Two")
    writer = Writer(store, log.folder, log.owner)
    writer._ingest = Conflicting("salt")
    drained(writer)
    assert stored(store) == sorted(ids)
    assert writer.take_counts()[1] == 0


def test_a_conflict_for_ever_is_no_loss(store: Engine, log: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = append(log, "One")
    writer = Writer(store, log.folder, log.owner)
    writer._ingest = Conflicting("salt")
    monkeypatch.setattr(Conflicting, "conflicts", 10**6)
    with pytest.raises(StoreUnavailableError):
        writer.step()
    writer._ingest = None
    drained(writer)
    assert stored(store) == ids


def test_tables_that_were_changed_meanwhile_are_no_loss(store: Engine, log: Journal) -> None:
    """A newer version migrates the store while this one runs: it waits, as it does for a database that is away."""
    ids = append(log, "One", "Two")
    writer = Writer(store, log.folder, log.owner)
    with writing(store) as connection:
        connection.execute(text("ALTER TABLE completions RENAME COLUMN category TO kind"))
    for _ in range(2):
        with pytest.raises(StoreError):
            writer.step()
    with writing(store) as connection:
        connection.execute(text("ALTER TABLE completions RENAME COLUMN kind TO category"))
    drained(writer)
    assert stored(store) == sorted(ids)


def test_servers_with_the_same_messages_do_not_stop_each_other(store_url: URL, tmp_path: Path) -> None:
    """On PostgreSQL, inserts in different orders would be a deadlock."""
    engines = [open_database(store_url) for _ in range(2)]
    logs = [Journal(tmp_path / str(number)) for number in range(2)]
    shared = [f"Shared {number}" for number in range(200)]
    for log, order in zip(logs, (1, -1), strict=True):
        for _ in range(5):
            append(log, *shared[::order])
    writers = [Writer(engine, log.folder, log.owner) for engine, log in zip(engines, logs, strict=True)]
    threads = [threading.Thread(target=drained, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(engines[0], Completion) == 2 * 5 * len(shared)
    for engine in engines:
        engine.dispose()


def test_a_writer_that_was_started_again_says_how_far_the_first_one_came(store_url: URL, log: Journal) -> None:
    append(log, "One")
    engine = open_database(store_url)
    first = Writer(engine, log.folder, log.owner)
    drained(first)
    orphaned = threading.Event()
    orphaned.set()
    reports: list[Report] = []
    run(config_for(store_url, log), orphaned, reports.append)
    assert (reports[-1].segment, reports[-1].position) == (first.segment, first.position)
    engine.dispose()


def test_positions_go_with_their_segments(store: Engine, log: Journal) -> None:
    append(log, "One")
    log.close()
    drained(Writer(store, log.folder, log.owner))
    assert (journal.segments(log.folder), count(store, Segment)) == ([], 0)


def test_a_database_that_is_away_changes_nothing(store: Engine, log: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = append(log, "One")
    writer = Writer(store, log.folder, log.owner)

    def away(*_: Any) -> Any:
        raise StoreUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Ingest, "insert", away)
        with pytest.raises(StoreUnavailableError):
            writer.step()
    assert stored(store) == []
    drained(writer)
    assert stored(store) == sorted(ids)


def test_positions_are_committed_with_the_rows(store: Engine, log: Journal) -> None:
    append(log, "One")
    writer = Writer(store, log.folder, log.owner)
    drained(writer)
    with reading(store) as connection:
        assert connection.execute(select(Segment.name, Segment.position)).one() == (writer.segment, writer.position)


def config_for(url: URL, log: Journal) -> WriterConfig:
    return WriterConfig(url=url.render_as_string(hide_password=False), folder=log.folder, owner=log.owner)


def test_it_ends_with_its_server_and_leaves_nothing(store_url: URL, log: Journal) -> None:
    append(log, "One", "Two")
    orphaned = threading.Event()
    reports: list[Report] = []
    thread = threading.Thread(target=run, args=(config_for(store_url, log), orphaned, reports.append))
    thread.start()
    eventually(lambda: sum(report.completions for report in reports) == 2)
    append(log, "Three")
    log.close()
    orphaned.set()
    thread.join()
    assert sum(report.completions for report in reports) == 3
    assert {report.state for report in reports} == {"up"}
    assert journal.segments(log.folder) == []


def test_tables_of_another_version_are_said(tmp_path: Path, log: Journal, postgres: Any) -> None:
    append(log, "One")
    orphaned = threading.Event()
    orphaned.set()
    reports: list[Report] = []
    run(config_for(postgres.new_database(), log), orphaned, reports.append)
    assert [report.state for report in reports] == ["down"]
    assert "honed migrate" in str(reports[0].detail)
    assert len(journal.segments(log.folder)) == 1


def test_as_a_process(store_url: URL, log: Journal) -> None:
    """It reads its settings, does its work, reports, and ends when nobody writes to it any more."""
    append(log, "One")
    command = [sys.executable, "-P", "-m", "honed.server.store.writer"]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    out, _ = writer.communicate(config_for(store_url, log).model_dump_json() + "\n", timeout=60)
    assert writer.returncode == 0
    reports = [Report.model_validate_json(line) for line in out.splitlines()]
    assert sum(report.completions for report in reports) == 1
    engine = open_database(store_url)
    assert count(engine, Completion) == 1
    engine.dispose()


def test_its_settings_are_not_shown(store_url: URL, log: Journal) -> None:
    config = config_for(URL.create("postgresql+psycopg", "ann", "hunter2", "db"), log)
    assert "hunter2" not in repr(config)
