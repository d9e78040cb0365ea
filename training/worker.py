"""`honed worker`: takes training jobs from the queue, one at a time, and runs each in a process of its own.

Owns the life of that process and what the queue is told of it: that its worker lives, the steps as events, the end.
Trains nothing itself (`job.py`), so that whatever kills a training process, memory included, fails one job and no
worker. Invariants: a job that is claimed is finished, put down or lost to another worker, whatever ends the process;
two processes never work on one job, since each ends with its worker's pipe, and waits for the one before it; no copy
of an upload outlives its job for long.
"""

from __future__ import annotations

import json
import logging
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from honed.server.store import jobs
from honed.server.store.database import StoreUnavailableError, reading, writing
from honed.server.store.jobs import ClaimedJob, JobLostError
from honed.training.cycle import Schedule, advance
from honed.training.job import OUTCOME_FILE, drop_data, holds_data
from honed.training.orders import KINDS, run_name, said_of
from honed.training.reports.tracking import METRICS_FILE, read_metrics

logger = logging.getLogger(__name__)

POLL_S: Final = 1.0
REFUSED_S: Final = 10.0  # between two looks at a queue that cannot be read
SWEEP_S: Final = 60.0  # between two looks for copies of uploads that nobody needs any more
STALE: Final = timedelta(seconds=120)  # silent for so long, a worker is dead: longer than a store may keep it waiting
MAX_DEATHS: Final = 5  # a job that takes its worker along again and again is not tried for ever
GRACE_S: Final = 10.0  # for a process to end by itself
LOG_FILE: Final = "log.txt"
_LOG_END_CHARS: Final = 2000


@dataclass(frozen=True, slots=True)
class Worker:
    """`device`: what runs train on; with the machine's name it is what no second job may have. `schedule`: when cycles
    start by themselves."""

    engine: Engine
    database_url: str | None
    home: Path
    device: str
    schedule: Schedule | None = None

    def work(self, stop: threading.Event, *, once: bool = False) -> None:
        """Takes jobs until `stop` is set, which puts the running one back into the queue; `once`: until none waits and
        no cycle goes on."""
        swept = -math.inf
        while not stop.is_set():
            try:
                if time.monotonic() - swept >= SWEEP_S:
                    self._sweep()
                    swept = time.monotonic()
                goes_on = self._look_after_cycles()
                job = self._claim()
                if job is not None:
                    self._guarded(job, stop)
                elif once and not goes_on:
                    return
                else:
                    stop.wait(POLL_S)
            except JobLostError as error:
                logger.warning("%s", error)
            except StoreUnavailableError as error:
                logger.warning("the store does not answer: %s", error)
                stop.wait(POLL_S)
            except SQLAlchemyError:  # such as a right that is missing or a table that is locked: it may be mended
                logger.exception("the queue cannot be read")
                stop.wait(REFUSED_S)

    def _look_after_cycles(self) -> bool:
        """Whether one waits for something else than people. What fails here keeps no job waiting."""
        try:
            if self.schedule is not None:
                self.schedule.start_if_due(self.engine)
            return advance(self.engine)
        except StoreUnavailableError:
            raise
        except SQLAlchemyError:
            logger.exception("cycles cannot be looked after")
            return True

    def _claim(self) -> ClaimedJob | None:
        with writing(self.engine) as connection:
            return jobs.claim(connection, *KINDS, device=f"{socket.gethostname()}/{self.device}", stale=STALE)

    def _guarded(self, job: ClaimedJob, stop: threading.Event) -> None:
        """What nobody foresaw fails the job and not the worker."""
        try:
            self._carry_out(job, stop)
        except (JobLostError, StoreUnavailableError):
            raise
        except Exception as error:
            logger.exception("%s failed", job.id)
            self._finish(job, {"error": f"The worker failed: {type(error).__name__}: {error}"})

    def _carry_out(self, job: ClaimedJob, stop: threading.Event) -> None:
        folder = self._folder(job)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it gets a copy of what was uploaded
        if job.deaths >= MAX_DEATHS:
            self._finish(job, {"error": f"{job.deaths} workers died while they worked on it: see {LOG_FILE}."})
            return
        logger.info("%s: %s, attempt %d", job.id, job.payload.get("method", job.kind), job.attempt)
        self._say(job, "The job is running." if job.attempt == 1 else "The job goes on.")
        metrics = _Metrics(self.home / "runs" / run_name(job.id, job.kind, job.payload))
        with self._process(job, folder) as process:
            while (status := _status(process)) is None:
                if self._is_to_stop(job, metrics) or stop.is_set():
                    _end(process)
                    self._put_down(job)
                    return
        if stop.is_set() and not (folder / OUTCOME_FILE).is_file():  # the signal that ends the worker reached both
            self._put_down(job)
            return
        for step in metrics.news():
            self._say(job, step.message, data=step.data)
        self._finish(job, _outcome(folder, status))

    def _is_to_stop(self, job: ClaimedJob, metrics: _Metrics) -> bool:
        """Says that the job lives and how it goes; whether somebody wants it paused or cancelled. A store that is away
        for a while stops no training."""
        try:
            with writing(self.engine) as connection:
                wanted = jobs.beat(connection, job)
            for step in metrics.news():
                self._say(job, step.message, data=step.data)
        except StoreUnavailableError as error:
            logger.warning("%s goes on while the store does not answer: %s", job.id, error)
            return False
        return wanted is not None

    @contextmanager
    def _process(self, job: ClaimedJob, folder: Path) -> Iterator[subprocess.Popen[str]]:
        """The process at work, which is not outlived by this block."""
        asked = {
            "id": job.id,
            "kind": job.kind,
            "order": job.payload,
            "folder": str(folder),
            "database_url": self.database_url,
            "device": self.device,
        }
        command = [sys.executable, "-m", "honed.training.job"]
        (folder / OUTCOME_FILE).unlink(missing_ok=True)
        with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(  # noqa: S603 (our own command)
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
            )
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # of what it died is for its status and its log to say
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            yield process
        finally:
            _end(process)

    def _put_down(self, job: ClaimedJob) -> None:
        with writing(self.engine) as connection:
            state = jobs.put_down(connection, job)
            jobs.add_event(connection, job.id, f"The job is {state}.")
        if state == "cancelled":
            drop_data(self._folder(job))
        logger.info("%s: %s", job.id, state)

    def _finish(self, job: ClaimedJob, outcome: Mapping[str, Any]) -> None:
        error: str | None = outcome.get("error")
        with writing(self.engine) as connection:
            jobs.finish(connection, job, result=outcome.get("result"), error=error)
            if error is not None:
                jobs.add_event(connection, job.id, f"The job failed: {error}", level="error")
            else:
                jobs.add_event(connection, job.id, said_of(job.kind, outcome["result"]))
        drop_data(self._folder(job))
        logger.info("%s: %s", job.id, error or "succeeded")

    def _folder(self, job: ClaimedJob) -> Path:
        return self.home / "jobs" / job.id

    def _sweep(self) -> None:
        """Drops the copies of jobs that have ended without their workers: cancelled while they were paused, say."""
        copies = {folder.name: folder for folder in (self.home / "jobs").glob("*") if holds_data(folder)}
        if copies:
            with reading(self.engine) as connection:
                for job_id in jobs.ended(connection, copies):
                    drop_data(copies[job_id])

    def _say(self, job: ClaimedJob, message: str, *, data: Mapping[str, Any] | None = None) -> None:
        with writing(self.engine) as connection:
            jobs.add_event(connection, job.id, message, data=data)


