"""The writer: a process of low priority that moves a server's journal into the tables.

It takes the server's own segments, and those of servers that died. The server starts it, sends it one line of
`WriterConfig` and keeps its standard input open; when that ends, the server is gone, and the writer ingests what is
left and ends too. What it has done it reports in lines of JSON (`Report`) on its standard output. It also runs the
store's own jobs (`maintenance.py`).

Why a process: redacting and inserting take more of a core than the server's event loop could spare, and the
interpreter's lock would make every request wait for them.

Invariants: rows and the position behind them are committed together, so each line counts once, whoever reads it; a
database that is away stops everything and loses nothing; a line that no database would take is counted, named in the
log and left out, and holds up nobody.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Engine, delete, make_url, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from honed.server.store import journal, maintenance
from honed.server.store.database import (
    StoreConflictError,
    StoreError,
    StoreUnavailableError,
    open_database,
    writing,
)
from honed.server.store.ingest import Ingest, Ingested
from honed.server.store.logged import LoggedCompletion, from_line
from honed.server.store.migrations import require_current
from honed.server.store.originals import Sealer
from honed.server.store.tables import Segment
from honed.server.store.upserts import insert_missing
from honed.server.store.users import load_salt

logger = logging.getLogger("honed.store.writer")

NICENESS = 19  # requests come first; what waits is in the journal
BATCH_LINES = 500
TRIES = 5  # of a transaction that another one came between
IDLE_S = 0.05  # between two looks at the journal
BUSY_S = 0.25  # the same under load, where large batches cost less
BUSY_LINES = 10  # a turn
AWAY_S = 1.0  # between two tries of a database that does not answer
CHECK_S = 5.0
MAINTENANCE_S = 60.0


class WriterConfig(BaseModel):
    """What the server tells its writer. `owner` is the server's name in the journal."""

    model_config = ConfigDict(frozen=True)

    url: str = Field(repr=False)
    folder: Path
    owner: str
    originals_key: str | None = Field(default=None, repr=False)
    retention_days: int = 0


class Report(BaseModel):
    """`segment` and `position`: how far the server's own journal is in the tables. Counts are since the last report."""

    state: Literal["up", "down"]
    detail: str | None = None
    segment: str = ""
    position: int = 0
    completions: int = 0
    dropped: int = 0
    rejected: int = 0
    redactions: dict[str, int] = {}


class Writer:
    """`step` moves one batch; everything else is waiting. Raises StoreUnavailableError; then nothing has changed."""

    def __init__(self, engine: Engine, folder: Path, owner: str, sealer: Sealer | None = None) -> None:
        self._engine = engine
        self._folder = folder
        self._owner = owner
        self._sealer = sealer
        self._ingest: Ingest | None = None
        self._positions: dict[str, int] = {}  # as in the tables
        self.segment, self.position = "", 0  # of the owner's journal: all before is in the tables
        self.done = Ingested()
        self.rejected = 0
        self._lines = 0

    def step(self) -> bool:
        """Ingests the next batch. False where there was nothing to do."""
        for path in journal.segments(self._folder):
            with journal.claimed(path) as is_closed:
                if not is_closed and not path.name.startswith(self._owner):
                    continue
                if self._advance(path):
                    return True
                if is_closed:
                    self._delete(path)
        return False

    def take_counts(self) -> tuple[Ingested, int]:
        """What was done since the last call, and how many lines were left out."""
        done, rejected = self.done, self.rejected
        self.done, self.rejected = Ingested(), 0
        return done, rejected

    def take_turn(self) -> int:
        """How many lines were moved since the last call."""
        lines, self._lines = self._lines, 0
        return lines

    def _advance(self, path: Path) -> bool:
        position = self._position(path.name)
        try:
            chunk = journal.read(path, position)
        except FileNotFoundError:  # another writer was done with it
            return False
        lines = chunk.lines[:BATCH_LINES]
        if not lines:
            return False
        end = position + sum(len(line) + 1 for line in lines)
        self._store(path.name, position, end, lines)
        self._lines += len(lines)
        return True

    def _position(self, name: str) -> int:
        if name not in self._positions:
            with writing(self._engine) as connection:
                row = {"name": name, "position": 0, "updated": datetime.now(UTC)}
                insert_missing(connection, Segment, [row])
                position = select(Segment.position).where(Segment.name == name)
                # None where another writer has just deleted the segment: then there is no file either.
                self._is_at(name, connection.execute(position).scalar_one_or_none() or 0)
        return self._positions[name]

    def _is_at(self, name: str, position: int) -> None:
        self._positions[name] = position
        if name.startswith(self._owner):
            self.segment, self.position = name, position

    def _delete(self, path: Path) -> None:
        """The file first: a position without a file does no harm, a file without a position would be read again."""
        path.unlink(missing_ok=True)
        self._positions.pop(path.name, None)
        with writing(self._engine) as connection:
            connection.execute(delete(Segment).where(Segment.name == path.name))

    def _store(self, name: str, start: int, end: int, lines: Sequence[bytes]) -> None:
        """All lines in one transaction; where the database finds fault with one of them, each in its own."""
        if self._ingest is None:
            self._ingest = Ingest(load_salt(self._engine), self._sealer)
        completions = [completion for line in lines if (completion := self._parsed(line)) is not None]
        try:
            self._commit_patiently(name, start, end, completions)
        except DataError:
            self._one_by_one(name, start, end, completions)

    def _one_by_one(self, name: str, start: int, end: int, completions: Sequence[LoggedCompletion]) -> None:
        for completion in completions:
            try:
                if not self._commit_patiently(name, start, start, [completion]):
                    return
            except DataError as error:
                self.rejected += 1
                logger.error("the store refuses completion %s: %s", completion.id, type(error.orig).__name__)
        self._commit_patiently(name, start, end, [])

    def _commit_patiently(self, name: str, start: int, end: int, completions: Sequence[LoggedCompletion]) -> bool:
        """Again where another transaction came between: one with the same messages, or one that pruned a message which
        the batch refers to. What is wrong with the tables, not with a line, is for later. Raises DataError."""
        for _ in range(TRIES):
            try:
                return self._commit(name, start, end, completions)
            except (IntegrityError, StoreConflictError) as error:
                logger.info("a batch is tried again: %s", type(error).__name__)
            except DataError:
                raise
            except DBAPIError as error:
                require_current(self._engine)
                raise StoreUnavailableError(f"The tables cannot be written: {type(error.orig).__name__}") from error
        raise StoreUnavailableError("Other transactions came between again and again.")

    def _commit(self, name: str, start: int, end: int, completions: Sequence[LoggedCompletion]) -> bool:
        """False where another writer was faster."""
        assert self._ingest is not None
        with writing(self._engine) as connection:
            if not _moves(connection, name, start, end):
                self._positions.pop(name, None)  # ask the tables where it is
                return False
            done = self._ingest.insert(connection, completions)
        self.done.completions += done.completions
        self.done.dropped += done.dropped
        self.done.redactions.update(done.redactions)
        self._is_at(name, end)
        return True

    def _parsed(self, line: bytes) -> LoggedCompletion | None:
        try:
            return from_line(line)
        except (ValueError, TypeError, KeyError) as error:
            self.rejected += 1
            logger.error("a line of the journal is damaged (%s, %d bytes)", type(error).__name__, len(line))
            return None


