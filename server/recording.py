"""Remembering what was answered, off the request's path: event loop -> memory -> journal -> (writer process) -> tables.

`record` takes microseconds and never waits. A thread appends what has come to the journal, every FLUSH_S, and asks the
disk to keep it every SYNC_S; the writer, a process of its own, does the rest (`server/store/writer.py`). The guarantees
are the journal's: what is in it survives this process, and a database that is away. Invariants: nothing here can fail
or delay a request; memory and disk are bounded, and what exceeds them is counted in `dropped`, never lost in silence.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Literal

from honed.server.settings import Settings
from honed.server.storage import Storage
from honed.server.store import journal
from honed.server.store.journal import Journal
from honed.server.store.logged import LoggedCompletion
from honed.server.store.writer import Report, WriterConfig

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
SYNC_S = 1.0
READ_AGE_S = 1.0  # of a segment that was read to its end: it is let go, and deleted
MAX_AGE_S = 10.0  # of a segment under load: so long, and little longer, users' words lie on the disk as they wrote them
RETRY_S = 1.0  # after the disk refused
MAX_QUEUED_BYTES = 64 * 2**20
MAX_PENDING = 100_000  # ids of which it is known that they are not in the tables yet
RESTART_S = 1.0  # before a writer that died is started again
CLOSE_S = 10.0  # for the writer to take in the rest

State = Literal["off", "starting", "up", "down"]


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """`pending`: completions that are not in the tables yet; `dropped`: that never will be."""

    state: State
    detail: str | None
    pending: int
    journal_bytes: int
    dropped: int


class Recorder:
    """`record` and `is_pending` are for the event loop; so is what `on_report` is called on."""

    def __init__(self, settings: Settings, storage: Storage, on_report: Callable[[Report], None]) -> None:
        self._folder = storage.home / "journal"
        self._max_journal_bytes = settings.journal_max_bytes
        self._on_report = on_report
        self._journal = Journal(self._folder)
        self._appender = _Appender(self._journal)
        key = settings.originals_key.get_secret_value() if settings.originals_key else None
        self._config = WriterConfig(
            url=storage.url.render_as_string(hide_password=False),
            folder=self._folder,
            owner=self._journal.owner,
            originals_key=key,
            retention_days=settings.retention_days,
        )
        self.newest: str | None = None  # the id that was recorded last
        self._state: State = "off"
        self._detail: str | None = None
        self._dropped = 0
        self._journal_bytes = 0
        self._writer: subprocess.Popen[str] | None = None
        self._is_closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def has_leftovers(self) -> bool:
        """Whether a server that died left something in the journal."""
        return bool(journal.segments(self._folder))

    def start(self) -> None:
        """Starts the thread and the writer."""
        self._state = "starting"
        self._appender.start()
        self._start_writer(asyncio.get_running_loop())
        self._keep(self._watch_journal())

    def record(self, completion: LoggedCompletion) -> None:
        if self._journal_bytes > self._max_journal_bytes or not self._appender.put(completion):
            if not self._dropped:
                logger.error("the journal is full: completions are dropped until there is room again")
            self._dropped += 1
            return
        self.newest = completion.id

    def is_pending(self, completion_id: str) -> bool:
        """Whether the completion is on its way into the tables."""
        return self._appender.is_pending(completion_id)

    def health(self) -> StoreHealth:
        state, detail = self._state, self._detail
        if self._appender.has_failed:
            state, detail = "down", "The journal cannot be written; the log says why."
        return StoreHealth(state, detail, self._appender.num_pending, self._journal_bytes, self._dropped)

    async def close(self) -> None:
        """Hands over what is in memory, and gives the writer some seconds for the rest. What it does not get done stays
        in the journal."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        if self._state == "off":
            return
        await asyncio.to_thread(self._appender.close)
        if self._writer is not None:
            await asyncio.to_thread(_end, self._writer)

    def _start_writer(self, loop: asyncio.AbstractEventLoop) -> None:
        command = [sys.executable, "-P", "-m", "honed.server.store.writer"]
        pipe = subprocess.PIPE
        self._writer = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)  # noqa: S603 (our own module)
        arguments = (self._writer, self._config.model_dump_json(), loop)
        threading.Thread(target=self._listen, args=arguments, name="writer-reports", daemon=True).start()

    def _listen(self, writer: subprocess.Popen[str], config: str, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: hands the writer's reports over to the event loop, and says when it is dead."""
        assert writer.stdin is not None
        assert writer.stdout is not None
        try:
            writer.stdin.write(config + "\n")
            writer.stdin.flush()
        except OSError:
            logger.error("the writer ended before it began")
        with writer.stdout as reports:
            for line in reports:
                _hand_over(loop, self._take, Report.model_validate_json(line))
        _hand_over(loop, self._writer_ended)

    def _take(self, report: Report) -> None:
        if report.state != self._state and report.state == "down":
            logger.error("completions wait in the journal: %s", report.detail)
        elif report.state != self._state and self._state == "down":
            logger.info("the store is back; the journal is replayed")
        self._state, self._detail = report.state, report.detail
        if report.segment:
            self._appender.settle(report.segment, report.position)
        self._on_report(report)

    def _writer_ended(self) -> None:
        if self._is_closing:
            return
        self._state, self._detail = "down", "The writer has ended; it is started again."
        logger.error("the store's writer ended; it is started again")
        self._keep(self._restart_writer())

    async def _restart_writer(self) -> None:
        await asyncio.sleep(RESTART_S)
        assert self._writer is not None
        await asyncio.to_thread(_end, self._writer)
        self._start_writer(asyncio.get_running_loop())

    async def _watch_journal(self) -> None:
        while True:
            self._journal_bytes = await asyncio.to_thread(journal.size_bytes, self._folder)
            await asyncio.sleep(SYNC_S)

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _hand_over(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:  # the loop is closed: nobody is there to be told
        return


def _end(writer: subprocess.Popen[str]) -> None:
    """The end of its input tells the writer that nothing more comes."""
    assert writer.stdin is not None
    try:
        writer.stdin.close()
        writer.wait(CLOSE_S)
    except BrokenPipeError:
        writer.wait()
    except subprocess.TimeoutExpired:
        logger.warning("the writer is not done; the rest stays in the journal")
        writer.kill()
        writer.wait()


class _Appender:
    """Lines from the event loop to the journal, by way of a thread."""

    def __init__(self, target: Journal) -> None:
        self._journal = target
        self._lines: deque[tuple[str, bytes]] = deque()
        self._batch: list[tuple[str, bytes]] = []  # the thread's: taken, and not written yet
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._appended: deque[tuple[str, int, list[str]]] = deque()  # segment, position and ids of each append
        self._pending: set[str] = set()
        self.has_failed = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._main, name="journal", daemon=True)

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def start(self) -> None:
        self._thread.start()

    def put(self, completion: LoggedCompletion) -> bool:
        """False where the queue is full."""
        line = completion.to_line()
        with self._lock:
            if self._queued_bytes + len(line) > MAX_QUEUED_BYTES:
                return False
            self._queued_bytes += len(line)
        if len(self._pending) < MAX_PENDING:
            self._pending.add(completion.id)
        self._lines.append((completion.id, line))
        return True

    def is_pending(self, completion_id: str) -> bool:
        return completion_id in self._pending

    def settle(self, segment: str, position: int) -> None:
        """All that was appended up to there is in the tables."""
        while self._appended and self._appended[0][:2] <= (segment, position):
            self._pending.difference_update(self._appended.popleft()[2])

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    def _main(self) -> None:
        next_sync_s = 0.0
        while True:
            is_last = self._ending.is_set()
            is_due = is_last or time.monotonic() >= next_sync_s
            is_done = self._flush(sync=is_due)
            if is_due:
                next_sync_s = time.monotonic() + SYNC_S
            if is_last:
                break
            self._ending.wait(FLUSH_S if is_done else RETRY_S)
        self._journal.close()

    def _flush(self, *, sync: bool) -> bool:
        """Appends what has come. False where the disk refused: then it is tried again."""
        while self._lines:
            self._batch.append(self._lines.popleft())
        try:
            if self._batch:
                self._append()
            if sync:
                self._journal.sync()
            if self._is_over():
                self._journal.close()
        except OSError as error:
            if not self.has_failed:
                logger.error("the journal cannot be written: %s", error)
            self.has_failed = True
            return False
        self.has_failed = False
        return True

    def _is_over(self) -> bool:
        age_s = self._journal.age_s
        return age_s is not None and age_s > (MAX_AGE_S if self._appended else READ_AGE_S)

    def _append(self) -> None:
        segment, position = self._journal.append([line for _, line in self._batch])
        with self._lock:
            self._queued_bytes -= sum(len(line) for _, line in self._batch)
        self._appended.append((segment, position, [completion_id for completion_id, _ in self._batch]))
        self._batch = []