@dataclass(frozen=True, slots=True)
class _Step:
    message: str
    data: dict[str, Any]


class _Metrics:
    """The lines of a run's metrics that were not said yet. A run that goes on takes back what came after its state and
    logs those steps again: they were said."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / METRICS_FILE
        self._position = 0
        self._said = max((int(line["step"]) for line in read_metrics(run_folder)), default=-1)

    def news(self) -> Iterator[_Step]:
        """Each counts as said when the next is asked for: what could not be said is said the next time."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            self._position = _start_of_line(file, self._position)
            whole, newline, _ = file.read().rpartition(b"\n")
        for line in whole.split(b"\n") if newline else ():
            step = _step(json.loads(line))
            if step.data["step"] > self._said:
                yield step
            self._position += len(line) + 1


def _start_of_line(file: IO[bytes], position: int) -> int:
    """Goes to `position` where a line starts there, else to the beginning: the file was cut and written on since."""
    file.seek(max(position - 1, 0))
    if position and file.read(1) != b"\n":
        position = 0
        file.seek(0)
    return position


def _step(line: Mapping[str, Any]) -> _Step:
    numbers = {name: value for name, value in line.items() if "/" in name}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)
    return _Step(f"Step {line['step']}: {shown}", {"step": line["step"], **numbers})


def _status(process: subprocess.Popen[str]) -> int | None:
    """The exit status, waited for as long as a look at the queue may take."""
    try:
        return process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[str]) -> None:
    """Closes the pipe, which ends the process; kills it where that does not."""
    if process.stdin is not None and not process.stdin.closed:
        with suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _outcome(folder: Path, status: int) -> dict[str, Any]:
    """What the process wrote; where it could not, what it died of and the end of its log."""
    path = folder / OUTCOME_FILE
    if path.is_file():
        outcome: dict[str, Any] = json.loads(path.read_bytes())
        return outcome
    how = f"killed by signal {-status}, as where memory runs out" if status < 0 else f"exit status {status}"
    end = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")[-_LOG_END_CHARS:].strip()
    return {"error": f"The training process died ({how}).{f' Its log ends: {end}' if end else ''}"}