def _moves(connection: Connection, name: str, start: int, end: int) -> bool:
    """Whether nobody else has moved the segment's position from `start`."""
    moved = update(Segment).where(Segment.name == name, Segment.position == start)
    return connection.execute(moved.values(position=end, updated=datetime.now(UTC))).rowcount == 1


def run(config: WriterConfig, orphaned: threading.Event, tell: Callable[[Report], None]) -> None:
    """Moves the journal until the server is gone and nothing is left, or the database is away then."""
    engine = open_database(make_url(config.url))
    sealer = Sealer(config.originals_key) if config.originals_key else None
    writer = Writer(engine, config.folder, config.owner, sealer)
    upkeep = _Upkeep(engine, config.retention_days)
    try:
        while not _turn(writer, upkeep, orphaned, tell):
            busy_s = BUSY_S if writer.take_turn() > BUSY_LINES else IDLE_S
            orphaned.wait(busy_s if upkeep.is_well else AWAY_S)
    finally:
        engine.dispose()


def _turn(writer: Writer, upkeep: _Upkeep, orphaned: threading.Event, tell: Callable[[Report], None]) -> bool:
    """Moves what is there. True where it was the last time."""
    was_orphaned = orphaned.is_set()
    try:
        is_back = upkeep.check()
        while writer.step():
            tell(_report(writer))
        if is_back:  # with the position that an earlier writer left
            tell(_report(writer))
        upkeep.maintain()
    except StoreError as error:
        if upkeep.is_well or upkeep.is_new:
            logger.error("%s", error)
        upkeep.is_well = upkeep.is_new = False
        tell(Report(state="down", detail=error.public))
    return was_orphaned


class _Upkeep:
    """What is done now and then: a look whether the database is there, and the store's own jobs."""

    def __init__(self, engine: Engine, retention_days: int) -> None:
        self.is_well, self.is_new = False, True
        self._engine = engine
        self._retention_days = retention_days
        self._next_check_s = self._next_maintenance_s = 0.0

    def check(self) -> bool:
        """True where the store is found well after it was not. Raises StoreError."""
        if self.is_well and time.monotonic() < self._next_check_s:
            return False
        require_current(self._engine)
        self._next_check_s = time.monotonic() + CHECK_S
        was_well, self.is_well = self.is_well, True
        return not was_well

    def maintain(self) -> None:
        if time.monotonic() >= self._next_maintenance_s:
            maintenance.run_due(self._engine, retention_days=self._retention_days)
            self._next_maintenance_s = time.monotonic() + MAINTENANCE_S


def _report(writer: Writer) -> Report:
    done, rejected = writer.take_counts()
    return Report(
        state="up",
        segment=writer.segment,
        position=writer.position,
        completions=done.completions,
        dropped=done.dropped,
        rejected=rejected,
        redactions=dict(done.redactions),
    )


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it reports each look at the tables
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group: the server drains, and closes our input
    config = WriterConfig.model_validate_json(sys.stdin.readline())
    os.nice(NICENESS)
    orphaned = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        orphaned.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()

    def tell(report: Report) -> None:
        try:
            print(report.model_dump_json(), flush=True)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (the server is gone; nobody reads reports)

    run(config, orphaned, tell)


if __name__ == "__main__":
    main()
