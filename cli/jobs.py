"""`honed worker`: the process that trains what the jobs API and the circle ask for."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from honed.cli.failure import fail
from honed.cli.store import DatabaseUrl, opened

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from honed.training.cycle import Schedule

logger = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 1.0
MOST_DELAY_S: Final = 60.0
POLL_S: Final = 0.2


def worker(
    device: Annotated[str, typer.Option(help="What to train on: auto, cpu, cuda or cuda:N; one worker each.")] = "auto",
    database_url: DatabaseUrl = None,
    once: Annotated[bool, typer.Option("--once", help="End when no job waits.")] = False,
    with_parent: Annotated[bool, typer.Option("--with-parent", help="End when standard input does.")] = False,
    cycle_after: Annotated[
        int | None,
        typer.Option(envvar="HONED_CYCLE_AFTER", min=1, help="Start a cycle after so many comparisons; unset, none."),
    ] = None,
    cycle_hours: Annotated[
        float | None,
        typer.Option(envvar="HONED_CYCLE_HOURS", min=0, help="With --cycle-after: at most one in so many; unset, 24."),
    ] = None,
    model: Annotated[
        str, typer.Option(envvar="HONED_MODEL", help="What a cycle begins with where no policy was promoted yet.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Train what jobs ask for, one at a time, each in a process of its own. Several machines may each have workers."""
    from datetime import timedelta

    from honed.training.cycle import Schedule

    if cycle_hours is not None and cycle_after is None:
        raise fail("--cycle-hours says nothing without --cycle-after.")
    every = timedelta(hours=24 if cycle_hours is None else cycle_hours)
    schedule = None if cycle_after is None else Schedule(cycle_after, every, model)
    with opened(database_url) as engine:
        work(engine, database_url, device, once=once, with_parent=with_parent, schedule=schedule)


def work(
    engine: Engine,
    database_url: str | None,
    device: str,
    *,
    once: bool,
    with_parent: bool = False,
    schedule: Schedule | None = None,
) -> None:
    """A worker in this process, until a signal ends it, or as `Worker.work` says."""
    from honed.models.sources import honed_home
    from honed.training.failures import TrainingError
    from honed.training.orders import pretraining, second_judge
    from honed.training.worker import Worker

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        second_judge(os.environ)
        pretraining(os.environ)
    except TrainingError as error:
        raise fail(str(error)) from None
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    if with_parent:
        threading.Thread(target=_set_with_stdin, args=(stop,), daemon=True).start()
    Worker(engine, database_url, honed_home(), _device_name(device), schedule).work(stop, once=once)


def _device_name(device: str) -> str:
    """One name for each device, or the queue would take `auto`, `cuda` and `cuda:0` for three."""
    from honed.models.policy import PolicyError, choose_device

    try:
        found = choose_device(device)
    except PolicyError as error:
        raise fail(str(error)) from None
    return f"cuda:{found.index or 0}" if found.type == "cuda" else found.type


def _set_with_stdin(stop: threading.Event) -> None:
    while os.read(0, 1 << 16):
        pass
    stop.set()


@contextmanager
def beside(environment: dict[str, str], device: str) -> Iterator[None]:
    """A worker for as long as the block takes, and no longer, whatever ends it. One that dies is started again: the
    database may have been away when it started."""
    command = [sys.executable, "-c", "from honed.cli import app; app()", "worker", "--with-parent", "--device", device]
    has_ended = threading.Event()
    thread = threading.Thread(target=_supervise, args=(command, environment, has_ended))
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def delay_s(before_s: float, lived_s: float) -> float:
    """How long to wait before a worker is started again that lived for `lived_s`: twice as long as the time before,
    unless that one did well for a while."""
    return FIRST_DELAY_S if lived_s > MOST_DELAY_S else min(2 * before_s, MOST_DELAY_S)


def _supervise(command: list[str], environment: dict[str, str], has_ended: threading.Event) -> None:
    wait_s = FIRST_DELAY_S / 2
    while not has_ended.is_set():
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)  # noqa: S603 (our own command)
        assert process.stdin is not None
        while process.poll() is None and not has_ended.wait(POLL_S):
            pass
        process.stdin.close()
        status = process.wait()
        if has_ended.is_set():
            return
        if status == 0:  # a signal told it to end, as it may have told the server
            logger.info("the worker was told to end")
            return
        wait_s = delay_s(wait_s, time.monotonic() - began)
        logger.error("the worker died with status %d: another starts in %.1f s", status, wait_s)
        has_ended.wait(wait_s)
